"""Settings of the text, of the parts it is cut into, and of the embedding table."""

import dataclasses
import math

from cvfp_jax.config.checks import LARGEST, known_source, one_of, require
from cvfp_jax.config.documented import documented
from cvfp_jax.errors import UserError

VOCABULARIES = ("full", "corpus")
TURNS = ("all", "first")
SEPARATORS = ("newline", "space")
SAMPLES = ("auto", "line", "paragraph", "file")
PREFERENCES = ("chosen", "rejected")
CORPORA = "pydocs, ultrachat, ultrachat:FOLDER (a local copy) or text:PATH"
EMBEDDINGS = "gpt2, file:PATH, spectral or random"


def _range(text: str) -> tuple[int, int] | None:
    """Reads START:STOP; None if it is no range."""
    start, colon, stop = text.partition(":")
    digits = max(len(start), len(stop)) <= len(str(LARGEST))
    if not (colon and digits and start.isdecimal() and stop.isdecimal() and int(start) < int(stop)):
        return None
    return int(start), int(stop)


@documented
@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which text, which part of it validates, and which frozen embedding table."""

    corpus: str = "pydocs"
    """Text: pydocs, ultrachat, ultrachat:FOLDER (a local copy) or text:PATH."""
    val_samples: str = "1000:1020"
    """Validation samples: START:STOP, in samples from 0, or tail:SHARE, the last share of each cell's own
    training tokens, or all (of val_corpus)."""
    val_corpus: str = ""
    """Text that validates, of the same kinds as corpus; val_samples counts its samples. Empty: the corpus."""
    dev_samples: str = ""
    """Development samples, START:STOP, on which a search chooses settings; by default as many samples as
    validate, right before those."""
    turns: str = "all"
    """Messages of a conversation that are read: all or first."""
    turn_separator: str = "newline"
    """What stands between two messages: newline or space."""
    roles: bool = False
    """Whether each message begins with its role, as in 'user: Hi'."""
    sample: str = "auto"
    """What a sample of a .txt or .md file is: line, paragraph, file or auto (a file of a folder, a paragraph
    of a file given alone)."""
    text_field: str = ""
    """Field or column that is a record's text; empty: the known ones."""
    preference: str = "chosen"
    """Which answer of a preference pair is read: chosen or rejected."""
    skip_bad_rows: bool = False
    """Whether rows that cannot be used are left out and counted, instead of refused."""
    max_sample_tokens: int = 0
    """Tokens after which a sample is cut off; 0: samples are whole."""
    embedding: str = "spectral"
    """Frozen embedding table: gpt2, file:PATH, spectral or random."""
    vocabulary: str = "full"
    """Tokens that the head predicts: full (all of GPT-2's) or corpus (those that occur in the corpus)."""

    def __post_init__(self) -> None:
        """Validates the fields."""
        one_of(VOCABULARIES, "data", self, "vocabulary")
        one_of(TURNS, "data", self, "turns")
        one_of(SEPARATORS, "data", self, "turn_separator")
        one_of(SAMPLES, "data", self, "sample")
        one_of(PREFERENCES, "data", self, "preference")
        cut = self.max_sample_tokens
        require(cut >= 0, "data.max_sample_tokens", cut, "0 (whole samples) or a number of tokens")
        for name in ("corpus", *(("val_corpus",) if self.val_corpus else ())):
            place = getattr(self, name)
            known_source(name, place, ("pydocs", "ultrachat"), ("ultrachat", "text"), CORPORA)
        known_source("embedding", self.embedding, ("gpt2", "spectral", "random"), ("file",), EMBEDDINGS)
        if self.val_corpus and self.val_tail is not None:
            raise UserError(
                f"val_samples={self.val_samples} and val_corpus={self.val_corpus} do not go together:"
                " leave out one of them."
            )
        if self.val_tail is None and not self.val_whole:
            self.val_range()
        if self.dev_samples:
            self.dev_range()

    @property
    def val_whole(self) -> bool:
        """Whether all samples of a corpus of its own validate.

        >>> DataConfig(val_corpus="text:a.txt", val_samples="all").val_whole
        True
        """
        if self.val_samples == "all" and not self.val_corpus:
            raise UserError("val_samples=all is for a corpus of its own: give --val_corpus=text:PATH.")
        return self.val_samples == "all"

    @property
    def val_tail(self) -> float | None:
        """The share of each cell's own tokens that validates, cut from their end; None if samples do.

        >>> DataConfig(val_samples="tail:0.1").val_tail
        0.1
        """
        kind, colon, text = self.val_samples.partition(":")
        if kind != "tail":
            return None
        try:
            share = float(text)
        except ValueError:
            share = math.nan
        if not (colon and 0 < share < 1):
            raise UserError(
                f"val_samples={self.val_samples!r} is not a share: write tail:SHARE with a number between"
                " 0 and 1, for example --val_samples=tail:0.1."
            )
        return share

    def val_range(self) -> tuple[int, int]:
        """Returns the first validation sample and the one after the last.

        >>> DataConfig(val_samples="1000:1020").val_range()
        (1000, 1020)
        """
        found = _range(self.val_samples)
        if found is None:
            raise UserError(
                f"val_samples={self.val_samples!r} is not a range: write START:STOP with START < STOP,"
                " for example --val_samples=1000:1020, or tail:SHARE, or all with --val_corpus."
            )
        return found

    def dev_range(self) -> tuple[int, int]:
        """Returns the first development sample and the one after the last.

        Raises:
          UserError: they are no range, or some of them validate or are chosen by what validates.

        >>> DataConfig(val_samples="1000:1020").dev_range()
        (980, 1000)
        """
        shown = f"dev_samples={self.dev_samples!r}"
        if self.val_tail is not None:
            raise UserError(
                f"val_samples={self.val_samples} validates each size on tokens of its own, of which a search"
                " would see some: write START:STOP, for example --val_samples=1000:1020."
            )
        if self.val_corpus:
            return self._dev_range_of_the_corpus()
        start, stop = self.val_range()
        if not self.dev_samples:
            return max(0, 2 * start - stop), start
        found = _range(self.dev_samples)
        if found is None:
            raise UserError(
                f"{shown} is not a range: write START:STOP with START < STOP, for example"
                f" --dev_samples={max(0, 2 * start - stop)}:{start}."
            )
        if found[0] < stop and start < found[1]:
            raise UserError(
                f"{shown} overlaps validation samples {start}:{stop}, which no search may read: use for"
                f" example --dev_samples={max(0, 2 * start - stop)}:{start}."
            )
        if found[0] >= stop and self.vocabulary == "corpus":
            raise UserError(
                f"{shown} lies behind validation samples {start}:{stop}, and vocabulary=corpus knows all text"
                " before the development samples: use samples before, or --config.data.vocabulary=full."
            )
        return found

    def _dev_range_of_the_corpus(self) -> tuple[int, int]:
        """Returns the development samples where another corpus validates: they are the corpus's own."""
        found = _range(self.dev_samples)
        if found is None:
            raise UserError(
                f"dev_samples={self.dev_samples!r} is not a range: with val_corpus the development samples"
                " are the corpus's own, behind the training samples: write --dev_samples=START:STOP."
            )
        return found
