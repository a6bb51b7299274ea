"""Files that several launches share: where caches go, files replaced atomically, and a folder's lock.

Whatever kills a launch, others find a file as it was before or as it is after, and a lock that is free.
"""

import contextlib
import fcntl
import os
import secrets
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
    """Opens a temporary file that is synced and renamed to ``path`` if the block raises nothing.

    Args:
      path: the file; its folder is made if it is missing.

    Yields:
      The temporary file, open for writing.

    Raises:
      OSError: it cannot be written; an earlier file of the name is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not by tempfile, whose files only their owner can read: who else may is what the user's umask says.
    name = path.parent / f".{path.name}.{secrets.token_hex(4)}"
    handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        name.unlink(missing_ok=True)
        raise


def write_atomic(path: Path, data: bytes) -> None:
    """Writes a whole file, synced when this returns, or leaves an earlier one of the name unchanged.

    Args:
      path: the file; its folder is made if it is missing.
      data: its content.

    Raises:
      OSError: it cannot be written.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "new" / "file"
    >>> write_atomic(path, b"content")
    >>> path.read_bytes()
    b'content'
    """
    with replacing(path) as file:
        file.write(data)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the lock of a folder, whose file says which process holds it.

    The system frees the lock when its holder ends in any way, so that nothing a crashed launch leaves behind
    is an obstacle.

    Args:
      folder: made if it is missing.

    Raises:
      UserError: another process holds the lock, or its file cannot be written.
    """
    path = folder / LOCK_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Not opened for writing alone, which would cut off the holder's number before the lock is refused.
        # Nor through a link, which could name any file of the user's.
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
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


def _holder(handle: int) -> str:
    """The number of the process that holds a lock, which it writes a moment after it has taken the lock."""
    for _ in range(50):
        if text := os.pread(handle, 20, 0).decode(errors="replace").strip():
            return text
        time.sleep(0.01)
    return "unknown"
