"""A seal on a folder: the size and hash of each of its files, written once all of them are on the disk.

A folder without a seal was never finished; one that differs from its seal is damaged.
"""

import hashlib
import json
import os
from pathlib import Path

from cvfp_jax.runtime.files import write_atomic

FILE_NAME = "sealed.json"


def _files(folder: Path) -> dict[str, Path]:
    """The files of a folder by relative name, without its seal."""
    # Not by Path.rglob, which passes over folders that cannot be read.
    walk = os.walk(folder, onerror=_raise)
    paths = [Path(parent) / name for parent, _, names in walk for name in names]
    files = {path.relative_to(folder).as_posix(): path for path in paths}
    files.pop(FILE_NAME, None)
    return files


def _raise(error: OSError) -> None:
    raise error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    """Waits until a file or a folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def seal(folder: Path) -> None:
    """Seals a folder, which must not change any more.

    Args:
      folder: a folder whose files are all written.

    Raises:
      OSError: the disk is at fault; the folder is then left without a seal.
    """
    files = _files(folder)
    for path in files.values():
        _flush(path)
    for path in {folder, folder.parent, *(path.parent for path in files.values())}:
        _flush(path)
    content = {name: [path.stat().st_size, _sha256(path)] for name, path in sorted(files.items())}
    write_atomic(folder / FILE_NAME, json.dumps(content).encode())


def damage(folder: Path) -> str | None:
    """Says what is wrong with a folder that should be sealed.

    Args:
      folder: a folder that ``seal`` was given.

    Returns:
      A few words that name the first file that is missing, changed or one too many; None if the folder is as
      it was sealed.

    Raises:
      OSError: a file cannot be read now, which says nothing of what is in it.
    """
    try:
        content = json.loads((folder / FILE_NAME).read_bytes())
        sealed = {str(name): (int(size), str(digest)) for name, (size, digest) in content.items()}
    except FileNotFoundError:
        return "it was never finished"
    except (ValueError, OverflowError, TypeError, AttributeError, RecursionError):
        return f"{FILE_NAME} cannot be read"
    files = _files(folder)
    for name in sorted(sealed.keys() | files.keys()):
        if name not in files:
            return f"{name} is missing"
        if name not in sealed:
            return f"{name} does not belong to it"
        size, digest = sealed[name]
        actual = files[name].stat().st_size
        if actual != size:
            return f"{name} has {actual} bytes, not {size}"
        if _sha256(files[name]) != digest:
            return f"{name} has changed"
    return None
