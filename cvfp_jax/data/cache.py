"""Arrays kept on disk under the hash of what they were made from."""

import hashlib
import logging
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import platformdirs

from cvfp_jax.atomic import write_atomic

# Part of every key: raise it when the meaning of a cached array changes.
SCHEMA = "1"


def cache_dir() -> Path:
    """Returns $CVFP_CACHE_DIR, or the user's cache directory."""
    return Path(os.environ.get("CVFP_CACHE_DIR") or platformdirs.user_cache_dir("cvfp_jax"))


def content_hash(parts: Iterable[bytes | str]) -> str:
    """Returns the sha256 of parts, each preceded by its length, so that no two lists collide.

    >>> content_hash(["ab", "c"]) == content_hash(["a", "bc"])
    False
    """
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def cached_arrays(
    kind: str, names: set[str], key: Iterable[bytes | str], make: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Returns ``make()``, or what it returned when it was last called with this key.

    A cache that cannot be read is made again; one that cannot be written is gone without.

    Args:
      kind: what the arrays are; the first part of the file's name.
      names: the arrays' names.
      key: everything that ``make`` depends on.
      make: returns named arrays of numbers.

    Returns:
      The named arrays.
    """
    path = cache_dir() / f"{kind}-{content_hash([SCHEMA, *key])[:32]}.npz"
    try:
        # Opened here, because numpy leaves a file open that turns out to be no archive.
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
            arrays = dict(file.items())
        if arrays.keys() == names:
            return arrays
        logging.warning("making the incomplete cache file %s again", path)
    except FileNotFoundError:
        pass
    # What zipfile and numpy raise for flipped bits.
    except (OSError, ValueError, TypeError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        logging.warning("making the unreadable cache file %s again: %s", path, error)
    arrays = make()
    try:
        with tempfile.SpooledTemporaryFile() as buffer:
            np.savez(buffer, allow_pickle=False, **arrays)
            buffer.seek(0)
            write_atomic(path, buffer.read())
    except OSError as error:
        logging.warning("going on without the cache file %s: %s", path, error)
    return arrays
