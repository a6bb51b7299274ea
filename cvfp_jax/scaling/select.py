"""Model selection: information criteria, leave-one-out errors, and prediction of held-out largest sizes."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cvfp_jax.scaling.fitting import STARTS, Fit
from cvfp_jax.scaling.objectives import LINEAR, LOG
from cvfp_jax.scaling.residuals import serial_correlation_p, turning_size
from cvfp_jax.scaling.solve import Problem, minimise

# A law with less than this part of a better law's Akaike weight is dismissed, if it predicts and fits worse.
_UNLIKELY = 0.05
# Costs and errors closer than this part are equal: a search ends no nearer, in one unit of x or another.
_EQUAL = 1e-6
# Residuals of a law that holds run in such waves once in fifty times.
_WAVES = 0.02
# Of more sizes none is left out by refitting without it; of more than few the refits have one start.
MOST_LEFT_OUT, _FEW = 2000, 50
_AT_A_TIME = 400_000  # points of refits
BASELINE = "the last size's value"


@dataclasses.dataclass(frozen=True)
class Selection:
    """How laws fitted to the same points compare; not a number where a test could not be made."""

    fits: dict[str, Fit]
    weights: dict[str, float]  # Akaike's, of the laws that have an AICc
    loo: dict[str, float]  # log-RMSE of the sizes left out one by one
    holdout: dict[str, float]  # log-RMSE of the largest sizes
    holdout_sizes: tuple[float, ...]
    baseline: float  # the naive prediction's log-RMSE of the same sizes
    verdict: str
    standing: tuple[str, ...] = ()  # the laws that the verdict leaves, the simplest first
    turning: dict[str, float] = dataclasses.field(default_factory=dict)  # where laws turn round, if they do
    serial_p: dict[str, float] = dataclasses.field(default_factory=dict)  # of the residuals' correlation
    notes: tuple[str, ...] = ()  # tests that were left out


def akaike_weights(aicc: Mapping[str, float]) -> dict[str, float]:
    """Returns ``exp(-d / 2) / sum``, d being the distances from the least criterion.

    Args:
      aicc: by law; entries that are not numbers get no weight.

    Returns:
      Weights of the other laws, which add up to 1; none where there is nothing to weigh one against.

    References:
      Burnham and Anderson, 2002, section 2.9.

    >>> {name: round(weight, 3) for name, weight in akaike_weights({"a": 10.0, "b": 12.0}).items()}
    {'a': 0.731, 'b': 0.269}
    """
    known = {name: value for name, value in aicc.items() if math.isfinite(value)}
    if len(known) < 2:
        return {}
    least = min(known.values(), default=0.0)
    raw = {name: math.exp(-(value - least) / 2) for name, value in known.items()}
    return {name: value / sum(raw.values()) for name, value in raw.items()}


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def leave_one_out(fit: Fit) -> float:
    """Returns the root mean square error of ln y at each size, predicted from the others.

    A size is left out with all its replicates. Where the law is linear in the space of the objective the
    errors follow from leverages, ``r + h sum(w r) / (1 - h sum(w))`` with the sums over the size's points;
    others are refitted without each size, up to 2,000 sizes.

    Args:
      fit: a fit of the points.

    Returns:
      The error; not a number without parameters or of too many sizes, infinite where a prediction is not
      above zero.

    References:
      Stone, 1974.

    >>> from cvfp_jax.scaling.fitting import fit_law
    >>> fit = fit_law("power", [1, 10, 100, 1000], [800.0, 400.0, 200.0, 100.0])
    >>> leave_one_out(fit) < 1e-9
    True
    """
    if not fit.fitted:
        return math.nan
    errors, refit = _left_out_by_leverage(fit)
    which = fit.size_index
    gone = np.flatnonzero(refit)
    if len(gone) > MOST_LEFT_OUT:
        return math.nan
    problem, optimum = fit.solved
    many = max(1, _AT_A_TIME // fit.n)
    for sizes in np.array_split(gone, -(-len(gone) // many)) if len(gone) else ():
        left_out = sizes[:, None] == which
        starts = STARTS if fit.sizes <= _FEW else 0
        each = _prediction_errors(problem, left_out, starts, optimum.parameters)
        errors[np.nonzero(left_out)[1]] = each[left_out]
    return float(np.sqrt(np.mean(errors**2)))


def _left_out_by_leverage(fit: Fit) -> tuple[np.ndarray, np.ndarray]:
    """The errors of ln y [n] at sizes left out, and which sizes [m] need a refit."""
    problem, optimum = fit.solved
    given = problem.lower == problem.upper
    held = optimum.held[0] & ~given
    in_logs = fit.objective == LOG and problem.shape.log_linear
    in_values = fit.objective == LINEAR and fit.law.name in ("constant", "log_linear")
    errors, all_of_them = np.zeros(fit.n), np.ones(fit.sizes, bool)
    if not (in_logs or in_values) or held.any() or given.any():
        return errors, all_of_them
    x = optimum.parameters[0]
    r, J = (part[0] for part in problem.residuals(optimum.parameters))
    # Of ln K and theta, or of K and K theta, the law is linear.
    J = J * np.array([x[0], *[1.0] * (len(x) - 1)] if in_logs else [1.0, *[1 / x[0]] * (len(x) - 1)])
    if in_values and len(x) > 1:
        J[:, 0] = 1.0
    w, which = problem.weights[0], fit.size_index
    triangle = np.linalg.qr(np.sqrt(w)[:, None] * J)[1]
    if not np.all(np.abs(np.diag(triangle)) > 1e-12 * np.linalg.norm(triangle)):
        return errors, all_of_them
    rows = np.linalg.solve(triangle.T, J.T).T  # [n, p], with leverages their squares
    first = np.unique(which, return_index=True)[1]
    h = np.sum(rows[first] ** 2, axis=1)
    pull = np.bincount(which, w * r) / (1 - h * np.bincount(which, w))
    moved = np.linalg.solve(triangle, (rows[first] * pull[:, None]).T).T  # of the parameters, [m, p]
    left = r + (h * pull)[which]
    if in_logs:
        theta = x[1:] + moved[:, 1:]
        inside = np.all((theta > problem.lower[1:]) & (theta < problem.upper[1:]), axis=1)
        return left, ~inside
    predicted = problem.y[0] + left
    scale = x[0] + moved[:, 0]
    theta = (x[0] * x[1:] + moved[:, 1:]) / scale[:, None]
    inside = (scale > 0) & np.all((theta > problem.lower[1:]) & (theta < problem.upper[1:]), axis=1)
    return np.where(predicted > 0, np.log(predicted / problem.y[0]), math.inf), ~inside


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def hold_out(fit: Fit) -> tuple[float, float, tuple[float, ...]]:
    """Fits a law to the smaller sizes and predicts the largest: the test of an extrapolation.

    A third of the sizes, rounded down, is held out, and at least one.

    Args:
      fit: a fit of the points.

    Returns:
      The root mean square error of ln y at the largest sizes, that of taking the value at the largest of
      the smaller sizes for all of them, and the sizes. The first is not a number where fewer sizes are
      left than the law has parameters.

    >>> from cvfp_jax.scaling.fitting import fit_law
    >>> fit = fit_law("power", [1, 10, 100, 1000], [800.0, 400.0, 200.0, 100.0])
    >>> law, naive, sizes = hold_out(fit)
    >>> law < 1e-9, round(naive / math.log(2), 9), sizes
    (True, 1.0, (1000.0,))
    """
    if not fit.fitted:
        return math.nan, math.nan, ()
    problem, which = fit.solved[0], fit.size_index
    held = max(1, fit.sizes // 3)
    left_out = (which >= fit.sizes - held)[None]
    log_y = np.log(problem.y[0])
    last = log_y[which == fit.sizes - held - 1].mean()
    naive = float(np.sqrt(np.mean((log_y[left_out[0]] - last) ** 2)))
    tested = tuple(float(size) for size in np.unique(fit.x)[-held:])
    if fit.sizes - held < fit.k:
        return math.nan, naive, tested
    errors = _prediction_errors(problem, left_out, STARTS)
    return float(np.sqrt(np.mean(errors[left_out] ** 2))), naive, tested


def _prediction_errors(
    problem: Problem, left_out: np.ndarray, starts: int, first: np.ndarray | None = None
) -> np.ndarray:
    """The errors of ln y [S, n] at all points, of fits without those that are left out [S, n]."""
    many = len(left_out)
    part = dataclasses.replace(
        problem, y=np.repeat(problem.y, many, axis=0), weights=np.where(left_out, 0.0, problem.weights)
    )
    begin = None if first is None or starts else np.repeat(first, many, axis=0)
    predicted, _ = part.curve(minimise(part, starts, begin).parameters, part.u)
    return np.where(predicted > 0, np.log(predicted / part.y), math.inf)


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def select(fits: Sequence[Fit], predict: Sequence[float] = ()) -> Selection:
    """Compares laws fitted to the same points, and says which of them the points support.

    The deciding test is to predict the largest sizes from the others. A law is dismissed if there is another
    that predicts them better, fits all points better, and has over 20 times its Akaike weight, from AICc. Of
    few points AICc alone would dismiss a law for its parameters, whatever the points say: a law that holds
    the better one as a special case fits no worse and stands. One without an AICc or without a prediction
    cannot be dismissed. Laws that change with the unit of x are compared but take no part in the verdict.
    Differences below 1e-6 decide nothing. A law that turns round at or before a size that is asked for is
    refused, and no law stands if the residuals of each run in waves (``serial_correlation_p``).

    Args:
      fits: of different laws, by the same objective.
      predict: sizes that are asked for.

    Returns:
      The comparison, and a sentence.

    >>> from cvfp_jax.scaling.fitting import fit_law
    >>> points = [100, 200, 400, 800, 1600], [321.4, 253.1, 186.0, 155.8, 134.7]
    >>> select([fit_law(law, *points) for law in ("power", "saturating")]).verdict
    'These points cannot decide between power and saturating; the simplest is power.'
    """
    by_name = {fit.law.name: fit for fit in fits}
    loo = {name: leave_one_out(fit) for name, fit in by_name.items()}
    tested = {name: hold_out(fit) for name, fit in by_name.items()}
    holdout = {name: error for name, (error, _, _) in tested.items()}
    naive, sizes = next(((naive, sizes) for _, naive, sizes in tested.values() if sizes), (math.nan, ()))
    judged = {name: fit for name, fit in by_name.items() if fit.fitted and fit.law.unit_free}
    weights = akaike_weights({name: fit.aicc for name, fit in judged.items()})
    farthest = max(predict, default=0.0)
    turning = {name: size for name, fit in judged.items() if (size := turning_size(fit, farthest)) > 0}
    serial = {name: serial_correlation_p(fit) for name, fit in judged.items()}
    kept = {name: fit for name, fit in judged.items() if name not in turning}
    verdict, standing = verdict_of(kept, weights, holdout, naive)
    if standing and all(p < _WAVES for p in serial.values()):
        those = "each" if len(serial) > 1 else next(iter(serial))
        standing = ()
        verdict = (
            f"No law here fits these points: the residuals of {those} run in waves along the sizes (serial"
            f" correlation, p = {max(serial.values()):.2g} at most)."
        )
    for name, size in turning.items():
        verdict += f" {name.capitalize()} is refused: it turns round at {size:.3g}, before what is asked for."
    skipped = [name for name, fit in by_name.items() if fit.fitted and math.isnan(loo[name])]
    notes = (
        f"Leave-one-out is left out for {listed(skipped)}: over {MOST_LEFT_OUT:,} sizes would be refitted.",
    ) * bool(skipped)
    return Selection(by_name, weights, loo, holdout, sizes, naive, verdict, standing, turning, serial, notes)


def verdict_of(
    fits: Mapping[str, Any], weights: Mapping[str, float], holdout: Mapping[str, float], naive: float
) -> tuple[str, tuple[str, ...]]:
    """Returns the sentence, and the laws that it leaves, the simplest first."""
    tested = {name: holdout[name] for name in fits if math.isfinite(holdout[name])}
    if not tested and any(math.isinf(holdout[name]) for name in fits):
        return "No law can be tested: none predicts a measure above zero at the largest sizes.", ()
    if not tested:
        return "These points are too few to fit a law and to test it.", ()
    least = min(tested.values()) * (1 + _EQUAL)
    best = min(tested, key=lambda name: (tested[name] > least, fits[name].k, list(tested).index(name)))
    if len(fits) == 1:
        return (
            f"{best.capitalize()}, the only law to judge, predicts the largest sizes with log-RMSE"
            f" {tested[best]:.3g}, {BASELINE} with {naive:.3g}: there is nothing to decide between.",
            (best,),
        )
    if tested[best] >= naive * (1 - _EQUAL):
        return (
            f"No law predicts the largest sizes better (log-RMSE {tested[best]:.3g}) than {BASELINE}"
            f" does ({naive:.3g}).",
            (),
        )
    left = [name for name in fits if not any(_beats(other, name, fits, weights, tested) for other in tested)]
    if len(left) == 1:
        return (
            f"These points speak for {best}: it predicts the largest sizes best (log-RMSE {tested[best]:.3g},"
            f" against {naive:.3g} of {BASELINE}), and each other law has one beside it that predicts better,"
            " fits better and has over 20 times its Akaike weight.",
            (best,),
        )
    left.sort(key=lambda name: fits[name].k)
    ahead = [name for name in left if tested.get(name, math.inf) < naive * (1 - _EQUAL)]
    simplest = [name for name in ahead if fits[name].k == fits[ahead[0]].k]
    those = f"the simplest {'is' if len(simplest) == 1 else 'are'} {listed(simplest)}."
    start = f"These points cannot decide between {listed(left)}"
    if len(ahead) == len(left):
        return f"{start}; {those}", tuple(left)
    if len(ahead) == 1:
        return f"{start}. Only {ahead[0]} predicts the largest sizes better than {BASELINE} does.", tuple(
            left
        )
    return (
        f"{start}. Only {listed(ahead)} predict the largest sizes better than {BASELINE} does; of these"
        f" {those}",
        tuple(left),
    )


def listed(names: Sequence[str]) -> str:
    """Returns names as people list them.

    >>> listed(["a"]), listed(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _beats(
    name: str,
    other: str,
    fits: Mapping[str, Any],
    weights: Mapping[str, float],
    tested: Mapping[str, float],
) -> bool:
    """Whether a law predicts and fits better than another that has less than 5 % of its Akaike weight."""
    if name not in weights or other not in weights or other not in tested:
        return False
    costs = [float(fits[key].solved[1].cost[0]) for key in (name, other)]
    return (
        tested[name] < (1 - _EQUAL) * tested[other]
        and weights[other] < (1 - _EQUAL) * _UNLIKELY * weights[name]
        and costs[0] < (1 - _EQUAL) * costs[1]
    )
