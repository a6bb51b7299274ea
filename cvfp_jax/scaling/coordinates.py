"""The coordinates in which laws are fitted: centred, scaled, and finite where a law turns into another.

With ``u = ln(x / x_ref)`` every law is ``y = m + K g(u; theta)``, where ``m`` is the floor or 0 and ``K``
what the falling part is worth at ``x_ref``: the geometric mean of the sizes, or, where it falls by many
orders of magnitude (exponential decay), the least. So a change of the unit of x or
y changes no fit, and the parameters, which are all but collinear in the laws' own form, come apart.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from cvfp_jax.scaling.laws import LAWS, MORE_LAWS, Parameter

_EXPONENT = LAWS["power"].parameter("a")
_DECAY = LAWS["saturating"].parameter("a")
# Towards its least exponential decay becomes the saturating law.
_POWER = LAWS["exponential_decay"].parameter("c")


@dataclasses.dataclass(frozen=True)
class Shape:
    """A law's falling part: ``g`` of ``u`` and a few parameters, which are 1 together at ``u = 0``."""

    floor: bool
    theta: tuple[Parameter, ...]  # the law's own, or -d ln g / du at u = 0 by the name of steepness
    # (theta [S, q], u [n], ln x_ref) -> g [S, n], dg / dtheta [S, n, q]
    value: Callable[[np.ndarray, np.ndarray, float], tuple[np.ndarray, np.ndarray]]
    # The values of theta from which a search starts, [G, q].
    grid: np.ndarray
    # (m [S], K [S], theta [S, q], ln x_ref) -> the law's own parameters [S], in the order of its definition;
    # analytic, so that complex steps give derivatives
    public: Callable[[np.ndarray, np.ndarray, np.ndarray, float], tuple[np.ndarray, ...]]
    from_least: bool = False  # whether x_ref is the least size
    rises: bool = False  # whether K is below zero: m is a ceiling
    # The parameters of which the logarithm is linear, and so the fit by least squares of ln y.
    log_linear: bool = False
    # Of theta, an index of what is a size, ln(size / x_ref): it stays within the sizes measured.
    inside: int | None = None


def _stack(*columns: np.ndarray) -> np.ndarray:
    return np.stack(columns, axis=-1)


def _product(*axes: np.ndarray) -> np.ndarray:
    return np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], axis=-1)


def _constant(theta: np.ndarray, u: np.ndarray, log_ref: float) -> tuple[np.ndarray, np.ndarray]:
    return np.ones((len(theta), len(u))), np.empty((len(theta), len(u), 0))


def _power(theta: np.ndarray, u: np.ndarray, log_ref: float) -> tuple[np.ndarray, np.ndarray]:
    g = np.exp(-theta[:, :1] * u)
    return g, _stack(-u * g)


def _log_corrected(theta: np.ndarray, u: np.ndarray, log_ref: float) -> tuple[np.ndarray, np.ndarray]:
    v = np.log1p(u / log_ref)
    g = np.exp(-theta[:, :1] * u + theta[:, 1:] * v)
    return g, _stack(-u * g, v * g)


def _exponential(theta: np.ndarray, u: np.ndarray, log_ref: float) -> tuple[np.ndarray, np.ndarray]:
    # s (x^c - x_ref^c) / (c x_ref^c): at c = 0 it is s u, the power law's.
    slope, power = theta[:, :1], theta[:, 1:]
    grown = np.expm1(power * u)
    box_cox = grown / power
    g = np.exp(-slope * box_cox)
    return g, _stack(-box_cox * g, -slope * (u * (grown + 1) - box_cox) / power * g)


def _variable(theta: np.ndarray, u: np.ndarray, log_ref: float) -> tuple[np.ndarray, np.ndarray]:
    g = np.exp((theta[:, 1:] * u - theta[:, :1]) * u)
    return g, _stack(-u * g, u * u * g)


def _log_linear(theta: np.ndarray, u: np.ndarray, log_ref: float) -> tuple[np.ndarray, np.ndarray]:
    g = 1 - theta[:, :1] * u
    return g, _stack(np.broadcast_to(-u, g.shape))


def _softplus(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ln(1 + e^z) and its derivative."""
    return np.logaddexp(0.0, z), np.exp(-np.logaddexp(0.0, -z))


def _broken(theta: np.ndarray, u: np.ndarray, log_ref: float) -> tuple[np.ndarray, np.ndarray]:
    c0, c1, d, f = (theta[:, n : n + 1] for n in range(4))
    z, z0 = (u - d) / f, -d / f
    (grown, slope), (grown0, slope0) = _softplus(z), _softplus(z0)
    g = np.exp(-c0 * u - c1 * f * (grown - grown0))
    by_f = -c1 * ((grown - slope * z) - (grown0 - slope0 * z0))
    return g, _stack(-u * g, -f * (grown - grown0) * g, c1 * (slope - slope0) * g, by_f * g)


def _hill(theta: np.ndarray, u: np.ndarray, log_ref: float) -> tuple[np.ndarray, np.ndarray]:
    h, a = theta[:, :1], theta[:, 1:]
    (grown, slope), (grown0, slope0) = _softplus(-a * (u - h)), _softplus(a * h)
    g = np.exp(grown0 - grown)
    return g, _stack(a * (slope0 - slope) * g, (slope0 * h + slope * (u - h)) * g)


def _public_power(m: np.ndarray, K: np.ndarray, theta: np.ndarray, log_ref: float) -> tuple[np.ndarray, ...]:
    return K * np.exp(theta[:, 0] * log_ref), theta[:, 0]


def _public_saturating(
    m: np.ndarray, K: np.ndarray, theta: np.ndarray, log_ref: float
) -> tuple[np.ndarray, ...]:
    return m, *_public_power(m, K, theta, log_ref)


def _public_log_corrected(
    m: np.ndarray, K: np.ndarray, theta: np.ndarray, log_ref: float
) -> tuple[np.ndarray, ...]:
    a, b = theta.T
    return K * np.exp(a * log_ref - b * math.log(log_ref)), a, b


def _public_exponential(
    m: np.ndarray, K: np.ndarray, theta: np.ndarray, log_ref: float
) -> tuple[np.ndarray, ...]:
    slope, power = theta.T
    return m, K * np.exp(slope / power), slope / power * np.exp(-power * log_ref), power


def _public_variable(
    m: np.ndarray, K: np.ndarray, theta: np.ndarray, log_ref: float
) -> tuple[np.ndarray, ...]:
    slope, a1 = theta.T
    # x^-(a0 - a1 ln x) about x_ref: its slope there is a0 - 2 a1 ln x_ref.
    return K * np.exp((slope + a1 * log_ref) * log_ref), slope + 2 * a1 * log_ref, a1


def _public_constant(
    m: np.ndarray, K: np.ndarray, theta: np.ndarray, log_ref: float
) -> tuple[np.ndarray, ...]:
    return (K,)


def _public_log_linear(
    m: np.ndarray, K: np.ndarray, theta: np.ndarray, log_ref: float
) -> tuple[np.ndarray, ...]:
    return K * (1 + theta[:, 0] * log_ref), K * theta[:, 0]


def _public_broken(m: np.ndarray, K: np.ndarray, theta: np.ndarray, log_ref: float) -> tuple[np.ndarray, ...]:
    c0, c1, d, f = theta.T
    # Complex steps need a function of complex numbers.
    grown = np.log(1 + np.exp(-d / f)) if np.iscomplexobj(theta) else np.logaddexp(0.0, -d / f)
    return m, K * np.exp(c0 * log_ref + c1 * f * grown), c0, c1, np.exp(d + log_ref), f


def _public_ceiling(
    m: np.ndarray, K: np.ndarray, theta: np.ndarray, log_ref: float
) -> tuple[np.ndarray, ...]:
    return m, -K * np.exp(theta[:, 0] * log_ref), theta[:, 0]


def _public_hill(m: np.ndarray, K: np.ndarray, theta: np.ndarray, log_ref: float) -> tuple[np.ndarray, ...]:
    h, a = theta.T
    return K * (1 + np.exp(a * h)), np.exp(h + log_ref), a


def _steepness(like: Parameter) -> Parameter:
    """The local exponent at the reference size, with the bounds of a parameter like it."""
    return dataclasses.replace(like, name="steepness")


def _inside(like: Parameter) -> Parameter:
    """A size's logarithm, from the reference size on."""
    return dataclasses.replace(like, lower=-60.0, upper=60.0)


_SLOPES = np.concatenate([np.linspace(-2, 0, 9)[:-1], np.geomspace(0.01, _DECAY.upper, 40)])
_FALLING = np.geomspace(0.01, _DECAY.upper, 60)

SHAPES: dict[str, Shape] = {
    "power": Shape(False, (_EXPONENT,), _power, _product(_SLOPES), _public_power, log_linear=True),
    "saturating": Shape(
        True, (_DECAY,), _power, _product(_FALLING), _public_saturating,
    ),
    "log_corrected": Shape(
        False, LAWS["log_corrected"].parameters[1:], _log_corrected,
        _product(np.concatenate([[0.0], np.geomspace(0.01, 3, 24)]), np.linspace(-8, 8, 33)),
        _public_log_corrected, log_linear=True,
    ),
    "exponential_decay": Shape(
        True, (_steepness(_DECAY), _POWER), _exponential,
        _product(np.geomspace(0.01, _DECAY.upper, 30), np.geomspace(_POWER.lower, _POWER.upper, 20)),
        _public_exponential, from_least=True,
    ),
    "variable_exponent": Shape(
        False, (_steepness(_EXPONENT), LAWS["variable_exponent"].parameter("a1")), _variable,
        _product(_SLOPES, np.linspace(-0.5, 0.5, 21)), _public_variable, log_linear=True,
    ),
    "constant": Shape(False, (), _constant, np.empty((1, 0)), _public_constant, log_linear=True),
    "log_linear": Shape(
        False, (_steepness(_EXPONENT),), _log_linear,
        _product(np.concatenate([-np.geomspace(0.01, 2, 20), [0.0], np.geomspace(0.01, 2, 20)])),
        _public_log_linear,
    ),
    "broken": Shape(
        True, (*MORE_LAWS["broken"].parameters[2:4], _inside(MORE_LAWS["broken"].parameter("d")),
               MORE_LAWS["broken"].parameter("f")),
        _broken,
        _product(np.array([0.0, 0.05, 0.2, 0.5]), np.array([-0.4, -0.1, 0.1, 0.4, 1.0]),
                 np.linspace(-8, 8, 17), np.array([0.1, 0.4, 1.5])),
        _public_broken, inside=2,
    ),
    "ceiling": Shape(True, (_DECAY,), _power, _product(_FALLING), _public_ceiling, rises=True),
    "hill": Shape(
        False, (_inside(MORE_LAWS["hill"].parameter("h")), MORE_LAWS["hill"].parameter("a")), _hill,
        _product(np.linspace(-30, 10, 41), np.geomspace(0.01, 5, 20)), _public_hill,
    ),
}  # fmt: skip
