"""What follows from a power law: gain per doubling, size for a target, where two laws cross."""

import dataclasses
import math
from typing import NamedTuple

from cvfp_jax.runtime.floats import exp
from cvfp_jax.scaling.line import LEVEL, LogLine, student_t

REACHED = "reached"
CROSSES = "crosses"


def reduction_per_doubling(alpha: float) -> float:
    """Returns the share by which a doubling of the size lowers y: ``1 - 2^alpha``.

    Args:
      alpha: exponent of ``y = A x ** alpha``; below zero where y falls.

    References:
      rato-tokyo/new-llm, report of 2025-12-01.

    >>> [round(100 * reduction_per_doubling(alpha)) for alpha in (-0.3, -0.4, -0.5, -0.6, -0.7)]
    [19, 24, 29, 34, 38]
    """
    return 1 - 2**alpha


@dataclasses.dataclass(frozen=True)
class TargetSize:
    """The size at which a law reaches a target; numbers are NaN where the status is not ``reached``."""

    status: str
    target: float
    size: float = math.nan
    low: float = math.nan  # the size's interval: 0 and infinity where it has no end
    high: float = math.nan
    extrapolated: bool = False  # whether the size lies outside those measured
    times_last: float = math.nan  # the size over the largest one measured

    @property
    def reached(self) -> bool:
        """Whether there is such a size."""
        return self.status == REACHED


def size_for(line: LogLine, target: float, level: float = LEVEL) -> TargetSize:
    """Returns the size at which the law falls to a target, with Fieller's exact interval.

    ``x = exp((ln target - ln A) / alpha)``. The interval holds every size whose law the target does not
    contradict: ``(ln target - a - alpha u)^2 <= t^2 s^2 (1/n + u^2 / S)`` with ``u = ln x - m``, a
    quadratic in u. Its ends are finite where alpha is told from zero at this level.

    Args:
      line: the law.
      target: a value of y, above zero.
      level: of the interval.

    Returns:
      The size with its interval, or why there is none: no law, or one that does not fall.

    Raises:
      ValueError: the target is not above zero.

    References:
      Fieller, Some problems in interval estimation, 1954.

    >>> from cvfp_jax.scaling.line import log_line
    >>> line = log_line([1e3, 1e4, 1e5], [math.log(y) for y in (800, 410, 200)])
    >>> reached = size_for(line, 100.0)
    >>> reached.status, f"{reached.size:.3g}", reached.extrapolated
    ('reached', '1.03e+06', True)
    """
    if not target > 0 or math.isinf(target):
        raise ValueError(f"a target must be above zero and finite, not {target}")
    if not line.fitted:
        return TargetSize(f"not reached: the law is {line.status}", target)
    if line.alpha >= 0:
        return TargetSize(f"not reached: the law does not fall (alpha {line.alpha:.4f})", target)
    log_size = (math.log(target) - line.log_A) / line.alpha
    size = exp(log_size)
    if size in (0.0, math.inf):
        return TargetSize("not reached: at no size that a number holds", target)
    centre = line.log_A + line.alpha * line.mean_log_x
    gap = math.log(target) - centre
    allowed = line.quantile(level) ** 2 * line.residual_variance
    lead = line.alpha**2 - allowed / line.spread
    low, high = 0.0, math.inf
    if lead > 0:
        half = math.sqrt(allowed * (gap**2 / line.spread + lead / line.n))
        low = exp(line.mean_log_x + (line.alpha * gap - half) / lead)
        high = exp(line.mean_log_x + (line.alpha * gap + half) / lead)
    return TargetSize(REACHED, target, size, low, high, line.extrapolates(size), size / line.last)


@dataclasses.dataclass(frozen=True)
class Crossover:
    """Where two laws have the same value; numbers are NaN where the status is not ``crosses``."""

    status: str
    size: float = math.nan
    value: float = math.nan
    measured: bool = False  # whether the size lies within the range that both laws were fitted to
    better_below: int = 0  # 1 or 2: which law is lower below the crossing


def crossover(first: LogLine, second: LogLine) -> Crossover:
    """Returns the size at which two power laws meet: ``ln x = (ln A2 - ln A1) / (alpha1 - alpha2)``.

    Args:
      first: a law.
      second: another, of the same sizes' unit.

    Returns:
      The size and the value there, or why there is none.

    >>> flat = LogLine("fitted", 4, alpha=-0.4, log_A=math.log(1e4), first=1e4, last=1e6)
    >>> steep = LogLine("fitted", 4, alpha=-0.5, log_A=math.log(4e4), first=1e4, last=1e6)
    >>> meeting = crossover(flat, steep)
    >>> round(meeting.size), meeting.measured, meeting.better_below
    (1048576, False, 1)
    """
    for name, line in (("first", first), ("second", second)):
        if not line.fitted:
            return Crossover(f"does not cross: the {name} law is {line.status}")
    slope = first.alpha - second.alpha
    if slope == 0:
        return Crossover("does not cross: both laws have the same exponent")
    size = exp((second.log_A - first.log_A) / slope)
    if size in (0.0, math.inf):
        return Crossover("does not cross: at no size that a number holds")
    measured = not first.extrapolates(size) and not second.extrapolates(size)
    # Below the crossing the flatter law, which has the larger alpha, is the lower one.
    return Crossover(CROSSES, size, first.predict(size), measured, 1 if slope > 0 else 2)


class ExponentDifference(NamedTuple):
    """The second alpha less the first with the ends of its interval."""

    change: float
    low: float
    high: float

    @property
    def told_from_zero(self) -> bool:
        """Whether the interval excludes zero."""
        return not self.low <= 0 <= self.high


def exponent_difference(first: LogLine, second: LogLine, level: float = LEVEL) -> ExponentDifference:
    """Returns the second alpha less the first with its interval, for independent errors.

    The standard error is ``sqrt(se1^2 + se2^2)``, with Welch's and Satterthwaite's degrees of freedom.

    >>> from cvfp_jax.scaling.line import log_line
    >>> one = log_line([1, 2, 4, 8], [3.0, 2.4, 1.9, 1.0])
    >>> exponent_difference(one, one).change
    0.0
    """
    squares = first.std_err**2, second.std_err**2
    change = second.alpha - first.alpha
    total = sum(squares)
    if total == 0:
        return ExponentDifference(change, change, change)
    freedom = total**2 / (
        squares[0] ** 2 / first.degrees_of_freedom + squares[1] ** 2 / second.degrees_of_freedom
    )
    half = student_t(level, freedom) * math.sqrt(total)
    return ExponentDifference(change, change - half, change + half)
