"""Scaling laws; numpy and scipy only, usable without JAX.

from cvfp_jax import scaling

points = scaling.read("runs.csv", x="tokens", y="loss")  # or a data frame
fit = scaling.fit("saturating", points.x, points.y)      # a FittedLaw
fit.predict(1e12), fit.interval(1e12), fit.interval("a")
fit.plot(); print(fit.summary())
scaling.compare(points.x, points.y).selection.verdict
scaling.fit("chinchilla", [params, tokens], losses)      # two variables
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cvfp_jax.scaling.notebook import FittedLaw, Table, compare, fit, fit_many, read
    from cvfp_jax.scaling.own_law import OwnLaw

__all__ = ["FittedLaw", "OwnLaw", "Table", "compare", "fit", "fit_many", "read"]
_OWN_LAW = "OwnLaw"


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "own_law" if name == _OWN_LAW else "notebook"
    return getattr(importlib.import_module(f"cvfp_jax.scaling.{module}"), name)


def __dir__() -> list[str]:
    """The public names."""
    return list(__all__)
