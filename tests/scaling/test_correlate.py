import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cvfp_jax.scaling.correlate import correlate, ppl_per_million, rank_rule, rank_rule_error

PAIRS = st.lists(st.tuples(st.integers(-20, 20), st.integers(-20, 20)), min_size=3, max_size=9)


@settings(max_examples=80, deadline=None)
@given(pairs=PAIRS, scale=st.sampled_from([1e-200, 1.0, 1e200]))
def test_coefficients_are_scipys_in_any_unit(pairs, scale):
    x, y = ([float(value) for value in side] for side in zip(*pairs, strict=True))
    found = correlate([scale * value for value in x], y)
    if len(set(x)) == 1 or len(set(y)) == 1:
        which = "first" if len(set(x)) == 1 else "second"
        assert found.status == f"undefined: the {which} measure is constant"
        assert math.isnan(found.pearson)
        assert math.isnan(found.spearman)
        return
    known = stats.pearsonr(x, y)
    assert found.pearson == pytest.approx(known.statistic, abs=1e-12)
    assert found.pearson_p == pytest.approx(known.pvalue, abs=1e-6)
    assert found.spearman == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)


def test_few_points_have_a_status_and_no_number():
    for count in range(3):
        found = correlate([1.0, 2.0][:count], [2.0, 1.0][:count])
        assert (found.status, found.defined) == (f"undefined: {count} points, 3 or more are needed", False)
        assert math.isnan(found.pearson)
    with pytest.raises(ValueError, match="2 of one measure but 1"):
        correlate([1, 2], [1])
    with pytest.raises(ValueError, match="finite"):
        correlate([1, 2, math.nan], [1, 2, 3])


def test_a_perfect_line_and_its_reverse():
    assert correlate([1, 2, 3], [2, 4, 6]).pearson == pytest.approx(1)
    found = correlate([1, 2, 3, 4], [8, 4, 2, 1])
    assert found.spearman == pytest.approx(-1)
    assert -1 < found.pearson < -0.9


@given(rank=st.floats(1, 100), ppl=st.floats(1, 1e6))
def test_the_rules_error_takes_the_measure_to_the_rule(rank, ppl):
    assert ppl * (1 + rank_rule_error(rank, ppl)) == pytest.approx(rank_rule(rank), abs=1e-6)


def test_measures_that_are_none_are_an_error():
    with pytest.raises(ValueError, match="above zero"):
        rank_rule_error(80.0, 0.0)
    with pytest.raises(ValueError, match="above zero"):
        ppl_per_million(100.0, 0)
    assert ppl_per_million(np.float64(100.0), 2_000_000) == 50.0
