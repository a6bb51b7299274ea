"""The data of a sweep: read and tokenised once, then cut for each cell."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from cvfp_jax.config.settings import DataConfig, RunConfig
from cvfp_jax.data import cache, corpus, embedding, ngram, stream, unigram
from cvfp_jax.data.leakage import UNMEASURED, Leakage, measure_leakage
from cvfp_jax.data.text.reading import Reading, ReadingLog
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
    leakage: Leakage = UNMEASURED  # what training holds of validation
    # Rows of the sweep's text that --skip_bad_rows left out, by reason; None if they would have been refused.
    skipped_rows: Mapping[str, int] | None = None


@dataclasses.dataclass(frozen=True)
class SweepData:
    """The tokens of a sweep's largest cell, and what validates each of its cells, in the model's numbers."""

    config: DataConfig
    num_samples: int  # of the largest cell
    num_held_out: int  # validation samples; none where the tail of a cell's own tokens validates
    tokens: stream.TokenizedText  # the largest cell's samples first and the validation samples last
    vocabulary: stream.Vocabulary
    hashes: Mapping[int, str]  # by a cell's number of samples
    notes: Sequence[str] = ()  # what a user should know of the reading, a line each
    skipped_rows: Mapping[str, int] | None = None

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
            self.leakage(run.num_samples),
            self.skipped_rows,
        )

    def leakage(self, num_samples: int) -> Leakage:
        """Returns what the training tokens of a cell hold of its validation tokens, kept on disk."""
        train_ids, val_ids = self._split(num_samples)
        starts = self.tokens.boundaries
        train_starts = starts[starts <= len(train_ids)][: num_samples + 1]
        if self.config.val_tail is None:
            val_starts = starts[-1 - self.num_held_out :] - starts[-1 - self.num_held_out]
        else:  # the samples that lie in the tail as a whole
            ends = starts[: num_samples + 1]
            val_starts = ends[ends >= len(train_ids)] - len(train_ids)

        def measure() -> dict[str, np.ndarray]:
            found = measure_leakage(
                stream.TokenizedText(train_ids, train_starts, ""),
                stream.TokenizedText(val_ids, val_starts, ""),
            )
            return {"found": np.array(found.as_numbers())}

        key = [self.tokens.made_from, self.sha256(num_samples)]
        return Leakage.of_numbers(cache.cached_arrays("leakage", {"found"}, key, measure)["found"])

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
    log = ReadingLog()
    texts = _texts(config, max(sample_counts), log)
    texts_hash, cells, num_texts = _hash_texts(texts, sample_counts, config)
    notes, skipped = log.lines(), dict(log.skipped)
    tokens = stream.tokenize(texts, texts_hash, config.max_sample_tokens)
    vocabulary = stream.full_vocabulary()
    if config.vocabulary == "corpus":
        vocabulary = stream.corpus_vocabulary(tokens.ids)
    for digest in cells.values():
        digest.add("vocabulary").add(vocabulary.token_ids.data)
    data = SweepData(
        config,
        max(sample_counts),
        num_texts - texts.num_before,
        tokens.renumbered(vocabulary),
        vocabulary,
        {count: digest.hexdigest() for count, digest in cells.items()},
        notes,
        skipped if config.skip_bad_rows else None,
    )
    _check_enough(data, min(sample_counts))
    return data


@dataclasses.dataclass(frozen=True)
class _Texts:
    """The texts of a sweep, read anew at each iteration: those that train first."""

    parts: Sequence[corpus.Samples]
    num_before: int  # texts before the first that validates alone
    log: ReadingLog

    def __iter__(self) -> Iterator[str]:
        self.log.clear()
        return itertools.chain.from_iterable(self.parts)


def _texts(config: DataConfig, most: int, log: ReadingLog) -> _Texts:
    """Chooses what is read: the largest cell's samples, and those that validate."""
    reading = Reading(
        config.turns == "first",
        _SEPARATORS[config.turn_separator],
        config.roles,
        config.sample,
        config.text_field,
        config.preference,
        config.skip_bad_rows,
    )
    largest = range(most)
    if config.val_corpus:
        held_out = None if config.val_whole else (range(*config.val_range()),)
        parts = [
            corpus.Samples(config.corpus, (largest,), reading, log=log),
            corpus.Samples(config.val_corpus, held_out, reading, log=log),
        ]
        return _Texts(parts, most, log)
    held_out_range = range(0) if config.val_tail is not None else range(*config.val_range())
    # A corpus vocabulary knows all text up to the end of the validation range, so that it does not depend
    # on the grid; with tails it must, because nothing else says where the text ends.
    gaps = config.vocabulary == "corpus"
    samples = corpus.Samples(config.corpus, (largest, held_out_range), reading, gaps, log)
    before = held_out_range.start if gaps and held_out_range else most
    return _Texts([samples], before, log)


def _hash_texts(
    texts: _Texts, sample_counts: Sequence[int], config: DataConfig
) -> tuple[str, dict[int, cache.Digest], int]:
    """Reads all texts once and returns the hash of all, by its size each cell's digest, and their number."""
    whole, cells = cache.Digest(), {}
    # A tail is no text of its own: what tells one from another is where it is cut.
    cut = ["validation"] if config.val_tail is None else ["tail", config.val_samples]
    count = 0
    for count, text in enumerate(whole.over(texts), 1):
        if count in sample_counts:
            cells[count] = whole.copy()
            for part in cut:
                cells[count].add(part)
        if count > texts.num_before:
            for digest in cells.values():
                digest.add(text)
    return whole.hexdigest(), cells, count


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
