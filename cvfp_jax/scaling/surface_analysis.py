"""All laws of several variables fitted to a group of points, compared, extrapolated, and their best sizes."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cvfp_jax.runtime.floats import finite
from cvfp_jax.scaling.frontier import (
    Minimum,
    budgets_for,
    frontier_line,
    has_frontier,
    isoflop_minima,
    optimal_params,
)
from cvfp_jax.scaling.line import LogLine
from cvfp_jax.scaling.objectives import LOG
from cvfp_jax.scaling.points import Group
from cvfp_jax.scaling.profile import Interval
from cvfp_jax.scaling.select import akaike_weights, verdict_of
from cvfp_jax.scaling.surface_fit import SurfaceFit, fit_surface
from cvfp_jax.scaling.surface_intervals import DRAWS, OfParameters, surface_intervals
from cvfp_jax.scaling.surfaces import SURFACES

SurfaceRow = dict[str, Any]
_STARTS = 4  # of refits without the largest sizes


@dataclasses.dataclass(frozen=True)
class Best:
    """The best sizes for a budget, by a law, with 95 % intervals where there are any."""

    budget: float
    params: float
    params_interval: Interval | None
    tokens: float
    tokens_interval: Interval | None
    y: float


@dataclasses.dataclass(frozen=True)
class SurfaceAnalysis:
    """One group's points with the laws fitted to them; a row a law as in fits.json."""

    group: Group
    fits: dict[str, SurfaceFit]
    rows: list[SurfaceRow]
    verdict: str
    standing: tuple[str, ...]
    operations: float | None  # for a parameter and a token; None if budgets were not asked for
    best: dict[str, list[Best]]  # by law
    minima: list[Minimum]
    line: LogLine | None  # of the minima: parameters against budgets


def surfaces_for(variables: int) -> tuple[str, ...]:
    """Returns the laws of so many variables, those of fewer among them.

    >>> surfaces_for(2)
    ('chinchilla', 'params_only', 'tokens_only', 'kaplan')
    """
    return tuple(name for name, law in SURFACES.items() if law.variables <= variables)


def held_out_sizes(variables: np.ndarray) -> np.ndarray:
    """Returns which points [n] are held out: the third with the largest product of N and D."""
    products = variables[:, 0] * variables[:, 1]
    ends = np.unique(products)
    return products >= ends[-max(1, len(ends) // 3)]


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def analyse_surface(
    group: Group,
    laws: Sequence[str] = (),
    objective: str = LOG,
    predict: Sequence[Sequence[float]] = (),
    operations: float | None = None,
    draws: int = DRAWS,
    progress: Callable[[str], None] = lambda text: None,
) -> SurfaceAnalysis:
    """Fits laws of several variables to a group of points and compares them.

    Args:
      group: the points; its variables are parameters, tokens and, for data that repeat, unique tokens.
      laws: names in ``SURFACES``; all that take as many variables or fewer, if there are none.
      objective: ``log``, ``linear`` or ``huber``.
      predict: sizes, a number a variable, at which to evaluate the laws.
      operations: for a parameter and a token; None for no budgets.
      draws: of the bootstrap, with Huber's loss.
      progress: is told the group and the law, once for each.

    Returns:
      The fits, how they compare, rows, and the best sizes for each budget.

    >>> N, D = (each.ravel() for each in np.meshgrid([1e8, 1e9, 1e10], [1e9, 1e10, 1e11]))
    >>> group = Group("all", tuple(N), tuple(1.8 + 480 / N**0.35 + 2000 / D**0.37), (tuple(D),))
    >>> found = analyse_surface(group, ["chinchilla"], predict=[(7e10, 1.4e12)], operations=6.0)
    >>> round(found.rows[0]["predictions"][0]["y"], 3), f"{found.best['chinchilla'][-1].params:.3g}"
    (1.941, '1.09e+11')
    """
    columns = np.array(group.variables).T
    names = tuple(laws) or surfaces_for(columns.shape[1])
    fits = {
        name: fit_surface(name, columns.T.tolist(), group.y, objective, sigma=group.sigma) for name in names
    }
    held = held_out_sizes(columns)
    log_y = np.log(group.y)
    naive = float(np.sqrt(np.mean((log_y[held] - log_y[~held].min()) ** 2))) if (~held).any() else math.nan
    holdout = {name: _held_out(fit, held) for name, fit in fits.items()}
    fitted = {name: fit for name, fit in fits.items() if fit.fitted}
    weights = akaike_weights({name: fit.aicc for name, fit in fitted.items()})
    verdict, standing = verdict_of(fitted, weights, holdout, naive)
    verdict = verdict.replace("the last size's value", "the best measure of the smaller ones")
    rows, best = [], {}
    for name, fit in fits.items():
        progress(f"{group.name}: {name}")
        budgets = budgets_for(fit, operations) if operations and fit.fitted and has_frontier(name) else []
        made = [f for budget in budgets for f in _frontier(name, budget, operations or 1.0)]
        intervals = surface_intervals(fit, predict, made, draws=draws) if fit.fitted else []
        k = fit.k
        rows.append(
            {
                "group": group.name, "law": name, "formula": fit.law.formula, "objective": objective,
                "status": fit.status, "k": k, "n": fit.n, "params": fit.params,
                "intervals": {p: _ends(i) for p, i in zip(fit.params, intervals, strict=False)},
                "objective_value": finite(fit.cost), "r2_log": finite(fit.r2_log),
                "rss_log": finite(fit.rss_log),
                "aic": finite(fit.aic), "aicc": finite(fit.aicc), "akaike_weight": weights.get(name),
                "holdout_log_rmse": finite(holdout[name]), "baseline_log_rmse": finite(naive),
                "held_out": int(held.sum()), "test_log_rmse": finite(_test_error(group, fit)),
                "predictions": _predictions(fit, predict, intervals[k : k + len(predict)]),
                "verdict": verdict,
            }
        )  # fmt: skip
        if budgets:
            best[name] = _best(fit, budgets, operations or 1.0, intervals[k + len(predict) :])
    minima = isoflop_minima(group.x, group.others[0], group.y, operations) if operations else []
    line = frontier_line(minima) if sum(each.found for each in minima) > 1 else None
    return SurfaceAnalysis(group, fits, rows, verdict, standing, operations, best, minima, line)


def _held_out(fit: SurfaceFit, held: np.ndarray) -> float:
    """The error of ln y at the points held out, of a fit without them."""
    rest = fit_surface(fit.law.name, fit.variables[~held].T.tolist(), fit.y[~held], fit.objective, _STARTS)
    if not rest.fitted:
        return math.nan
    left = np.log(rest.predict(*fit.variables[held].T)) - np.log(fit.y[held])
    return float(np.sqrt(np.mean(left**2)))


def _frontier(law: str, budget: float, operations: float) -> tuple[OfParameters, OfParameters]:
    """The logarithms of the best parameters and of the best tokens."""
    params = optimal_params(law, budget, operations)
    return params, lambda own: math.log(budget / operations) - params(own)


def _best(
    fit: SurfaceFit, budgets: Sequence[float], operations: float, intervals: Sequence[Interval | None]
) -> list[Best]:
    own = np.array([list(fit.params.values())])
    found = []
    for n, budget in enumerate(budgets):
        params = float(np.exp(optimal_params(fit.law.name, budget, operations)(own)[0]))
        if not 0 < params < math.inf:
            continue
        tokens = budget / operations / params
        y = float(fit.predict(params, tokens))
        found.append(Best(budget, params, intervals[2 * n], tokens, intervals[2 * n + 1], y))
    return found


def _predictions(
    fit: SurfaceFit, predict: Sequence[Sequence[float]], intervals: Sequence[Interval | None]
) -> list[SurfaceRow]:
    if not fit.fitted:
        return [{"x": list(size), "y": None, "interval": None} for size in predict]
    return [
        {
            "x": list(size),
            "y": finite(float(fit.predict(*size[: fit.law.variables]))),
            "interval": _ends(interval),
        }
        for size, interval in zip(predict, intervals, strict=True)
    ]


def _test_error(group: Group, fit: SurfaceFit) -> float:
    if not fit.fitted or not group.tests:
        return math.nan
    rows = np.array(group.tests)
    left = np.log(fit.predict(*rows[:, : fit.law.variables].T)) - np.log(rows[:, -1])
    return float(np.sqrt(np.mean(left**2)))


def _ends(interval: Interval | None) -> list[float | None] | None:
    return None if interval is None else [finite(interval.low), finite(interval.high)]
