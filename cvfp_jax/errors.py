"""The exceptions that stand for a mistake of the user's or a fault of the machine's, and not for ours."""

import errno
from collections.abc import Iterator
from pathlib import Path

# Full, over quota, over the size of a file, read-only, not allowed, failing.
_DISK_FAULTS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
}


class UserError(Exception):
    """A mistake the user can mend; its text is one line: what is wrong, what is allowed, what to do.

    ``cli.main`` prints the text and exits with ``exit_code`` and no traceback. Every other exception is
    a bug of this project and keeps its traceback.
    """

    exit_code = 2

    def __init__(self, message: str) -> None:
        """Keeps the message on one line, whatever file names or parser messages it quotes."""
        super().__init__(" ".join(message.split()))


class MachineError(UserError):
    """A disk or a memory that does not do; the command line was right, so the exit code is another."""

    exit_code = 1


def is_disk_fault(error: OSError) -> bool:
    """Says whether the disk or its permissions are at fault, and not the name of a file.

    >>> is_disk_fault(OSError(errno.ENOSPC, "No space left on device")), is_disk_fault(FileNotFoundError())
    (True, False)
    """
    return error.errno in _DISK_FAULTS


def file_error(message: str, error: OSError) -> UserError:
    """Returns the exception for a file that cannot be used: a ``MachineError`` if its disk is at fault.

    >>> file_error("cannot write x", OSError(errno.EROFS, "Read-only file system")).exit_code
    1
    """
    return MachineError(message) if is_disk_fault(error) else UserError(message)


def read_text(path: Path, advice: str) -> str:
    """Returns the text of a user's file, its lines ended by newlines alone.

    Args:
      path: the file; UTF-8, with a byte order mark or without.
      advice: what to do where it is not UTF-8.

    Raises:
      UserError: it cannot be read, or the line is named in which it is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(
            f"{path}, line {line}: not UTF-8 (byte 0x{error.object[error.start]:02x}); {advice}"
        ) from None
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}; check the path and its permissions."
        ) from None


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an exception and those that it was raised from or while handling.

    >>> [type(each).__name__ for each in causes(KeyError(1))]
    ['KeyError']
    """
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
