"""One launch at a time in a folder."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from cvfp_jax.errors import UserError, file_error

FILE_NAME = "lock"


def _holder(handle: int) -> str:
    """The holder's number, which a holder writes a moment after it has taken the lock."""
    for _ in range(50):
        if text := os.pread(handle, 20, 0).decode(errors="replace").strip():
            return text
        time.sleep(0.01)
    return "unknown"


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Holds a folder's lock, whose file names the holder's process.

    The system frees the lock when its holder ends, however it ends, so nothing a crashed launch leaves
    behind stands in the way.

    Args:
      folder: made if it is missing.

    Raises:
      UserError: another process holds it, or it cannot be written.
    """
    path = folder / FILE_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Opened for reading and writing, so that the holder's number is not lost when it is refused.
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise file_error(f"cannot write {path}: {error.strerror}; use another --workdir.", error) from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{folder} is in use by process {_holder(handle)}: wait until it ends, or use another"
                " --workdir."
            ) from None
        except OSError as error:
            raise file_error(f"cannot lock {path}: {error.strerror}; use another --workdir.", error) from None
        try:
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            raise file_error(
                f"cannot write {path}: {error.strerror}; make room, and give the same command again.", error
            ) from None
        yield
    finally:
        os.close(handle)
