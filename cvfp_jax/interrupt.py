"""Ctrl-C, which must end a run wherever it strikes."""

import os
import signal
import sys
from types import FrameType
from typing import NoReturn

INTERRUPTED = 130
_asked = False


def _note(number: int, frame: FrameType | None) -> None:
    global _asked
    _asked = True
    raise KeyboardInterrupt


def listen() -> None:
    """Makes Ctrl-C raise KeyboardInterrupt, and be remembered where that is swallowed."""
    global _asked
    _asked = False
    signal.signal(signal.SIGINT, _note)


def check() -> None:
    """Raises KeyboardInterrupt if Ctrl-C has been pressed.

    An exception raised inside one of JAX's own callbacks is printed and goes no further, so long
    work asks from time to time.
    """
    if _asked:
        raise KeyboardInterrupt


def leave(code: int) -> NoReturn:
    """Ends the process at once: JAX's threads, still at work on what was interrupted, would crash it."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
