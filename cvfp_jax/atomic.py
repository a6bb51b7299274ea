"""Files that other processes see whole or not at all."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


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
