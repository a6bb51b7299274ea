"""The data of a sweep: read and tokenised once, then cut for each cell."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np

from cvfp_jax.config.settings import DataConfig, RunConfig
from cvfp_jax.data import cache, corpus, embedding, ngram, stream, textfiles, unigram
from cvfp_jax.errors import UserError

# Training tokens up to which n-grams are counted, which takes 6 s and 1.4 GB for 10 million.
MOST_COUNTED = 30_000_000
_SEPARATORS = {"newline": "\n", "space": " "}


@dataclasses.dataclass(frozen=True)
class CellData:
    """What one cell trains and validates on, in the model's own token numbers."""

    train_ids: np.ndarray  # int32 [N]
    val_ids: np.ndarray  # int32 [M]
    table: np.ndarray  # float32 [V, E]
    corpus_sha256: str  # of the texts, of what parts training from validation, and of the vocabulary
    table_sha256: str
    unigram_loss: float  # nats a token, on the same validation targets
    capacity: int = 0  # the most training tokens of any cell of the sweep
    val_capacity: int = 0  # the most validation tokens
    distinct_capacity: int = 0  # the most distinct tokens
    # Of Kneser-Ney models of orders 2, 3 and 4, on the same targets; None if they were not counted.
    ngram_losses: tuple[float, ...] | None = None
    # What the numbers stand for; by default the first of GPT-2's.
    vocabulary: stream.Vocabulary | None = None


@dataclasses.dataclass(frozen=True)
class SweepData:
    """The tokens of a sweep's largest cell, and what validates each of its cells, in the model's numbers."""

    config: DataConfig
    num_samples: int  # of the largest cell
    num_held_out: int  # validation samples; none where the tail of a cell's own tokens validates
    tokens: stream.TokenizedText  # the largest cell's samples first and the validation samples last
    vocabulary: stream.Vocabulary
    hashes: Mapping[int, str]  # by a cell's number of samples

    def _split(self, num_samples: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the training and validation tokens of a cell."""
        ids = self.tokens.first(num_samples)
        if self.config.val_tail is not None:
            return stream.split_tail(ids, self.config.val_tail)
        held_out = self.tokens.boundaries[-1 - self.num_held_out]
        return ids, self.tokens.ids[held_out:]

    def train_ids(self, num_samples: int) -> np.ndarray:
        """Returns the training tokens of a cell of so many samples, as a view of the file."""
        return self._split(num_samples)[0]

    def val_ids(self, num_samples: int) -> np.ndarray:
        """Returns the validation tokens of a cell of so many samples, as a view of the file."""
        return self._split(num_samples)[1]

    @functools.cached_property
    def capacities(self) -> tuple[int, int, int]:
        """The most training tokens, validation tokens and distinct tokens of any cell."""
        train_ids, val_ids = self._split(self.num_samples)
        return len(train_ids), len(val_ids), len(stream.distinct_ids(train_ids, val_ids))

    def sha256(self, num_samples: int) -> str:
        """Returns the hash of a cell's texts, of what parts them, and of the vocabulary."""
        return self.hashes[num_samples]

    def cell(self, run: RunConfig) -> CellData:
        """Returns the data of one cell.

        Args:
          run: a cell of the sweep that this was loaded for.

        Returns:
          Its tokens, its embedding table and its unigram baseline.

        Raises:
          UserError: the embedding cannot be had.
        """
        train_ids, val_ids = self.train_ids(run.num_samples), self.val_ids(run.num_samples)
        table = embedding.load_table(
            self.config.embedding, self.vocabulary, run.model.embed_dim, train_ids, run.seed
        )
        return CellData(
            train_ids,
            val_ids,
            table,
            self.sha256(run.num_samples),
            cache.content_hash([table.tobytes()]),
            unigram.unigram_loss(train_ids, val_ids[1:], self.vocabulary.size),
            *self.capacities,
            self._ngram_losses(run.num_samples),
            self.vocabulary,
        )

    def _ngram_losses(self, num_samples: int) -> tuple[float, ...] | None:
        """The losses of n-gram models of a cell's tokens, kept on disk; None if there are too many tokens."""
        train_ids, val_ids = self.train_ids(num_samples), self.val_ids(num_samples)
        if len(train_ids) > MOST_COUNTED:
            return None

        def count() -> dict[str, np.ndarray]:
            losses = ngram.ngram_losses(np.asarray(train_ids), np.asarray(val_ids), self.vocabulary.size)
            return {"losses": np.array(losses)}

        # How samples are cut off, and which of them train and validate.
        key = [self.tokens.made_from, self.sha256(num_samples)]
        return tuple(cache.cached_arrays("ngram", {"losses"}, key, count)["losses"].tolist())


def load(config: DataConfig, sample_counts: Sequence[int]) -> SweepData:
    """Reads and tokenises what a sweep needs.

    Args:
      config: corpus, turns, validation range or tail, truncation and vocabulary.
      sample_counts: the training sizes of the sweep's cells, in samples.

    Returns:
      The data of the sweep.

    Raises:
      UserError: the corpus cannot be read, is too small, or leaves nothing to predict.
    """
    largest = range(max(sample_counts))
    held_out = range(0) if config.val_tail is not None else range(*config.val_range())
    # A corpus vocabulary knows all text up to the end of the validation range, so that it does not depend
    # on the grid; with tails it must, because nothing else says where the text ends.
    gaps = config.vocabulary == "corpus"
    turns = textfiles.Turns(config.turns == "first", _SEPARATORS[config.turn_separator])
    texts = corpus.Samples(config.corpus, (largest, held_out), turns, gaps)
    texts_hash, cells = _hash_texts(texts, sample_counts, len(held_out), config)
    tokens = stream.tokenize(texts, texts_hash, config.max_sample_tokens)
    vocabulary = stream.full_vocabulary()
    if gaps:
        vocabulary = stream.corpus_vocabulary(tokens.ids)
    for digest in cells.values():
        digest.add("vocabulary").add(vocabulary.token_ids.data)
    data = SweepData(
        config,
        len(largest),
        len(held_out),
        tokens.renumbered(vocabulary),
        vocabulary,
        {count: digest.hexdigest() for count, digest in cells.items()},
    )
    _check_enough(data, min(sample_counts))
    return data


def _hash_texts(
    texts: corpus.Samples, sample_counts: Sequence[int], num_held_out: int, config: DataConfig
) -> tuple[str, dict[int, cache.Digest]]:
    """Reads all texts once and returns the hash of them all, and by its size the digest of each cell's."""
    whole, cells = cache.Digest(), {}
    # A tail is no text of its own: what tells one from another is where it is cut.
    cut = ["validation"] if config.val_tail is None else ["tail", config.val_samples]
    trained = len(texts) - num_held_out
    for count, text in enumerate(whole.over(texts), 1):
        if count in sample_counts:
            cells[count] = whole.copy()
            for part in cut:
                cells[count].add(part)
        if count > trained:
            for digest in cells.values():
                digest.add(text)
    return whole.hexdigest(), cells


def _check_enough(data: SweepData, smallest: int) -> None:
    """Refuses a sweep whose smallest cell leaves nothing to predict."""
    train_tokens, val_tokens = len(data.train_ids(smallest)), len(data.val_ids(smallest))
    if min(train_tokens, val_tokens) >= 2:
        return
    if data.config.val_tail is None:
        raise UserError(
            f"the {smallest} smallest training samples hold {train_tokens} tokens and the validation samples"
            f" {val_tokens}: each needs 2 or more, so use more samples."
        )
    raise UserError(
        f"the {smallest} smallest training samples hold {train_tokens + val_tokens} tokens, of which"
        f" val_samples={data.config.val_samples} leaves {train_tokens} to train on and {val_tokens} to"
        " validate on: each needs 2 or more, so use more samples or another share."
    )
