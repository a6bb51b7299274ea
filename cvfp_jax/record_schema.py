"""The fields that every record has, and what may stand in them."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

_MOST = 2**63  # whole numbers beyond it have no float and no array to stand in
_SHOWN = 40


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a field may hold."""

    words: str
    holds: Callable[[Any], bool]


def _or_null(kind: Kind) -> Kind:
    return Kind(f"{kind.words} or null", lambda value: value is None or kind.holds(value))


def _whole(value: Any, least: int) -> bool:
    return type(value) is int and least <= value < _MOST  # not isinstance: True is an int


def _number(value: Any) -> bool:
    return _whole(value, -_MOST) or (type(value) is float and math.isfinite(value))


_TEXT = Kind("a text", lambda value: isinstance(value, str))
_FLAG = Kind("true or false", lambda value: isinstance(value, bool))
_COUNT = Kind("a whole number from 0 on", lambda value: _whole(value, 0))
_SIZE = Kind("a whole number from 1 on", lambda value: _whole(value, 1))
_NUMBER = Kind("a number", _number)
_POSITIVE = Kind("a number above 0", lambda value: _number(value) and value > 0)
_COUNTS = Kind(
    "a list of whole numbers", lambda value: isinstance(value, list) and all(_whole(v, 0) for v in value)
)
_OBJECT = Kind("an object", lambda value: isinstance(value, dict))

# Null is what was not reached or was not finite.
SCHEMA: dict[str, Kind] = {
    **dict.fromkeys(("experiment", "preset"), _TEXT),
    "cell": _OBJECT,
    **dict.fromkeys(("series", "status", "config_name"), _TEXT),
    **dict.fromkeys(("context_dim", "num_layers", "num_input_tokens", "embed_dim"), _SIZE),
    **dict.fromkeys(("vocab_size", "num_samples", "train_tokens"), _SIZE),
    "val_tokens": _COUNT,
    **dict.fromkeys(("corpus", "corpus_sha256", "embedding", "embedding_sha256", "vocabulary"), _TEXT),
    **dict.fromkeys(("params_context_block", "params_token_block", "params_head", "params_total"), _COUNT),
    **dict.fromkeys(("params_trainable_phase2", "phase1_iterations"), _COUNT),
    "phase1_status": _TEXT,
    "phase1_convergence_rate": _or_null(_NUMBER),
    "phase1_block_iterations": _COUNTS,
    **dict.fromkeys(("phase1_loss", "residual_mean", "residual_max"), _or_null(_NUMBER)),
    **dict.fromkeys(("train_effective_rank", "val_effective_rank"), _or_null(_NUMBER)),
    **dict.fromkeys(("rank_verdict", "val_convergence_status"), _or_null(_TEXT)),
    "val_convergence_slope": _or_null(_NUMBER),
    **dict.fromkeys(("is_identity", "is_zero_solution", "is_global_attractor"), _or_null(_FLAG)),
    **dict.fromkeys(("context_norm_mean", "context_distance_mean"), _or_null(_NUMBER)),
    "phase2_epochs": _COUNT,
    "phase2_status": _TEXT,
    "best_epoch": _COUNT,
    **dict.fromkeys(("train_loss", "val_loss"), _or_null(_NUMBER)),
    **dict.fromkeys(("train_ppl", "val_ppl"), _or_null(_POSITIVE)),
    "val_acc": _or_null(_NUMBER),
    "unigram_loss": _NUMBER,
    "unigram_ppl": _POSITIVE,
    "seed": _COUNT,
    **dict.fromkeys(("precision", "device"), _TEXT),
    **dict.fromkeys(("phase1_seconds", "contexts_seconds", "effective_rank_seconds"), _NUMBER),
    **dict.fromkeys(("diagnostics_seconds", "phase2_seconds", "compile_seconds"), _NUMBER),
}


def misfit(record: dict[str, Any]) -> str | None:
    """Returns what is wrong with the first field that holds what it may not; None if all are fine.

    Args:
      record: a value for each field of ``SCHEMA``, and others.

    >>> misfit({name: 1 for name in SCHEMA})
    'experiment=1 is not a text'
    """
    for name, kind in SCHEMA.items():
        if not kind.holds(record[name]):
            shown = repr(record[name])
            shown = shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "..."
            return f"{name}={shown} is not {kind.words}"
    return None
