"""Corpora: sequences of samples (documents or conversations), read by place."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

from cvfp_jax.data import pydocs, textfiles
from cvfp_jax.errors import UserError

ULTRACHAT = "HuggingFaceH4/ultrachat_200k"


@dataclasses.dataclass(frozen=True)
class Samples:
    """Ranges of a corpus's samples, one after the other; each iteration reads them anew.

    Args:
      corpus: ``pydocs``, ``text:PATH``, ``ultrachat`` or ``ultrachat:FOLDER``.
      ranges: sample indices, counted from 0 in the corpus's own order, each range behind the last.
      turns: how a conversation becomes a text; samples of other kinds are texts already.
      gaps: whether what lies before and between the ranges is read too.

    Raises:
      ValueError: the ranges are not in order.
    """

    corpus: str
    ranges: tuple[range, ...]
    turns: textfiles.Turns = textfiles.ALL_TURNS
    gaps: bool = False

    def __post_init__(self) -> None:
        """Leaves out empty ranges and checks the order of the others."""
        ranges = tuple(filter(None, self.ranges))
        if any(after.start < before.stop for before, after in itertools.pairwise(ranges)):
            raise ValueError(f"ranges {ranges} overlap or are out of order")
        object.__setattr__(self, "ranges", ranges)

    def __len__(self) -> int:
        """Returns the number of samples."""
        return self.ranges[-1].stop if self.gaps else sum(map(len, self.ranges))

    def __iter__(self) -> Iterator[str]:
        """Yields one text a sample, as it is read.

        Raises:
          UserError: the corpus cannot be read, or has too few samples.
        """
        kind, _, place = self.corpus.partition(":")
        if kind == "ultrachat":
            rows = _ultrachat_rows(self.corpus, place or ULTRACHAT)
            for part in self.ranges:
                _check_enough(self.corpus, len(rows), part)
            for part in (range(len(self)),) if self.gaps else self.ranges:
                for index, row in zip(part, rows.select(part), strict=True):
                    yield textfiles.sample_text(row, f"{self.corpus}, row {index}", self.turns)
            return
        if kind == "pydocs":
            texts = iter(pydocs.read_samples(max(part.stop for part in self.ranges)))
        else:
            texts = textfiles.iterate_samples(place, self.turns)
        num_read = 0
        for part in self.ranges:
            for text in itertools.islice(texts, part.stop - num_read):
                num_read += 1
                if num_read > part.start or self.gaps:
                    yield text
            _check_enough(self.corpus, num_read, part)


def _check_enough(corpus: str, available: int, wanted: range) -> None:
    if wanted.stop > available:
        raise UserError(
            f"corpus {corpus} has {available} samples, but samples {wanted.start}:{wanted.stop} are asked"
            f" for: use more text (in a single .txt or .md file blank lines part the samples), or lower"
            f" --samples and --val_samples=START:STOP until both lie within 0:{available}."
        )


def _ultrachat_rows(corpus: str, source: str) -> Any:
    """Opens UltraChat's conversations, in the order of the data set, from the hub or a local copy."""
    offline = "for an offline run use --corpus=pydocs or --corpus=text:PATH"
    try:
        import datasets
    except ImportError:
        raise UserError(f"corpus {corpus} needs an extra: pip install 'cvfp-jax[hub]'; {offline}.") from None
    try:
        return datasets.load_dataset(source, split="train_sft")
    except Exception as error:  # the library raises many kinds for no network, no folder and no split
        raise UserError(
            f"corpus {corpus} could not be loaded ({type(error).__name__}: {error}); check the network,"
            f" or {offline}."
        ) from None
