"""Laws of two variables: how the loss falls with parameters N and data D, and with data that repeat.

>>> law = SURFACES["chinchilla"]
>>> law.formula, law.names
('y = E + A / N^a + B / D^b', ('E', 'A', 'B', 'a', 'b'))

References:
  Kaplan et al., Scaling laws for neural language models, 2020. Hoffmann et al., Training compute-optimal
  large language models, 2022. Muennighoff et al., Scaling data-constrained language models, 2023.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

# Variables are logarithms over their references; coordinates are [S, p], real or complex.
Value = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Surface:
    """A law of several variables, ``y = sum_j c_j g_j(theta)``, in coordinates about reference sizes."""

    name: str
    formula: str
    names: tuple[str, ...]  # the law's own parameters
    linear: int  # how many coordinates, the first, are coefficients c >= 0 of the basis
    lower: tuple[float, ...]  # of the others, theta
    upper: tuple[float, ...]
    # (theta [S, q], u [n, v], references [v]) -> the basis [S, n, linear]
    basis: Value
    grid: np.ndarray  # of theta, [G, q], from which searches start
    # (coordinates [S, p], references [v]) -> the own parameters [S, k], in their order; y still in its scale
    public: Callable[[np.ndarray, np.ndarray], np.ndarray]
    scaled: tuple[str, ...]  # parameters that have the unit of y
    variables: int = 2
    power: int | None = None  # the coordinate that is an exponent of the whole sum, if there is one

    @property
    def k(self) -> int:
        """The number of parameters, the spread of the noise not counted."""
        return len(self.names)


def _ones(theta: np.ndarray, u: np.ndarray) -> np.ndarray:
    return np.ones((len(theta), len(u)), theta.dtype)


def _chinchilla(theta: np.ndarray, u: np.ndarray, ref: np.ndarray) -> np.ndarray:
    falls = [np.exp(-theta[:, n : n + 1] * u[:, n]) for n in range(2)]
    return np.stack([_ones(theta, u), *falls], axis=-1)


def _chinchilla_public(c: np.ndarray, ref: np.ndarray) -> np.ndarray:
    E, A, B, a, b = c.T
    return np.stack([E, A * np.exp(a * ref[0]), B * np.exp(b * ref[1]), a, b], axis=-1)


def _one(which: int) -> Value:
    def basis(theta: np.ndarray, u: np.ndarray, ref: np.ndarray) -> np.ndarray:
        return np.stack([_ones(theta, u), np.exp(-theta[:, :1] * u[:, which])], axis=-1)

    return basis


def _one_public(which: int) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    def public(c: np.ndarray, ref: np.ndarray) -> np.ndarray:
        E, A, a = c.T
        return np.stack([E, A * np.exp(a * ref[which]), a], axis=-1)

    return public


def _kaplan(theta: np.ndarray, u: np.ndarray, ref: np.ndarray) -> np.ndarray:
    ratio = theta[:, :1]
    return np.stack([np.exp(-ratio * u[:, 0]), np.exp(-u[:, 1]) + 0 * ratio], axis=-1)


def _kaplan_public(c: np.ndarray, ref: np.ndarray) -> np.ndarray:
    P, Q, ratio, b = c.T
    # y = (P e^(-ratio u) + Q e^(-v))^b = ((N_c / N)^(a / b) + D_c / D)^b
    return np.stack([P ** (1 / ratio) * np.exp(ref[0]), Q * np.exp(ref[1]), ratio * b, b], axis=-1)


def _repeated(log_ratio: np.ndarray, most: np.ndarray) -> np.ndarray:
    """ln of 1 + R* (1 - exp(-R / R*)), R being repetitions beyond the first: what repeated data are worth."""
    repeats = np.expm1(np.maximum(log_ratio, 0.0))
    return np.log(1 + most * (1 - np.exp(-repeats / most)))


def _data_constrained(theta: np.ndarray, u: np.ndarray, ref: np.ndarray) -> np.ndarray:
    a, b, most = theta[:, :1], theta[:, 1:2], theta[:, 2:3]
    # The third variable is the number of unique tokens, about the reference of D.
    unique = np.minimum(u[:, 1], u[:, 2])
    worth = unique + _repeated(u[:, 1] - unique, np.exp(most))
    return np.stack([_ones(theta, u), np.exp(-a * u[:, 0]), np.exp(-b * worth)], axis=-1)


def _data_constrained_public(c: np.ndarray, ref: np.ndarray) -> np.ndarray:
    own = _chinchilla_public(c[:, :5], ref)
    return np.concatenate([own, np.exp(c[:, 5:])], axis=-1)


def _product(*axes: np.ndarray) -> np.ndarray:
    return np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], axis=-1)


_EXPONENTS = np.concatenate([np.geomspace(0.02, 0.1, 4)[:-1], np.linspace(0.1, 1.2, 16), [1.6, 2.5]])
_FEW = np.array([0.05, 0.15, 0.25, 0.35, 0.5, 0.8, 1.3])
_TO_TEN = (0.0, 10.0)

SURFACES: dict[str, Surface] = {
    law.name: law
    for law in (
        Surface(
            "chinchilla", "y = E + A / N^a + B / D^b", ("E", "A", "B", "a", "b"), 3, (0.0, 0.0), (10.0, 10.0),
            _chinchilla, _product(_EXPONENTS, _EXPONENTS), _chinchilla_public, ("E", "A", "B"),
        ),
        Surface(
            "params_only", "y = E + A / N^a", ("E", "A", "a"), 2, (0.0,), (10.0,), _one(0),
            _product(_EXPONENTS), _one_public(0), ("E", "A"),
        ),
        Surface(
            "tokens_only", "y = E + B / D^b", ("E", "B", "b"), 2, (0.0,), (10.0,), _one(1),
            _product(_EXPONENTS), _one_public(1), ("E", "B"),
        ),
        Surface(
            "kaplan", "y = ((N_c / N)^(a / b) + D_c / D)^b", ("N_c", "D_c", "a", "b"), 2, (0.01, 0.005),
            (20.0, 10.0), _kaplan, _product(np.geomspace(0.1, 5, 12), np.geomspace(0.02, 1, 12)),
            _kaplan_public, (), power=3,
        ),
        Surface(
            "data_constrained", "y = E + A / N^a + B / D'^b, D' = U (1 + R (1 - e^(-(D / U - 1) / R)))",
            ("E", "A", "B", "a", "b", "R"), 3, (0.0, 0.0, -4.0), (10.0, 10.0, 12.0), _data_constrained,
            _product(_FEW, _FEW, np.array([0.0, 1.5, 2.7, 4.0, 6.0])), _data_constrained_public,
            ("E", "A", "B"), 3,
        ),
    )
}  # fmt: skip
