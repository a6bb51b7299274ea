"""Standard output and error that nobody reads any more, which is no reason to stop work."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast


def open_closed() -> None:
    """Opens standard streams that are closed, as those of a daemon or a job of cron may be.

    A file that is opened later would get their numbers, and what is printed.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the least number that is free, which is this one
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115


class _Lossy:
    """A stream of which the rest is lost once it cannot be written."""

    def __init__(self, stream: TextIO, others: TextIO) -> None:
        self._stream, self._others = stream, others

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes a text, or loses it."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._lose(error)
        except UnicodeEncodeError:  # a name that the locale cannot spell
            self._stream.write(text.encode("ascii", "backslashreplace").decode("ascii"))
        return len(text)

    def flush(self) -> None:
        """Flushes the stream, or loses what is in it."""
        try:
            self._stream.flush()
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        """Has the rest go nowhere, and says so where that can still be read."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
        with contextlib.suppress(OSError):
            name = self._stream.name.strip("<>")
            print(f"{name} cannot be written any more ({error.strerror}): going on", file=self._others)


@contextlib.contextmanager
def may_be_lost() -> Iterator[None]:
    """Keeps work in a ``with`` block going when its output's reader goes away or its disk is full."""
    output, errors = sys.stdout, sys.stderr
    sys.stdout = cast(TextIO, _Lossy(output, errors))
    sys.stderr = cast(TextIO, _Lossy(errors, output))
    try:
        yield
        sys.stdout.flush()
    finally:
        sys.stdout, sys.stderr = output, errors
