import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvfp_jax.scaling.fit import PowerLaw, fit_power_law

REPORTED = [  # tokens, perplexities and what R1 and R3 printed of them
    ([3495, 7466, 15832, 39814], [7152.28, 3360.15, 2439.31, 1171.15], -0.7143, 14.6331, 0.9818),
    ([62891, 122795, 240132, 587970], [683.9, 415.8, 294.5, 198.2], -0.546, math.log(267189), 0.984),
    ([62891, 122795, 240132, 587970], [639.1, 407.0, 296.6, 199.5], -0.5133, math.log(176398), 0.989),
    ([62891, 122795, 240132, 587970], [632.6, 400.2, 294.6, 198.3], -0.5103, math.log(168322), 0.988),
]


@pytest.mark.parametrize(("tokens", "ppl", "alpha", "log_A", "r2"), REPORTED)
def test_the_printed_fits_are_reproduced_to_their_digits(tokens, ppl, alpha, log_A, r2):
    law = fit_power_law(tokens, np.log(ppl).tolist())
    # R3 fitted more digits than the four that it printed of its perplexities.
    assert law.alpha == pytest.approx(alpha, abs=2e-4)
    assert law.log_A == pytest.approx(log_A, abs=2e-3)
    assert law.r2 == pytest.approx(r2, abs=6e-4)
    assert (law.status, law.n) == ("fitted", 4)


def test_r1s_p_value_and_standard_error():
    tokens, ppl = REPORTED[0][:2]
    law = fit_power_law(tokens, np.log(ppl).tolist())
    assert law.p_value == pytest.approx(0.00917, abs=5e-6)
    assert law.std_err == pytest.approx(0.06887, abs=5e-6)


def test_predictions_follow_from_the_parameters_in_full_precision():
    # R3 printed 150 and 43 for this law; 141.5 and 40.2 follow from its parameters.
    printed = PowerLaw("fitted", 4, alpha=-0.546, log_A=math.log(267189))
    assert printed.predict(1e6) == pytest.approx(141.5, abs=0.05)
    assert printed.predict(1e7) == pytest.approx(40.2, abs=0.06)
    law = fit_power_law(REPORTED[1][0], np.log(REPORTED[1][1]).tolist())
    assert law.predict(1e6) == math.exp(law.log_A + law.alpha * math.log(1e6))
    assert law.predict(1.0) == law.A == pytest.approx(math.exp(law.log_A))


@settings(max_examples=60, deadline=None)
@given(
    alpha=st.floats(-3, -1e-3) | st.floats(1e-3, 3),
    log_A=st.floats(-20, 20),
    sizes=st.lists(st.integers(1, 10**9), min_size=3, max_size=8, unique=True).filter(
        lambda sizes: max(sizes) > 2 * min(sizes)
    ),
)
def test_a_law_without_noise_is_recovered(alpha, log_A, sizes):
    law = fit_power_law(sizes, [log_A + alpha * math.log(size) for size in sizes])
    assert law.alpha == pytest.approx(alpha, abs=1e-6)
    assert law.log_A == pytest.approx(log_A, abs=1e-5)


def test_too_few_points_are_said_and_not_fitted():
    for count in range(3):
        law = fit_power_law([10, 100][:count], [1.0, 0.5][:count])
        assert law.status == f"not fitted: {count} points, 3 or more are needed"
        assert not law.fitted
        assert all(math.isnan(value) for value in (law.alpha, law.log_A, law.r2, law.p_value, law.A))
    same = fit_power_law([10, 10, 10], [1.0, 2.0, 3.0])
    assert same.status == "not fitted: all points have the same size"


def test_measures_that_do_not_differ_are_said_and_not_fitted():
    assert fit_power_law([1, 2, 3], [4.0, 4.0, 4.0]).status == "not fitted: all points have the same measure"


def test_replicates_of_a_size_are_points_too():
    law = fit_power_law([10, 10, 1000, 1000], [3.1, 2.9, 1.1, 0.9])
    assert law.alpha == pytest.approx(-2 / math.log(100))
    assert law.n == 4


@pytest.mark.parametrize(
    ("x", "log_y"),
    [([1, 2], [1.0]), ([0, 1, 2], [1.0] * 3), ([-1, 1, 2], [1.0] * 3), ([1, 2, 3], [1.0, math.nan, 1.0])],
)
def test_points_that_are_none_are_an_error(x, log_y):
    with pytest.raises(ValueError, match=r"sizes"):
        fit_power_law(x, log_y)


def test_a_law_too_steep_for_a_number_is_infinite():
    assert math.inf == PowerLaw("fitted", 3, alpha=-100.0, log_A=1000.0).A


def test_numbers_survive_json():
    law = fit_power_law(*[REPORTED[0][0], np.log(REPORTED[0][1]).tolist()])
    assert json.loads(json.dumps(law.alpha)) == law.alpha
