"""The bootstrap: how a fit would scatter if the points were measured again."""

import dataclasses
import math
from typing import Any

import numpy as np
from scipy import stats

from cvfp_jax.scaling.fitting import Fit, public_derivatives, public_parameters
from cvfp_jax.scaling.line import LEVEL, student_t
from cvfp_jax.scaling.objectives import LINEAR
from cvfp_jax.scaling.profile import BY_LOGARITHM, Interval, bounded
from cvfp_jax.scaling.solve import HUBER_DELTA, Problem, minimise

RESIDUAL, PAIRS = "residual", "pairs"
NORMAL = "normal"
MOST_POINTS = 2000  # of more the draws would take minutes, and a normal distribution does as well
DRAWS = 1000
_STARTS, _FEW = 2, 20
# Draws fitted at a time: enough to fill the loops of numpy, few enough to stay in its caches.
_CHUNK = 250


@dataclasses.dataclass(frozen=True)
class Draws:
    """The fits of a bootstrap, or draws from their normal distribution where points are many."""

    fit: Fit
    kind: str
    params: np.ndarray  # [B, k]
    std_errors: np.ndarray  # [B, k], not a number where a draw has none
    internal: np.ndarray  # [B, p], the coordinates
    asked: int  # draws; those left out had too few different sizes

    @np.errstate(over="ignore", invalid="ignore", divide="ignore")
    def std_error(self, name: str) -> float:
        """Returns the standard deviation of a parameter over the draws."""
        return float(np.std(self._column(name), ddof=1))

    @np.errstate(over="ignore", invalid="ignore", divide="ignore")
    def interval(self, name: str, level: float = LEVEL) -> Interval:
        """Returns a confidence interval of a parameter.

        From residual draws Student's: quantiles of ``(draw - fit) / (the draw's own standard error)`` times
        the fit's, which allow for the few points that the error was made from. Where errors are missing the
        draws' own quantiles, as much further from the fit as Student's t exceeds the normal quantile; from
        pairs, the quantiles as they are.
        """
        index = self.fit.law.names.index(name)
        parameter = self.fit.law.parameters[index]
        by_logarithm = (self.fit.law.name, name) in BY_LOGARITHM and bool(np.all(self.params[:, index] > 0))
        tails = np.array([0.5 - level / 2, 0.5 + level / 2])
        own, errors = self.params[:, index], self.std_errors[:, index]
        centre, error = self.fit.params[name], self.fit.std_errors.get(name, math.nan)
        usable = np.isfinite(errors) & (errors > 0) & np.isfinite(own)
        # With one degree of freedom many draws' errors are next to nothing, and the ratios next to infinite.
        rough = usable.mean() <= 0.9 or self.fit.n - self.fit.k < 2
        if self.kind != RESIDUAL or not math.isfinite(error) or rough:
            low, high = self._widened(np.quantile(own, tails), centre, level, by_logarithm)
            return bounded(parameter, float(low), float(high))
        own, errors = own[usable], errors[usable]
        if by_logarithm:
            pivots = (np.log(own) - math.log(centre)) / (errors / own)
            low, high = centre * np.exp(-np.quantile(pivots, tails[::-1]) * error / centre)
        else:
            low, high = centre - np.quantile((own - centre) / errors, tails[::-1]) * error
        return bounded(parameter, float(low), float(high))

    @np.errstate(over="ignore", invalid="ignore", divide="ignore")
    def curve_interval(self, x: np.ndarray, level: float = LEVEL) -> np.ndarray:
        """Returns an interval [2, len(x)] of the law at sizes above zero, from the draws' quantiles."""
        problem, _ = self.fit.solved
        curves, _ = problem.curve(self.internal, np.log(x) - problem.log_ref)
        curves = curves * self.fit.y_ref
        ends = np.quantile(curves, [0.5 - level / 2, 0.5 + level / 2], axis=0)
        return self._widened(ends, self.fit.predict(x), level, bool(np.all(curves > 0)))

    def _widened(self, ends: np.ndarray, centre: Any, level: float, by_logarithm: bool) -> np.ndarray:
        """Widens the quantiles of residual draws by the ratio of Student's t to the normal quantile."""
        if self.kind != RESIDUAL:
            return ends
        factor = student_t(level, self.fit.n - self.fit.k) / float(stats.norm.ppf(0.5 + level / 2))
        if by_logarithm:
            return centre * (ends / centre) ** factor
        return centre + factor * (ends - centre)

    def _column(self, name: str) -> np.ndarray:
        return self.params[:, self.fit.law.names.index(name)]


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def bootstrap(fit: Fit, kind: str = RESIDUAL, draws: int = DRAWS, seed: int = 0) -> Draws:
    """Refits a law to measures drawn from the points.

    ``residual`` adds to the law's values residuals drawn from the fit's own, in the space of its objective,
    widened for the freedom the fit took, ``r / sqrt(1 - leverage)``, and centred. It believes the law and one
    spread for all sizes. ``pairs`` draws whole sizes with all their replicates; it believes neither, but
    loses sizes in most draws; draws with no more sizes than parameters are left out.

    Args:
      fit: with parameters.
      kind: ``residual`` or ``pairs``.
      draws: how many.
      seed: of the draws.

    Returns:
      The fits of the draws.

    Raises:
      ValueError: the fit has no parameters, or no residual to draw from.

    References:
      Davison and Hinkley, 1997, sections 6.2 and 5.2.

    >>> from cvfp_jax.scaling.fitting import fit_law
    >>> fit = fit_law("power", [100, 200, 400, 800, 1600], [321.4, 253.1, 186.0, 155.8, 134.7])
    >>> drawn = bootstrap(fit, draws=200)
    >>> bool(0.5 < drawn.std_error("a") / fit.std_errors["a"] < 1.5)
    True
    """
    if kind not in (RESIDUAL, PAIRS):
        raise ValueError(f"no bootstrap {kind!r}: choose {RESIDUAL} or {PAIRS}")
    if not fit.fitted or fit.n <= fit.k:
        raise ValueError("no residuals to draw from: a bootstrap needs more points than parameters")
    _, optimum = fit.solved
    random = np.random.default_rng(seed)
    drawn = (_residual_draws if kind == RESIDUAL else _pairs_draws)(fit, draws, random)
    # Of many points the draws are near enough to the fit to begin from there alone.
    starts = _STARTS if fit.n <= _FEW else 0
    chunks = [
        minimise(drawn.take(rows), starts, np.repeat(optimum.parameters, len(rows), axis=0))
        for rows in np.array_split(np.arange(len(drawn.y)), max(1, len(drawn.y) // _CHUNK))
    ]
    internal = np.concatenate([chunk.parameters for chunk in chunks])
    held = np.concatenate([chunk.held for chunk in chunks])
    cost = np.concatenate([chunk.cost for chunk in chunks])
    public = public_parameters(drawn, internal, fit.y_ref)
    return Draws(fit, kind, public, _errors(drawn, internal, held, cost, fit), internal, draws)


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def normal_draws(fit: Fit, draws: int = DRAWS, seed: int = 0) -> Draws:
    """Returns draws of a Huber fit's parameters from their normal distribution for many points.

    Its covariance is ``H^-1 G H^-1`` with ``G = sum psi(r)^2 J J^T`` and H the loss's mean curvature, the
    density of residuals within a bandwidth standing for that at zero, as for least absolute deviations.

    Args:
      fit: by Huber's loss, of thousands of points.
      draws: how many.
      seed: of the draws.

    References:
      Huber, 1967. Powell, Least absolute deviations estimation for the censored regression model, 1984.
    """
    problem, optimum = fit.solved
    r, J = (part[0] for part in problem.residuals(optimum.parameters))
    free = np.flatnonzero(~optimum.held[0])
    J, w = J[:, free], problem.weights[0]
    spread = float(np.median(np.abs(r))) * 1.4826
    width = max(HUBER_DELTA, 1.06 * spread * fit.n**-0.2)
    near = np.where(np.abs(r) <= width, HUBER_DELTA / width, 0.0) * w
    psi = np.clip(r, -HUBER_DELTA, HUBER_DELTA) * w
    inverse = np.linalg.pinv((J * near[:, None]).T @ J)
    covariance = inverse @ ((J * (psi**2)[:, None]).T @ J) @ inverse
    internal = np.repeat(optimum.parameters, draws, axis=0)
    noise = np.random.default_rng(seed).multivariate_normal(np.zeros(len(free)), covariance, draws)
    internal[:, free] = np.clip(internal[:, free] + noise, problem.lower[free], problem.upper[free])
    public = public_parameters(problem, internal, fit.y_ref)
    return Draws(fit, NORMAL, public, np.full_like(public, math.nan), internal, draws)


def _residual_draws(fit: Fit, draws: int, random: np.random.Generator) -> Problem:
    problem, optimum = fit.solved
    r, J = (part[0] for part in problem.residuals(optimum.parameters))
    root = np.sqrt(problem.weights[0])
    r, free = root * r, (root[:, None] * J)[:, ~optimum.held[0]]
    length = np.linalg.norm(free, axis=0)
    q, _ = np.linalg.qr(free / np.where(length > 0, length, 1.0))
    leverage = np.minimum(np.sum(q**2, axis=1), 1.0)
    # A point that the fit goes through has no residual left to be widened.
    wide = np.where(leverage < 1 - 1e-6, r / np.sqrt(np.maximum(1 - leverage, 1e-6)), 0.0)
    wide -= wide.mean()
    noise = random.choice(wide, (draws, len(wide))) / root
    f = problem.curve(optimum.parameters, problem.u)[0]
    # The residuals are those of f - y.
    y = f - noise if problem.objective == LINEAR else f * np.exp(-noise)
    return dataclasses.replace(problem, y=y, weights=np.repeat(problem.weights, draws, axis=0))


def _pairs_draws(fit: Fit, draws: int, random: np.random.Generator) -> Problem:
    problem, _ = fit.solved
    counts = random.multinomial(fit.sizes, np.full(fit.sizes, 1 / fit.sizes), draws)
    counts = counts[(counts > 0).sum(axis=1) > fit.k]
    if not len(counts):
        raise ValueError("no draw has more sizes than the law has parameters")
    weights = counts[:, fit.size_index] * problem.weights
    return dataclasses.replace(problem, y=np.repeat(problem.y, len(weights), axis=0), weights=weights)


def _errors(
    problem: Problem, internal: np.ndarray, held: np.ndarray, cost: np.ndarray, fit: Fit
) -> np.ndarray:
    """The linearised standard errors [B, k] of each draw's own parameters."""
    _, J = problem.residuals(internal)
    J = np.where(held[:, None], 0.0, J * np.sqrt(problem.weights)[..., None])
    scale = np.sqrt(np.einsum("srp,srp->sp", J, J))
    fine = np.all((scale > 0) | held, axis=1) & np.isfinite(scale).all(axis=1)
    J = np.where(fine[:, None, None], J, 0.0) / np.where(scale > 0, scale, 1.0)[:, None]
    gram = np.einsum("srp,srq->spq", J, J)
    index = np.arange(gram.shape[1])
    gram[:, index, index] += np.where(held | ~fine[:, None], 1.0, 1e-14)
    slopes = public_derivatives(problem, internal, fit.y_ref)
    scaled = np.where(held[:, None], 0.0, slopes / np.where(scale > 0, scale, 1.0)[:, None])
    solved = np.linalg.solve(gram, np.swapaxes(scaled, 1, 2))
    variance = np.einsum("skp,spk->sk", scaled, solved) * (2 * cost / (fit.n - fit.k))[:, None]
    return np.where(fine[:, None] & (variance > 0), np.sqrt(np.maximum(variance, 0.0)), math.nan)
