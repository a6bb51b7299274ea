"""Train and study context-vector-fixed-point (CVFP) language models, and fit scaling laws to them.

    import cvfp_jax as cj

    cell = cj.train(corpus="text:notes.txt", samples=50)     # a CellResult
    cell.plot()                                              # the curves of both phases
    cell.model.generate("The function returns").text         # a TrainedModel continues text
    model = cj.load("runs/context_dim-quick")                # the best model of a sweep
    model.score("some text").perplexity
    report = cj.sweep("context_dim", samples=[25, 50, 100])  # what launch.py does
    cj.fit_law("saturating", tokens, perplexities).plot()    # a LawFit

Nothing heavy is imported before it is used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from cvfp_jax.runtime.version import VERSION

if TYPE_CHECKING:
    from cvfp_jax.api import LawFit, effective_rank, fit_law, load, read_points, sweep, train
    from cvfp_jax.errors import UserError
    from cvfp_jax.generation.trained import TrainedModel
    from cvfp_jax.report.document import SweepReport
    from cvfp_jax.sweeps.result import CellResult

__version__ = VERSION

_MODULES = {
    **dict.fromkeys(
        ("train", "sweep", "load", "effective_rank", "fit_law", "read_points", "LawFit"), "cvfp_jax.api"
    ),
    "CellResult": "cvfp_jax.sweeps.result",
    "TrainedModel": "cvfp_jax.generation.trained",
    "SweepReport": "cvfp_jax.report.document",
    "UserError": "cvfp_jax.errors",
}
__all__ = [
    "CellResult",
    "LawFit",
    "SweepReport",
    "TrainedModel",
    "UserError",
    "effective_rank",
    "fit_law",
    "load",
    "read_points",
    "sweep",
    "train",
]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first asked for."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    """The public names."""
    return [*__all__, "__version__"]
