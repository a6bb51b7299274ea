"""Profile likelihood: how far a quantity can move, everything else refitted, before the fit gets too bad."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from cvfp_jax.scaling.fitting import Fit, public_derivatives, public_parameters
from cvfp_jax.scaling.laws import Parameter
from cvfp_jax.scaling.line import LEVEL, student_t
from cvfp_jax.scaling.objectives import HUBER, LOG
from cvfp_jax.scaling.solve import MANY, Condition, Problem, descend

_DOUBLINGS = 30
_HALVINGS = 25
_STEPS = 150  # of a descent from beside its end
# Parameters that have the scale of y or of a power of x are searched by their logarithms.
BY_LOGARITHM = {("power", "A"), ("saturating", "A"), ("log_corrected", "A"), ("exponential_decay", "A"),
                 ("exponential_decay", "b"), ("variable_exponent", "A"), ("constant", "A"),
                 ("broken", "A"), ("broken", "d"), ("ceiling", "A"), ("hill", "ceiling"),
                 ("hill", "h")}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Interval:
    """An interval, infinite on a side that the points leave open."""

    low: float
    high: float


def bounded(parameter: Parameter, low: float, high: float) -> Interval:
    """Returns an interval within a parameter's bounds; beyond one that only the search has set it is open."""
    if low <= parameter.lower:
        low = -math.inf if parameter.lower else 0.0
    if high >= parameter.upper:
        high = math.inf if parameter.upper else 0.0
    return Interval(low, high)


class Quantities(Protocol):
    """What is profiled: functions of the coordinates."""

    def value(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the quantities [S, Q] and their derivatives [S, Q, p]."""
        ...


@dataclasses.dataclass(frozen=True)
class _Quantities:
    """What is profiled: parameters of a fit, or their logarithms, and logarithms of its predictions."""

    problem: Problem
    y_ref: float
    index: np.ndarray  # of parameters
    logarithm: np.ndarray  # bool, of parameters
    u: np.ndarray  # where it predicts

    def value(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the quantities [S, Q] and their derivatives [S, Q, p]."""
        public = public_parameters(self.problem, x, self.y_ref)[:, self.index]
        slopes = public_derivatives(self.problem, x, self.y_ref)[:, self.index]
        f, df = self.problem.curve(x, self.u)
        values = np.where(self.logarithm, np.log(np.where(self.logarithm, public, 1.0)), public)
        slopes = np.where(self.logarithm[:, None], slopes / public[..., None], slopes)
        return (
            np.concatenate([values, np.log(f * self.y_ref)], axis=1),
            np.concatenate([slopes, df / f[..., None]], axis=1),
        )


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def profile_intervals(
    fit: Fit, names: Sequence[str] = (), predict: Sequence[float] = (), level: float = LEVEL
) -> list[Interval | None]:
    """Returns confidence intervals for parameters and for values of the law, by profile likelihood.

    A value v belongs to the interval if ``2 (cost(v) - cost) / s^2 <= t^2``: cost(v) is the least
    objective, half the sum of squares, with the quantity held at v, ``s^2 = 2 cost / (n - k)``, and t the
    quantile of Student's distribution of n - k degrees of freedom. For laws that are linear in the
    space of the objective it is the exact interval; for others it needs no symmetry, unlike an error.

    Args:
      fit: by least squares, ``log`` or ``linear``.
      names: parameters.
      predict: sizes above zero.
      level: the share of such intervals that are to hold the true value.

    Returns:
      An interval a quantity, parameters first. None where there is none to be had: no parameters, as many
      parameters as points, Huber's loss, or a quantity that is not finite.

    References:
      Bates and Watts, 1988, section 6.1.

    >>> from cvfp_jax.scaling.fitting import fit_law
    >>> fit = fit_law("power", [100, 200, 400, 800, 1600], [321.4, 253.1, 186.0, 155.8, 134.7])
    >>> [(round(i.low, 3), round(i.high, 3)) for i in profile_intervals(fit, ["a"]) if i]
    [(0.239, 0.403)]
    """
    count = len(names) + len(predict)
    if not fit.fitted or fit.n <= fit.k or fit.objective == HUBER or not count:
        return [None] * count
    problem, optimum = fit.solved
    quantities = _Quantities(
        problem,
        fit.y_ref,
        np.array([fit.law.names.index(name) for name in names], int),
        np.array([(fit.law.name, name) in BY_LOGARITHM for name in names], bool),
        np.log(np.asarray(predict, float)) - problem.log_ref,
    )
    centre, slopes = (part[0] for part in quantities.value(optimum.parameters))
    ends, closed = _ends(fit, quantities, centre, scales(fit, slopes), level)
    bounds = [(0.0, math.inf)] * count
    bounds[: len(names)] = [(parameter.lower, parameter.upper) for parameter in map(fit.law.parameter, names)]
    # A bound of 0 is the law's own, and others may be a user's; else the search has ended, not the points.
    asked = np.array([name in fit.limits.pairs() for name in names] + [False] * len(predict))
    open_ended = closed & (np.array(bounds).T != 0) & (np.arange(count) < len(names)) & ~asked
    ends = np.where(open_ended, [[-math.inf], [math.inf]], ends)
    logarithm = np.concatenate([quantities.logarithm, np.ones(len(predict), bool)])
    intervals: list[Interval | None] = []
    for value, is_log, sides in zip(centre, logarithm, ends.T, strict=True):
        if not math.isfinite(value):
            intervals.append(None)
            continue
        intervals.append(Interval(*(float(np.exp(end)) if is_log else float(end) for end in sides)))
    return intervals


def scales(fit: Any, slopes: np.ndarray) -> np.ndarray:
    """Returns standard errors of quantities in the linearised law, or a tenth where there are none."""
    problem, optimum = fit.solved
    _, J = problem.residuals(optimum.parameters)
    J = np.where(problem.lower == problem.upper, 0.0, J * np.sqrt(problem.weights)[..., None])
    s = math.sqrt(2 * float(optimum.cost[0]) / (fit.n - fit.k))
    # How a parameter moves with each measure, [n, p].
    pull = np.linalg.pinv(np.where(np.abs(J[0]) < 1e100, J[0], 0.0)).T
    errors = s * np.linalg.norm(np.nan_to_num(slopes) @ pull.T, axis=1)
    return np.where(np.isfinite(errors) & (errors > 0), errors, 0.1 * np.maximum(1.0, s))


def _ends(
    fit: Fit, quantities: _Quantities, centre: np.ndarray, scale: np.ndarray, level: float
) -> tuple[np.ndarray, np.ndarray]:
    """The lower and upper ends [2, Q], in the quantities' own scale, and which the search's bounds set."""
    s2 = 2 * float(fit.solved[1].cost[0]) / (fit.n - fit.k)
    if not s2 > 1e-28:  # the points lie on the law
        return np.stack([centre, centre]), np.zeros((2, len(centre)), bool)
    t = student_t(level, fit.n - fit.k)
    if _is_linear(fit, t):
        return np.stack([centre - t * scale, centre + t * scale]), np.zeros((2, len(centre)), bool)
    search = Search(fit, quantities, np.where(np.isfinite(centre), centre, 0.0), scale, s2, t)
    search.bracket()
    search.close()
    return search.end.reshape(2, -1), search.closed.reshape(2, -1)


def _is_linear(fit: Fit, t: float) -> bool:
    """Whether intervals are in closed form: quantities are linear in coordinates that are far from bounds."""
    problem, optimum = fit.solved
    first = int(problem.shape.floor) + 1
    if fit.objective != LOG or not problem.shape.log_linear or optimum.held.any():
        return False
    x, (_, J) = optimum.parameters[0], problem.residuals(optimum.parameters)
    s = math.sqrt(2 * float(optimum.cost[0]) / (fit.n - fit.k))
    pull = np.linalg.pinv(J[0] * np.sqrt(problem.weights[0])[:, None])
    reach = t * s * np.linalg.norm(pull, axis=1)[first:]
    return bool(
        np.all((x[first:] - reach > problem.lower[first:]) & (x[first:] + reach < problem.upper[first:]))
    )


class Search:
    """Searches both ends of all quantities at once: where the excess over the best fit reaches t."""

    def __init__(
        self,
        fit: Any,
        quantities: Quantities,
        centre: np.ndarray,
        scale: np.ndarray,
        s2: float,
        t: float,
    ) -> None:
        self.problem, optimum = fit.solved
        if fit.n > MANY:
            # Means over narrow bins have the same excess, in a part of the time.
            self.problem = self.problem.thinned(MANY)
            optimum = descend(self.problem, optimum.parameters)
        # A row for the lower end of each quantity, then one for the upper end of each.
        index = np.tile(np.arange(len(centre)), 2)
        self.quantities, self.index = quantities, index
        self.side = np.repeat([-1.0, 1.0], len(centre))
        self.width, self.s2, self.t, self.cost = scale[index], s2, t, float(optimum.cost[0])
        rows = len(index)
        # The farthest target whose excess is below t, the value reached, its excess and parameters; and the
        # nearest target whose excess is not.
        self.inner, self.r_inner, self.e_inner = centre[index], centre[index], np.zeros(rows)
        self.start = np.repeat(optimum.parameters, rows, axis=0)
        self.outer, self.r_outer, self.e_outer = np.full((3, rows), math.nan)
        self.end, self.closed = np.full(rows, math.nan), np.zeros(rows, bool)

    def excess(
        self, rows: np.ndarray, target: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The root of the excess, the quantity's value, the parameters, and whether they are an optimum."""
        held = _pulled_to(self.quantities, self.index[rows], target, self.width[rows], math.sqrt(self.s2))
        optimum = descend(self.problem.take(np.zeros(len(rows), int)), self.start[rows], held, _STEPS)
        reached = self.quantities.value(optimum.parameters)[0][np.arange(len(rows)), self.index[rows]]
        over = 2 * (optimum.cost - self.cost) / self.s2
        over = np.where(np.isfinite(over) & np.isfinite(reached), over, math.inf)
        return np.sqrt(np.maximum(over, 0.0)), reached, optimum.parameters, optimum.converged

    def bracket(self) -> None:
        """Goes outwards by doubling steps until the excess exceeds t."""
        reach = self.t * self.width
        for _ in range(_DOUBLINGS):
            rows = np.flatnonzero(np.isnan(self.outer) & np.isnan(self.end))
            if not len(rows):
                return
            target = self.inner[rows] + self.side[rows] * reach[rows]
            e, reached, x, converged = self.excess(rows, target)
            beyond = e >= self.t
            self._move_out(rows[beyond], target[beyond], reached[beyond], e[beyond])
            # Where the points leave an end open, the bounds of the search are the end.
            stuck = np.abs(reached - self.r_inner[rows]) < 1e-6 * reach[rows]
            ended = ~beyond & stuck & converged
            self.end[rows[ended]], self.closed[rows[ended]] = reached[ended], True
            on = ~beyond & ~ended
            self._move_in(rows[on], target[on], reached[on], e[on], x[on])
            reach[rows] *= 2
        open_ended = np.isnan(self.outer) & np.isnan(self.end)
        self.end[open_ended] = (self.side * math.inf)[open_ended]

    def close(self) -> None:
        """Narrows each bracket down to the end of its interval."""
        for turn in range(_HALVINGS):
            wide = ~(np.abs(self.r_outer - self.r_inner) <= 1e-5 * self.width)
            rows = np.flatnonzero(np.isnan(self.end) & wide)
            if not len(rows):
                break
            # The root of a sum of squares is nearly straight; every third step halves, which always ends.
            share = self._share()[rows] if turn % 3 < 2 else np.full(len(rows), 0.5)
            target = self.inner[rows] + np.clip(share, 0.02, 0.98) * (self.outer - self.inner)[rows]
            e, reached, x, _ = self.excess(rows, target)
            inside = e < self.t
            self._move_in(rows[inside], target[inside], reached[inside], e[inside], x[inside])
            self._move_out(rows[~inside], target[~inside], reached[~inside], e[~inside])
        bracketed = np.isnan(self.end)
        last = np.where(np.isfinite(self.r_outer), self.r_outer, self.r_inner)
        self.end[bracketed] = (self.r_inner + self._share() * (last - self.r_inner))[bracketed]

    def _move_in(
        self, rows: np.ndarray, target: np.ndarray, reached: np.ndarray, e: np.ndarray, x: np.ndarray
    ) -> None:
        self.inner[rows], self.r_inner[rows], self.e_inner[rows], self.start[rows] = target, reached, e, x

    def _move_out(self, rows: np.ndarray, target: np.ndarray, reached: np.ndarray, e: np.ndarray) -> None:
        self.outer[rows], self.r_outer[rows], self.e_outer[rows] = target, reached, e

    def _share(self) -> np.ndarray:
        """Where between inner and outer a linear excess would be t."""
        share = (self.t - self.e_inner) / np.maximum(self.e_outer - self.e_inner, 1e-12)
        return np.where(np.isfinite(self.e_outer), np.clip(share, 0.0, 1.0), 0.5)


def _pulled_to(
    quantities: Quantities, index: np.ndarray, target: np.ndarray, width: np.ndarray, s: float
) -> Condition:
    """A penalty that pulls quantities to targets, ten times as stiff as the data's own pull.

    Wherever one comes to rest, the other parameters make the objective least for that value of it: a stiffer
    spring would come nearer to the target and be no more exact, only slower on its way round bends.
    """
    stiffness = 10 * s / width

    def condition(x: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values, slopes = quantities.value(x)
        here = np.arange(len(x))
        off = stiffness[rows] * (values[here, index[rows]] - target[rows])
        return off[:, None], (stiffness[rows, None] * slopes[here, index[rows]])[:, None]

    return condition
