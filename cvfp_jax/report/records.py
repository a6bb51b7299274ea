"""Records of finished cells: a file of JSON objects, one a line."""

import contextlib
import dataclasses
import json
import math
import os
import re
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import Any

from cvfp_jax.data.cache import content_hash
from cvfp_jax.errors import UserError, file_error

FILE_NAME = "records.jsonl"
OK = "ok"
CELLS = "cells"  # the folder of what cells leave beside their records

Record = dict[str, Any]

_INT_LIMIT = 2**63  # of NumPy's integers
_LONGEST_NAME = 100  # of a series, in the name of a folder
_MAX_SHOWN = 40  # characters of a wrong value
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a field may hold: in words, and as a test of a value."""

    words: str
    holds: Callable[[Any], bool]


def _or_null(kind: Kind) -> Kind:
    return Kind(f"{kind.words} or null", lambda value: value is None or kind.holds(value))


def _is_whole(value: Any, least: int) -> bool:
    return type(value) is int and least <= value < _INT_LIMIT  # not isinstance: True is an int


def _is_number(value: Any) -> bool:
    return _is_whole(value, -_INT_LIMIT) or (type(value) is float and math.isfinite(value))


_TEXT = Kind("a text", lambda value: isinstance(value, str))
_FLAG = Kind("true or false", lambda value: isinstance(value, bool))
_COUNT = Kind("a whole number from 0 on", lambda value: _is_whole(value, 0))
_SIZE = Kind("a whole number from 1 on", lambda value: _is_whole(value, 1))
_NUMBER = Kind("a number", _is_number)
_POSITIVE = Kind("a number above 0", lambda value: _is_number(value) and value > 0)
_COUNTS = Kind(
    "a list of whole numbers", lambda value: isinstance(value, list) and all(_is_whole(v, 0) for v in value)
)
_OBJECT = Kind("an object", lambda value: isinstance(value, dict))

# Every record has these; it may have more. Null stands for what was not measured or not finite.
FIELDS: dict[str, Kind] = {
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

# Records of earlier versions have none of these, and are read as if they had null.
NGRAMS = ("kn2_ppl", "kn3_ppl", "kn4_ppl")  # of Kneser-Ney models, on the same targets
# How soon contexts forget where they started.
SETTLING = ("val_lyapunov_exponent", "val_contraction_rate", "val_parallel_iterations")
# What training holds of validation, and rows of the text that were left out, by reason.
LEAKAGE = ("val_samples_in_train", "val_whole_samples", "val_runs_in_train")
_LATER = {
    **dict.fromkeys(LEAKAGE[:2], _or_null(_COUNT)),
    LEAKAGE[2]: _or_null(_NUMBER),
    "skipped_rows": _or_null(_OBJECT),
    "val_corpus": _or_null(_TEXT),  # null where the corpus validates too
    **dict.fromkeys(NGRAMS, _or_null(_POSITIVE)),
    **dict.fromkeys(SETTLING, _or_null(_NUMBER)),
    "architecture": _or_null(_TEXT),
    "params_trained": _or_null(_COUNT),
    "train_flops": _or_null(_NUMBER),
    "tuned": _or_null(_OBJECT),
    "phase1_task_loss": _or_null(_NUMBER),  # null without a lagged task
}


def misfit(record: dict[str, Any]) -> str | None:
    """Says what is wrong with the first field whose value is not of its kind; None if all are fine.

    Args:
      record: a value for each of ``FIELDS``, and others.

    >>> misfit({name: 1 for name in FIELDS})
    'experiment=1 is not a text'
    """
    for name, kind in {**FIELDS, **_LATER}.items():
        if not kind.holds(record.get(name)):
            shown = repr(record.get(name))
            shown = shown if len(shown) <= _MAX_SHOWN else shown[:_MAX_SHOWN] + "..."
            return f"{name}={shown} is not {kind.words}"
    return None


def to_json(record: Record) -> str:
    """Returns a record as a line of JSON; numbers that are not finite become null, and its status says so.

    >>> to_json({"status": "ok", "val_loss": 800.0, "val_ppl": math.inf})
    '{"status": "ok; not finite: val_ppl", "val_loss": 800.0, "val_ppl": null}'
    """
    infinite = [
        name for name, value in record.items() if isinstance(value, float) and not math.isfinite(value)
    ]
    if infinite:
        status = f"{record['status']}; not finite: {', '.join(infinite)}"
        record = {**record, **dict.fromkeys(infinite), "status": status}
    return json.dumps(record, allow_nan=False)


def append(path: Path, record: Record) -> Record:
    """Appends a record to a file, synced when this returns.

    Args:
      path: the file, made if it is missing.
      record: a value for each of ``FIELDS``, and others.

    Returns:
      The record as ``read`` will return it.

    Raises:
      KeyError: a field is missing.
      UserError: the file cannot be written.
    """
    missing = [name for name in FIELDS if name not in record]
    if missing:
        raise KeyError(f"record without {', '.join(missing)}")
    line = to_json(record)
    try:
        _append_line(path, line)
    except OSError as error:
        raise file_error(
            f"cannot write {path}: {error.strerror}; the records before are kept: make room, and give the"
            " same command again.",
            error,
        ) from None
    return json.loads(line)


def _append_line(path: Path, line: str) -> None:
    """Appends a line, all of it or nothing."""
    with path.open("ab", buffering=0) as file:
        before = os.fstat(file.fileno()).st_size
        try:
            data = line.encode() + b"\n"
            while data:
                data = data[file.write(data) :]
            os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(file.fileno(), before)
            raise


def repair(path: Path) -> bool:
    """Cuts off a last line that a killed writer left unfinished, or adds the newline that is all it lacks.

    Args:
      path: a file that ``append`` wrote, or that does not exist.

    Returns:
      Whether a line was cut off: its cell has to run again.

    Raises:
      UserError: the file cannot be written.
    """
    try:
        with path.open("r+b") as file:
            *_, last = file.read().split(b"\n")
            if not last:
                return False
            try:
                is_whole = isinstance(json.loads(last), dict)
            except (ValueError, RecursionError):
                is_whole = False
            if is_whole:
                file.write(b"\n")
            else:
                file.truncate(file.tell() - len(last))
            return not is_whole
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _unusable(path, error) from None


def _unusable(path: Path, error: OSError) -> UserError:
    return file_error(
        f"cannot use {path}: {error.strerror}; check its permissions, or use another --workdir.", error
    )


def read(path: Path) -> list[Record]:
    """Returns the records of a file; none if there is no file.

    Args:
      path: a file that ``append`` wrote.

    Returns:
      The records, in the order of the file.

    Raises:
      UserError: a line is not a record, or a field holds what it may not; the message names both.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _unusable(path, error) from None
    records = []
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line, parse_constant=_finite, parse_float=_finite)
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{path}, line {number}: not valid JSON ({error}); delete the line to run its cell again."
            ) from None
        missing = [name for name in FIELDS if not isinstance(record, dict) or name not in record]
        if missing:
            raise UserError(
                f"{path}, line {number}: not a record of this version (no {', '.join(missing[:3])});"
                " use another --workdir."
            )
        record |= {name: None for name in _LATER if name not in record}
        wrong = misfit(record)
        if wrong:
            raise UserError(
                f"{path}, line {number}: {wrong}; mend it, or delete the line to run its cell again."
            )
        records.append({name: _shown_safely(value) for name, value in record.items()})
    return records


def _shown_safely(value: Any) -> Any:
    """A value whose text, which comes from somebody's file, cannot steer the terminal that shows it."""
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], value) if isinstance(value, str) else value


def _finite(text: str) -> float:
    """Reads a number of a record, which is never NaN or infinite."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not finite")
    return value


def cell_key(axis_values: Record) -> str:
    """Returns what tells a cell from the others of its sweep: its value on each axis, sorted by name.

    >>> cell_key({"num_samples": 50, "model.context_dim": 8})
    '{"model.context_dim": 8, "num_samples": 50}'
    """
    return json.dumps(axis_values, sort_keys=True)


def failed(record: Record) -> bool:
    """Says whether a cell ended because its numbers were not finite.

    >>> failed({"status": "failed: phase 1 was not finite at iteration 2"}), failed({"status": "ok"})
    (True, False)
    """
    return bool(record["status"].startswith("failed"))


def label(record: Record) -> str:
    """Returns a cell's name for people."""
    return f"{record['series']}, {record['num_samples']} samples"


def cell_folder(record: Record) -> PurePath:
    """Returns where a cell's curves and model are in its sweep's folder: another one for each cell.

    >>> cell_folder({"series": "1L_96d_1tok, diversity=SDL", "num_samples": 200, "seed": 42}).as_posix()
    'cells/1L_96d_1tok-diversity=SDL-200-seed42'
    """
    series = record["series"].replace(", ", "-")
    safe = re.sub(r"[^A-Za-z0-9._=+-]", "_", series)[:_LONGEST_NAME]
    if safe != series:  # others may look the same
        safe += f"-{content_hash([series])[:8]}"
    return PurePath(CELLS, f"{safe}-{record['num_samples']}-seed{record['seed']}")


def seconds(record: Record) -> tuple[float, float]:
    """Returns the seconds that a cell took: of work and, apart from them, of compiling.

    >>> seconds({"phase1_seconds": 2.0, "phase2_seconds": 0.5, "compile_seconds": 4.0})
    (2.5, 4.0)
    """
    compiling = record["compile_seconds"]
    return sum(value for name, value in record.items() if name.endswith("_seconds")) - compiling, compiling
