"""The implementations that are compared, loaded when they are needed."""

import importlib
from types import ModuleType

from benchmarks import parts
from benchmarks.parts import Part
from cvfp_jax.errors import UserError

OURS, TORCH = "ours", "torch"
# The other parts have no product that autocast would change, and are f32 on both sides.
_IN_BF16 = {parts.PHASE1, parts.PARALLEL, parts.TRAIN, parts.EVALUATE}


def load(side: str) -> ModuleType:
    """Returns a side's module, which has ``prepare(part, precision)``.

    Raises:
      UserError: it needs PyTorch, and there is none.
    """
    if side == OURS:
        return importlib.import_module("benchmarks.ours")
    try:
        import torch  # noqa: F401
    except ImportError:
        raise UserError(
            "PyTorch is not installed: pip install -e '.[bench]' (its CPU build will do), or measure this"
            " project alone with --ours_only."
        ) from None
    return importlib.import_module("benchmarks.plain_torch")


def has_precision(part: Part, precision: str) -> bool:
    """Says whether PyTorch computes a part otherwise in this precision than in f32."""
    return precision != "f32" and part.kind in _IN_BF16
