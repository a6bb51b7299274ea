"""A law fitted to points: its parameters, their standard errors, and how the search ended."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from cvfp_jax.scaling.coordinates import SHAPES
from cvfp_jax.scaling.laws import ALL_LAWS, Law
from cvfp_jax.scaling.limits import Limits
from cvfp_jax.scaling.objectives import HUBER, LINEAR, LOG, OBJECTIVES
from cvfp_jax.scaling.solve import HUBER_DELTA, Optimum, Problem, minimise, own_limits

CONVERGED = "converged"
STARTS = 12
# Beyond this condition number the scaled normal equations tell parameters apart by rounding only.
_CONDITION = 1e12
# Powers of what spans more are beyond all numbers.
_MOST_ORDERS = 40


@dataclasses.dataclass(frozen=True)
class Fit:
    """A law with the parameters that minimise its objective, in full precision.

    Without parameters where the status says ``too few points`` or ``not defined``.
    """

    law: Law
    objective: str
    status: str
    n: int  # points
    sizes: int  # different sizes among them
    params: dict[str, float]
    x: np.ndarray = dataclasses.field(repr=False)  # [n], in order
    # Of the linearised law; missing for a parameter on a bound, and for all with Huber's loss.
    std_errors: dict[str, float]
    rss: float = math.nan  # in y
    rss_log: float = math.nan  # in ln y
    r2: float = math.nan
    r2_log: float = math.nan
    # Of y, at the likeliest spread of normal noise in ln y (log) or y (linear), or Laplace's in ln y (huber).
    log_likelihood: float = math.nan
    aic: float = math.nan
    problem: Problem | None = dataclasses.field(default=None, repr=False)
    optimum: Optimum | None = dataclasses.field(default=None, repr=False)
    y_ref: float = 1.0
    limits: Limits = dataclasses.field(default_factory=Limits, repr=False)  # that a user set

    @property
    def fitted(self) -> bool:
        """Whether there are parameters."""
        return bool(self.params)

    @property
    def k(self) -> int:
        """The number of parameters that are fitted."""
        return self.law.k - len(self.limits.fixed)

    @property
    def solved(self) -> tuple[Problem, Optimum]:
        """The problem and its optimum, which any fit with parameters has."""
        assert self.problem is not None
        assert self.optimum is not None
        return self.problem, self.optimum

    @property
    def size_index(self) -> np.ndarray:
        """Which of the different sizes, in order, each point has, [n]."""
        return np.unique(self.x, return_inverse=True)[1]

    @property
    def aicc(self) -> float:
        """The criterion corrected for few points; not a number where it is undefined."""
        return corrected_aic(self.aic, self.n, self.k)

    @np.errstate(over="ignore", invalid="ignore", divide="ignore")
    def predict(self, x: float | Sequence[float] | np.ndarray) -> np.ndarray:
        """Returns the law's values at sizes above zero, in the unit of y."""
        sizes = np.asarray(x, float)
        if not self.fitted:
            return np.full_like(sizes, math.nan)
        problem, optimum = self.solved
        # By the coordinates, whose terms do not cancel as those of the law's own parameters can.
        u = np.log(sizes.ravel()) - problem.log_ref
        curve, _ = problem.curve(optimum.parameters, u)
        return self.y_ref * curve[0].reshape(sizes.shape)

    @np.errstate(over="ignore", invalid="ignore", divide="ignore")
    def local_exponent(self, x: float | Sequence[float] | np.ndarray) -> np.ndarray:
        """Returns -d ln y / d ln x at sizes above zero."""
        sizes = np.asarray(x, float)
        if not self.fitted:
            return np.full_like(sizes, math.nan)
        return np.asarray(self.law.local_exponent(self.params, sizes))


def corrected_aic(aic: float, n: int, k: int) -> float:
    """Returns AIC corrected for few points, ``AIC + 2 + 2 (k + 1) (k + 2) / (n - k - 2)``.

    Args:
      aic: ``n ln(RSS / n) + 2 k``, of a law alone.
      n: points.
      k: parameters of the law; the spread of the noise is one more, which is counted here.

    Returns:
      The criterion; not a number where n <= k + 2.

    References:
      Hurvich and Tsai, Regression and time series model selection in small samples, 1989.

    >>> round(corrected_aic(21.54, 6, 3), 2), corrected_aic(18.54, 5, 3)
    (63.54, nan)
    """
    return aic + 2 + 2 * (k + 1) * (k + 2) / (n - k - 2) if n > k + 2 else math.nan


def public_parameters(problem: Problem, parameters: np.ndarray, y_ref: float) -> np.ndarray:
    """Returns a law's own parameters [S, k] from those of its coordinates [S, p], real or complex."""
    first = int(problem.shape.floor)
    K = parameters[:, first] * y_ref
    m = parameters[:, 0] * y_ref if first else np.zeros_like(K)
    return np.stack(problem.shape.public(m, K, parameters[:, first + 1 :], problem.log_ref), axis=-1)


def public_derivatives(problem: Problem, parameters: np.ndarray, y_ref: float) -> np.ndarray:
    """Returns the derivatives [S, k, p] of ``public_parameters``, by complex steps: without cancellation."""
    h = 1e-30
    columns = [
        public_parameters(problem, parameters + 1j * h * unit, y_ref).imag / h
        for unit in np.eye(parameters.shape[1])
    ]
    return np.stack(columns, axis=-1)


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def fit_law(
    law: str,
    x: Sequence[float],
    y: Sequence[float],
    objective: str = LOG,
    starts: int = STARTS,
    limits: Limits | None = None,
    sigma: Sequence[float] = (),
) -> Fit:
    """Fits a law to points: the least objective over many starts.

    ``log`` makes ``sum (ln y - ln f(x))^2`` least, ``linear`` ``sum (y - f(x))^2``, ``huber`` the sum of
    Huber's losses of ``ln y - ln f(x)``, which are squares up to 1e-3 and distances beyond. For each value
    of the parameters in which a law is not linear the others follow in closed form (variable projection), so
    a search over those few from a grid leads to the global optimum; a polish over all ends at rounding.

    Args:
      law: a name in ``ALL_LAWS``.
      x: [n] sizes, above zero, in any unit.
      y: [n] measures, above zero.
      objective: ``log``, ``linear`` or ``huber``.
      starts: of the search.
      limits: parameters that are fixed or bounded.
      sigma: [n] errors of y, in its unit and up to a common factor; points weigh ``1 / sigma^2``, in ln y
        ``(y / sigma)^2``. None are given if it is empty.

    Returns:
      The fit. Its status is ``converged``, ``on a bound: ...``, ``not identifiable: ...``, ``not converged:
      ...``, or, without parameters, ``too few points: ...`` or ``not defined: ...``.

    Raises:
      ValueError: lengths differ, a number is not finite or not above zero, a name is unknown, or a parameter
        cannot be limited.

    References:
      Golub and Pereyra, 1973 (variable projection). Hoffmann et al., 2022 (Huber's loss), and Besiroglu et
      al., 2024, on what a mean in place of the sum does to it.

    >>> fit = fit_law("saturating", [100, 400, 1600, 6400], [250.0, 150.0, 100.0, 75.0])
    >>> fit.status, {name: round(value, 6) for name, value in fit.params.items()}
    ('converged', {'ppl_min': 50.0, 'A': 2000.0, 'a': 0.5})
    """
    sizes, measures, errors_of_y = _checked(law, x, y, objective, sigma)
    n, distinct = len(sizes), len(np.unique(sizes))
    definition = ALL_LAWS[law]
    limits = (limits or Limits()).of(definition)
    if name := limits.obstacle(definition, SHAPES[law]):
        raise ValueError(f"{name} of {law} can be neither fixed nor bounded")
    k = definition.k - len(limits.fixed)
    missing = _obstacle(definition, sizes, measures, distinct, k)
    if missing:
        return Fit(definition, objective, missing, n, distinct, {}, sizes, {}, limits=limits)
    problem, y_ref = _problem(definition, sizes, measures, objective, limits)
    if len(errors_of_y):
        scale = errors_of_y if objective == LINEAR else errors_of_y / measures
        # With a geometric mean of 1 weights leave the likelihood's constant alone.
        problem = dataclasses.replace(
            problem, weights=np.exp(2 * (np.log(scale).mean() - np.log(scale)))[None]
        )
    optimum = minimise(problem, starts)
    public = public_parameters(problem, optimum.parameters, y_ref)[0]
    params = {name: float(value) for name, value in zip(definition.names, public, strict=True)}
    covariance, condition = _covariance(problem, optimum, k)
    errors = _std_errors(problem, optimum, covariance, definition, y_ref)
    fit = Fit(
        definition,
        objective,
        "",
        n,
        distinct,
        params,
        sizes,
        errors,
        problem=problem,
        optimum=optimum,
        y_ref=y_ref,
        limits=limits,
    )
    predicted = fit.predict(sizes)
    spread = _spread(objective, float(optimum.cost[0]), n)
    rss = float(np.sum((measures - predicted) ** 2))
    rss_log = float(np.sum((np.log(measures) - np.log(predicted)) ** 2))
    return dataclasses.replace(
        fit,
        status=_status(fit, condition),
        rss=rss,
        rss_log=rss_log,
        r2=_r2(rss, measures),
        r2_log=_r2(rss_log, np.log(measures)),
        log_likelihood=_log_likelihood(spread, measures, objective, y_ref),
        aic=_aic(spread, n, k, objective, y_ref),
    )


def _checked(
    law: str, x: Sequence[float], y: Sequence[float], objective: str, sigma: Sequence[float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns points in the order of their sizes, and their errors."""
    if law not in ALL_LAWS:
        raise ValueError(f"no law {law!r}: choose {', '.join(ALL_LAWS)}")
    if objective not in OBJECTIVES:
        raise ValueError(f"no objective {objective!r}: choose {', '.join(OBJECTIVES)}")
    sizes, measures = np.asarray(x, float), np.asarray(y, float)
    if sizes.shape != measures.shape or sizes.ndim != 1:
        raise ValueError(f"sizes of shape {sizes.shape} but measures of shape {measures.shape}")
    errors = np.asarray(sigma, float)
    if len(errors) and errors.shape != sizes.shape:
        raise ValueError(f"sizes of shape {sizes.shape} but errors of shape {errors.shape}")
    for values in (sizes, measures, errors):
        if not np.all(np.isfinite(values) & (values > 0)):
            raise ValueError("sizes, measures and errors must be finite and above zero")
    order = np.argsort(sizes, kind="stable")
    return sizes[order], measures[order], errors[order] if len(errors) else errors


def _obstacle(law: Law, sizes: np.ndarray, measures: np.ndarray, distinct: int, k: int) -> str:
    """Why a law cannot be fitted; empty if it can."""
    for name, values in (("sizes", sizes), ("measures", measures)):
        orders = float(np.ptp(np.log10(values)))
        if orders > _MOST_ORDERS:
            return (
                f"not defined: {name} over {orders:.0f} orders of magnitude, {_MOST_ORDERS} or fewer are data"
            )
    if distinct <= k:
        return f"too few points: {distinct} sizes, {k + 1} or more are needed"
    if not law.unit_free and sizes[0] <= 1:
        return f"not defined: it takes ln x to a power, so sizes above 1, and the least is {sizes[0]:g}"
    return ""


def _problem(
    law: Law, sizes: np.ndarray, measures: np.ndarray, objective: str, limits: Limits
) -> tuple[Problem, float]:
    log_x, shape = np.log(sizes), SHAPES[law.name]
    log_ref = float(log_x.min() if shape.from_least else log_x.mean())
    if limits.at_one(law):
        log_ref = 0.0
    y_ref = float(np.exp(np.log(measures).mean()))
    scaled, u = (measures / y_ref)[None], log_x - log_ref
    lower, upper = own_limits(shape)
    if shape.inside is not None:
        place = int(shape.floor) + 1 + shape.inside
        lower[place], upper[place] = u[0], u[-1]
    lower, upper = limits.narrow(law, shape, (lower, upper), y_ref, log_ref)
    return Problem(shape, u, log_ref, scaled, np.ones_like(scaled), objective, (lower, upper)), y_ref


def _covariance(problem: Problem, optimum: Optimum, k: int) -> tuple[np.ndarray, float]:
    """The covariance [p, p] of the coordinates, of the linearised law, and how well it is conditioned."""
    free = ~optimum.held[0]
    r, J = problem.residuals(optimum.parameters)
    # What Huber's loss takes for an outlier pulls by its sign only, wherever it is.
    bent = np.abs(r[0]) < HUBER_DELTA * (1 - 1e-6) if problem.objective == HUBER else slice(None)
    J = (np.sqrt(problem.weights[0])[:, None] * J[0])[bent][:, free]
    length = np.linalg.norm(J, axis=0)
    covariance = np.full((len(free), len(free)), math.nan)
    if not np.all(length > 0):
        return covariance, math.inf
    gram = (J / length).T @ (J / length)
    condition = float(np.linalg.cond(gram))
    df = problem.y.shape[1] - k
    if condition < _CONDITION and df > 0:
        s2 = 2 * optimum.cost[0] / df
        covariance[np.ix_(free, free)] = s2 * np.linalg.inv(gram) / np.outer(length, length)
    return covariance, condition


def _std_errors(
    problem: Problem, optimum: Optimum, covariance: np.ndarray, law: Law, y_ref: float
) -> dict[str, float]:
    """The delta method's standard errors of the law's own parameters; none of one on its bound."""
    if problem.objective not in (LOG, LINEAR):
        return {}
    derivatives = public_derivatives(problem, optimum.parameters, y_ref)[0]
    held = optimum.held[0]
    inner = np.where(np.isnan(covariance), 0.0, covariance)
    errors = {}
    for name, row in zip(law.names, derivatives, strict=True):
        size = float(np.abs(row).max())  # a scale beyond all data can be too large to be squared
        variance = float((row / size) @ inner @ (row / size)) if 0 < size < math.inf else 0.0
        # One that moves with held coordinates only has no error of its own.
        if variance > 0 and not np.isnan(covariance[~held][:, ~held]).any():
            errors[name] = size * math.sqrt(variance)
    return errors


def _status(fit: Fit, condition: float) -> str:
    """How the search ended."""
    _, optimum = fit.solved
    if not all(math.isfinite(value) for value in fit.params.values()):
        return "not identifiable: a parameter is beyond all numbers"
    if not optimum.converged[0]:
        return "not converged: the search ended where the objective still falls"
    bounds = _on_bounds(fit)
    if bounds:
        return f"on a bound: {', '.join(bounds)}"
    if condition >= _CONDITION:
        return "not identifiable: other parameters fit as well"
    return CONVERGED


def _on_bounds(fit: Fit) -> list[str]:
    """The parameters that lie on a bound of the search."""
    problem, optimum = fit.solved
    names = [fit.law.names[0]] * problem.shape.floor + ["A", *(each.name for each in problem.shape.theta)]
    values = optimum.parameters[0].copy()
    if problem.shape.floor:
        values[0] *= fit.y_ref
    if problem.shape.inside is not None:
        place = int(problem.shape.floor) + 1 + problem.shape.inside
        values[place] = math.exp(values[place] + problem.log_ref)
    given = problem.lower == problem.upper
    return [
        f"{name} = {value:g}"
        for name, value, is_held, is_given in zip(names, values, optimum.held[0], given, strict=True)
        if is_held and not is_given
    ]


def _r2(rss: float, values: np.ndarray) -> float:
    total = float(np.sum((values - values.mean()) ** 2))
    return 1 - rss / total if total > 0 else math.nan


def _spread(objective: str, cost: float, n: int) -> float:
    """The likeliest spread of the noise that an objective stands for, measures being over y_ref."""
    return cost / (n * HUBER_DELTA) if objective == HUBER else math.sqrt(2 * cost / n)


def _aic(spread: float, n: int, k: int, objective: str, y_ref: float) -> float:
    """R5's ``n ln(RSS / n) + 2 k`` in the objective's own space; with Huber's loss ``2 n ln b + 2 k``."""
    if not spread > 0:
        return math.nan
    return 2 * n * math.log(spread * (y_ref if objective == LINEAR else 1.0)) + 2 * k


def _log_likelihood(spread: float, measures: np.ndarray, objective: str, y_ref: float) -> float:
    """The log-likelihood of the measures in their own unit, so that objectives can be compared."""
    n = len(measures)
    if not spread > 0:
        return math.nan
    if objective == LINEAR:
        return -n * (math.log(spread * y_ref) + math.log(2 * math.pi) / 2 + 0.5)
    density = (
        math.log(2 * spread) + 1 if objective == HUBER else math.log(spread) + math.log(2 * math.pi) / 2 + 0.5
    )
    return -n * density - float(np.sum(np.log(measures)))
