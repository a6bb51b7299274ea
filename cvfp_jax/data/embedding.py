"""Frozen embedding tables: GPT-2's, a file's, the text's own, or random."""

import functools
import logging
from pathlib import Path

import numpy as np

from cvfp_jax.data import spectral
from cvfp_jax.data.hub import offline_if_unreachable
from cvfp_jax.data.stream import Vocabulary
from cvfp_jax.data.text.decoding import check_pointer
from cvfp_jax.data.tokenizer import VOCAB_SIZE
from cvfp_jax.errors import UserError

GPT2 = "openai-community/gpt2"
RANDOM_STD = 0.02
# GPT-2's table, and the head that is tied to it where a file has that alone.
_TENSOR_NAMES = ("wte.weight", "transformer.wte.weight", "lm_head.weight")
_WRAPPERS = ("_orig_mod.", "module.", "model.")  # what compiled and parallel models put before a name
# Training programs pad the vocabulary to a multiple of this, for speed.
_PADDED_TO, _MOST_PADDING = 64, 1024


def load_table(
    embedding: str, vocabulary: Vocabulary, embed_dim: int, train_ids: np.ndarray, seed: int
) -> np.ndarray:
    """Returns the table of a model's tokens.

    Args:
      embedding: ``gpt2``, ``file:PATH``, ``spectral`` or ``random``.
      vocabulary: the V tokens that the model knows.
      embed_dim: E.
      train_ids: int [N], the training tokens in the model's numbers, which ``spectral`` learns from.
      seed: seed of ``random``.

    Returns:
      Float32 [V, E].

    Raises:
      UserError: the embedding cannot be read, or has another shape.

    >>> from cvfp_jax.data.stream import full_vocabulary
    >>> load_table("random", full_vocabulary(), 4, np.zeros(0), seed=0).shape
    (50257, 4)
    """
    place = embedding.partition(":")[2]
    if embedding == "spectral":
        return spectral.spectral_table(train_ids, vocabulary.size, embed_dim)
    if embedding == "random":
        shape = (VOCAB_SIZE, embed_dim)
        table = np.random.default_rng(seed).normal(0.0, RANDOM_STD, shape).astype(np.float32)
    elif embedding == "gpt2":
        table = read_table(_download_gpt2())
    else:
        table = read_table(_file(place))
    if table.shape[1] == VOCAB_SIZE != table.shape[0]:
        raise UserError(
            f"embedding {embedding} is transposed: its shape {table.shape} must be ({VOCAB_SIZE},"
            " dimensions); save its transpose, table.T."
        )
    if table.shape[1] != embed_dim:
        raise UserError(
            f"embedding {embedding} has {table.shape[1]} dimensions, but config.model.embed_dim={embed_dim}:"
            f" add --config.model.embed_dim={table.shape[1]}."
        )
    padding = table.shape[0] - VOCAB_SIZE
    if padding and not (0 < padding < _MOST_PADDING and table.shape[0] % _PADDED_TO == 0):
        raise UserError(
            f"embedding {embedding} has {table.shape[0]} rows: it must have one for each of GPT-2's"
            f" {VOCAB_SIZE} tokens, in their order."
        )
    if padding:
        _say(
            f"embedding {embedding}: of {table.shape[0]:,} rows the last {padding} are padding, and left out"
        )
    return table[vocabulary.token_ids]


@functools.cache
def _say(text: str) -> None:
    """Tells the user something, once, however many cells read the table."""
    logging.warning(text)


def _download_gpt2() -> Path:
    """Finds GPT-2's weights in the hub's local cache, or downloads them."""
    offline = "for an offline run use --embedding=spectral or --embedding=file:PATH"
    try:
        with offline_if_unreachable():
            import huggingface_hub

            return Path(huggingface_hub.hf_hub_download(GPT2, "model.safetensors"))
    except ImportError:
        raise UserError(f"embedding gpt2 needs an extra: pip install 'cvfp-jax[hub]'; {offline}.") from None
    except Exception as error:  # the library and its transport raise many kinds
        raise UserError(
            f"embedding gpt2 could not be downloaded ({type(error).__name__}: {error});"
            f" check the network, or {offline}."
        ) from None


def _file(place: str) -> Path:
    try:
        return Path(place).expanduser()
    except RuntimeError as error:  # an unknown user's home
        raise UserError(f"embedding file:{place} cannot be used ({error}): give another path.") from None


def read_table(path: Path) -> np.ndarray:
    """Reads a table of token vectors; nothing in the file is executed.

    Args:
      path: a .npy file, a .npz file with one array, or a .safetensors file with ``wte.weight``,
        ``lm_head.weight`` or one tensor.

    Returns:
      Float32 [rows, E], every entry finite.

    Raises:
      UserError: the file cannot be read or holds something else.
    """
    readers = {".npy": _read_npy, ".npz": _read_npz, ".safetensors": _read_safetensors}
    kind = path.suffix.lower()
    if kind not in readers:
        raise UserError(f"embedding file {path} is of an unknown kind: it must be {' or '.join(readers)}.")
    if not path.is_file():
        raise UserError(f"embedding file {path} does not exist: give the path of a file.")
    with path.open("rb") as file:
        check_pointer(path, file.read(64))
    try:
        table = readers[kind](path)
    except UserError:
        raise
    except Exception as error:  # each format's parser has errors of its own
        raise UserError(f"embedding file {path} cannot be read ({error}); export it again.") from None
    if table.dtype.name == "bfloat16":  # no number of NumPy's own
        table = table.astype(np.float32)
    if table.ndim != 2 or table.dtype.kind not in "fiu" or 0 in table.shape:
        raise UserError(
            f"embedding file {path} holds {table.dtype} of shape {table.shape}: it must hold numbers of shape"
            " (tokens, dimensions)."
        )
    table = table.astype(np.float32)
    if table.size > 1 and table.min() == table.max():
        raise UserError(
            f"embedding file {path} holds {table.flat[0]:g} everywhere, and tells no token from another:"
            " export it again."
        )
    if not np.isfinite(table).all():
        row = int(np.argwhere(~np.isfinite(table))[0][0])
        raise UserError(
            f"embedding file {path} has a number that is not finite in row {row}; export it again."
        )
    return table


def _read_npy(path: Path) -> np.ndarray:
    return np.asarray(np.load(path, allow_pickle=False))


def _read_npz(path: Path) -> np.ndarray:
    # Opened here, because numpy leaves a file open that turns out to be no archive.
    with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
        return file[_only_name(list(file), path)]


def _read_safetensors(path: Path) -> np.ndarray:
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        return file.get_tensor(_only_name(list(file.keys()), path))


def _only_name(names: list[str], path: Path) -> str:
    """Chooses GPT-2's token table, or the only array that there is."""
    plain = {_unwrapped(name): name for name in names}
    for name in _TENSOR_NAMES:
        if name in plain:
            return plain[name]
    if len(names) == 1:
        return names[0]
    raise UserError(
        f"embedding file {path} holds {len(names)} arrays ({', '.join(names[:5])}): it must hold one, or one"
        f" named {_TENSOR_NAMES[0]}."
    )


def _unwrapped(name: str) -> str:
    """Returns a tensor's name without what wraps the model.

    >>> _unwrapped("_orig_mod.module.transformer.wte.weight")
    'transformer.wte.weight'
    """
    for wrapper in _WRAPPERS:
        if name.startswith(wrapper):
            return _unwrapped(name.removeprefix(wrapper))
    return name
