"""A model on the disk: its weights, and what it takes to use them. Nothing that is read is executed.

``model.safetensors`` has every array but the embedding table; ``model.json`` the config, where the table is,
and the sha256 of both.
"""

import dataclasses
import io
import json
import os
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.numpy import load as from_safetensors
from safetensors.numpy import save as to_safetensors

from cvfp_jax.config.overrides import flat_fields, replace
from cvfp_jax.config.settings import RunConfig
from cvfp_jax.core.model import Head, LanguageModel
from cvfp_jax.data import embedding
from cvfp_jax.data.cache import content_hash
from cvfp_jax.data.stream import Vocabulary, full_vocabulary
from cvfp_jax.errors import UserError, file_error
from cvfp_jax.runtime.files import write_atomic
from cvfp_jax.runtime.version import VERSION

WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"
# Raise it when the meaning of a file changes.
FORMAT = 1
_TABLE = ("embedding", "table")
_TOKEN_IDS = "vocabulary.token_ids"


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """A trained model and what it was made from."""

    model: LanguageModel
    config: RunConfig
    vocabulary: Vocabulary
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)  # what a record says of it


def save(trained: Trained, folder: Path, tables: Path | None = None) -> None:
    """Writes a model.

    A table that can be had again (GPT-2's, a file's, a random one) is named only; the spectral one, which was
    learned from the training text, is written, once for all models that share it.

    Args:
      trained: the model.
      folder: where its files go; made if it is missing.
      tables: where its table goes; beside it by default.

    Raises:
      UserError: a file cannot be written.
    """
    model, config = trained.model, trained.config
    table_VxE = np.asarray(model.embedding.table[...])
    table_hash = content_hash([table_VxE.tobytes()])
    tensors = {name: np.asarray(array) for name, array in _arrays(model).items()}
    if trained.vocabulary.size != full_vocabulary().size:
        tensors[_TOKEN_IDS] = np.ascontiguousarray(trained.vocabulary.token_ids)
    weights = to_safetensors(tensors)
    table_path = None
    if config.data.embedding == "spectral":
        table_path = (tables or folder) / f"table-{table_hash[:16]}.npy"
    description = {
        "format": FORMAT,
        "cvfp_jax": VERSION,
        "config": flat_fields(config),
        "vocab_size": trained.vocabulary.size,
        "weights_sha256": content_hash([weights]),
        "embedding": {
            "source": config.data.embedding,
            "sha256": table_hash,
            "file": None if table_path is None else _relative(table_path, folder),
        },
        "facts": trained.facts,
    }
    try:
        if table_path is not None and not _is_table(table_path, table_hash):
            write_atomic(table_path, _npy(table_VxE))
        write_atomic(folder / WEIGHTS, weights)
        write_atomic(folder / DESCRIPTION, _sealed(description))
    except OSError as error:
        raise file_error(
            f"cannot write the model in {folder}: {error.strerror}; make room for it.", error
        ) from None


def load(folder: Path, source: str | None = None) -> Trained:
    """Reads a model.

    Args:
      folder: what ``save`` was given.
      source: where its embedding table is now, ``file:PATH`` or ``gpt2``, if that has changed.

    Raises:
      UserError: a file is missing, has changed, or the table is not the one that the model was trained on.
    """
    description = read_description(folder / DESCRIPTION)
    tensors = _read_weights(folder / WEIGHTS, description["weights_sha256"])
    config = replace(RunConfig(), description["config"])
    token_ids = tensors.pop(_TOKEN_IDS, None)
    vocabulary = full_vocabulary() if token_ids is None else Vocabulary(token_ids)
    table_VxE = _table(folder, description["embedding"], config, vocabulary, source)
    model = LanguageModel(config.model, jnp.asarray(table_VxE), config.precision, rngs=nnx.Rngs(0))
    if model.head is None and "head.table" in tensors:  # a tied head that was trained
        model.head = Head(*table_VxE.shape)
    arrays = _arrays(model)
    expected = {name: array.shape for name, array in arrays.items()}
    if expected != {name: array.shape for name, array in tensors.items()}:
        raise UserError(f"{folder / WEIGHTS} does not hold the arrays of its config: copy the folder again.")
    flat = dict(nnx.to_flat_state(nnx.state(model)))
    for path, value in flat.items():
        if path != _TABLE:
            value[...] = jnp.asarray(tensors[_name(path)])
    nnx.update(model, nnx.from_flat_state(flat))
    return Trained(model, config, vocabulary, description["facts"])


def _name(path: tuple[Any, ...]) -> str:
    return ".".join(map(str, path))


def _arrays(model: LanguageModel) -> dict[str, Any]:
    """The arrays of a model by name, without the embedding table."""
    state = nnx.to_flat_state(nnx.state(model))
    return {_name(path): value[...] for path, value in state if path != _TABLE}


def _relative(path: Path, folder: Path) -> str:
    """A path from a folder, so that both can be moved together."""
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _is_table(path: Path, table_hash: str) -> bool:
    """Whether a file holds a table; one that cannot be read is written anew."""
    try:
        return content_hash([embedding.read_table(path).tobytes()]) == table_hash
    except UserError:
        return False


def _sealed(description: dict[str, Any]) -> bytes:
    """A description as JSON, with the hash of what it says."""
    seal = content_hash([json.dumps(description, sort_keys=True)])
    return (json.dumps({**description, "sha256": seal}, indent=1) + "\n").encode()


def _damaged(path: Path, why: str) -> UserError:
    return UserError(f"{path} {why}: copy it again, or delete its cell's record and train it again.")


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(
            f"{path} is not there: name the folder of a model; a sweep leaves one a cell, in cells/ of its"
            " --workdir, unless it ran with --keep=none."
        ) from None
    except OSError as error:
        raise file_error(f"cannot read {path}: {error.strerror}; check its permissions.", error) from None


def read_description(path: Path) -> dict[str, Any]:
    """Returns what a model's description says, once its hash is right."""
    data = _read_bytes(path)
    try:
        description = json.loads(data)
        seal = description.pop("sha256")
        if content_hash([json.dumps(description, sort_keys=True)]) != seal:
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise _damaged(path, "is damaged") from None
    if description["format"] != FORMAT:
        raise UserError(
            f"{path} is of format {description['format']}, written by cvfp_jax {description['cvfp_jax']}:"
            f" this is {VERSION}, which reads format {FORMAT}; use the version that wrote it."
        )
    return description


def _read_weights(path: Path, sha256: str) -> dict[str, np.ndarray]:
    data = _read_bytes(path)
    if content_hash([data]) != sha256:
        raise _damaged(path, "has changed since it was written")
    return from_safetensors(data)


def _table(
    folder: Path, described: dict[str, Any], config: RunConfig, vocabulary: Vocabulary, source: str | None
) -> np.ndarray:
    """The embedding table that a model was trained on."""
    where, path = source or described["source"], None
    if source is None and described["file"] is not None:
        path = folder / described["file"]
        if not path.is_file():
            raise UserError(f"{path}, the embedding table of {folder}, is not there: move both together.")
        table_VxE = embedding.read_table(path)
    else:
        config = replace(config, {"data.embedding": where})
        none = np.zeros(0, np.int32)
        table_VxE = embedding.load_table(where, vocabulary, config.model.embed_dim, none, config.seed)
    found = content_hash([table_VxE.tobytes()])
    if found != described["sha256"]:
        raise UserError(
            f"embedding {path or where} is not the table that {folder} was trained on (sha256 {found[:12]},"
            f" not {described['sha256'][:12]}): give that one with --embedding=file:PATH."
        )
    return table_VxE
