"""Corpora: sequences of samples (documents or conversations), read by place."""

import dataclasses
import itertools
from collections.abc import Iterator

from cvfp_jax.data import pydocs, ultrachat
from cvfp_jax.data.text import samples as files
from cvfp_jax.data.text.reading import AS_IT_IS, Reading, ReadingLog
from cvfp_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Samples:
    """Ranges of a corpus's samples, one after the other; each iteration reads them anew.

    Args:
      corpus: ``pydocs``, ``text:PATH``, ``ultrachat`` or ``ultrachat:FOLDER``.
      ranges: sample indices, counted from 0 in the corpus's own order, each range behind the last; None for
        all samples of a corpus of files.
      reading: how records become texts.
      gaps: whether what lies before and between the ranges is read too.
      log: told of what an iteration leaves out.

    Raises:
      ValueError: the ranges are not in order.
    """

    corpus: str
    ranges: tuple[range, ...] | None
    reading: Reading = AS_IT_IS
    gaps: bool = False
    log: ReadingLog = dataclasses.field(default_factory=ReadingLog, compare=False)

    def __post_init__(self) -> None:
        """Leaves out empty ranges and checks the order of the others."""
        if self.ranges is None:
            return
        ranges = tuple(filter(None, self.ranges))
        if any(after.start < before.stop for before, after in itertools.pairwise(ranges)):
            raise ValueError(f"ranges {ranges} overlap or are out of order")
        object.__setattr__(self, "ranges", ranges)

    def __iter__(self) -> Iterator[str]:
        """Yields one text a sample, as it is read.

        Raises:
          UserError: the corpus cannot be read, or has too few samples.
        """
        kind, _, place = self.corpus.partition(":")
        if kind == "ultrachat" and not place and self.ranges is not None and not self.reading.skip_bad_rows:
            yield from ultrachat.read_ranges(self.ranges, self.gaps, self.reading, self.log)
            return
        if kind == "ultrachat" and not place:  # which row is a range's first is known only once all are read
            texts = ultrachat.hub_samples(self.reading, self.log)
        elif kind == "pydocs":
            stop = None if self.ranges is None else max(part.stop for part in self.ranges)
            texts = iter(pydocs.read_samples(stop))
        elif kind == "ultrachat":
            texts = ultrachat.iterate_samples(place, self.reading, self.log)
        else:
            texts = files.iterate_samples(place, self.reading, self.log)
        if self.ranges is None:
            yield from texts
            return
        num_read = 0
        for part in self.ranges:
            for text in itertools.islice(texts, part.stop - num_read):
                num_read += 1
                if num_read > part.start or self.gaps:
                    yield text
            _check_enough(self.corpus, num_read, part, self.reading)


def _check_enough(corpus: str, available: int, wanted: range, reading: Reading) -> None:
    if wanted.stop > available:
        lines = " or, with --sample=line, lines" if reading.sample == "auto" else ""
        units = f"in a single .txt or .md file paragraphs{lines} are samples"
        raise UserError(
            f"corpus {corpus} has {available} samples, but samples {wanted.start}:{wanted.stop} are asked"
            f" for: use more text ({units}), or lower --samples and --val_samples=START:STOP until both lie"
            f" within 0:{available}."
        )
