"""The power law of perplexity against data, fitted as the reports fit it."""

import dataclasses
import math
from collections.abc import Sequence

from scipy import stats

MIN_POINTS = 3
FITTED = "fitted"


@dataclasses.dataclass(frozen=True)
class PowerLaw:
    """``y = A x ** alpha``; without numbers where the status is not ``fitted``."""

    status: str
    n: int
    alpha: float = math.nan
    log_A: float = math.nan  # natural logarithm
    r2: float = math.nan  # of ln y
    p_value: float = math.nan  # of alpha = 0
    std_err: float = math.nan  # of alpha

    @property
    def fitted(self) -> bool:
        """Whether there is a law."""
        return self.status == FITTED

    @property
    def A(self) -> float:  # noqa: N802 (the law's own letter)
        """The law's value at x = 1; infinite where it overflows."""
        return self.predict(1.0)

    def predict(self, x: float) -> float:
        """Returns the law's value, from the parameters in full precision; infinite where it overflows.

        >>> round(PowerLaw("fitted", 3, alpha=-0.5, log_A=math.log(1000.0)).predict(100.0), 9)
        100.0
        """
        try:
            return math.exp(self.log_A + self.alpha * math.log(x))
        except OverflowError:
            return math.inf


def fit_power_law(x: Sequence[float], log_y: Sequence[float]) -> PowerLaw:
    """Fits ``ln y = ln A + alpha ln x`` by least squares.

    Args:
      x: sizes, above zero (tokens).
      log_y: natural logarithms of the measure; of a perplexity, its mean loss in nats a token.

    Returns:
      The law, or why there is none: fewer than three points, or fewer than two different sizes or
      measures.

    Raises:
      ValueError: the lengths differ, a size is not above zero, or a number is not finite.

    References:
      rato-tokyo/new-llm, report of 2025-11-30.

    >>> law = fit_power_law([10, 100, 1000], [math.log(8), math.log(4), math.log(2)])
    >>> round(law.alpha, 4), round(law.A, 4), round(law.r2, 4)
    (-0.301, 16.0, 1.0)
    >>> fit_power_law([10, 100], [1.0, 0.5]).status
    'not fitted: 2 points, 3 or more are needed'
    """
    if len(x) != len(log_y):
        raise ValueError(f"{len(x)} sizes but {len(log_y)} measures")
    if not all(math.isfinite(value) for value in [*x, *log_y]) or any(value <= 0 for value in x):
        raise ValueError("sizes must be above zero and all numbers finite")
    n = len(x)
    if n < MIN_POINTS:
        return PowerLaw(f"not fitted: {n} points, {MIN_POINTS} or more are needed", n)
    if len(set(x)) < 2:
        return PowerLaw("not fitted: all points have the same size", n)
    if len(set(log_y)) < 2:
        return PowerLaw("not fitted: all points have the same measure", n)
    line = stats.linregress([math.log(value) for value in x], log_y)
    return PowerLaw(
        FITTED,
        n,
        float(line.slope),
        float(line.intercept),
        float(line.rvalue) ** 2,
        float(line.pvalue),
        float(line.stderr),
    )
