"""Whether the exponent changes with size: power laws fitted to windows of consecutive sizes."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from cvfp_jax.scaling.line import LEVEL, LogLine, log_line, student_t

THRESHOLD = 0.01  # the original's: a change of alpha that it calls a trend


@dataclasses.dataclass(frozen=True)
class Window:
    """The line through the points of some consecutive sizes."""

    index: int  # from 1
    first: float  # smallest and largest size in it
    last: float
    line: LogLine

    @property
    def span(self) -> float:
        """The largest size over the smallest."""
        return self.last / self.first


@dataclasses.dataclass(frozen=True)
class Trend:
    """The last window's alpha less the first one's; numbers are NaN where the status is not ``compared``."""

    status: str
    name: str = "UNKNOWN"  # the original's: IMPROVING, DEGRADING or STABLE
    change: float = math.nan
    percent: float = math.nan  # of the first alpha without its sign; NaN where that is zero
    std_err: float = math.nan
    degrees_of_freedom: int = 0
    p_value: float = math.nan  # of no change
    low: float = math.nan  # the change's interval
    high: float = math.nan
    warning: str = ""

    @property
    def compared(self) -> bool:
        """Whether there are two windows to compare."""
        return self.status == "compared"


def _sizes(x: Sequence[float], window: int) -> list[list[float]]:
    """Returns the sizes of each window, in order."""
    distinct = sorted(set(x))
    return [distinct[start : start + window] for start in range(len(distinct) - window + 1)]


def sliding_windows(x: Sequence[float], log_y: Sequence[float], window: int) -> list[Window]:
    """Fits a log-log line to each run of consecutive sizes.

    Args:
      x: sizes, above zero, in any order; replicates of a size are in the same windows.
      log_y: natural logarithms of the measure.
      window: how many sizes a window holds, two or more.

    Returns:
      The windows from the smallest sizes on; none where there are fewer sizes than a window holds. A
      window of fewer than three points has a line with a status and without numbers.

    Raises:
      ValueError: a window of fewer than two sizes, or points that are none.

    References:
      rato-tokyo/new-llm, report of 2025-11-30, ``alpha_progression``.

    >>> y = [math.log(value) for value in (8, 4, 2, 1.5)]
    >>> [(w.index, w.first, w.last, round(w.line.alpha, 3)) for w in sliding_windows([1, 2, 4, 8], y, 3)]
    [(1, 1, 4, -1.0), (2, 2, 8, -0.708)]
    """
    if window < 2:
        raise ValueError(f"a window holds 2 or more sizes, not {window}")
    if len(x) != len(log_y):
        raise ValueError(f"{len(x)} sizes but {len(log_y)} measures")
    windows = []
    for index, sizes in enumerate(_sizes(x, window), start=1):
        inside = [(size, y) for size, y in zip(x, log_y, strict=True) if sizes[0] <= size <= sizes[-1]]
        line = log_line([size for size, _ in inside], [y for _, y in inside])
        windows.append(Window(index, sizes[0], sizes[-1], line))
    return windows


def _slope_weights(log_x: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Returns w such that w @ ln y is the slope of the line through the points inside."""
    offsets = np.where(inside, log_x - log_x[inside].mean(), 0.0)
    return offsets / (offsets @ offsets)


def window_trend(x: Sequence[float], log_y: Sequence[float], window: int, level: float = LEVEL) -> Trend:
    """Compares the last window's exponent with the first one's.

    Both slopes are linear in ln y, so the change is ``c @ ln y`` with known weights ``c``, whether or
    not the windows share points. Its standard error is ``|c| s``, where ``s^2`` is the variance of what
    a line through all points *and* this contrast leave, over n - 3 degrees of freedom: the contrast
    is orthogonal to every line, so ``change / std_err`` is Student's t for independent normal errors of
    equal variance. A bend of another shape counts as error and widens the interval.

    Args:
      x: sizes, above zero.
      log_y: natural logarithms of the measure.
      window: how many sizes a window holds.
      level: of the change's interval.

    Returns:
      The change with the original's name for it (IMPROVING below -0.01, DEGRADING above 0.01, else
      STABLE) and a warning where its interval holds zero.

    Raises:
      ValueError: as ``sliding_windows``.

    >>> y = [math.log(value) for value in (8, 4, 2, 1.5, 1.2)]
    >>> trend = window_trend([1, 2, 4, 8, 16], y, 3)
    >>> trend.name, round(trend.change, 3), trend.degrees_of_freedom
    ('DEGRADING', 0.632, 2)
    """
    windows = sliding_windows(x, log_y, window)
    if len(windows) < 2:
        return Trend(f"not compared: 2 windows of {window} sizes are needed, not {len(windows)}")
    first, last = windows[0], windows[-1]
    for each in (first, last):
        if not each.line.fitted:
            return Trend(f"not compared: window {each.index} is {each.line.status}")
    change = last.line.alpha - first.line.alpha
    name = "IMPROVING" if change < -THRESHOLD else "DEGRADING" if change > THRESHOLD else "STABLE"
    percent = 100 * change / abs(first.line.alpha) if first.line.alpha else math.nan
    log_x = np.log(np.asarray(x, dtype=np.float64))
    sizes = np.asarray(x, dtype=np.float64)
    weights = _slope_weights(log_x, sizes >= last.first) - _slope_weights(log_x, sizes <= first.last)
    design = np.stack([np.ones_like(log_x), log_x - log_x.mean(), weights], axis=1)
    measures = np.asarray(log_y, dtype=np.float64)
    solution = np.linalg.lstsq(design / np.linalg.norm(design, axis=0), measures, rcond=None)[0]
    residuals = measures - design / np.linalg.norm(design, axis=0) @ solution
    # Two windows of three points or more each that are not the same hold four points at least.
    freedom = len(x) - 3
    std_err = math.sqrt(float(residuals @ residuals) / freedom) * float(np.linalg.norm(weights))
    half = student_t(level, freedom) * std_err
    t = abs(change) / std_err if std_err else math.inf
    warning = ""
    if abs(change) <= half:
        warning = (
            f"The change of {change:+.4f} is not told from none at 95% (standard error {std_err:.4f},"
            f" {freedom} degree{'s' * (freedom > 1)} of freedom): these {len(x)} points show no sure trend."
        )
    return Trend(
        "compared",
        name,
        change,
        percent,
        std_err,
        freedom,
        float(2 * stats.t.sf(t, freedom)),
        change - half,
        change + half,
        warning,
    )
