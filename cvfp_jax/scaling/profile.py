"""Profile likelihood: how far a quantity can be moved before the points object, all else being refitted."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from cvfp_jax.scaling.fit import Fit, public_derivatives, public_parameters
from cvfp_jax.scaling.line import LEVEL
from cvfp_jax.scaling.solve import HUBER, Condition, Problem, descend

_DOUBLINGS = 40
_HALVINGS = 25
# Parameters that have the scale of y or of a power of x are searched by their logarithms.
BY_LOGARITHM = {("power", "A"), ("saturating", "A"), ("log_corrected", "A"), ("exponential_decay", "A"),
                 ("exponential_decay", "b"), ("variable_exponent", "A"), ("constant", "A")}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Interval:
    """From ``low`` to ``high``; infinite on a side where the points set no end."""

    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class _Quantities:
    """Parameters of a fit, or their logarithms, and logarithms of its predictions."""

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
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            values = np.where(self.logarithm, np.log(np.where(self.logarithm, public, 1.0)), public)
            slopes = np.where(self.logarithm[:, None], slopes / public[..., None], slopes)
            return (
                np.concatenate([values, np.log(f * self.y_ref)], axis=1),
                np.concatenate([slopes, df / f[..., None]], axis=1),
            )


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

    >>> from cvfp_jax.scaling.fit import fit_law
    >>> fit = fit_law("power", [100, 200, 400, 800, 1600], [321.4, 253.1, 186.0, 155.8, 134.7])
    >>> [(round(i.low, 3), round(i.high, 3)) for i in profile_intervals(fit, ["a"]) if i]
    [(0.239, 0.403)]
    """
    count = len(names) + len(predict)
    if not fit.fitted or fit.n <= fit.k or fit.objective == HUBER or not count:
        return [None] * count
    assert fit.problem is not None
    assert fit.optimum is not None
    quantities = _Quantities(
        fit.problem,
        fit.y_ref,
        np.array([fit.law.names.index(name) for name in names], int),
        np.array([(fit.law.name, name) in BY_LOGARITHM for name in names], bool),
        np.log(np.asarray(predict, float)) - fit.problem.log_ref,
    )
    centre, slopes = (part[0] for part in quantities.value(fit.optimum.parameters))
    ends = _ends(fit, quantities, centre, _scales(fit, slopes), level)
    logarithm = np.concatenate([quantities.logarithm, np.ones(len(predict), bool)])
    found: list[Interval | None] = []
    for value, is_log, sides in zip(centre, logarithm, ends.T, strict=True):
        if not math.isfinite(value):
            found.append(None)
            continue
        with np.errstate(over="ignore"):
            found.append(Interval(*(float(np.exp(end)) if is_log else float(end) for end in sides)))
    return found


def _scales(fit: Fit, slopes: np.ndarray) -> np.ndarray:
    """Standard errors of quantities in the linearised law, or a tenth where there are none."""
    assert fit.problem is not None
    assert fit.optimum is not None
    _, J = fit.problem.residuals(fit.optimum.parameters)
    s = math.sqrt(2 * float(fit.optimum.cost[0]) / (fit.n - fit.k))
    with np.errstate(invalid="ignore", over="ignore"):
        pull = np.linalg.pinv(J[0]).T  # how a parameter moves with each measure, [n, p]
        errors = s * np.linalg.norm(np.nan_to_num(slopes) @ pull.T, axis=1)
    return np.where(np.isfinite(errors) & (errors > 0), errors, 0.1 * np.maximum(1.0, s))


def _ends(
    fit: Fit, quantities: _Quantities, centre: np.ndarray, scale: np.ndarray, level: float
) -> np.ndarray:
    """The lower and upper ends [2, Q], in the quantities' own scale."""
    assert fit.problem is not None
    assert fit.optimum is not None
    many = len(centre)
    s2 = 2 * float(fit.optimum.cost[0]) / (fit.n - fit.k)
    t = float(stats.t.ppf(0.5 + level / 2, fit.n - fit.k))
    if not s2 > 1e-28:  # the points lie on the law
        return np.stack([centre, centre])
    index = np.tile(np.arange(many), 2)
    side = np.repeat([-1.0, 1.0], many)
    middle, width = np.where(np.isfinite(centre), centre, 0.0)[index], scale[index]
    problem = fit.problem.take(np.zeros(2 * many, int))

    def excess(target: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """How much the points object, what the quantity has come to, and the parameters."""
        optimum = descend(problem, start, _held_at(quantities, index, target, width, math.sqrt(s2)))
        reached = quantities.value(optimum.parameters)[0][np.arange(2 * many), index]
        over = 2 * (optimum.cost - float(fit.optimum.cost[0])) / s2  # type: ignore[union-attr]
        over = np.where(np.isfinite(over) & np.isfinite(reached), over, math.inf)
        return np.sqrt(np.maximum(over, 0.0)), reached, optimum.parameters

    inner, start = middle.copy(), np.repeat(fit.optimum.parameters, 2 * many, axis=0)
    e_inner = np.zeros(2 * many)
    outer, e_outer = np.full(2 * many, math.nan), np.full(2 * many, math.nan)
    end = np.full(2 * many, math.nan)
    reach = t * width
    for _ in range(_DOUBLINGS):
        seeking = np.isnan(outer) & np.isnan(end)
        if not seeking.any():
            break
        target = np.where(seeking, inner + side * reach, inner)
        e, reached, x = excess(target, start)
        stuck = np.abs(reached - target) > 1e-3 * reach
        beyond = seeking & (e >= t)
        outer[beyond], e_outer[beyond] = np.where(np.isfinite(reached), reached, target)[beyond], e[beyond]
        # The law's own bounds end the interval where the points do not.
        end = np.where(seeking & stuck & (e < t), reached, end)
        on = seeking & ~beyond & ~stuck
        inner[on], e_inner[on], start[on] = reached[on], e[on], x[on]
        reach = np.where(on, reach * 2, reach)
    unended = np.isnan(outer) & np.isnan(end)
    end[unended] = (side * math.inf)[unended]
    for turn in range(_HALVINGS):
        seeking = np.isnan(end) & (np.abs(outer - inner) > 1e-5 * width)
        if not seeking.any():
            break
        # The root of a sum of squares is nearly straight; every third step halves, which always ends.
        share = (t - e_inner) / np.maximum(e_outer - e_inner, 1e-12)
        share = np.where(np.isfinite(e_outer) & (turn % 3 < 2), np.clip(share, 0.02, 0.98), 0.5)
        target = np.where(seeking, inner + share * (outer - inner), inner)
        e, reached, x = excess(target, start)
        inside = seeking & (e < t)
        inner[inside], e_inner[inside], start[inside] = target[inside], e[inside], x[inside]
        out = seeking & ~inside
        outer[out], e_outer[out] = target[out], e[out]
    found = np.isnan(end)
    share = np.clip((t - e_inner) / np.maximum(e_outer - e_inner, 1e-12), 0.0, 1.0)
    end[found] = (inner + np.where(np.isfinite(share), share, 0.0) * (outer - inner))[found]
    return end.reshape(2, many)


def _held_at(
    quantities: _Quantities, index: np.ndarray, target: np.ndarray, width: np.ndarray, s: float
) -> Condition:
    """Holds quantities where they are wanted, to a ten-thousandth of their standard errors."""
    stiffness = 1e4 * s / width

    def condition(x: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values, slopes = quantities.value(x)
        here = np.arange(len(x))
        off = stiffness[rows] * (values[here, index[rows]] - target[rows])
        return off[:, None], (stiffness[rows, None] * slopes[here, index[rows]])[:, None]

    return condition
