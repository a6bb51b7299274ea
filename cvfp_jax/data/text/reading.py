"""How files are read as samples, and what a reading has to tell."""

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

from cvfp_jax.errors import UserError

SKIP = "leave such rows out with --skip_bad_rows"
_MOST_SAID = 8  # notes of a reading, each a line in the terminal


@dataclasses.dataclass(frozen=True)
class Reading:
    """How a record becomes a text, and a plain text samples.

    Args:
      first_only: only the first turn of a conversation that is no system prompt is its text.
      separator: what stands between two turns.
      roles: whether each turn begins with its role and a colon.
      sample: what a sample of a plain text is: line, paragraph, file, or auto (a file of a folder, and a
        paragraph of a file given alone).
      text_field: the field of a record that is its text; empty for the known ones.
      preference: which answer of a preference pair is read, chosen or rejected.
      skip_bad_rows: whether rows that cannot be used are left out and counted.
    """

    first_only: bool = False
    separator: str = "\n"
    roles: bool = False
    sample: str = "auto"
    text_field: str = ""
    preference: str = "chosen"
    skip_bad_rows: bool = False

    def join(self, texts: Sequence[str]) -> str:
        """Returns the text of a conversation of at least one turn.

        >>> Reading(separator=" ").join(["Hi", "Ho"]), Reading(first_only=True).join(["Hi", "Ho"])
        ('Hi Ho', 'Hi')
        """
        return texts[0] if self.first_only else self.separator.join(texts)


AS_IT_IS = Reading()


class BadRowError(UserError):
    """A row that is no sample; ``reason`` is what such rows are counted by."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


# A record, or why a row holds none, and its place, for messages.
Row = tuple[Any, str]


class ReadingLog:
    """What one reading of a corpus has to tell: what was left out, and what a user should know."""

    def __init__(self) -> None:
        self.skipped: collections.Counter[str] = collections.Counter()  # rows, by reason
        self._counted: collections.Counter[str] = collections.Counter()
        self._notes: dict[str, None] = {}

    def clear(self) -> None:
        """Forgets the reading before."""
        self.skipped.clear()
        self._counted.clear()
        self._notes.clear()

    def note(self, text: str) -> None:
        """Notes a sentence, once."""
        self._notes[text] = None

    def count(self, what: str) -> None:
        """Counts something that is told with its number."""
        self._counted[what] += 1

    def lines(self) -> list[str]:
        """Returns what there is to tell, a line each.

        >>> log = ReadingLog()
        >>> log.skipped["blank"] += 2
        >>> log.lines()
        ['rows left out by --skip_bad_rows: 2 blank']
        """
        notes = [*self._notes, *(f"{what}: {count:,}" for what, count in self._counted.items())]
        hidden = len(notes) - _MOST_SAID
        if hidden > 0:
            notes = [*notes[:_MOST_SAID], f"and {hidden} notes more"]
        if self.skipped:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.skipped.most_common())
            notes.append(f"rows left out by --skip_bad_rows: {reasons}")
        return notes
