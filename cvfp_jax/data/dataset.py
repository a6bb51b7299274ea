"""The data of a sweep: read and tokenised once, then cut for each cell."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from cvfp_jax.config import DataConfig, RunConfig
from cvfp_jax.data import cache, corpus, embedding, stream, unigram
from cvfp_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class CellData:
    """What one cell trains and validates on, in the model's own token numbers."""

    train_ids: np.ndarray  # int32 [N]
    val_ids: np.ndarray  # int32 [M]
    table: np.ndarray  # float32 [V, E]
    corpus_sha256: str  # of the training and validation texts and the vocabulary
    table_sha256: str
    unigram_loss: float  # nats a token, on the same validation targets
    capacity: int = 0  # the most training tokens of any cell of the sweep


@dataclasses.dataclass(frozen=True)
class SweepData:
    """The largest training set of a sweep and its validation set."""

    config: DataConfig
    train_texts: Sequence[str]
    val_texts: Sequence[str]
    train: stream.TokenStream
    val_ids: np.ndarray  # int32 [M], in the model's numbers
    vocabulary: stream.Vocabulary

    def train_ids(self, num_samples: int) -> np.ndarray:
        """Returns the first samples' ids, in the model's numbers."""
        return self.vocabulary.renumber(self.train.first(num_samples))

    def sha256(self, num_samples: int) -> str:
        """Returns the hash of the training and validation texts of a cell, and of the vocabulary."""
        texts = [*self.train_texts[:num_samples], "validation", *self.val_texts]
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
        train_ids = self.train_ids(run.num_samples)
        table = embedding.load_table(
            self.config.embedding, self.vocabulary, run.model.embed_dim, train_ids, run.seed
        )
        return CellData(
            train_ids,
            self.val_ids,
            table,
            self.sha256(run.num_samples),
            cache.content_hash([table.tobytes()]),
            unigram.unigram_loss(train_ids, self.val_ids[1:], self.vocabulary.size),
            len(self.train.ids),
        )


def load(config: DataConfig, sample_counts: Sequence[int]) -> SweepData:
    """Reads and tokenises what a sweep needs.

    Args:
      config: corpus, validation range, truncation and vocabulary.
      sample_counts: the training sizes of the sweep's cells, in samples.

    Returns:
      The data of the sweep.

    Raises:
      UserError: the corpus cannot be read, is too small, or leaves nothing to predict.
    """
    start, stop = config.val_range()
    largest = max(sample_counts)
    ranges = [range(largest), range(start, stop)]
    if config.vocabulary == "corpus":
        # Up to the end of the validation range, so that the vocabulary does not depend on the grid.
        ranges.append(range(stop))
    texts = corpus.read_samples(config.corpus, ranges)
    train, val, *whole = (stream.tokenize(part, config.max_sample_tokens) for part in texts)
    vocabulary = stream.corpus_vocabulary(whole[0].ids) if whole else stream.full_vocabulary()
    smallest = len(train.first(min(sample_counts)))
    if min(smallest, len(val.ids)) < 2:
        raise UserError(
            f"the {min(sample_counts)} smallest training samples hold {smallest} tokens and the validation"
            f" samples {len(val.ids)}: each needs 2 or more, so use more samples."
        )
    return SweepData(config, texts[0], texts[1], train, vocabulary.renumber(val.ids), vocabulary)
