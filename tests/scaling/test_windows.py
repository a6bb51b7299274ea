import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvfp_jax.scaling.line import log_line
from cvfp_jax.scaling.windows import sliding_windows, window_trend

SIZES = [50.0, 100.0, 200.0, 400.0, 800.0, 1600.0]


def bent(sizes, alpha=-0.5, bend=0.02, noise=0.0, seed=0):
    log_x = np.log(sizes)
    extra = noise * np.random.default_rng(seed).normal(size=len(sizes))
    return (9.0 + alpha * log_x + bend * (log_x - log_x[0]) ** 2 + extra).tolist()


@settings(max_examples=40, deadline=None)
@given(count=st.integers(0, 8), window=st.integers(2, 6))
def test_windows_are_runs_of_consecutive_sizes(count, window):
    sizes = [2.0**power for power in range(count)]
    log_y = bent(sizes) if sizes else []
    windows = sliding_windows(sizes[::-1], log_y[::-1], window)
    assert [each.index for each in windows] == list(range(1, max(0, count - window + 1) + 1))
    for start, each in enumerate(windows):
        assert (each.first, each.last, each.line.n) == (sizes[start], sizes[start + window - 1], window)
        assert each.span == 2.0 ** (window - 1)
        assert each.line.fitted == (window > 2)
        own = log_line(sizes[start : start + window], log_y[start : start + window])
        assert each.line.alpha == pytest.approx(own.alpha, nan_ok=True)


def test_replicates_of_a_size_share_their_windows():
    x, log_y = [1, 1, 2, 2, 4, 4], [3.0, 3.1, 2.0, 2.1, 1.0, 1.2]
    first, second = sliding_windows(x, log_y, 2)
    assert (first.line.n, second.line.n) == (4, 4)
    assert first.line.alpha == pytest.approx(-1.0 / math.log(2))


def test_two_points_are_a_status_and_never_a_number():
    windows = sliding_windows([1, 2, 4], [3.0, 2.0, 1.0], 2)
    assert [each.line.status for each in windows] == ["not fitted: 2 points, 3 or more are needed"] * 2
    assert all(math.isnan(each.line.alpha) for each in windows)
    trend = window_trend([1, 2, 4], [3.0, 2.0, 1.0], 2)
    assert trend.status == "not compared: window 1 is not fitted: 2 points, 3 or more are needed"
    assert (trend.name, trend.compared) == ("UNKNOWN", False)
    assert math.isnan(trend.change)
    alone = window_trend([1, 2, 4], [3.0, 2.0, 1.0], 3)
    assert alone.status == "not compared: 2 windows of 3 sizes are needed, not 1"
    with pytest.raises(ValueError, match="2 or more sizes, not 1"):
        sliding_windows([1, 2, 4], [3.0, 2.0, 1.0], 1)


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(4, 8),
    window=st.integers(3, 5),
    bend=st.floats(-0.05, 0.05),
    seed=st.integers(0, 99),
    unit=st.floats(1e-3, 1e3),
)
def test_the_trend_is_the_last_slope_less_the_first_in_any_unit(count, window, bend, seed, unit):
    sizes = [50.0 * 2**power for power in range(count)]
    log_y = bent(sizes, bend=bend, noise=0.05, seed=seed)
    windows, trend = sliding_windows(sizes, log_y, window), window_trend(sizes, log_y, window)
    if len(windows) < 2:
        assert not trend.compared
        return
    first, last = windows[0].line.alpha, windows[-1].line.alpha
    assert trend.change == last - first
    assert trend.percent == pytest.approx(100 * (last - first) / abs(first))
    expected = "IMPROVING" if last - first < -0.01 else "DEGRADING" if last - first > 0.01 else "STABLE"
    assert trend.name == expected
    assert trend.degrees_of_freedom == count - 3
    assert bool(trend.warning) == (trend.low <= 0 <= trend.high) == (trend.p_value >= 0.05)
    scaled = window_trend([unit * size for size in sizes], log_y, window)
    assert scaled.std_err == pytest.approx(trend.std_err, rel=1e-6)
    assert scaled.change == pytest.approx(trend.change, abs=1e-9)


def test_the_standard_error_is_the_scatter_of_the_change():
    """Windows share points, so errors of both slopes are far from independent."""
    sigma, repeats = 0.03, 2000
    rng = np.random.default_rng(1)
    line = 9.0 - 0.5 * np.log(SIZES)
    trends = [
        window_trend(SIZES, (line + sigma * rng.normal(size=len(SIZES))).tolist(), 4) for _ in range(repeats)
    ]
    changes = np.array([trend.change for trend in trends])
    mean_square = np.mean([trend.std_err**2 for trend in trends])
    assert changes.var() == pytest.approx(mean_square, rel=0.1)
    # On a straight line the warning is right, and wrong in one case of twenty.
    warned = np.mean([bool(trend.warning) for trend in trends])
    assert warned == pytest.approx(0.95, abs=3 * math.sqrt(0.95 * 0.05 / repeats))


def test_a_clear_bend_carries_no_warning():
    trend = window_trend(SIZES, bent(SIZES, bend=0.05, noise=1e-4), 3)
    assert (trend.name, trend.warning) == ("DEGRADING", "")
    assert window_trend(SIZES, bent(SIZES, bend=-0.05, noise=1e-4), 3).name == "IMPROVING"
    noisy = window_trend(SIZES, bent(SIZES, bend=0.0, noise=0.2), 3)
    assert "is not told from none at 95%" in noisy.warning
    assert "3 degrees of freedom" in noisy.warning
