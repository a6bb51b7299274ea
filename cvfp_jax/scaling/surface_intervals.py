"""Intervals of what follows from a law of several variables: parameters, predictions, optimal sizes."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from cvfp_jax.scaling.line import LEVEL, student_t
from cvfp_jax.scaling.objectives import HUBER
from cvfp_jax.scaling.profile import Interval, Search, scales
from cvfp_jax.scaling.solve import descend
from cvfp_jax.scaling.surface_fit import SurfaceFit, SurfaceProblem, own_parameters

DRAWS = 1000
_CHUNK_POINTS = 60_000  # of draws fitted at a time
_STEP = 1e-30
# Function of own parameters [S, k], real or complex, to [S].
OfParameters = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class _Quantities:
    """Logarithms of own parameters, of values at sizes, and of what is made of parameters."""

    problem: SurfaceProblem
    y_ref: float
    logarithm: np.ndarray  # bool [k], which parameters are taken by their logarithms
    u: np.ndarray  # where it predicts, [m, v]
    made: tuple[OfParameters, ...]

    def of(self, x: np.ndarray) -> np.ndarray:
        """Returns the quantities [S, Q]."""
        own = own_parameters(self.problem, x, self.y_ref)
        columns = [
            np.log(column) if log else column for column, log in zip(own.T, self.logarithm, strict=True)
        ]
        values = np.log(self.problem.value(x, self.u) * self.y_ref) if len(self.u) else np.empty((len(x), 0))
        return np.concatenate([np.stack(columns, 1), values, *(f(own)[:, None] for f in self.made)], axis=1)

    def value(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the quantities [S, Q] and their derivatives [S, Q, p]."""
        slopes = [self.of(x + 1j * _STEP * unit).imag / _STEP for unit in np.eye(x.shape[1])]
        return self.of(x), np.stack(slopes, axis=-1)


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def surface_intervals(
    fit: SurfaceFit,
    predict: Sequence[Sequence[float]] = (),
    made: Sequence[OfParameters] = (),
    level: float = LEVEL,
    draws: int = DRAWS,
) -> list[Interval | None]:
    """Returns confidence intervals of the parameters, of values of the law, and of quantities made of them.

    By profile likelihood, as ``profile.profile_intervals``; with Huber's loss by the quantiles of fits to
    points drawn with replacement.

    Args:
      fit: with parameters.
      predict: [m][v] sizes.
      made: logarithms, as functions of the own parameters, [S, k] to [S].
      level: the share of such intervals that are to hold the true value.
      draws: of the bootstrap.

    Returns:
      An interval a quantity in this order; None where there is none to be had.

    References:
      Besiroglu et al., 2024, on intervals by bootstrap.
    """
    names = fit.law.names
    count = len(names) + len(predict) + len(made)
    if not fit.fitted or fit.n <= fit.k:
        return [None] * count
    problem, optimum = fit.solved
    u = fit.centred(np.asarray(predict, float)) if len(predict) else np.empty((0, fit.law.variables))
    logarithm = np.array([name not in ("E", "a", "b") for name in names])
    # A parameter on its bound of zero has no logarithm.
    logarithm &= np.array([fit.params[name] > 0 for name in names])
    quantities = _Quantities(problem, fit.y_ref, logarithm, u, tuple(made))
    is_log = np.concatenate([logarithm, np.ones(len(predict) + len(made), bool)])
    if fit.objective == HUBER:
        found = quantities.of(pairs_draws(fit, draws))
        ends = np.quantile(found, [0.5 - level / 2, 0.5 + level / 2], axis=0)
        return _listed(quantities.of(optimum.parameters)[0], is_log, ends)
    centre, slopes = (part[0] for part in quantities.value(optimum.parameters))
    s2 = 2 * float(optimum.cost[0]) / (fit.n - fit.k)
    if not s2 > 1e-24:  # the points lie on the law
        return _listed(centre, is_log, np.stack([centre, centre]))
    finite = np.where(np.isfinite(centre), centre, 0.0)
    search = Search(fit, quantities, finite, scales(fit, slopes), s2, student_t(level, fit.n - fit.k))
    search.bracket()
    search.close()
    return _listed(centre, is_log, search.end.reshape(2, -1))


def _listed(centre: np.ndarray, is_log: np.ndarray, ends: np.ndarray) -> list[Interval | None]:
    intervals: list[Interval | None] = []
    for value, log, sides in zip(centre, is_log, ends.T, strict=True):
        if not math.isfinite(value):
            intervals.append(None)
            continue
        intervals.append(Interval(*(float(np.exp(end)) if log else float(end) for end in sides)))
    return intervals


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def pairs_draws(fit: SurfaceFit, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """Returns the coordinates [B, p] of fits to points drawn with replacement, each from the fit's own."""
    problem, optimum = fit.solved
    counts = np.random.default_rng(seed).multinomial(fit.n, np.full(fit.n, 1 / fit.n), draws)
    found = []
    for chunk in np.array_split(counts, max(1, -(-draws * fit.n // _CHUNK_POINTS))):
        some = dataclasses.replace(
            problem, y=np.repeat(problem.y, len(chunk), axis=0), weights=chunk * problem.weights
        )
        start = np.repeat(optimum.parameters, len(chunk), axis=0)
        found.append(descend(some, start, steps=120).parameters)
    return np.concatenate(found)
