"""The data of a sweep: read and tokenised once, then cut for each cell."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from cvfp_jax.config import DataConfig, RunConfig
from cvfp_jax.data import cache, corpus, embedding, stream, textfiles, unigram
from cvfp_jax.errors import UserError

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


@dataclasses.dataclass(frozen=True)
class SweepData:
    """The samples of a sweep's largest cell, and what validates each of its cells."""

    config: DataConfig
    train_texts: Sequence[str]
    val_texts: Sequence[str]  # none where the tail of a cell's own tokens validates
    train: stream.TokenStream  # of train_texts, tails included
    val: stream.TokenStream  # of val_texts
    vocabulary: stream.Vocabulary

    def _split(self, num_samples: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the training and validation tokens of a cell, in GPT-2's numbers."""
        ids = self.train.first(num_samples)
        share = self.config.val_tail
        return (ids, self.val.ids) if share is None else stream.split_tail(ids, share)

    def train_ids(self, num_samples: int) -> np.ndarray:
        """Returns the training tokens of a cell of so many samples, in the model's numbers."""
        return self.vocabulary.renumber(self._split(num_samples)[0])

    def val_ids(self, num_samples: int) -> np.ndarray:
        """Returns the validation tokens of a cell of so many samples, in the model's numbers."""
        return self.vocabulary.renumber(self._split(num_samples)[1])

    @property
    def capacities(self) -> tuple[int, int, int]:
        """The most training tokens, validation tokens and distinct tokens of any cell."""
        train_ids, val_ids = self._split(len(self.train_texts))
        return len(train_ids), len(val_ids), len(np.unique(np.concatenate([train_ids, val_ids])))

    def sha256(self, num_samples: int) -> str:
        """Returns the hash of a cell's texts, of what parts them, and of the vocabulary."""
        # A tail is no text of its own: what tells one from another is where it is cut.
        cut = ["validation"] if self.config.val_tail is None else ["tail", self.config.val_samples]
        texts = [*self.train_texts[:num_samples], *cut, *self.val_texts]
        return cache.content_hash([*texts, "vocabulary", self.vocabulary.token_ids.tobytes()])

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
        )


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
    held_out, known = range(0), largest
    if config.val_tail is None:
        start, stop = config.val_range()
        # Up to the end of the validation range, so that the vocabulary does not depend on the grid;
        # with tails it must, because nothing else says where the text ends.
        held_out, known = range(start, stop), range(stop)
    ranges = [largest, held_out, *([known] if config.vocabulary == "corpus" else [])]
    turns = textfiles.Turns(config.turns == "first", _SEPARATORS[config.turn_separator])
    texts = corpus.read_samples(config.corpus, ranges, turns)
    train, val, *whole = (stream.tokenize(part, config.max_sample_tokens) for part in texts)
    vocabulary = stream.corpus_vocabulary(whole[0].ids) if whole else stream.full_vocabulary()
    data = SweepData(config, texts[0], texts[1], train, val, vocabulary)
    _check_enough(data, min(sample_counts))
    return data


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
