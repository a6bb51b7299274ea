"""Files that others see whole or not at all, one launch at a time in a folder, and where caches go."""

import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import platformdirs

from cvfp_jax.errors import UserError, file_error

LOCK_NAME = "lock"


def cache_dir() -> Path:
    """Returns $CVFP_CACHE_DIR, or the user's cache directory."""
    return Path(os.environ.get("CVFP_CACHE_DIR") or platformdirs.user_cache_dir("cvfp_jax"))


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Opens a file that takes the place of one of its name, on the disk, when the block ends well.

    Args:
      path: the file; its folder is made if it is missing.

    Yields:
      The new file, to be written; until then nobody finds it under its name.

    Raises:
      OSError: it cannot be written; what was there before is still there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)  # mkstemp's 0600 would hide results from the user's colleagues
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_atomic(path: Path, data: bytes) -> None:
    """Writes a file, on the disk when this returns, in the place of one of its name.

    Args:
      path: the file; its folder is made if it is missing.
      data: all that it will hold.

    Raises:
      OSError: it cannot be written; what was there before is still there.
    """
    with replacing(path) as file:
        file.write(data)


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
    path = folder / LOCK_NAME
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
