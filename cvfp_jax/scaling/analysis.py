"""All laws fitted to a group of points, compared and extrapolated: the rows of fits.json."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import stats

from cvfp_jax.runtime.floats import exp, finite
from cvfp_jax.scaling.bootstrap import DRAWS, Draws, bootstrap
from cvfp_jax.scaling.fit import Fit, fit_law
from cvfp_jax.scaling.laws import LAWS
from cvfp_jax.scaling.line import LEVEL, student_t
from cvfp_jax.scaling.objectives import HUBER, LINEAR, LOG
from cvfp_jax.scaling.points import Group
from cvfp_jax.scaling.profile import Interval, profile_intervals
from cvfp_jax.scaling.select import Selection, select

LawRow = dict[str, Any]  # what fits.json and report.json say of a law
# A prediction's interval that reaches down to this part of it reaches down to zero.
_NEXT_TO_NOTHING = 1e-12


@dataclasses.dataclass(frozen=True)
class GroupAnalysis:
    """One group's points with the laws fitted to them.

    A row a law holds parameters, errors, intervals of 95 %, tests and predictions, with None for what is not
    defined and for an end that an interval has not; the group's verdict is in each.
    """

    group: Group
    selection: Selection
    rows: list[LawRow]


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def analyse_group(
    group: Group,
    laws: Sequence[str] = tuple(LAWS),
    objective: str = LOG,
    predict: Sequence[float] = (),
    draws: int = DRAWS,
    progress: Callable[[str], None] = lambda text: None,
) -> GroupAnalysis:
    """Fits laws to a group of points and compares them.

    Args:
      group: the points.
      laws: names in ``LAWS``.
      objective: ``log``, ``linear`` or ``huber``.
      predict: sizes above zero, in the unit of x, at which to evaluate the laws.
      draws: of the residual bootstrap; 0 for none.
      progress: is told the group and the law, once for each, before its intervals are sought.

    Returns:
      The fits, how they compare, and the rows.

    >>> group = Group("a", (100.0, 200.0, 400.0, 800.0), (80.0, 40.0, 20.0, 10.0))
    >>> analysis = analyse_group(group, ["power"])
    >>> analysis.rows[0]["status"], round(analysis.rows[0]["params"]["a"], 9)
    ('converged', 1.0)
    >>> analysis.selection.standing, round(float(analysis.selection.fits["power"].predict(1600.0)), 9)
    (('power',), 5.0)
    """
    selection = select([fit_law(law, group.x, group.y, objective) for law in laws])
    rows = []
    for law, fit in selection.fits.items():
        progress(f"{group.name}: {law}".lstrip(": "))
        rows.append(_row(group, fit, selection, predict, draws))
    return GroupAnalysis(group, selection, rows)


def _row(group: Group, fit: Fit, selection: Selection, predict: Sequence[float], draws: int) -> LawRow:
    name = fit.law.name
    drawn = bootstrap(fit, draws=draws) if draws and fit.fitted and fit.rss > 0 else None
    intervals, predictions = _intervals(fit, predict, drawn)
    names = fit.law.names if fit.fitted else ()
    return {
        "group": group.name,
        "law": name,
        "formula": fit.law.formula,
        "objective": fit.objective,
        "status": fit.status,
        "k": fit.k,
        "n": fit.n,
        "sizes": fit.sizes,
        "params": {parameter: finite(value) for parameter, value in fit.params.items()},
        "std_errors": {parameter: finite(fit.std_errors.get(parameter, math.nan)) for parameter in names},
        "intervals": intervals,
        "bootstrap_std_errors": {p: finite(drawn.std_error(p)) for p in names} if drawn else None,
        "bootstrap_intervals": {p: _ends(drawn.interval(p)) for p in names} if drawn else None,
        "r2": finite(fit.r2),
        "r2_log": finite(fit.r2_log),
        "rss": finite(fit.rss),
        "rss_log": finite(fit.rss_log),
        "log_likelihood": finite(fit.log_likelihood),
        "aic": finite(fit.aic),
        "aicc": finite(fit.aicc),
        "akaike_weight": selection.weights.get(name),
        "loo_log_rmse": finite(selection.loo[name]),
        "holdout_log_rmse": finite(selection.holdout[name]),
        "holdout_sizes": list(selection.holdout_sizes),
        "baseline_log_rmse": finite(selection.baseline),
        "lack_of_fit_p": finite(lack_of_fit(fit)),
        "limit": finite(fit.law.limit(fit.params)) if fit.fitted else None,
        "local_exponent": finite(float(fit.local_exponent(max(group.x)))),
        "predictions": predictions,
        "verdict": selection.verdict,
    }


def _intervals(
    fit: Fit, predict: Sequence[float], drawn: Draws | None
) -> tuple[dict[str, list[float | None] | None], list[LawRow]]:
    """Intervals of parameters and predictions, by profile likelihood, or with Huber's loss by draws."""
    if not fit.fitted:
        return {}, [{"x": x, "y": None, "interval": None, "run_interval": None} for x in predict]
    names = fit.law.names
    values = [float(value) for value in fit.predict(np.asarray(predict, float))]
    intervals: list[Interval | None]
    if fit.objective == HUBER and drawn is not None:
        intervals = [drawn.interval(name) for name in names]
        if predict:
            intervals += [
                Interval(float(low), float(high)) for low, high in drawn.curve_interval(np.array(predict)).T
            ]
    else:
        intervals = profile_intervals(fit, names, predict)
    by_name = dict(zip(names, map(_ends, intervals), strict=False))
    predictions = [
        {
            "x": x,
            "y": finite(y),
            "interval": _ends(_from_zero(interval, y)),
            "run_interval": _ends(_from_zero(_run_interval(fit, y, interval), y)),
        }
        for x, y, interval in zip(predict, values, intervals[len(names) :], strict=True)
    ]
    return by_name, predictions


def _from_zero(interval: Interval | None, y: float) -> Interval | None:
    """Sets an end to zero where the search, which works in logarithms, can only come near it."""
    if interval is None or interval.low >= _NEXT_TO_NOTHING * y:
        return interval
    return Interval(0.0, interval.high)


def _run_interval(fit: Fit, y: float, interval: Interval | None) -> Interval | None:
    """Widens the interval of a law's value by the scatter of one more measurement."""
    if interval is None or fit.objective == HUBER or fit.n <= fit.k:
        return None
    t = student_t(LEVEL, fit.n - fit.k)
    if fit.objective == LINEAR:
        scatter = t * math.sqrt(fit.rss / (fit.n - fit.k))
        return Interval(
            max(0.0, y - math.hypot(y - interval.low, scatter)), y + math.hypot(interval.high - y, scatter)
        )
    scatter = t * math.sqrt(fit.rss_log / (fit.n - fit.k))
    down = math.log(y / interval.low) if interval.low > 0 else math.inf
    up = math.log(interval.high / y) if interval.high < math.inf else math.inf
    return Interval(y * exp(-math.hypot(down, scatter)), y * exp(math.hypot(up, scatter)))


def lack_of_fit(fit: Fit) -> float:
    """Tests a law against its replicates: the probability of points this far off it, if it holds.

    ``F = ((RSS - PE) / (m - k)) / (PE / (n - m))`` with m sizes, PE the squares about each size's mean.

    Args:
      fit: a fit by least squares.

    Returns:
      The probability; not a number without replicates, parameters, or with Huber's loss.

    References:
      Draper and Smith, 1998, section 2.1.

    >>> points = [10, 10, 100, 100, 1000, 1000], [80, 81, 60, 61, 10, 11]
    >>> lack_of_fit(fit_law("power", *points)) < 0.001
    True
    """
    if not fit.fitted or fit.n == fit.sizes or fit.objective == HUBER:
        return math.nan
    problem, optimum = fit.solved
    values, which = problem.y[0] if fit.objective == LINEAR else np.log(problem.y[0]), fit.size_index
    means = np.bincount(which, values) / np.bincount(which)
    pure = float(np.sum((values - means[which]) ** 2))
    if not pure > 0:
        return math.nan
    excess = max(0.0, 2 * float(optimum.cost[0]) - pure) / (fit.sizes - fit.k)
    return float(stats.f.sf(excess / (pure / (fit.n - fit.sizes)), fit.sizes - fit.k, fit.n - fit.sizes))


def _ends(interval: Interval | None) -> list[float | None] | None:
    return None if interval is None else [finite(interval.low), finite(interval.high)]
