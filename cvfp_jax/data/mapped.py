"""Arrays longer than memory: written piece by piece, memory-mapped, and read some of them at a time."""

import array
import logging
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from cvfp_jax.data import cache
from cvfp_jax.runtime.files import replacing

CHUNK = 1 << 20
# Up to this size the contents are checked whenever a file is opened (a fifth of a second), and beyond
# it only the size and the footer, so that a process reads no more than its share.
CHECKED_BYTES = 256 << 20
# A file holds the values, zeros up to a multiple of 8 bytes, the boundaries, and this footer: magic
# word, what it was made from, numbers of values and pieces, checksums of all before and of the footer.
_FOOTER = struct.Struct("<8s64sQQII")
_MAGIC = b"cvfp-ids"


def chunks(ids: np.ndarray) -> Iterator[np.ndarray]:
    """Yields views of an array, one after the other, of CHUNK entries or what is left.

    >>> [len(chunk) for chunk in chunks(np.zeros(CHUNK + 3, np.int32))]
    [1048576, 3]
    """
    for start in range(0, len(ids), CHUNK):
        yield ids[start : start + CHUNK]


def cached_pieces(
    kind: str, key: Iterable[cache.Part], pieces: Callable[[], Iterable[np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns pieces end to end and where each begins, from the disk if they were written before.

    One piece is in memory at a time. A file that is torn, damaged or another's is made again; one that
    cannot be written is gone without, which needs the memory.

    Args:
      kind: what the pieces are; the first part of the file's name.
      key: everything that they depend on.
      pieces: makes them anew at each call; int32, of one dimension.

    Returns:
      Read-only views of the file: int32 [N], and int64 [pieces + 1] from 0 to N.
    """
    made_from = cache.content_hash([cache.VERSION, *key])
    path = cache.cache_dir() / f"{kind}-{made_from[:32]}.bin"
    try:
        return _open(path, made_from)
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        logging.warning("making the unreadable cache file %s again: %s", path, error)
    try:
        _write(path, made_from, pieces())
        return _open(path, made_from)
    except (OSError, ValueError) as error:
        logging.warning("going on without the cache file %s: %s", path, error)
    parts = [np.zeros(0, np.int32), *pieces()]
    return np.concatenate(parts), np.cumsum([len(part) for part in parts], dtype=np.int64)


def _write(path: Path, made_from: str, pieces: Iterable[np.ndarray]) -> None:
    boundaries, checksum = array.array("q", [0]), 0
    with replacing(path) as file:

        def append(data: bytes | memoryview) -> None:
            nonlocal checksum
            checksum = zlib.crc32(data, checksum)
            file.write(data)

        for piece in pieces:
            append(np.ascontiguousarray(piece, "<i4").data)
            boundaries.append(boundaries[-1] + len(piece))
        append(bytes(-file.tell() % 8))
        append(memoryview(boundaries))
        footer = _FOOTER.pack(_MAGIC, made_from.encode(), boundaries[-1], len(boundaries) - 1, checksum, 0)
        file.write(_signed(footer))


def _signed(footer: bytes) -> bytes:
    """Returns a footer with its own checksum in the last place."""
    return footer[:-4] + zlib.crc32(footer[:-4]).to_bytes(4, "little")


def _open(path: Path, made_from: str) -> tuple[np.ndarray, np.ndarray]:
    """Maps a file, or raises ValueError for one that is not what was written from this."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _FOOTER.size))
        footer = file.read()
        if len(footer) < _FOOTER.size or _signed(footer) != footer:
            raise ValueError("it does not end as it should")
        magic, written_from, num_values, num_pieces, checksum, _ = _FOOTER.unpack(footer)
        begin = num_values * 4 + num_values * 4 % 8
        end = begin + (num_pieces + 1) * 8
        if (magic, written_from, size) != (_MAGIC, made_from.encode(), end + _FOOTER.size):
            raise ValueError("it holds something else")
        if size <= CHECKED_BYTES and _checksum(file, end) != checksum:
            raise ValueError("its contents have changed")
        contents = np.asarray(np.memmap(file, np.uint8, "r"))
    return contents[: num_values * 4].view("<i4"), contents[begin:end].view("<i8")


def _checksum(file: BinaryIO, size: int) -> int:
    """Returns the checksum of a file's first bytes, which are read and not mapped."""
    file.seek(0)
    checksum = 0
    for start in range(0, size, CHUNK):
        checksum = zlib.crc32(file.read(min(CHUNK, size - start)), checksum)
    return checksum
