"""All laws fitted to a group of points, compared and extrapolated: the rows of fits.json."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import stats

from cvfp_jax.runtime.floats import exp, finite
from cvfp_jax.scaling.bootstrap import DRAWS, MOST_POINTS, Draws, bootstrap, normal_draws
from cvfp_jax.scaling.fitting import STARTS, Fit, fit_law
from cvfp_jax.scaling.growth import Step, growing_windows
from cvfp_jax.scaling.laws import LAWS, RISING
from cvfp_jax.scaling.limits import Limits
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
    growth: dict[str, list[Step]] = dataclasses.field(default_factory=dict)  # by law


def laws_for(group: Group) -> tuple[str, ...]:
    """Returns the laws for a group where none are asked for: with those to a ceiling if its measures rise.

    >>> laws_for(Group("accuracy", (1.0, 2.0, 3.0), (0.1, 0.3, 0.4)))[-2:]
    ('ceiling', 'hill')
    """
    rises = stats.kendalltau(group.x, group.y).statistic > 0 if len(set(group.y)) > 1 else False
    return (*LAWS, *RISING) if rises else tuple(LAWS)


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def analyse_group(
    group: Group,
    laws: Sequence[str] = tuple(LAWS),
    objective: str = LOG,
    predict: Sequence[float] = (),
    draws: int = DRAWS,
    progress: Callable[[str], None] = lambda text: None,
    limits: Limits | None = None,
) -> GroupAnalysis:
    """Fits laws to a group of points and compares them.

    Args:
      group: the points.
      laws: names in ``LAWS``.
      objective: ``log``, ``linear`` or ``huber``.
      predict: sizes above zero, in the unit of x, at which to evaluate the laws.
      draws: of the residual bootstrap; 0 for none.
      progress: is told the group and the law, once for each, before its intervals are sought.
      limits: parameters that are fixed or bounded.

    Returns:
      The fits, how they compare, and the rows.

    >>> group = Group("a", (100.0, 200.0, 400.0, 800.0), (80.0, 40.0, 20.0, 10.0))
    >>> analysis = analyse_group(group, ["power"])
    >>> analysis.rows[0]["status"], round(analysis.rows[0]["params"]["a"], 9)
    ('converged', 1.0)
    >>> analysis.selection.standing, round(float(analysis.selection.fits["power"].predict(1600.0)), 9)
    (('power',), 5.0)
    """
    fits = [fit_law(law, group.x, group.y, objective, STARTS, limits, group.sigma) for law in laws]
    selection = select(fits, predict)
    rows = []
    for law, fit in selection.fits.items():
        progress(f"{group.name}: {law}".lstrip(": "))
        rows.append(_row(group, fit, selection, predict, draws))
    # The two simplest laws that are left, or where none is the one that predicts best.
    tested = {name: error for name, error in selection.holdout.items() if math.isfinite(error)}
    shown = selection.standing or (min(tested, key=tested.__getitem__),) if tested else ()
    growth = {name: growing_windows(selection.fits[name]) for name in shown[:2]}
    return GroupAnalysis(group, selection, rows, growth)


def _row(group: Group, fit: Fit, selection: Selection, predict: Sequence[float], draws: int) -> LawRow:
    name = fit.law.name
    drawn = _drawn(fit, draws)
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
        "serial_correlation_p": finite(selection.serial_p.get(name, math.nan)),
        "turns_at": finite(selection.turning.get(name, math.nan)),
        "fixed": dict(fit.limits.fixed),
        "test_log_rmse": finite(_test_error(group, fit)),
        "limit": finite(fit.law.limit(fit.params)) if fit.fitted else None,
        "local_exponent": finite(float(fit.local_exponent(max(group.x)))),
        "predictions": predictions,
        "verdict": selection.verdict,
    }


def _drawn(fit: Fit, draws: int) -> Draws | None:
    """The bootstrap, where there are residuals to draw from and not too many points to refit."""
    if not (draws and fit.fitted and fit.rss > 0 and fit.n > fit.k):
        return None
    if fit.n <= MOST_POINTS:
        return bootstrap(fit, draws=draws)
    return normal_draws(fit, draws) if fit.objective == HUBER else None


def _intervals(
    fit: Fit, predict: Sequence[float], drawn: Draws | None
) -> tuple[dict[str, list[float | None] | None], list[LawRow]]:
    """Intervals of parameters and predictions, by profile likelihood, or with Huber's loss by draws."""
    if not fit.fitted:
        return {}, [{"x": x, "y": None, "interval": None, "run_interval": None} for x in predict]
    names = tuple(name for name in fit.law.names if name not in fit.limits.fixed)
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
    by_name = dict.fromkeys(fit.law.names, None) | dict(zip(names, map(_ends, intervals), strict=False))
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
    if interval is None or fit.n <= fit.k:
        return None
    t = student_t(LEVEL, fit.n - fit.k)
    if fit.objective == HUBER:
        return _robust_run_interval(fit, y, interval, t)
    if fit.objective == LINEAR:
        scatter = t * math.sqrt(fit.rss / (fit.n - fit.k))
        return Interval(
            max(0.0, y - math.hypot(y - interval.low, scatter)), y + math.hypot(interval.high - y, scatter)
        )
    scatter = t * math.sqrt(fit.rss_log / (fit.n - fit.k))
    down = math.log(y / interval.low) if interval.low > 0 else math.inf
    up = math.log(interval.high / y) if interval.high < math.inf else math.inf
    return Interval(y * exp(-math.hypot(down, scatter)), y * exp(math.hypot(up, scatter)))


def _robust_run_interval(fit: Fit, y: float, interval: Interval, t: float) -> Interval:
    """With Huber's loss the scatter is that of the residuals themselves, outliers and all.

    Their quantiles are widened for the parameters they were fitted with, and by Student's t.
    """
    problem, optimum = fit.solved
    left = -problem.residuals(optimum.parameters)[0][0]
    wide = t / 1.959964 * math.sqrt(fit.n / (fit.n - fit.k))
    low, high = wide * np.quantile(left, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    down = math.log(y / interval.low) if interval.low > 0 else math.inf
    up = math.log(interval.high / y) if interval.high < math.inf else math.inf
    return Interval(
        y * exp(-math.hypot(down, max(0.0, -float(low)))), y * exp(math.hypot(up, max(0.0, float(high))))
    )


def _test_error(group: Group, fit: Fit) -> float:
    """The root mean square error of ln y at the points that were held out of all fits."""
    if not fit.fitted or not group.tests:
        return math.nan
    rows = np.array(group.tests)
    predicted = fit.predict(rows[:, 0])
    return float(np.sqrt(np.mean(np.where(predicted > 0, np.log(predicted / rows[:, -1]), math.inf) ** 2)))


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
    w = problem.weights[0]
    means = np.bincount(which, w * values) / np.bincount(which, w)
    pure = float(np.sum(w * (values - means[which]) ** 2))
    if not pure > 0:
        return math.nan
    excess = max(0.0, 2 * float(optimum.cost[0]) - pure) / (fit.sizes - fit.k)
    return float(stats.f.sf(excess / (pure / (fit.n - fit.sizes)), fit.sizes - fit.k, fit.n - fit.sizes))


def _ends(interval: Interval | None) -> list[float | None] | None:
    return None if interval is None else [finite(interval.low), finite(interval.high)]
