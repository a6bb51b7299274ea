import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cvfp_jax.scaling.line import LogLine, log_line

SIZES = st.lists(st.integers(1, 10**9), min_size=3, max_size=8, unique=True).filter(
    lambda sizes: max(sizes) > 2 * min(sizes)
)


@settings(max_examples=60, deadline=None)
@given(sizes=SIZES, seed=st.integers(0, 99), alpha=st.floats(-2, 2))
def test_the_line_is_scipys(sizes, seed, alpha):
    noise = np.random.default_rng(seed).normal(size=len(sizes))
    log_y = (3.0 + alpha * np.log(sizes) + 0.1 * noise).tolist()
    line = log_line(sizes, log_y)
    known = stats.linregress(np.log(sizes), log_y)
    assert line.fitted
    assert line.alpha == pytest.approx(known.slope, rel=1e-9, abs=1e-12)
    assert line.log_A == pytest.approx(known.intercept, rel=1e-9, abs=1e-10)
    assert line.r2 == pytest.approx(known.rvalue**2, rel=1e-9, abs=1e-12)
    assert line.std_err == pytest.approx(known.stderr, rel=1e-6)
    assert line.p_value == pytest.approx(known.pvalue, rel=1e-5, abs=1e-14)


@settings(max_examples=60, deadline=None)
@given(sizes=SIZES, alpha=st.floats(-3, -1e-3) | st.floats(1e-3, 3), log_A=st.floats(-20, 20))
def test_a_law_without_noise_is_recovered(sizes, alpha, log_A):
    line = log_line(sizes, [log_A + alpha * math.log(size) for size in sizes])
    assert line.alpha == pytest.approx(alpha, abs=1e-9)
    assert line.log_A == pytest.approx(log_A, abs=1e-8)
    low, high = line.interval(10.0 * max(sizes))
    assert math.log(high / low) < 1e-5


def test_intervals_hold_what_they_are_for():
    rng = np.random.default_rng(0)
    sizes = [50.0, 100.0, 200.0, 400.0, 800.0]
    held = np.zeros(5)
    repeats = 2000
    for _ in range(repeats):
        log_y = 7.0 - 0.4 * np.log(sizes) + 0.05 * rng.normal(size=5)
        line = log_line(sizes, log_y.tolist())
        ends = line.alpha_interval()
        holds = [ends[0] <= -0.4 <= ends[1]]
        for size in (200.0, 3200.0):  # in the middle, where the slope's error plays no part, and far out
            truth = math.exp(7.0 - 0.4 * math.log(size))
            law, new = line.interval(size, new=False), line.interval(size)
            measured = truth * math.exp(0.05 * rng.normal())
            holds += [law[0] <= truth <= law[1], new[0] <= measured <= new[1]]
        held += holds
    # Three standard errors of a share of .95 in so many repeats.
    np.testing.assert_allclose(held / repeats, 0.95, atol=3 * math.sqrt(0.95 * 0.05 / repeats))


def test_more_confidence_takes_a_wider_interval():
    line = log_line([1, 2, 4, 8], [3.0, 2.4, 1.9, 1.0])
    narrow, wide = line.alpha_interval(0.5), line.alpha_interval(0.99)
    assert wide[0] < narrow[0] < line.alpha < narrow[1] < wide[1]
    law, new = line.interval(16, new=False), line.interval(16)
    assert new[0] < law[0] < line.predict(16) < law[1] < new[1]
    assert (line.extrapolates(16), line.extrapolates(8), line.extrapolates(0.5)) == (True, False, True)


@settings(max_examples=200, deadline=None)
@given(
    points=st.lists(
        st.tuples(
            st.floats(0, exclude_min=True, allow_infinity=False),
            st.floats(-1e149, 1e149) | st.sampled_from([0.0, 1e-300, 5.0, 5.0 + 1e-15]),
        ),
        max_size=6,
    )
)
def test_any_points_make_numbers_or_a_status(points):
    line = log_line([x for x, _ in points], [y for _, y in points])
    numbers = [line.alpha, line.log_A, line.r2, line.p_value, line.std_err, line.residual_variance]
    if line.fitted:
        assert all(math.isfinite(value) for value in numbers)
        assert -1e-9 <= line.r2 <= 1
        assert 0 <= line.p_value <= 1
    else:
        assert line.status.startswith("not fitted: ")
        assert all(math.isnan(value) for value in numbers)


@pytest.mark.parametrize(
    ("x", "log_y", "status"),
    [
        ([], [], "not fitted: 0 points, 3 or more are needed"),
        ([10, 100], [1.0, 0.5], "not fitted: 2 points, 3 or more are needed"),
        ([10, 10, 10], [1.0, 2.0, 3.0], "not fitted: all points have the same size"),
        ([1, 2, 3], [4.0, 4.0, 4.0], "not fitted: all points have the same measure"),
        ([1e9, 1e9 * (1 + 1e-16), 1e9 + 1e-6], [1.0, 2.0, 3.0], "not fitted: all points have the same size"),
    ],
)
def test_what_no_line_fits_has_a_status_and_no_numbers(x, log_y, status):
    line = log_line(x, log_y)
    assert line.status == status
    assert all(math.isnan(value) for value in (line.alpha, line.log_A, line.r2, line.std_err, line.A))


@pytest.mark.parametrize(
    ("x", "log_y"),
    [([1, 2], [1.0]), ([0, 1, 2], [1.0] * 3), ([-1, 1, 2], [1.0] * 3), ([1, 2, 3], [1.0, math.nan, 1.0])],
)
def test_points_that_are_none_are_an_error(x, log_y):
    with pytest.raises(ValueError, match="sizes"):
        log_line(x, log_y)


def test_a_value_too_large_for_a_number_is_infinite():
    assert math.inf == LogLine("fitted", 3, alpha=-100.0, log_A=1000.0).A
