"""The flat token stream of a corpus: no separators, sample boundaries beside it."""

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np

from cvfp_jax.data import cache, mapped, tokenizer
from cvfp_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class TokenizedText:
    """Token ids of consecutive samples; sample i is ``ids[boundaries[i]:boundaries[i + 1]]``."""

    ids: np.ndarray  # int32 [N]
    boundaries: np.ndarray  # int64 [samples + 1], from 0 to N
    made_from: str  # hash of what decides the ids

    def first(self, num_samples: int) -> np.ndarray:
        """Returns the ids of the first samples.

        >>> TokenizedText(np.arange(5), np.array([0, 2, 5]), "").first(1).tolist()
        [0, 1]
        """
        return self.ids[: self.boundaries[num_samples]]

    def renumbered(self, vocabulary: "Vocabulary") -> "TokenizedText":
        """Returns the stream in a model's own numbers, kept on disk where they are not GPT-2's."""
        if vocabulary.size == tokenizer.VOCAB_SIZE:
            return self

        def pieces() -> Iterator[np.ndarray]:
            return map(vocabulary.renumber, mapped.chunks(self.ids))

        key: list[cache.Part] = [self.made_from, vocabulary.token_ids.data]
        ids, _ = mapped.cached_pieces("renumbered", key, pieces)
        return TokenizedText(ids, self.boundaries, cache.content_hash(key))


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


def tokenize(texts: Iterable[str], texts_hash: str, max_sample_tokens: int = 0) -> TokenizedText:
    """Encodes samples as one stream, written to the disk as they are read, and kept by their hash.

    Args:
      texts: one text a sample; read only if the stream is not on the disk.
      texts_hash: their ``cache.content_hash``.
      max_sample_tokens: a sample is cut to its first so many tokens; 0 keeps it whole.

    Returns:
      The stream of all samples, memory-mapped.

    Raises:
      UserError: the texts are not those of the hash.

    >>> texts = ["Hello world", "Hello"]
    >>> tokenize(texts, cache.content_hash(texts), max_sample_tokens=1).ids.tolist()
    [15496, 15496]
    """

    def pieces() -> Iterator[np.ndarray]:
        digest = cache.Digest()
        for ids in tokenizer.encode(digest.over(texts)):
            yield ids[: max_sample_tokens or None]
        if digest.hexdigest() != texts_hash:
            raise UserError("the corpus has changed while it was read: start the same command again.")

    key = ["gpt2", str(max_sample_tokens), texts_hash]
    ids, boundaries = mapped.cached_pieces("tokens", key, pieces)
    return TokenizedText(ids, boundaries, cache.content_hash(key))


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The tokens that a model knows, as sorted GPT-2 ids; a model's own ids are places in this list."""

    token_ids: np.ndarray  # int32 [V]

    @property
    def size(self) -> int:
        """The number of tokens, V."""
        return len(self.token_ids)

    def renumber(self, ids: np.ndarray) -> np.ndarray:
        """Returns the model's ids of GPT-2 ids.

        Raises:
          ValueError: the vocabulary does not hold all of them.

        >>> Vocabulary(np.array([5, 9])).renumber(np.array([9, 9, 5])).tolist()
        [1, 1, 0]
        """
        places, known = self._find(ids)
        if not np.all(known):
            missing = np.unique(np.asarray(ids)[~known])
            raise ValueError(f"the vocabulary does not hold the GPT-2 ids {', '.join(map(str, missing[:5]))}")
        return places

    def knows(self, ids: np.ndarray) -> np.ndarray:
        """Says of each GPT-2 id whether the vocabulary holds it.

        >>> Vocabulary(np.array([5, 9])).knows(np.array([9, 7, 10])).tolist()
        [True, False, False]
        """
        return self._find(ids)[1]

    def _find(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where GPT-2 ids stand among the vocabulary's, int32, and whether they do."""
        places = np.searchsorted(self.token_ids, ids).astype(np.int32)
        return places, self.token_ids.take(places, mode="clip") == ids


def full_vocabulary() -> Vocabulary:
    """Returns all of GPT-2's tokens, so that a model's ids are GPT-2's."""
    return Vocabulary(np.arange(tokenizer.VOCAB_SIZE, dtype=np.int32))


def distinct_ids(*streams: np.ndarray) -> np.ndarray:
    """Returns the sorted ids that occur in any of the streams, all of them below GPT-2's size.

    >>> distinct_ids(np.array([9, 5, 9]), np.array([7])).tolist()
    [5, 7, 9]
    """
    occurs = np.zeros(tokenizer.VOCAB_SIZE, bool)
    for ids in streams:
        for chunk in mapped.chunks(ids):
            occurs[chunk] = True
    return np.flatnonzero(occurs).astype(np.int32)


def corpus_vocabulary(ids: np.ndarray) -> Vocabulary:
    """Returns the tokens that occur in a text.

    >>> corpus_vocabulary(np.array([9, 5, 9])).token_ids.tolist()
    [5, 9]
    """
    return Vocabulary(distinct_ids(ids))
