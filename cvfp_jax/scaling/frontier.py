"""The best sizes for a budget of operations: from a law of two variables, and from minima of budgets."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from cvfp_jax.scaling.line import LogLine, log_line
from cvfp_jax.scaling.surface_fit import SurfaceFit
from cvfp_jax.scaling.surface_intervals import OfParameters

OPERATIONS = 6.0  # a parameter and a token, forward and backward
# Budgets closer than this are one: files have them rounded, or worked out from steps.
_APART = 0.12
_LEAST_RUNS = 4


def has_frontier(law: str) -> bool:
    """Says whether a law has a best size for each budget."""
    return law in ("chinchilla", "kaplan")


def optimal_params(law: str, budget: float, operations: float = OPERATIONS) -> OfParameters:
    """Returns the logarithm of the parameters that make a law least at ``operations N D = budget``.

    ``N = (a A / (b B))^(1 / (a + b)) (C / 6)^(b / (a + b))`` for ``E + A / N^a + B / D^b``.

    Args:
      law: ``chinchilla`` or ``kaplan``.
      budget: C, operations.
      operations: for a parameter and a token.

    Returns:
      A function of own parameters [S, k].

    References:
      Hoffmann et al., 2022, equation 4.

    >>> own = np.array([[1.69, 406.4, 410.7, 0.34, 0.28]])
    >>> round(float(np.exp(optimal_params("chinchilla", 5.76e23)(own)[0])) / 1e9)
    32
    """
    log_pairs = math.log(budget / operations)

    def chinchilla(own: np.ndarray) -> np.ndarray:
        _, A, B, a, b = own.T
        return (np.log(a * A) - np.log(b * B) + b * log_pairs) / (a + b)

    def kaplan(own: np.ndarray) -> np.ndarray:
        N_c, D_c, a, b = own.T
        ratio = a / b
        return (np.log(ratio) + ratio * np.log(N_c) - np.log(D_c) + log_pairs) / (ratio + 1)

    return {"chinchilla": chinchilla, "kaplan": kaplan}[law]


@dataclasses.dataclass(frozen=True)
class Minimum:
    """The least loss of a budget: the lowest point of a parabola in ln N through its runs."""

    budget: float
    runs: int
    params: float  # not a number where the parabola has no lowest point within the runs
    y: float

    @property
    def found(self) -> bool:
        """Whether there is one."""
        return math.isfinite(self.params)


def isoflop_minima(
    params: Sequence[float], tokens: Sequence[float], y: Sequence[float], operations: float = OPERATIONS
) -> list[Minimum]:
    """Finds the best number of parameters at each budget that several runs share.

    A parabola in ln N is fitted to the losses of each budget of four sizes or more. It is biased: the true
    curve is steeper towards small models, so its minimum moves with the sizes that were run, and a frontier
    through minima inherits that. The law's own frontier has no such bias, if the law holds.

    Args:
      params: [n] N.
      tokens: [n] D.
      y: [n] measures.
      operations: for a parameter and a token.

    Returns:
      A minimum a budget, in order; those without one within the sizes run say so.

    References:
      Hoffmann et al., 2022, approach 2. Czech et al., Problems with Chinchilla approach 2, 2026.

    >>> N = np.array([1e8, 2e8, 4e8, 8e8, 1.6e9])
    >>> found = isoflop_minima(N, 1e20 / 6 / N, 3 + np.log(N / 4e8) ** 2)
    >>> len(found), f"{found[0].params:.3g}", round(found[0].y, 6)
    (1, '4e+08', 3.0)
    """
    N, D, losses = (np.asarray(each, float) for each in (params, tokens, y))
    budgets = np.log(operations * N * D)
    order = np.argsort(budgets)
    groups = np.split(order, np.flatnonzero(np.diff(budgets[order]) > _APART) + 1)
    minima = []
    for group in groups:
        sizes = np.log(N[group])
        if len(np.unique(np.round(sizes, 6))) < _LEAST_RUNS:
            continue
        centre = sizes.mean()
        curve, slope, level = np.polyfit(sizes - centre, losses[group], 2)
        lowest = centre - slope / (2 * curve) if curve > 0 else math.nan
        inside = sizes.min() <= lowest <= sizes.max()
        minima.append(
            Minimum(
                float(np.exp(budgets[group].mean())),
                len(group),
                float(np.exp(lowest)) if inside else math.nan,
                float(level - slope**2 / (4 * curve)) if inside else math.nan,
            )
        )
    return minima


def frontier_line(minima: Sequence[Minimum]) -> LogLine:
    """Returns the power law of the best parameters against budgets, through the minima that were found."""
    found = [each for each in minima if each.found]
    return log_line([each.budget for each in found], [math.log(each.params) for each in found])


def budgets_for(fit: SurfaceFit, operations: float) -> list[float]:
    """Returns powers of ten from the least budget that was run to a hundred times the largest."""
    used = np.log10(operations * fit.variables[:, 0] * fit.variables[:, 1])
    first, last = math.floor(used.min()), math.ceil(used.max()) + 2
    step = max(1, (last - first) // 8)
    return [10.0**power for power in range(first, last + 1, step)]
