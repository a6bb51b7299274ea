"""Several processes, mostly one a host, that run the same programs on all their devices together.

Each compiled program waits for its part in every process. So what decides which one comes next is what
process 0 says: times, signals, files. It alone writes. The only file that knows JAX's distributed runtime.
"""

import contextlib
import ctypes
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from cvfp_jax.errors import MachineError, UserError
from cvfp_jax.runtime import signals
from cvfp_jax.runtime.cluster import Place

# For processes to find one another; to notice one that has gone without a word; to end together.
_JOIN_SECONDS, _HEARTBEAT_SECONDS, _PART_SECONDS = 120, 30, 60
# What is told is sent in one piece of so many words, then in larger ones.
_FEW_WORDS, _MANY_WORDS = 2**8, 2**16
# What the runtime says where another process does not answer.
_LOST = ("gloo", "connection", "socket", "unavailable", "heartbeat", "coordination", "nccl", "barrier")
_GONE = (
    "another process of this run has ended, or cannot be reached (if it had an error, it says so itself):"
    " what was saved is kept; end what is left of the run, and give the same commands again."
)
# What to say if the runtime aborts this process.
_last_words = _GONE


def is_multiprocess() -> bool:
    """Says whether there are several processes."""
    return jax.process_count() > 1


def is_process_0() -> bool:
    """Says whether this is the process that decides and writes."""
    return jax.process_index() == 0


def _sent(words: np.ndarray) -> np.ndarray:
    return np.asarray(multihost_utils.broadcast_one_to_all(words))


def broadcast(value: Any) -> Any:
    """Returns what process 0 has; all processes must ask at the same point.

    Args:
      value: JSON; only that of process 0 counts.

    Returns:
      The value, in a single process the very same object.

    >>> broadcast([1, None, "a"])
    [1, None, 'a']
    """
    if not is_multiprocess():
        return value
    data = json.dumps(value).encode() if is_process_0() else b""
    head = np.zeros(_FEW_WORDS, np.int32)
    words = np.frombuffer(data + bytes(-len(data) % 4), np.int32)
    head[0], room = len(data), _FEW_WORDS - 1
    head[1 : 1 + len(words[:room])] = words[:room]
    head = _sent(head)
    parts, length = [head[1:]], int(head[0])
    while 4 * sum(map(len, parts)) < length:
        piece, done = np.zeros(_MANY_WORDS, np.int32), sum(map(len, parts))
        own = words[done : done + _MANY_WORDS]
        piece[: len(own)] = own
        parts.append(_sent(piece))
    return json.loads(np.concatenate(parts).tobytes()[:length])


def on_process_0(work: Callable[[], Any]) -> Any:
    """Has process 0 do some work, and returns what it comes to (JSON) in all processes.

    >>> on_process_0(lambda: 1)
    1
    """
    return broadcast(work() if is_process_0() else None)


def any_process(flag: bool) -> bool:
    """Says whether a flag is set in any process.

    >>> any_process(False), any_process(True)
    (False, True)
    """
    if not is_multiprocess():
        return flag
    return bool(np.asarray(multihost_utils.process_allgather(np.int32(flag))).any())


def check_same(facts: dict[str, Any]) -> None:
    """Refuses to go on where processes differ, which would then wait for one another for ever.

    Args:
      facts: by name, JSON.

    Raises:
      UserError: one differs from process 0's.
    """
    if not is_multiprocess():
        return
    own = json.loads(json.dumps(facts))
    for name, first in broadcast(facts).items():
        if own.get(name) != first:
            raise UserError(
                f"process {jax.process_index()} has {name}={own.get(name)}, and process 0 {first}: give all"
                " processes the same flags, files and versions."
            )


def shutdown() -> None:
    """Waits for the other processes, which are here too, and ends what binds them."""
    if is_multiprocess():
        jax.distributed.shutdown()


@contextlib.contextmanager
def joined(place: Place | None, seconds: int = _JOIN_SECONDS) -> Iterator[None]:
    """Joins the processes of a run, before JAX has been used.

    Only process 0 prints, and warns. One that ends before the others ends them with a line.

    Args:
      place: which of them this is; None if it is alone.
      seconds: for them to find one another.

    Raises:
      MachineError: the others were not found, or have been lost.
    """
    if place is None:
        yield
        return
    _quieten(place.process_id == 0)
    _end_with_a_line()
    signals.leave_at_the_end()
    _join(place, seconds)
    try:
        yield
        shutdown()
    except jax.errors.JaxRuntimeError as error:
        if any(word in str(error).lower() for word in _LOST):
            raise MachineError(_GONE) from None
        raise


def _join(place: Place, seconds: int) -> None:
    global _last_words
    where = place.coordinator or "the address that the cluster gives"
    not_found = (
        f"process {place.process_id} of {place.num_processes} did not find the others at {where} in {seconds}"
        " s: check that all of them run, that the address is process 0's, and that its port is free and open."
    )
    _last_words = not_found
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # It would take SIGTERM for itself.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            place.coordinator,
            place.num_processes,
            place.process_id,
            initialization_timeout=seconds,
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=_PART_SECONDS,
        )
        # Devices wait long for one another, but not for those that they have never met.
        broadcast(None)
    except (jax.errors.JaxRuntimeError, RuntimeError, ValueError) as error:
        raise MachineError(f"{not_found} ({str(error)[:200]})") from None
    _last_words = _GONE


def _quieten(first: bool) -> None:
    """Leaves standard output to this program's own lines, in process 0 alone."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    sys.stdout.flush()
    # Gloo prints to the file itself.
    shown = os.dup(1) if first else os.dup(nothing)
    os.dup2(nothing, 1)
    os.close(nothing)
    sys.stdout = os.fdopen(shown, "w", encoding=sys.stdout.encoding, buffering=1)
    if not first:
        logging.getLogger().setLevel(logging.ERROR)


def _end_with_a_line() -> None:
    """Makes the runtime's way to end a process that has lost another, an abort, an error like others.

    A callback of Python's that it offers cannot be called with its argument (jaxlib 0.10).
    """
    system = ctypes.CDLL(None)
    system.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    system.signal(signal.SIGABRT, ctypes.cast(_on_abort, ctypes.c_void_p))
    shown = sys.excepthook

    def end(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        # Python's own end would wait for the others, which wait for this process.
        shown(kind, error, trace)
        signals.leave(1)

    sys.excepthook = end


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _on_abort(number: int) -> None:
    """Runs in the thread that aborts."""
    os.write(2, f"error: {_last_words}\n".encode())
    os._exit(MachineError.exit_code)
