import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cvfp_jax.scaling.derived import crossover, exponent_difference, reduction_per_doubling, size_for
from cvfp_jax.scaling.line import LogLine, log_line

SIZES = [50.0, 100.0, 200.0, 400.0, 800.0]


def noisy(seed, alpha=-0.4, noise=0.05, sizes=SIZES):
    errors = noise * np.random.default_rng(seed).normal(size=len(sizes))
    return log_line(sizes, (7.0 + alpha * np.log(sizes) + errors).tolist())


def exact(alpha, log_A, first=50.0, last=800.0):
    return LogLine("fitted", 5, alpha, log_A, first=first, last=last)


@given(alpha=st.floats(-3, 3), size=st.floats(1, 1e9))
def test_a_doubling_lowers_the_law_by_the_share(alpha, size):
    line = exact(alpha, 10.0)
    assert line.predict(2 * size) / line.predict(size) == pytest.approx(1 - reduction_per_doubling(alpha))


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 999), target=st.floats(1.0, 1000.0))
def test_the_law_has_the_target_at_the_size(seed, target):
    line = noisy(seed)
    found = size_for(line, target)
    assert found.reached
    assert line.predict(found.size) == pytest.approx(target, rel=1e-9)
    assert found.low < found.size < found.high
    assert found.extrapolated == (found.size < 50 or found.size > 800)
    assert found.times_last == pytest.approx(found.size / 800)
    # Fieller: the ends are where the law's own interval just holds the target.
    ends = [line.interval(found.low, new=False)[0], line.interval(found.high, new=False)[1]]
    assert ends == pytest.approx([target, target], rel=1e-6)


def test_fiellers_interval_holds_the_size():
    rng = np.random.default_rng(0)
    repeats, held = 2000, 0
    truth = math.exp((7.0 - math.log(60.0)) / 0.4)
    for _ in range(repeats):
        line = log_line(SIZES, (7.0 - 0.4 * np.log(SIZES) + 0.1 * rng.normal(size=5)).tolist())
        found = size_for(line, 60.0)
        held += not found.reached or found.low <= truth <= found.high
    assert held / repeats == pytest.approx(0.95, abs=3 * math.sqrt(0.95 * 0.05 / repeats))


def test_what_is_not_reached_is_said():
    rising = size_for(exact(0.1, 5.0), 100.0)
    assert rising.status == "not reached: the law does not fall (alpha 0.1000)"
    assert math.isnan(rising.size)
    flat = size_for(exact(0.0, 5.0), 100.0)
    assert flat.status == "not reached: the law does not fall (alpha 0.0000)"
    none = size_for(log_line([1, 2], [2.0, 1.0]), 5.0)
    assert none.status == "not reached: the law is not fitted: 2 points, 3 or more are needed"
    far = size_for(noisy(0, alpha=-1e-4, noise=1e-6), 1e-9)
    assert far.status == "not reached: at no size that a number holds"
    for target in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="above zero"):
            size_for(exact(-0.5, 5.0), target)


def test_an_exponent_that_may_be_zero_bounds_no_size():
    line = next(
        line for line in map(noisy, range(99), [-0.01] * 99) if line.alpha < 0 < line.alpha_interval()[1]
    )
    found = size_for(line, 900.0)
    assert found.reached
    assert (found.low, found.high) == (0.0, math.inf)


@given(
    alphas=st.tuples(st.floats(-1, -0.05), st.floats(-1, -0.05)).filter(lambda a: abs(a[0] - a[1]) > 0.01),
    log_size=st.floats(0, 20),
)
def test_laws_have_the_same_value_where_they_cross(alphas, log_size):
    first, second = (exact(alpha, 5.0 - alpha * log_size) for alpha in alphas)
    found = crossover(first, second)
    assert found.status == "crosses"
    assert math.log(found.size) == pytest.approx(log_size, abs=1e-6)
    assert first.predict(found.size) == pytest.approx(second.predict(found.size), rel=1e-6)
    below = found.size / 2
    lower = 1 if first.predict(below) < second.predict(below) else 2
    assert found.better_below == lower
    assert found.measured == (50 <= found.size <= 800)
    assert crossover(second, first).better_below == 3 - lower


def test_laws_that_never_cross_are_said():
    assert (
        crossover(exact(-0.5, 5.0), exact(-0.5, 6.0)).status
        == "does not cross: both laws have the same exponent"
    )
    broken = crossover(exact(-0.5, 5.0), log_line([], []))
    assert broken.status == "does not cross: the second law is not fitted: 0 points, 3 or more are needed"
    assert math.isnan(broken.size)
    assert crossover(exact(-0.5, 5.0), exact(-0.5 - 1e-9, 6.0)).status.endswith(
        "at no size that a number holds"
    )


def test_a_measured_crossing_lies_in_both_ranges():
    first, second = exact(-0.5, 10.0), exact(-0.4, 10.0 - 0.1 * math.log(100.0))
    assert crossover(first, second).measured
    narrower = exact(-0.4, second.log_A, first=200.0)
    assert not crossover(first, narrower).measured


def test_the_difference_of_exponents_is_welchs():
    first, second = noisy(1), noisy(2, alpha=-0.3, noise=0.1, sizes=[*SIZES, 1600.0])
    change, low, high = exponent_difference(first, second)
    assert change == second.alpha - first.alpha
    squares = np.array([first.std_err, second.std_err]) ** 2
    freedom = squares.sum() ** 2 / (squares**2 / [3, 4]).sum()
    half = stats.t.ppf(0.975, freedom) * math.sqrt(squares.sum())
    assert (low, high) == pytest.approx((change - half, change + half))
    straight = log_line([1.0, math.e, math.e**2], [3.0, 2.0, 1.0])
    assert exponent_difference(straight, straight)[0] == 0
