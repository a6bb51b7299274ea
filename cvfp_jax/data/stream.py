"""The flat token stream of a corpus: no separators, sample boundaries beside it."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from cvfp_jax.data import cache, tokenizer


@dataclasses.dataclass(frozen=True)
class TokenStream:
    """Token ids of consecutive samples; sample i is ``ids[boundaries[i]:boundaries[i + 1]]``."""

    ids: np.ndarray  # int32 [N]
    boundaries: np.ndarray  # int64 [samples + 1], from 0 to N

    def first(self, num_samples: int) -> np.ndarray:
        """Returns the ids of the first samples.

        >>> TokenStream(np.arange(5), np.array([0, 2, 5])).first(1).tolist()
        [0, 1]
        """
        return self.ids[: self.boundaries[num_samples]]


def split_tail(ids: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Cuts a stream in two: the last ``int(share * N)`` tokens validate, those before them train.

    Args:
      ids: int [N].
      share: of the tokens, above 0 and below 1.

    Returns:
      The training and the validation ids; either can be empty where N is small.

    >>> [part.tolist() for part in split_tail(np.arange(8), 0.3)]
    [[0, 1, 2, 3, 4, 5], [6, 7]]
    """
    cut = len(ids) - int(share * len(ids))
    return ids[:cut], ids[cut:]


def tokenize(texts: Sequence[str], max_sample_tokens: int = 0) -> TokenStream:
    """Encodes samples as one stream, kept on disk by the hash of the texts.

    Args:
      texts: one text a sample.
      max_sample_tokens: a sample is cut to its first so many tokens; 0 keeps it whole.

    Returns:
      The stream of all samples.

    >>> tokenize(["Hello world", "Hello"], max_sample_tokens=1).ids.tolist()
    [15496, 15496]
    """

    def make() -> dict[str, np.ndarray]:
        samples = tokenizer.encode(texts)
        if max_sample_tokens:
            samples = [ids[:max_sample_tokens] for ids in samples]
        return {
            "ids": np.concatenate([np.zeros(0, np.int32), *samples]),
            "boundaries": np.cumsum([0, *map(len, samples)], dtype=np.int64),
        }

    arrays = cache.cached_arrays(
        "tokens", {"ids", "boundaries"}, ["gpt2", str(max_sample_tokens), *texts], make
    )
    return TokenStream(arrays["ids"], arrays["boundaries"])


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The tokens that a model knows, as sorted GPT-2 ids; a model's own ids are places in this list."""

    token_ids: np.ndarray  # int32 [V]

    @property
    def size(self) -> int:
        """The number of tokens, V."""
        return len(self.token_ids)

    def renumber(self, ids: np.ndarray) -> np.ndarray:
        """Returns the model's ids of GPT-2 ids, all of which the vocabulary must hold.

        >>> Vocabulary(np.array([5, 9])).renumber(np.array([9, 9, 5])).tolist()
        [1, 1, 0]
        """
        return np.searchsorted(self.token_ids, ids).astype(np.int32)


def full_vocabulary() -> Vocabulary:
    """Returns all of GPT-2's tokens, so that a model's ids are GPT-2's."""
    return Vocabulary(np.arange(tokenizer.VOCAB_SIZE, dtype=np.int32))


def corpus_vocabulary(ids: np.ndarray) -> Vocabulary:
    """Returns the tokens that occur in a text.

    >>> corpus_vocabulary(np.array([9, 5, 9])).token_ids.tolist()
    [5, 9]
    """
    return Vocabulary(np.unique(ids).astype(np.int32))
