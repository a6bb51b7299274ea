"""Many small curve fits at once: variable projection from a grid, then damped Gauss-Newton steps.

A problem has one set of sizes and S data sets (bootstrap draws, points left out, starts), each with
measures and weights of its own; a weight of 0 leaves a point out. Arrays are [S, n] over points and
[S, p] over parameters ``(m, K, *theta)`` of ``coordinates``, without ``m`` where a law has no floor. Overflow
is met on the way and dealt with; those who call silence numpy's warnings of it.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from cvfp_jax.scaling.coordinates import Shape
from cvfp_jax.scaling.objectives import HUBER, LINEAR

# Where Huber's loss turns from squares to distances, in ln y; Hoffmann et al. (2022) chose it.
HUBER_DELTA = 1e-3
# Beyond, the loss keeps this part of a square, to have one optimum where a sum of distances is flat.
_HUBER_BEND = 1e-8

_STEPS = 300
# Of more points than many, the search is among the means of bins.
MANY, _THINNED = 2000, 500
_TINY = 1e-300
_LARGEST = 1e100
# A cost that falls by less than this part of itself is at its rounding.
_ROUNDING = 1e-15

# (parameters [S, p], which data sets they are of [S]) -> residuals [S, r] and their derivatives [S, r, p],
# which are zero where a side condition holds
Condition = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Problem:
    """What a law is fitted to, in scaled coordinates."""

    shape: Shape
    u: np.ndarray  # ln(x / x_ref), [n]
    log_ref: float  # ln x_ref
    y: np.ndarray  # measures over their geometric mean, [S, n]
    weights: np.ndarray  # [S, n]
    objective: str
    # The least and the greatest values of the parameters [p], where they are not the shape's own.
    limits: tuple[np.ndarray, np.ndarray] | None = None
    bend: float = _HUBER_BEND

    def take(self, rows: np.ndarray) -> "Problem":
        """Returns the problem of some of the data sets."""
        return dataclasses.replace(self, y=self.y[rows], weights=self.weights[rows])

    @property
    def lower(self) -> np.ndarray:
        """The least values of the parameters, [p]."""
        return self.limits[0] if self.limits else own_limits(self.shape)[0]

    @property
    def upper(self) -> np.ndarray:
        """The greatest values of the parameters, [p]."""
        return self.limits[1] if self.limits else own_limits(self.shape)[1]

    def thinned(self, most: int) -> "Problem":
        """Returns the problem of means over so many bins of equal width in ln x, or fewer."""
        width = (self.u[-1] - self.u[0]) / most
        # In the order of their sizes the points of a bin stand together.
        ends = np.unique((self.u - self.u[0]) // width, return_index=True)[1]
        weights = np.add.reduceat(self.weights, ends, axis=1)
        values = self.y if self.objective == LINEAR else np.log(self.y)
        y = np.add.reduceat(self.weights * values, ends, axis=1) / np.where(weights > 0, weights, 1.0)
        u = np.add.reduceat(self.u, ends) / np.diff([*ends, len(self.u)])
        y = y if self.objective == LINEAR else np.exp(y)
        return dataclasses.replace(self, u=u, y=y, weights=weights)

    def curve(self, parameters: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the law's values [S, len(u)] and their derivatives [S, len(u), p]."""
        first = int(self.shape.floor)
        g, dg = self.shape.value(parameters[:, first + 1 :], u, self.log_ref)
        K = parameters[:, first : first + 1]
        parts = [g[..., None], K[..., None] * dg]
        if self.shape.floor:
            return parameters[:, :1] + K * g, np.concatenate([np.ones((*g.shape, 1)), *parts], axis=-1)
        return K * g, np.concatenate(parts, axis=-1)

    def residuals(self, parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the residuals [S, n], infinite where there is no logarithm, and their derivatives."""
        f, df = self.curve(parameters, self.u)
        if self.objective == LINEAR:
            return f - self.y, df
        safe = np.where(f > 0, f, 1.0)
        return np.where(f > 0, np.log(safe / self.y), np.inf), df / safe[..., None]

    def cost(self, residuals: np.ndarray) -> np.ndarray:
        """Returns the objective, half the weighted sum of squares or Huber's sum, [S]."""
        if self.objective == HUBER:
            size = np.abs(residuals)
            beyond = HUBER_DELTA * (size - HUBER_DELTA / 2) + self.bend * (size**2 - HUBER_DELTA**2) / 2
            loss = np.where(size <= HUBER_DELTA, size**2 / 2, beyond)
        else:
            loss = residuals**2 / 2
        return np.sum(np.where(self.weights > 0, self.weights * loss, 0.0), axis=1)

    def robust_weights(self, residuals: np.ndarray) -> np.ndarray:
        """Returns the weights of squares that have the objective's gradient."""
        if self.objective != HUBER:
            return self.weights
        size = np.maximum(np.abs(residuals), HUBER_DELTA)
        return self.weights * np.where(np.abs(residuals) <= HUBER_DELTA, 1.0, HUBER_DELTA / size + self.bend)

    def curvature(self, residuals: np.ndarray) -> np.ndarray:
        """Returns Huber's second derivatives."""
        return self.weights * np.where(np.abs(residuals) <= HUBER_DELTA, 1.0, self.bend)


@dataclasses.dataclass(frozen=True)
class Optimum:
    """Where the objective is least, for each data set."""

    parameters: np.ndarray  # [S, p]
    cost: np.ndarray  # [S], without side conditions
    converged: np.ndarray  # [S], bool
    held: np.ndarray  # [S, p], bool: on a bound, with the objective falling beyond it


def own_limits(shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    """Returns the least and the greatest values of a shape's parameters, [p]."""
    scale = (-np.inf, 0.0) if shape.rises else (0.0, np.inf)
    pairs = [(0.0, np.inf)] * shape.floor + [scale] + [(each.lower, each.upper) for each in shape.theta]
    return np.array([low for low, _ in pairs]), np.array([high for _, high in pairs])


def starts(problem: Problem, count: int) -> np.ndarray:
    """Returns the best starts of the law's grid with the linear parameters projected out, [S, count, p].

    For each theta of the grid the floor and K that make the weighted squares least are known in closed
    form; where the objective is in ln y, the squares are of relative errors, which are near it. The grid
    is cut into blocks and each block offers its best, so that the starts lie apart.
    """
    shape, first = problem.shape, int(problem.shape.floor)
    lower, upper = problem.lower, problem.upper
    grid = np.unique(np.clip(shape.grid, lower[first + 1 :], upper[first + 1 :]), axis=0)
    g, _ = shape.value(grid, problem.u, problem.log_ref)
    least = -_LARGEST if problem.objective == LINEAR else 1 / _LARGEST
    usable = np.all((g > least) & (g < _LARGEST), axis=1)
    grid, g = grid[usable], g[usable]
    w = problem.weights if problem.objective == LINEAR else problem.weights / problem.y**2
    wy = w * problem.y
    s_1, s_y, s_yy = w.sum(1)[:, None], wy.sum(1)[:, None], (wy * problem.y).sum(1)[:, None]
    s_g, s_gg, s_yg = w @ g.T, w @ (g * g).T, wy @ g.T
    K = np.clip(s_yg / np.maximum(s_gg, _TINY), lower[first], upper[first])
    m = np.zeros_like(K)
    if shape.floor:
        spread = s_1 * s_gg - s_g**2
        told = spread > 1e-12 * s_1 * s_gg
        free = np.where(told, (s_1 * s_yg - s_g * s_y) / np.where(told, spread, 1.0), K)
        # The least squares in a box are inside it, or on the side that the floor or the scale meets.
        m_a = np.clip((s_y - free * s_g) / s_1, lower[0], upper[0])
        K_a = np.clip((s_yg - m_a * s_g) / np.maximum(s_gg, _TINY), lower[1], upper[1])
        K_b = np.clip(free, lower[1], upper[1])
        m_b = np.clip((s_y - K_b * s_g) / s_1, lower[0], upper[0])
        first_is_less = _squares(m_a, K_a, s_1, s_y, s_g, (s_yg, s_gg)) <= _squares(
            m_b, K_b, s_1, s_y, s_g, (s_yg, s_gg)
        )
        m, K = np.where(first_is_less, m_a, m_b), np.where(first_is_less, K_a, K_b)
    cost = s_yy + _squares(m, K, s_1, s_y, s_g, (s_yg, s_gg))
    blocks = np.array_split(np.arange(len(grid)), min(count, len(grid)))
    best = np.stack([block[np.argmin(cost[:, block], axis=1)] for block in blocks], axis=1)
    rows = np.arange(len(cost))[:, None]
    linear = [m[rows, best], K[rows, best]][1 - shape.floor :]
    return np.concatenate([np.stack(linear, axis=-1), grid[best]], axis=-1)


def _squares(
    m: np.ndarray,
    K: np.ndarray,
    s_1: np.ndarray,
    s_y: np.ndarray,
    s_g: np.ndarray,
    with_g: tuple[np.ndarray, np.ndarray],
) -> np.ndarray:
    """The weighted squares of ``m + K g - y`` less those of y, from sums over the points."""
    s_yg, s_gg = with_g
    return -2 * (K * s_yg + m * s_y) + K**2 * s_gg + 2 * K * m * s_g + m**2 * s_1


def descend(
    problem: Problem, start: np.ndarray, condition: Condition | None = None, steps: int = _STEPS
) -> Optimum:
    """Minimises from one start a data set, within the bounds, until only rounding is left.

    Args:
      problem: S data sets.
      start: [S, p].
      condition: residuals to be made zero besides, and their derivatives.
      steps: the most there are.

    Returns:
      A local optimum a data set.
    """
    lower, upper = problem.lower, problem.upper
    x = np.clip(start, lower, upper)
    damping = np.full(len(x), 1e-3)
    going = np.arange(len(x))
    r, J, cost = _state(problem, x, going, condition)
    for _ in range(steps):
        if not len(going):
            break
        part = problem.take(going)
        tried, promise, (r_new, J_new, cost_new) = _try(
            part, r[going], J[going], x[going], going, damping[going], condition
        )
        better = cost_new < cost[going]
        done = better & (cost_new >= (1 - _ROUNDING) * cost[going]) | (cost[going] <= _TINY)
        done |= ~better & ((promise <= _ROUNDING * cost[going]) | (damping[going] > 1e12))
        taken = going[better]
        x[taken], r[taken], J[taken], cost[taken] = (
            tried[better], r_new[better], J_new[better], cost_new[better]
        )  # fmt: skip
        damping[going] = np.where(better, np.maximum(damping[going] / 8, 1e-14), damping[going] * 6)
        going = going[~done]
    gradient, normal = _normal(problem, r, J, problem.robust_weights)
    held = _held(gradient, x, lower, upper)
    size = np.sqrt(np.maximum(np.einsum("spp->sp", normal), _TINY) * np.maximum(2 * cost, _TINY)[:, None])
    # On the law, residuals are rounding and their gradient points anywhere.
    squares = problem.weights * problem.y**2 if problem.objective == LINEAR else problem.weights
    exact = cost <= 1e-28 * np.sum(squares, axis=1)
    converged = np.all((np.abs(gradient) <= 1e-6 * size) | held, axis=1) | exact
    n = problem.y.shape[1]
    return Optimum(x, problem.cost(r[:, :n]), converged & np.isfinite(cost), held)


def _state(
    problem: Problem, x: np.ndarray, rows: np.ndarray, condition: Condition | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Residuals and derivatives, followed by those of a condition, and the total cost."""
    r, J = problem.residuals(x)
    bad = ~_squarable(r, J)
    cost = np.where(bad, np.inf, problem.cost(r))
    if condition is not None:
        more, dmore = condition(x, rows)
        bad |= ~_squarable(more, dmore)
        cost = np.where(bad, np.inf, cost + np.sum(more**2, axis=1) / 2)
        r, J = np.concatenate([r, more], axis=1), np.concatenate([J, dmore], axis=1)
    r[bad], J[bad] = 0.0, 0.0
    return r, J, cost


def _squarable(r: np.ndarray, J: np.ndarray) -> np.ndarray:
    """Whether a data set's numbers can be squared without overflow."""
    return np.all((np.abs(r) < _LARGEST) & np.all(np.abs(J) < _LARGEST, axis=2), axis=1)


def _try(
    problem: Problem,
    r: np.ndarray,
    J: np.ndarray,
    x: np.ndarray,
    rows: np.ndarray,
    damping: np.ndarray,
    condition: Condition | None,
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Returns the parameters after one step, the gain predicted for it, and their state.

    With Huber's loss it is the better of two steps.
    """
    best = None
    # Squares that majorise Huber's loss always lead down, slowly in the end; its own curvature, that of the
    # points within delta, ends quickly and leads nowhere far from the end.
    curvatures = [problem.robust_weights] + [problem.curvature] * (problem.objective == HUBER)
    for weights in curvatures:
        gradient, normal = _normal(problem, r, J, weights)
        free = ~_held(gradient, x, problem.lower, problem.upper)
        step = _step(gradient, normal, free, damping)
        promise = -np.einsum("sp,sp->s", gradient, step)
        tried = np.clip(x + step, problem.lower, problem.upper)
        state = _state(problem, tried, rows, condition)
        if best is None:
            best = tried, promise, state
            continue
        np.maximum(best[1], promise, out=best[1])
        better = state[2] < best[2][2]
        for old, new in zip((best[0], *best[2]), (tried, *state), strict=True):
            old[better] = new[better]
    assert best is not None
    return best


def _normal(
    problem: Problem, r: np.ndarray, J: np.ndarray, weigh: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """The gradient [S, p] and the matrix of the normal equations [S, p, p] by some curvature of the loss."""
    n = problem.y.shape[1]
    slopes, curvature = np.ones_like(r), np.ones_like(r)
    slopes[:, :n] = problem.robust_weights(r[:, :n])
    curvature[:, :n] = weigh(r[:, :n])
    return (
        np.einsum("srp,sr->sp", J, slopes * r),
        np.einsum("srp,srq->spq", curvature[..., None] * J, J),
    )


def _held(gradient: np.ndarray, x: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    return ((x <= lower) & (gradient > 0)) | ((x >= upper) & (gradient < 0)) | (lower == upper)


def _step(gradient: np.ndarray, normal: np.ndarray, free: np.ndarray, damping: np.ndarray) -> np.ndarray:
    """The damped Gauss-Newton step over the free parameters, scaled by the columns' lengths."""
    scale = np.sqrt(np.einsum("spp->sp", normal))
    scale = np.where(scale > 0, scale, 1.0)
    mask = free[:, :, None] & free[:, None, :]
    matrix = np.where(mask, normal / (scale[:, :, None] * scale[:, None, :]), 0.0)
    index = np.arange(matrix.shape[1])
    matrix[:, index, index] = np.where(free, 1.0 + damping[:, None], 1.0)
    right = np.where(free, -gradient / scale, 0.0)
    return np.linalg.solve(matrix, right[..., None])[..., 0] / scale


def minimise(problem: Problem, count: int, first: np.ndarray | None = None) -> Optimum:
    """Returns the best of the local optima that ``count`` starts of the grid lead to.

    Args:
      problem: S data sets.
      count: starts of the grid.
      first: one more start a data set, [S, p].

    Returns:
      The best optimum found, a data set.
    """
    if problem.y.shape[1] > MANY and count:
        # Where the best optimum is, a few hundred means tell as well.
        return descend(problem, minimise(problem.thinned(_THINNED), count, first).parameters)
    begin = starts(problem, count) if count else np.empty((len(problem.y), 0, len(problem.lower)))
    if first is not None:
        begin = np.concatenate([first[:, None], begin], axis=1)
    sets, many, p = begin.shape
    rows = np.repeat(np.arange(sets), many)
    optima = descend(problem.take(rows), begin.reshape(-1, p))
    best = np.arange(sets) * many + np.argmin(optima.cost.reshape(sets, many), axis=1)
    return Optimum(optima.parameters[best], optima.cost[best], optima.converged[best], optima.held[best])
