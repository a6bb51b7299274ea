"""A law of several variables fitted to points: variable projection over its exponents, then a polish."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import nnls

from cvfp_jax.scaling.fitting import CONVERGED, corrected_aic
from cvfp_jax.scaling.objectives import HUBER, LINEAR, LOG, OBJECTIVES
from cvfp_jax.scaling.solve import HUBER_DELTA, Optimum, Problem, descend
from cvfp_jax.scaling.surfaces import SURFACES, Surface

STARTS = 12
_STEP = 1e-30  # of a complex derivative, which has no cancellation
_CONDITION = 1e13


@dataclasses.dataclass(frozen=True)
class SurfaceProblem(Problem):
    """What a law of several variables is fitted to; ``u`` is [n, v] and ``log_ref`` unused."""

    surface: Surface = dataclasses.field(default=SURFACES["chinchilla"])
    references: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(2))

    def thinned(self, most: int) -> "SurfaceProblem":
        """Returns itself: points of several variables are not in one order."""
        return self

    def value(self, parameters: np.ndarray, u: np.ndarray) -> np.ndarray:
        """Returns the law's values [S, len(u)], of real or complex coordinates."""
        surface, first = self.surface, self.surface.linear
        theta = parameters[:, first:]
        if surface.power is not None:
            exponent = theta[:, surface.power - first :][:, :1]
            theta = np.delete(theta, surface.power - first, axis=1)
        basis = surface.basis(theta, u, self.references)
        total = np.einsum("snj,sj->sn", basis, parameters[:, :first])
        return total if surface.power is None else total**exponent

    def curve(self, parameters: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the law's values [S, len(u)] and their derivatives [S, len(u), p], by complex steps."""
        units = np.eye(parameters.shape[1])
        slopes = [self.value(parameters + 1j * _STEP * unit, u) for unit in units]
        return slopes[0].real.copy(), np.stack([each.imag for each in slopes], axis=-1) / _STEP


@dataclasses.dataclass(frozen=True)
class SurfaceFit:
    """A law of several variables with the parameters that minimise its objective.

    Without parameters where the status says ``too few points``.
    """

    law: Surface
    objective: str
    status: str
    n: int
    params: dict[str, float]
    variables: np.ndarray = dataclasses.field(repr=False)  # [n, v]
    y: np.ndarray = dataclasses.field(repr=False)  # [n]
    cost: float = math.nan  # the objective, half the squares or Huber's sum
    rss_log: float = math.nan
    r2_log: float = math.nan
    aic: float = math.nan
    problem: SurfaceProblem | None = dataclasses.field(default=None, repr=False)
    optimum: Optimum | None = dataclasses.field(default=None, repr=False)
    y_ref: float = 1.0

    @property
    def fitted(self) -> bool:
        """Whether there are parameters."""
        return bool(self.params)

    @property
    def k(self) -> int:
        """The number of parameters."""
        return self.law.k

    @property
    def solved(self) -> tuple[SurfaceProblem, Optimum]:
        """The problem and its optimum, which any fit with parameters has."""
        assert self.problem is not None
        assert self.optimum is not None
        return self.problem, self.optimum

    @property
    def aicc(self) -> float:
        """The criterion corrected for few points; not a number where it is undefined."""
        return corrected_aic(self.aic, self.n, self.k)

    def predict(self, *variables: Any) -> np.ndarray:
        """Returns the law's values at sizes above zero, an array or a number a variable."""
        columns = np.broadcast_arrays(*(np.asarray(each, float) for each in variables))
        problem, optimum = self.solved
        u = self.centred(np.stack([column.ravel() for column in columns], axis=-1))
        return self.y_ref * problem.value(optimum.parameters, u)[0].reshape(columns[0].shape)

    def centred(self, variables: np.ndarray) -> np.ndarray:
        """Returns sizes [n, v] as logarithms over the references."""
        return np.log(variables) - self.solved[0].references


def own_parameters(problem: SurfaceProblem, coordinates: np.ndarray, y_ref: float) -> np.ndarray:
    """Returns a law's own parameters [S, k] from coordinates [S, p], real or complex."""
    surface = problem.surface
    if surface.power is not None:
        # (c . basis)^b has the unit of y where c has that of y^(1 / b).
        scale = y_ref ** (1 / coordinates[:, surface.power])
        coordinates = np.concatenate(
            [coordinates[:, : surface.linear] * scale[:, None], coordinates[:, surface.linear :]], axis=1
        )
    own = surface.public(coordinates, problem.references)
    unit = np.array([y_ref if name in surface.scaled else 1.0 for name in surface.names])
    return own * unit


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def fit_surface(
    law: str,
    variables: Sequence[Sequence[float]],
    y: Sequence[float],
    objective: str = LOG,
    starts: int = STARTS,
    sigma: Sequence[float] = (),
) -> SurfaceFit:
    """Fits a law of several variables to points: the least objective over many starts.

    For exponents on a grid the coefficients follow by non-negative least squares (variable projection); from
    the best of each part of the grid damped Gauss-Newton steps lead to an optimum, and the best is taken.

    Args:
      law: a name in ``SURFACES``.
      variables: [v][n] sizes, above zero: parameters and tokens, and of ``data_constrained`` unique tokens.
      y: [n] measures, above zero.
      objective: ``log``, ``linear`` or ``huber`` (summed, of ln y, bent at 1e-3).
      starts: of the search.
      sigma: [n] errors of y, if they are known.

    Returns:
      The fit, with a status as ``fitting.fit_law`` has.

    Raises:
      ValueError: lengths differ, a number is not finite or not above zero, or a name is unknown.

    References:
      Hoffmann et al., 2022, approach 3. Besiroglu et al., Chinchilla scaling: a replication attempt, 2024.

    >>> N, D = np.meshgrid([1e8, 1e9, 1e10], [1e9, 1e10, 1e11])
    >>> y = 1.8 + 480 / N**0.35 + 2000 / D**0.37
    >>> fit = fit_surface("chinchilla", [N.ravel(), D.ravel()], y.ravel())
    >>> fit.status, {name: round(value, 4) for name, value in fit.params.items()}
    ('converged', {'E': 1.8, 'A': 480.0, 'B': 2000.0, 'a': 0.35, 'b': 0.37})
    """
    surface = _named(law, objective)
    columns, measures = np.array([np.asarray(each, float) for each in variables]).T, np.asarray(y, float)
    errors = np.asarray(sigma, float)
    columns = columns[:, : surface.variables] if columns.ndim == 2 else columns
    if columns.shape != (len(measures), surface.variables) or (
        len(errors) and errors.shape != measures.shape
    ):
        raise ValueError(f"{law} takes {surface.variables} variables, as many of each as measures")
    for values in (columns, measures, errors):
        if not np.all(np.isfinite(values) & (values > 0)):
            raise ValueError("sizes, measures and errors must be finite and above zero")
    n, distinct = len(measures), len(np.unique(columns, axis=0))
    if distinct <= surface.k:
        status = f"too few points: {distinct} sizes, {surface.k + 1} or more are needed"
        return SurfaceFit(surface, objective, status, n, {}, columns, measures)
    problem, y_ref = surface_problem(surface, columns, measures, objective, errors)
    optimum = minimise_surface(problem, starts)
    own = own_parameters(problem, optimum.parameters, y_ref)[0]
    params = {name: float(value) for name, value in zip(surface.names, own, strict=True)}
    fit = SurfaceFit(
        surface, objective, "", n, params, columns, measures, float(optimum.cost[0]), problem=problem,
        optimum=optimum, y_ref=y_ref,
    )  # fmt: skip
    left = np.log(measures) - np.log(fit.predict(*columns.T))
    rss_log = float(np.sum(left**2))
    total = float(np.sum((np.log(measures) - np.log(measures).mean()) ** 2))
    return dataclasses.replace(
        fit,
        status=_status(fit),
        rss_log=rss_log,
        r2_log=1 - rss_log / total if total > 0 else math.nan,
        aic=_aic(fit),
    )


def _named(law: str, objective: str) -> Surface:
    if law not in SURFACES:
        raise ValueError(f"no law {law!r}: choose {', '.join(SURFACES)}")
    if objective not in OBJECTIVES:
        raise ValueError(f"no objective {objective!r}: choose {', '.join(OBJECTIVES)}")
    return SURFACES[law]


def surface_problem(
    surface: Surface, columns: np.ndarray, y: np.ndarray, objective: str, sigma: np.ndarray
) -> tuple[SurfaceProblem, float]:
    """Returns the problem in centred coordinates, and the unit of its y."""
    references = np.log(columns).mean(axis=0)
    if surface.variables > 2:
        references[2] = references[1]
    y_ref = float(np.exp(np.log(y).mean()))
    weights = np.ones((1, len(y)))
    if len(sigma):
        scale = np.log(sigma if objective == LINEAR else sigma / y)
        weights = np.exp(2 * (scale.mean() - scale))[None]
    limits = (
        np.array([0.0] * surface.linear + list(surface.lower)),
        np.array([math.inf] * surface.linear + list(surface.upper)),
    )
    u = np.log(columns) - references
    shape: Any = None  # of one variable; a surface stands in its place
    return SurfaceProblem(
        shape, u, 0.0, (y / y_ref)[None], weights, objective, limits, surface=surface, references=references
    ), y_ref


def surface_starts(problem: SurfaceProblem, count: int) -> np.ndarray:
    """Returns the best coefficients at ``count`` points of the grid that lie apart, [1, count, p]."""
    surface = problem.surface
    theta = surface.grid
    relative = problem.objective != LINEAR
    root = np.sqrt(problem.weights[0])
    found = []
    for row in theta:
        inner, target = row, problem.y[0]
        if surface.power is not None:
            inner, exponent = (
                np.delete(row, surface.power - surface.linear),
                row[surface.power - surface.linear],
            )
            target = target ** (1 / exponent)
        basis = surface.basis(inner[None], problem.u, problem.references)[0]
        scale = root / target if relative else root
        coefficients, residual = nnls(basis * scale[:, None], target * scale)
        # Of a power of the sum the residuals of ln y are the exponent times those of its logarithm.
        found.append((residual * (row[-1] if surface.power is not None else 1.0), [*coefficients, *row]))
    order = np.argsort([residual for residual, _ in found])
    best = [np.array(found[n][1]) for n in order[: max(1, count // 2)]]
    # And the best of each part of the grid.
    for block in np.array_split(np.arange(len(found)), count - len(best)) if count > len(best) else ():
        best.append(np.array(found[min(block, key=lambda n: found[n][0])][1]))
    return np.stack(best)[None]


def minimise_surface(problem: SurfaceProblem, count: int) -> Optimum:
    """Returns the best optimum that starts of the grid lead to."""
    begin = surface_starts(problem, count)[0]
    begin[:, : problem.surface.linear] = np.maximum(begin[:, : problem.surface.linear], 1e-12)
    optima = descend(problem.take(np.zeros(len(begin), int)), begin)
    best = [int(np.nanargmin(optima.cost))]
    if problem.objective == HUBER:
        # Of as many points as a surface needs the sum of distances itself is told apart.
        plain = dataclasses.replace(problem, bend=0.0)
        return descend(plain.take(np.zeros(1, int)), optima.parameters[best])
    return Optimum(optima.parameters[best], optima.cost[best], optima.converged[best], optima.held[best])


def _status(fit: SurfaceFit) -> str:
    problem, optimum = fit.solved
    if not all(math.isfinite(value) for value in fit.params.values()):
        return "not identifiable: a parameter is beyond all numbers"
    if not optimum.converged[0]:
        return "not converged: the search ended where the objective still falls"
    held = [name for name, is_held in zip(fit.law.names, optimum.held[0], strict=True) if is_held]
    if held:
        return f"on a bound: {', '.join(f'{name} = {fit.params[name]:g}' for name in held)}"
    J = problem.residuals(optimum.parameters)[1][0]
    length = np.linalg.norm(J, axis=0)
    if not np.all(length > 0) or np.linalg.cond((J / length).T @ (J / length)) > _CONDITION:
        return "not identifiable: other parameters fit as well"
    return CONVERGED


def _aic(fit: SurfaceFit) -> float:
    if not fit.cost > 0:
        return math.nan
    spread = fit.cost / (fit.n * HUBER_DELTA) if fit.objective == HUBER else math.sqrt(2 * fit.cost / fit.n)
    return 2 * fit.n * math.log(spread * (fit.y_ref if fit.objective == LINEAR else 1.0)) + 2 * fit.k
