"""Ctrl-C and SIGTERM, which must end a run wherever they strike, and lose none of its work."""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_asked = 0  # the first signal's number
_deferred = False
_at_once = False
_wake: socket.socket | None = None


def _note(number: int, frame: FrameType | None) -> None:
    global _asked
    if _asked:
        os._exit(_code(number))
    _asked = number
    if not _deferred:
        raise KeyboardInterrupt


def _code(number: int) -> int:
    return 128 + number


def _leave_at_the_second(received: socket.socket) -> None:
    """Ends the process at a second signal even while compiled code keeps Python's handler waiting."""
    count = 0
    with received:
        while numbers := received.recv(1):
            count += numbers[0] in SIGNALS
            if count == 2:
                os._exit(_code(numbers[0]))


def listen() -> None:
    """Makes a first Ctrl-C or SIGTERM raise KeyboardInterrupt, and be remembered; a second ends at once."""
    global _asked, _wake
    _asked = 0
    if _wake is not None:
        _wake.close()
    received, _wake = socket.socketpair()
    _wake.setblocking(False)
    signal.set_wakeup_fd(_wake.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_leave_at_the_second, args=(received,), daemon=True).start()
    for number in SIGNALS:
        signal.signal(number, _note)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Inside, a first signal raises nothing: the work asks with ``asked`` and ends where it can be saved."""
    global _deferred
    _deferred = True
    try:
        yield
    finally:
        _deferred = False


def asked() -> bool:
    """Says whether a signal has come."""
    return _asked != 0


def check() -> None:
    """Raises KeyboardInterrupt if a signal has come, except where it is deferred.

    An exception raised inside one of JAX's own callbacks is printed and goes no further, so long
    work asks from time to time.
    """
    if _asked and not _deferred:
        raise KeyboardInterrupt


def exit_code() -> int:
    """Returns 130 after Ctrl-C and 143 after SIGTERM."""
    return _code(_asked or signal.SIGINT)


def leave_at_the_end() -> None:
    """Has the launch end by ``leave``, whatever it comes to."""
    global _at_once
    _at_once = True


def leaves() -> bool:
    """Says whether the launch must end by ``leave``."""
    return _at_once or asked()


def leave(code: int) -> NoReturn:
    """Ends the process at once: JAX's threads, still at work on what was interrupted, would crash it.

    Among several processes, Python's end would wait for one that has ended.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
