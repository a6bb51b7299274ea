"""Arrays kept on disk under the hash of what they were made from."""

import hashlib
import logging
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Self

import numpy as np

from cvfp_jax.runtime.files import cache_dir, write_atomic

# Part of every key: raise it when the meaning of a cached array changes.
VERSION = "1"


# An array's memoryview is hashed where it lies.
Part = bytes | str | memoryview


class Digest:
    """The sha256 of parts, each preceded by its length, so that no two lists collide."""

    def __init__(self) -> None:
        """Starts with no parts."""
        self._sha256 = hashlib.sha256()

    def add(self, part: Part) -> Self:
        """Adds one part."""
        data = memoryview(part.encode() if isinstance(part, str) else part)
        self._sha256.update(data.nbytes.to_bytes(8, "little"))
        self._sha256.update(data)
        return self

    def over(self, texts: Iterable[str]) -> Iterator[str]:
        """Yields texts, each of which it adds."""
        for text in texts:
            self.add(text)
            yield text

    def copy(self) -> "Digest":
        """Returns a digest of the same parts, to which others can be added."""
        twin = Digest()
        twin._sha256 = self._sha256.copy()
        return twin

    def hexdigest(self) -> str:
        """Returns the hash of what was added up to now."""
        return self._sha256.hexdigest()


def content_hash(parts: Iterable[Part]) -> str:
    """Returns the hash of a list of parts.

    >>> content_hash(["ab", "c"]) == content_hash(["a", "bc"])
    False
    """
    digest = Digest()
    for part in parts:
        digest.add(part)
    return digest.hexdigest()


def cached_arrays(
    kind: str, names: set[str], key: Iterable[Part], make: Callable[[], dict[str, np.ndarray]]
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
    path = cache_dir() / f"{kind}-{content_hash([VERSION, *key])[:32]}.npz"
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
