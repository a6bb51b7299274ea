"""The laws: how a measure such as perplexity falls with the size of the data.

>>> law = LAWS["saturating"]
>>> law.formula, law.names, law.k
('y = ppl_min + A x^-a', ('ppl_min', 'A', 'a'), 3)
>>> params = {"ppl_min": 50.0, "A": 2000.0, "a": 0.5}
>>> law.value(params, np.array([100.0, 1600.0])).tolist(), law.limit(params)
([250.0, 100.0], 50.0)
>>> law.local_exponent(params, np.array([100.0, 1600.0])).tolist()
[0.4, 0.25]

References:
  rato-tokyo/new-llm, report of 2025-12-03 (R5), whose names these are. Hestness et al., 2017, on power laws
  with a floor. Caballero et al., Broken neural scaling laws, 2023. Hill, 1910.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping

import numpy as np

Parameters = Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A parameter of a law, with what a fit allows for it."""

    name: str
    unit: str  # x and y are the units of size and measure
    linear: bool = False  # whether the law is linear in it, the others being given
    # What a search allows. A bound of 0 is the law's own; others keep the search from steps and overflow.
    lower: float = -math.inf
    upper: float = math.inf


@dataclasses.dataclass(frozen=True)
class Law:
    """A formula with named parameters; its functions take them by name, and sizes above zero."""

    name: str
    formula: str
    parameters: tuple[Parameter, ...]
    value: Callable[[Parameters, np.ndarray], np.ndarray]
    # -d ln y / d ln x: what a power law tangent to the curve at x would have for its exponent.
    local_exponent: Callable[[Parameters, np.ndarray], np.ndarray]
    # What y tends to as x grows beyond all bounds.
    limit: Callable[[Parameters], float]
    # Whether a change of the unit of x leaves it the same family of curves.
    unit_free: bool = True

    @property
    def k(self) -> int:
        """The number of parameters, the spread of the noise not counted."""
        return len(self.parameters)

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters' names."""
        return tuple(parameter.name for parameter in self.parameters)

    def parameter(self, name: str) -> Parameter:
        """Returns a parameter by its name."""
        return self.parameters[self.names.index(name)]


def _falling(a: float, at_zero: float, floor: float = 0.0) -> float:
    """The limit of ``floor + A x**-a`` where ``at_zero`` is that for ``a = 0``."""
    return floor if a > 0 else at_zero if a == 0 else math.inf


def _power(p: Parameters, x: np.ndarray) -> np.ndarray:
    return p["A"] * x ** -p["a"]


def _saturating(p: Parameters, x: np.ndarray) -> np.ndarray:
    return p["ppl_min"] + p["A"] * x ** -p["a"]


def _log_corrected(p: Parameters, x: np.ndarray) -> np.ndarray:
    return p["A"] * x ** -p["a"] * np.log(x) ** p["b"]


def _exponential(p: Parameters, x: np.ndarray) -> np.ndarray:
    return p["ppl_min"] + p["A"] * np.exp(-p["b"] * x ** p["c"])


def _variable(p: Parameters, x: np.ndarray) -> np.ndarray:
    return p["A"] * x ** -(p["a0"] - p["a1"] * np.log(x))


def _broken(p: Parameters, x: np.ndarray) -> np.ndarray:
    # ln(1 + (x / d)^(1 / f)) without overflow.
    grown = np.logaddexp(0.0, np.log(x / p["d"]) / p["f"])
    return p["ppl_min"] + p["A"] * x ** -p["c0"] * np.exp(-p["c1"] * p["f"] * grown)


def _ceiling(p: Parameters, x: np.ndarray) -> np.ndarray:
    return p["ceiling"] - p["A"] * x ** -p["a"]


def _log_corrected_limit(p: Parameters) -> float:
    if p["a"] != 0:
        return _falling(p["a"], 0.0)
    return 0.0 if p["b"] < 0 else p["A"] if p["b"] == 0 else math.inf


def _variable_limit(p: Parameters) -> float:
    if p["a1"] == 0:
        return _falling(p["a0"], p["A"])
    return 0.0 if p["a1"] < 0 else math.inf


_SCALE = Parameter("A", "y at x = 1", True, 0.0)
_FLOOR = Parameter("ppl_min", "y", True, 0.0)

# By name; ``ppl_min`` is the floor. These are fitted where no others are asked for.
LAWS: dict[str, Law] = {
    law.name: law
    for law in (
        Law(
            "power",
            "y = A x^-a",
            (_SCALE, Parameter("a", "1", lower=-50.0, upper=50.0)),
            _power,
            lambda p, x: np.full_like(x, p["a"]),
            lambda p: _falling(p["a"], p["A"]),
        ),
        Law(
            "saturating",
            "y = ppl_min + A x^-a",
            (
                _FLOOR,
                Parameter("A", "y, above the floor at x = 1", True, 0.0),
                Parameter("a", "1", lower=0.0, upper=10.0),
            ),
            _saturating,
            lambda p, x: p["a"] * p["A"] * x ** -p["a"] / _saturating(p, x),
            lambda p: _falling(p["a"], p["ppl_min"] + p["A"], p["ppl_min"]),
        ),
        Law(
            "log_corrected",
            "y = A x^-a (ln x)^b",
            (
                Parameter("A", "y at x = e, times e^a", True, 0.0),
                Parameter("a", "1", lower=0.0, upper=10.0),
                Parameter("b", "1", lower=-50.0, upper=50.0),
            ),
            _log_corrected,
            lambda p, x: p["a"] - p["b"] / np.log(x),
            _log_corrected_limit,
            unit_free=False,
        ),
        Law(
            "exponential_decay",
            "y = ppl_min + A exp(-b x^c)",
            (
                _FLOOR,
                Parameter("A", "y, above the floor at x = 0", True, 0.0),
                Parameter("b", "x^-c", lower=0.0),
                Parameter("c", "1", lower=0.02, upper=5.0),
            ),
            _exponential,
            lambda p, x: (
                p["A"] * p["b"] * p["c"] * x ** p["c"] * np.exp(-p["b"] * x ** p["c"]) / _exponential(p, x)
            ),
            lambda p: p["ppl_min"],
        ),
        Law(
            "variable_exponent",
            "y = A x^-(a0 - a1 ln x)",
            (
                _SCALE,
                Parameter("a0", "1, at x = 1"),
                Parameter("a1", "1 per ln x", lower=-50.0, upper=50.0),
            ),
            _variable,
            # Not a0 - a1 ln x, which R5 printed: the exponent multiplies a logarithm that moves as well.
            lambda p, x: p["a0"] - 2 * p["a1"] * np.log(x),
            _variable_limit,
        ),
        Law(
            "constant",
            "y = A",
            (Parameter("A", "y", True, 0.0),),
            lambda p, x: np.full_like(x, p["A"]),
            lambda p, x: np.zeros_like(x),
            lambda p: p["A"],
        ),
        Law(
            "log_linear",
            "y = A - B ln x",
            (Parameter("A", "y at x = 1", True), Parameter("B", "y per ln x", True)),
            lambda p, x: p["A"] - p["B"] * np.log(x),
            lambda p, x: p["B"] / (p["A"] - p["B"] * np.log(x)),
            lambda p: math.copysign(math.inf, -p["B"]) if p["B"] else p["A"],
        ),
    )
}

# Fitted where they are asked for: the first needs seven sizes, the others are for measures that rise.
MORE_LAWS: dict[str, Law] = {
    law.name: law
    for law in (
        Law(
            "broken",
            "y = ppl_min + A x^-c0 (1 + (x / d)^(1 / f))^(-c1 f)",
            (
                _FLOOR,
                Parameter("A", "y, above the floor at x = 1", True, 0.0),
                Parameter("c0", "1", lower=-10.0, upper=10.0),
                Parameter("c1", "1, what the break adds to c0", lower=-10.0, upper=10.0),
                Parameter("d", "x, where it breaks", lower=0.0),
                Parameter("f", "1, in ln x, how wide the break is", lower=0.02, upper=5.0),
            ),
            _broken,
            lambda p, x: (
                (1 - p["ppl_min"] / _broken(p, x))
                * (p["c0"] + p["c1"] / (1 + np.exp(np.log(p["d"] / x) / p["f"])))
            ),
            lambda p: _falling(p["c0"] + p["c1"], p["ppl_min"] + p["A"], p["ppl_min"]),
        ),
        Law(
            "ceiling",
            "y = ceiling - A x^-a",
            (
                Parameter("ceiling", "y", True, 0.0),
                Parameter("A", "y, below the ceiling at x = 1", True, 0.0),
                Parameter("a", "1", lower=0.0, upper=10.0),
            ),
            _ceiling,
            lambda p, x: -p["a"] * p["A"] * x ** -p["a"] / _ceiling(p, x),
            lambda p: p["ceiling"] if p["a"] > 0 else p["ceiling"] - p["A"],
        ),
        Law(
            "hill",
            "y = ceiling / (1 + (x / h)^-a)",
            (
                Parameter("ceiling", "y", True, 0.0),
                Parameter("h", "x, where y is half of it", lower=0.0),
                Parameter("a", "1", lower=0.0, upper=10.0),
            ),
            lambda p, x: p["ceiling"] / (1 + (x / p["h"]) ** -p["a"]),
            lambda p, x: -p["a"] / (1 + (x / p["h"]) ** p["a"]),
            lambda p: p["ceiling"] if p["a"] > 0 else p["ceiling"] / 2,
        ),
    )
}
ALL_LAWS = {**LAWS, **MORE_LAWS}
RISING = ("ceiling", "hill")  # for measures such as accuracy, which rise to a ceiling
