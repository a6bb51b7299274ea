import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvfp_jax.scaling.equal_sizes import at_equal_sizes, interpolate

SIZES = st.lists(st.integers(1, 10**6), min_size=2, max_size=6, unique=True)


@settings(max_examples=60, deadline=None)
@given(sizes=SIZES, at=st.integers(1, 10**6), alpha=st.floats(-1, 1))
def test_interpolation_is_exact_for_a_power_law_and_refuses_beyond(sizes, at, alpha):
    how, y = interpolate(sizes, [3.0 + alpha * math.log(size) for size in sizes], at)
    if at in sizes:
        assert how == "measured"
    elif min(sizes) < at < max(sizes):
        assert how == "interpolated"
    else:
        assert how == f"not compared: {at:,} lies outside the sizes measured"
        assert math.isnan(y)
        return
    assert y == pytest.approx(math.exp(3.0 + alpha * math.log(at)), rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(first=SIZES, second=SIZES, factor=st.floats(0.1, 10))
def test_series_are_compared_at_equal_sizes_only(first, second, factor):
    def law(sizes, scale):
        return sizes, [math.log(scale) - 0.5 * math.log(size) for size in sizes]

    rows = at_equal_sizes(law(first, 1.0), law(second, factor))
    assert [row.x for row in rows] == sorted({*first, *second})
    for row in rows:
        assert (row.status == "measured") == (row.x in first and row.x in second)
        inside = all(min(sizes) <= row.x <= max(sizes) for sizes in (first, second))
        assert row.defined == inside
        if inside:
            assert row.ratio == pytest.approx(factor, rel=1e-9)
        else:
            assert math.isnan(row.ratio)


def test_replicates_stand_for_their_mean_loss():
    how, y = interpolate([10, 10, 40], [1.0, 3.0, 0.0], 10)
    assert (how, y) == ("measured", pytest.approx(math.exp(2.0)))


@pytest.mark.parametrize(("x", "y"), [([1], [1.0, 2.0]), ([0, 1], [1.0, 1.0]), ([1, 2], [1.0, math.inf])])
def test_points_that_are_none_are_an_error(x, y):
    with pytest.raises(ValueError, match="sizes"):
        interpolate(x, y, 1)
