"""Ctrl-C, SIGTERM and SIGHUP: the first ends a run where its work can be saved, a second at once."""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_asked = 0  # the first signal's number, once it has come
_deferred = False
_leaves_at_once = False
_wakeup: socket.socket | None = None


def _handle(number: int, frame: FrameType | None) -> None:
    global _asked
    if _asked:
        os._exit(_code(number))
    _asked = number
    if not _deferred:
        raise KeyboardInterrupt


def _code(number: int) -> int:
    """What shells have for a process that a signal ended."""
    return 128 + number


def _leave_at_the_second(received: socket.socket) -> None:
    """Ends the process at a second signal, even while compiled code keeps Python's handlers from running."""
    count = 0
    with received:
        while numbers := received.recv(1):
            count += numbers[0] in SIGNALS
            if count == 2:
                os._exit(_code(numbers[0]))


def listen() -> None:
    """Handles signals: a first raises KeyboardInterrupt and is remembered, a second ends the process.

    One that was ignored when the process started, as nohup has it, stays ignored. Ctrl-C is always handled:
    shells ignore it for each command that a script puts into the background.
    """
    global _asked, _wakeup
    _asked = 0
    if _wakeup is not None:
        _wakeup.close()
    received, _wakeup = socket.socketpair()
    _wakeup.setblocking(False)
    signal.set_wakeup_fd(_wakeup.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_leave_at_the_second, args=(received,), daemon=True).start()
    for number in SIGNALS:
        if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _handle)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Keeps a first signal from raising anything; work asks by ``asked`` and ends where it can be saved."""
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

    Long work calls it from time to time, as an exception that is raised inside one of JAX's own callbacks
    is printed and goes no further.
    """
    if _asked and not _deferred:
        raise KeyboardInterrupt


def exit_code() -> int:
    """Returns 130 after Ctrl-C, 143 after SIGTERM and 129 after SIGHUP."""
    return _code(_asked or signal.SIGINT)


def leave_at_the_end() -> None:
    """Has the launch end by ``leave``, whatever its result."""
    global _leaves_at_once
    _leaves_at_once = True


def leaves() -> bool:
    """Says whether the launch must end by ``leave``."""
    return _leaves_at_once or asked()


def leave(code: int) -> NoReturn:
    """Ends the process without Python's own exit.

    That would crash while JAX's threads still work on what was interrupted, and, among several processes,
    wait for one that has ended.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
