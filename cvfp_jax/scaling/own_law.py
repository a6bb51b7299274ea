"""A law of the user's own: a formula with bounds and starts, fitted and given intervals as the others are."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cvfp_jax.scaling.fitting import CONVERGED, corrected_aic
from cvfp_jax.scaling.line import LEVEL, student_t
from cvfp_jax.scaling.objectives import HUBER, LINEAR, LOG
from cvfp_jax.scaling.profile import Interval, Search, scales
from cvfp_jax.scaling.solve import HUBER_DELTA, Optimum, Problem, descend

_RANDOM_STARTS = 24
_STEP = 1e-6  # of a central difference, in a parameter's own scale


@dataclasses.dataclass(frozen=True)
class OwnLaw:
    """A law that is none of ours.

    Args:
      name: what it is called.
      formula: what reports show.
      value: a function of x (an array) and the parameters by name.
      bounds: by parameter, its least and greatest value; infinite where there is none.
      starts: where searches begin, each a value for every parameter; more are drawn within finite bounds.

    >>> law = OwnLaw("root", "y = m + A / sqrt(x)", lambda x, m, A: m + A / np.sqrt(x),
    ...              {"m": (0.0, math.inf), "A": (0.0, math.inf)}, ({"m": 1.0, "A": 10.0},))
    >>> law.names
    ('m', 'A')
    """

    name: str
    formula: str
    value: Callable[..., np.ndarray]
    bounds: Mapping[str, tuple[float, float]]
    starts: Sequence[Mapping[str, float]]

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters' names."""
        return tuple(self.bounds)

    @property
    def k(self) -> int:
        """The number of parameters."""
        return len(self.bounds)


@dataclasses.dataclass(frozen=True)
class _Problem(Problem):
    """``u`` is x itself, and the parameters are the law's own."""

    law: Any = None

    def at(self, parameters: np.ndarray, x: np.ndarray) -> np.ndarray:
        named = [dict(zip(self.law.names, row.tolist(), strict=True)) for row in parameters]
        rows = [self.law.value(x, **each) for each in named]
        return np.stack([np.broadcast_to(np.asarray(row, float), np.shape(x)) for row in rows])

    def curve(self, parameters: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        slopes = []
        for unit in np.eye(parameters.shape[1]):
            step = _STEP * np.maximum(np.abs(parameters @ unit), 1e-3)[:, None]
            ends = self.at(parameters + step * unit, u), self.at(parameters - step * unit, u)
            slopes.append((ends[0] - ends[1]) / (2 * step))
        return self.at(parameters, u), np.stack(slopes, axis=-1)

    def thinned(self, most: int) -> "_Problem":
        return self


@dataclasses.dataclass(frozen=True)
class OwnFit:
    """An own law with the parameters that minimise its objective."""

    law: OwnLaw
    objective: str
    status: str
    n: int
    params: dict[str, float]
    x: np.ndarray = dataclasses.field(repr=False)
    y: np.ndarray = dataclasses.field(repr=False)
    problem: _Problem | None = dataclasses.field(default=None, repr=False)
    optimum: Optimum | None = dataclasses.field(default=None, repr=False)

    @property
    def fitted(self) -> bool:
        """Whether there are parameters."""
        return bool(self.params)

    @property
    def k(self) -> int:
        """The number of parameters."""
        return self.law.k

    @property
    def solved(self) -> tuple[_Problem, Optimum]:
        """The problem and its optimum."""
        assert self.problem is not None
        assert self.optimum is not None
        return self.problem, self.optimum

    @property
    def aicc(self) -> float:
        """Akaike's criterion corrected for few points."""
        cost = float(self.solved[1].cost[0])
        if not cost > 0:
            return math.nan
        spread = cost / (self.n * HUBER_DELTA) if self.objective == HUBER else math.sqrt(2 * cost / self.n)
        return corrected_aic(2 * self.n * math.log(spread) + 2 * self.k, self.n, self.k)

    def predict(self, x: Any) -> np.ndarray:
        """Returns the law's values at sizes."""
        sizes = np.asarray(x, float)
        problem, optimum = self.solved
        return problem.at(optimum.parameters, sizes.ravel())[0].reshape(sizes.shape)


@np.errstate(all="ignore")
def fit_own(law: OwnLaw, x: Sequence[float], y: Sequence[float], objective: str = LOG) -> OwnFit:
    """Fits an own law: damped Gauss-Newton steps within its bounds, from its starts and some drawn.

    Args:
      law: the law.
      x: [n] sizes.
      y: [n] measures.
      objective: ``log``, ``linear`` or ``huber``.

    Returns:
      The best fit that was found; that there is no better one nobody knows.

    >>> law = OwnLaw("root", "y = m + A / sqrt(x)", lambda x, m, A: m + A / np.sqrt(x),
    ...              {"m": (0.0, math.inf), "A": (0.0, math.inf)}, ({"m": 1.0, "A": 10.0},))
    >>> fit = fit_own(law, [1.0, 4.0, 16.0, 64.0], [22.0, 12.0, 7.0, 4.5])
    >>> fit.status, {name: round(value, 6) for name, value in fit.params.items()}
    ('converged', {'m': 2.0, 'A': 20.0})
    """
    sizes, measures = np.asarray(x, float), np.asarray(y, float)
    if len(np.unique(sizes)) <= law.k:
        status = f"too few points: {len(np.unique(sizes))} sizes, {law.k + 1} or more are needed"
        return OwnFit(law, objective, status, len(sizes), {}, sizes, measures)
    lower, upper = (np.array([pair[n] for pair in law.bounds.values()]) for n in (0, 1))
    shape: Any = None
    problem = _Problem(
        shape, sizes, 0.0, measures[None], np.ones((1, len(sizes))), objective, (lower, upper), law=law
    )
    begin = np.array([[start[name] for name in law.names] for start in law.starts])
    random = np.random.default_rng(0)
    spread = (
        np.exp(random.normal(0, 1.5, (_RANDOM_STARTS, law.k)))
        * begin[random.integers(len(begin), size=_RANDOM_STARTS)]
    )
    within = np.isfinite(lower) & np.isfinite(upper)
    spread[:, within] = random.uniform(lower[within], upper[within], (_RANDOM_STARTS, int(within.sum())))
    begin = np.concatenate([begin, spread])
    optima = descend(problem.take(np.zeros(len(begin), int)), begin)
    best = [int(np.nanargmin(optima.cost))]
    optimum = Optimum(optima.parameters[best], optima.cost[best], optima.converged[best], optima.held[best])
    params = dict(zip(law.names, optimum.parameters[0].tolist(), strict=True))
    held = [f"{name} = {params[name]:g}" for name, on in zip(law.names, optimum.held[0], strict=True) if on]
    status = f"on a bound: {', '.join(held)}" if held else CONVERGED
    if not optimum.converged[0]:
        status = "not converged: the search ended where the objective still falls"
    return OwnFit(law, objective, status, len(sizes), params, sizes, measures, problem, optimum)


@dataclasses.dataclass(frozen=True)
class _Quantities:
    problem: _Problem
    x: np.ndarray

    def value(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        f, df = (
            self.problem.curve(x, self.x)
            if len(self.x)
            else (np.empty((len(x), 0)), np.empty((len(x), 0, x.shape[1])))
        )
        own = np.broadcast_to(np.eye(x.shape[1]), (len(x), x.shape[1], x.shape[1]))
        return np.concatenate([x, f], axis=1), np.concatenate([own, df], axis=1)


@np.errstate(all="ignore")
def own_intervals(fit: OwnFit, predict: Sequence[float] = (), level: float = LEVEL) -> list[Interval | None]:
    """Returns intervals of parameters and values by profile likelihood; none with Huber's loss."""
    count = fit.k + len(predict)
    if not fit.fitted or fit.n <= fit.k or fit.objective == HUBER:
        return [None] * count
    problem, optimum = fit.solved
    quantities = _Quantities(problem, np.asarray(predict, float))
    centre, slopes = (part[0] for part in quantities.value(optimum.parameters))
    s2 = 2 * float(optimum.cost[0]) / (fit.n - fit.k)
    tiny = 1e-24 * (float(np.mean(fit.y**2)) if fit.objective == LINEAR else 1.0)
    if not s2 > tiny:
        return [Interval(float(value), float(value)) for value in centre]
    search = Search(fit, quantities, centre, scales(fit, slopes), s2, student_t(level, fit.n - fit.k))
    search.bracket()
    search.close()
    return [Interval(float(low), float(high)) for low, high in search.end.reshape(2, -1).T]
