"""How effective rank and parameters relate to perplexity: correlation, the original's rule and its ratio."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

MIN_POINTS = 3


@dataclasses.dataclass(frozen=True)
class Correlation:
    """Correlation coefficients; NaN where the status is not ``ok``."""

    status: str
    n: int
    pearson: float = math.nan
    pearson_p: float = math.nan  # of none, for normal measures
    spearman: float = math.nan  # of ranks, ties sharing their mean rank

    @property
    def defined(self) -> bool:
        """Whether there are coefficients."""
        return self.status == "ok"


def correlate(x: Sequence[float], y: Sequence[float]) -> Correlation:
    """Correlates two measures of the same cells.

    ``r = sum (x - mean x)(y - mean y) / sqrt(Sxx Syy)``; Spearman's is that of the ranks.

    Args:
      x: one measure, say effective ranks in per cent.
      y: another, in the same order, say perplexities.

    Returns:
      Pearson's r with its p-value for n - 2 degrees of freedom, and Spearman's; or why they are undefined.

    Raises:
      ValueError: the lengths differ or a number is not finite.

    >>> result = correlate([70, 75, 80, 82], [200, 190, 195, 180])
    >>> result.n, round(result.pearson, 3), round(result.spearman, 3)
    (4, -0.753, -0.8)
    >>> correlate([70, 75], [200, 190]).status
    'undefined: 2 points, 3 or more are needed'
    """
    if len(x) != len(y):
        raise ValueError(f"{len(x)} of one measure but {len(y)} of the other")
    if not all(math.isfinite(value) for value in [*x, *y]):
        raise ValueError("all numbers must be finite")
    n = len(x)
    if n < MIN_POINTS:
        return Correlation(f"undefined: {n} points, {MIN_POINTS} or more are needed", n)
    for name, values in (("first", x), ("second", y)):
        if np.ptp(values) <= 1e-12 * np.abs(values).max():
            return Correlation(f"undefined: the {name} measure is constant", n)
    pearson = _pearson(x, y)
    t = abs(pearson) * math.sqrt((n - 2) / (1 - pearson**2)) if abs(pearson) < 1 else math.inf
    spearman = _pearson(stats.rankdata(x), stats.rankdata(y))
    return Correlation("ok", n, pearson, float(2 * stats.t.sf(t, n - 2)), spearman)


def _pearson(x: Sequence[float], y: Sequence[float]) -> float:
    one, other = (np.asarray(values, dtype=np.float64) for values in (x, y))
    one, other = one - one.mean(), other - other.mean()
    # Scaled first, so that squares of huge or tiny measures stay numbers.
    one, other = one / np.abs(one).max(), other / np.abs(other).max()
    return float(np.clip(one @ other / math.sqrt((one @ one) * (other @ other)), -1, 1))


def rank_rule(effective_rank_percent: float) -> float:
    """Returns the perplexity that the original's rule reads off an effective rank: ``500 - 4 ER``.

    Args:
      effective_rank_percent: validation effective rank in per cent of the context dimensions.

    References:
      rato-tokyo/new-llm, report of 2025-12-01, which claims an error of 10 to 15 per cent.

    >>> rank_rule(80.0)
    180.0
    """
    return 500 - 4 * effective_rank_percent


def rank_rule_error(effective_rank_percent: float, ppl: float) -> float:
    """Returns the rule's error as a share of the perplexity measured: ``(500 - 4 ER) / PPL - 1``.

    >>> round(rank_rule_error(77.6, 683.9), 3)
    -0.723
    """
    if not ppl > 0:
        raise ValueError(f"a perplexity must be above zero, not {ppl}")
    return rank_rule(effective_rank_percent) / ppl - 1


def ppl_per_million(ppl: float, params: int) -> float:
    """Returns perplexity over millions of parameters, which the original ranked models by.

    A perplexity moves by per cents where parameters double, so this falls with size for any models
    worth comparing, and "lower is better" prefers the largest. It is kept to reproduce tables only.

    >>> round(ppl_per_million(198.2, 1_181_952), 1)
    167.7
    """
    if params <= 0:
        raise ValueError(f"parameters must be above zero, not {params}")
    return ppl / (params / 1e6)
