"""Several processes, usually one a host, that run the same programs on all their devices together.

A compiled program waits until every process runs it. So whatever decides which program comes next (clocks,
signals, files) is broadcast from process 0, which alone writes files. The only file that knows JAX's
distributed runtime.
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

# For processes to connect; to notice that one has died; to end together.
_CONNECT_SECONDS, _HEARTBEAT_SECONDS, _SHUTDOWN_SECONDS = 120, 30, 60
# 32-bit words of a broadcast's first message, and of each further one.
_FIRST_MESSAGE, _NEXT_MESSAGE = 2**8, 2**16
# Words in the runtime's errors where another process does not answer.
_LOST = ("gloo", "connection", "socket", "unavailable", "heartbeat", "coordination", "nccl", "barrier")
_LOST_ERROR = (
    "another process of this run has ended, or cannot be reached (if it had an error, it says so itself):"
    " what was saved is kept; end what is left of the run, and give the same commands again."
)
# The error to print if the runtime aborts this process.
_abort_error = _LOST_ERROR


def is_multiprocess() -> bool:
    """Says whether there are several processes."""
    return jax.process_count() > 1


def is_process_0() -> bool:
    """Says whether this is the process that decides and writes."""
    return jax.process_index() == 0


def _from_process_0(words: np.ndarray) -> np.ndarray:
    return np.asarray(multihost_utils.broadcast_one_to_all(words))


def broadcast(value: Any) -> Any:
    """Returns the value that process 0 has; all processes must call it at the same point.

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
    words = np.frombuffer(data + bytes(-len(data) % 4), np.int32)
    # All processes must send messages of the same sizes, so the first one says how long the value is.
    message, in_first = np.zeros(_FIRST_MESSAGE, np.int32), _FIRST_MESSAGE - 1
    message[0] = len(data)
    message[1 : 1 + len(words[:in_first])] = words[:in_first]
    message = _from_process_0(message)
    length, received = int(message[0]), [message[1:]]
    for start in range(in_first, -(-length // 4), _NEXT_MESSAGE):
        own = words[start : start + _NEXT_MESSAGE]
        message = np.zeros(_NEXT_MESSAGE, np.int32)
        message[: len(own)] = own
        received.append(_from_process_0(message))
    return json.loads(np.concatenate(received).tobytes()[:length])


def on_process_0(work: Callable[[], Any]) -> Any:
    """Has process 0 do some work, and returns its result (JSON) in all processes.

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
      facts: JSON values by name.

    Raises:
      UserError: one differs from process 0's.
    """
    if not is_multiprocess():
        return
    own = json.loads(json.dumps(facts))
    for name, expected in broadcast(facts).items():
        if own.get(name) != expected:
            raise UserError(
                f"process {jax.process_index()} has {name}={own.get(name)}, and process 0 {expected}:"
                " give all processes the same flags, files and versions."
            )


def shutdown() -> None:
    """Waits until all processes have called it, and disconnects them."""
    if is_multiprocess():
        jax.distributed.shutdown()


@contextlib.contextmanager
def joined(place: Place | None, seconds: int = _CONNECT_SECONDS) -> Iterator[None]:
    """Connects the processes of a run; call it before JAX is used.

    Only process 0 prints and warns. A process that dies ends the others, with one line each.

    Args:
      place: which of the processes this is; None if it is the only one.
      seconds: for them to connect.

    Raises:
      MachineError: the others were not found, or have been lost.
    """
    if place is None:
        yield
        return
    _print_only_if(place.process_id == 0)
    _print_aborts_as_errors()
    _exit_without_waiting()
    signals.leave_at_the_end()
    _connect(place, seconds)
    try:
        yield
        shutdown()
    except jax.errors.JaxRuntimeError as error:
        if any(word in str(error).lower() for word in _LOST):
            raise MachineError(_LOST_ERROR) from None
        raise


def _connect(place: Place, seconds: int) -> None:
    global _abort_error
    where = place.coordinator or "the address that the cluster gives"
    not_found = (
        f"process {place.process_id} of {place.num_processes} did not find the others at {where} in {seconds}"
        " s: check that all of them run, that the address is process 0's, and that its port is free and open."
    )
    _abort_error = not_found
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # It would handle SIGTERM itself.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            place.coordinator,
            place.num_processes,
            place.process_id,
            initialization_timeout=seconds,
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
        )
        # Collectives wait long for a process, but not for one that they have never exchanged a message with.
        broadcast(None)
    except (jax.errors.JaxRuntimeError, RuntimeError, ValueError) as error:
        raise MachineError(f"{not_found} ({str(error)[:200]})") from None
    _abort_error = _LOST_ERROR


def _print_only_if(first: bool) -> None:
    """Leaves standard output to this program's own lines, in process 0 alone."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    sys.stdout.flush()
    # Gloo prints to the file descriptor itself.
    own_lines = os.dup(1) if first else os.dup(nothing)
    os.dup2(nothing, 1)
    os.close(nothing)
    sys.stdout = os.fdopen(own_lines, "w", encoding=sys.stdout.encoding, buffering=1)
    if not first:
        logging.getLogger().setLevel(logging.ERROR)


def _print_aborts_as_errors() -> None:
    """Handles SIGABRT by one line and an exit code: JAX's runtime aborts a process that has lost another.

    Nothing simpler was found to do the same (jaxlib 0.10.2):

    - The client's ``missed_heartbeat_callback`` cannot be a Python function: its argument, an
      ``absl::Status``, has no conversion, so that a call aborts the process with ``std::bad_cast``.
    - Python's own handlers run in the main thread once the C handler has returned, and ``abort`` then
      ends the process.
    - ``jax_enable_recoverability`` still aborts the others when process 0, the coordinator, dies.
    - A parent process that watches this one would have to take it along when killed; to pass on signals,
      except those that a terminal or SLURM sends to both, as a second one ends a run unsaved; and to be told
      whether the processes had connected.
    """
    libc = ctypes.CDLL(None)
    libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    libc.signal(signal.SIGABRT, ctypes.cast(_on_abort, ctypes.c_void_p))


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _on_abort(number: int) -> None:
    """Runs in the thread that aborts."""
    os.write(2, f"error: {_abort_error}\n".encode())
    os._exit(MachineError.exit_code)


def _exit_without_waiting() -> None:
    """Ends a process that fails at once: Python's own exit would wait for the others, which wait for it."""
    show = sys.excepthook

    def show_and_exit(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        show(kind, error, trace)
        signals.leave(1)

    sys.excepthook = show_and_exit
