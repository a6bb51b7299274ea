"""Parameters of laws that a user fixes or bounds, in the coordinates in which laws are fitted."""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from cvfp_jax.scaling.coordinates import Shape
from cvfp_jax.scaling.laws import Law

# Parameters that are coordinates where the reference size is 1, with their places after the floor.
_AT_ONE = {"power": {"A": 0}, "saturating": {"A": 0}, "ceiling": {"A": 0}, "constant": {"A": 0},
           "variable_exponent": {"A": 0, "a0": 1}}  # fmt: skip
_SIZES = {("broken", "d"), ("hill", "h")}  # coordinates that are logarithms over the reference size


@dataclasses.dataclass(frozen=True)
class Limits:
    """Values of parameters that are given, and bounds that replace a law's own, by the parameters' names."""

    fixed: Mapping[str, float] = dataclasses.field(default_factory=dict)
    bounds: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)

    def of(self, law: Law) -> "Limits":
        """Returns the limits of the parameters that a law has."""
        return Limits(
            {name: value for name, value in self.fixed.items() if name in law.names},
            {name: value for name, value in self.bounds.items() if name in law.names},
        )

    def pairs(self) -> dict[str, tuple[float, float]]:
        """Returns the least and the greatest value of each parameter that has any here."""
        return {**self.bounds, **{name: (value, value) for name, value in self.fixed.items()}}

    def obstacle(self, law: Law, shape: Shape) -> str:
        """Returns the parameter that cannot be limited in a law; empty if all can."""
        known = {*(each.name for each in shape.theta), *_AT_ONE.get(law.name, {})}
        known |= {law.names[0]} if shape.floor else set()
        return next((name for name in self.pairs() if name not in known), "")

    def at_one(self, law: Law) -> bool:
        """Says whether the reference size must be 1."""
        return any(name in _AT_ONE.get(law.name, {}) for name in self.pairs())

    def narrow(
        self, law: Law, shape: Shape, limits: tuple[np.ndarray, np.ndarray], y_ref: float, log_ref: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the coordinates' limits with these in their places.

        Args:
          law: whose parameters are named.
          shape: how it reads in coordinates.
          limits: the coordinates' own.
          y_ref: the unit of their y.
          log_ref: the logarithm of their unit of x.
        """
        lower, upper = limits[0].copy(), limits[1].copy()
        first = int(shape.floor)
        for name, (low, high) in self.pairs().items():
            if first and name == law.names[0]:
                place, scaled = 0, (low / y_ref, high / y_ref)
            elif name in _AT_ONE.get(law.name, {}):
                place = first + _AT_ONE[law.name][name]
                scaled = (low, high) if place > first else (low / y_ref, high / y_ref)
                scaled = (-scaled[1], -scaled[0]) if shape.rises and place == first else scaled
            else:
                place = first + 1 + [each.name for each in shape.theta].index(name)
                scaled = (low, high)
                if (law.name, name) in _SIZES:
                    scaled = tuple(math.log(max(end, 1e-300)) - log_ref for end in scaled)  # type: ignore
            lower[place], upper[place] = scaled
        return lower, upper
