"""The power law as the least-squares line of ln y on ln x, with what intervals need: exact, in closed form.

Its exponent is the slope, as the original printed it and as records, tables and figures have it:
``y = A x^alpha``, with alpha below zero where y falls. The laws of ``laws.py`` have ``y = A x^-a``, as
fits.json does. Both are public, so each keeps its sign; only ``LogLine.params`` turns one into the other.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from cvfp_jax.runtime.floats import exp

MIN_POINTS = 3
FITTED = "fitted"
LEVEL = 0.95
_LARGEST = 1e150  # of a logarithm; its square is still a number


@functools.lru_cache(maxsize=256)
def student_t(level: float, degrees_of_freedom: float) -> float:
    """Returns how many standard errors a two-sided interval reaches to either side.

    >>> round(student_t(0.95, 3), 3)
    3.182
    """
    return float(stats.t.ppf(0.5 + level / 2, degrees_of_freedom))


@dataclasses.dataclass(frozen=True)
class LogLine:
    """``ln y = log_A + alpha ln x``; its numbers are NaN where the status is not ``fitted``."""

    status: str
    n: int
    alpha: float = math.nan
    log_A: float = math.nan
    r2: float = math.nan  # of ln y
    p_value: float = math.nan  # of alpha = 0
    std_err: float = math.nan  # of alpha
    residual_variance: float = math.nan  # of ln y, over n - 2 degrees of freedom
    mean_log_x: float = math.nan
    spread: float = math.nan  # sum of squares of ln x about its mean
    first: float = math.nan  # the smallest and the largest size measured
    last: float = math.nan

    @property
    def fitted(self) -> bool:
        """Whether there is a line."""
        return self.status == FITTED

    @property
    def A(self) -> float:
        """The law's value at x = 1."""
        return exp(self.log_A)

    @property
    def params(self) -> dict[str, float]:
        """The parameters of ``LAWS["power"]``, whose exponent has the other sign.

        >>> LogLine("fitted", 3, alpha=-0.5, log_A=0.0).params
        {'A': 1.0, 'a': 0.5}
        """
        return {"A": self.A, "a": -self.alpha}

    @property
    def degrees_of_freedom(self) -> int:
        """Points beyond the two that any line needs."""
        return self.n - 2

    def predict(self, x: float) -> float:
        """Returns the law's value at a size, from the parameters in full precision.

        >>> round(LogLine("fitted", 3, alpha=-0.5, log_A=math.log(1000.0)).predict(100.0), 9)
        100.0
        """
        return exp(self.log_A + self.alpha * math.log(x))

    def quantile(self, level: float = LEVEL) -> float:
        """Returns Student's t for a two-sided interval of this line."""
        return student_t(level, self.degrees_of_freedom)

    def alpha_interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Returns the interval of alpha, for independent normal errors of equal variance in ln y.

        >>> line = log_line([1, 2, 4, 8], [math.log(y) for y in (8, 4.2, 1.9, 1)])
        >>> [round(end, 3) for end in line.alpha_interval()]
        [-1.146, -0.883]
        """
        half = self.quantile(level) * self.std_err
        return self.alpha - half, self.alpha + half

    def interval(self, x: float, level: float = LEVEL, new: bool = True) -> tuple[float, float]:
        """Returns where y lies at a size: ``exp(mean -+ t s sqrt([1 +] 1/n + (ln x - m)^2 / S))``.

        Args:
          x: the size.
          level: share of such intervals that hold what they are for.
          new: whether for one more measurement there, or else for the law itself.

        Returns:
          Lower and upper end, in the unit of y.
        """
        offset = math.log(x) - self.mean_log_x
        share = new + 1 / self.n + offset**2 / self.spread
        half = self.quantile(level) * math.sqrt(self.residual_variance * share)
        mean = self.log_A + self.alpha * math.log(x)
        return exp(mean - half), exp(mean + half)

    def extrapolates(self, x: float) -> bool:
        """Returns whether a size lies outside those measured."""
        return not self.first <= x <= self.last


def log_line(x: Sequence[float], log_y: Sequence[float]) -> LogLine:
    """Fits ``ln y = ln A + alpha ln x`` by least squares.

    ``alpha = sum (ln x - m)(ln y) / S`` with ``m`` the mean of ``ln x`` and ``S`` the sum of squares
    about it; ``std_err^2 = s^2 / S`` with ``s^2`` the residual sum of squares over n - 2.

    Args:
      x: sizes, above zero; several points may share one.
      log_y: natural logarithms of the measure; of a perplexity, its mean loss in nats a token.

    Returns:
      The line, or why there is none: fewer than three points, or one size or one measure only.

    Raises:
      ValueError: the lengths differ, a size is not above zero, or a number is not finite.

    >>> line = log_line([10, 100, 1000], [math.log(8), math.log(4), math.log(2)])
    >>> round(line.alpha, 4), round(line.A, 4), round(line.r2, 4)
    (-0.301, 16.0, 1.0)
    >>> log_line([10, 100], [1.0, 0.5]).status
    'not fitted: 2 points, 3 or more are needed'
    """
    if len(x) != len(log_y):
        raise ValueError(f"{len(x)} sizes but {len(log_y)} measures")
    if not all(0 < size < math.inf for size in x) or not all(abs(value) < _LARGEST for value in log_y):
        raise ValueError("sizes must be above zero and all numbers finite")
    n = len(x)
    if n < MIN_POINTS:
        return LogLine(f"not fitted: {n} points, {MIN_POINTS} or more are needed", n)
    log_x = np.log(np.asarray(x, dtype=np.float64))
    measures = np.asarray(log_y, dtype=np.float64)
    offsets = log_x - log_x.mean()
    spread = float(offsets @ offsets)
    # Sizes whose logarithms agree to the last digits determine no slope.
    if spread <= n * (1e-12 * max(1.0, float(np.abs(log_x).max()))) ** 2:
        return LogLine("not fitted: all points have the same size", n)
    deviations = measures - measures.mean()
    # Measures that rounding alone sets apart are the same, and squares below this are no numbers.
    if float(np.abs(deviations).max()) <= max(1e-150, 1e-15 * float(np.abs(measures).max())):
        return LogLine("not fitted: all points have the same measure", n)
    alpha = float(offsets @ deviations) / spread
    residuals = deviations - alpha * offsets
    variance = float(residuals @ residuals) / (n - 2)
    std_err = math.sqrt(variance / spread)
    t = abs(alpha) / std_err if std_err else math.inf
    return LogLine(
        FITTED,
        n,
        alpha,
        float(measures.mean()) - alpha * float(log_x.mean()),
        1 - (n - 2) * variance / float(deviations @ deviations),
        float(2 * stats.t.sf(t, n - 2)),
        std_err,
        variance,
        float(log_x.mean()),
        spread,
        float(min(x)),
        float(max(x)),
    )
