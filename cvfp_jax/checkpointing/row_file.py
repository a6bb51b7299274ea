"""Arrays of rows in files: longer than memory, read and written a chunk at a time.

Files are read and written at offsets and not mapped into memory. A full disk is then an error that can be
reported, where writing to a mapping would kill the process, and cached pages do not count as its memory.

Shapes: N rows, B rows read or written together, D their width.
"""

import contextlib
import copy
import math
import os
import shutil
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from cvfp_jax.errors import MachineError

# Bytes of a chunk: so many that the cost of each call does not count.
CHUNK_BYTES = 16 * 2**20


class RowFile:
    """An array [N, D] in a file, which is removed once no array refers to it.

    Args:
      files: the folder that it is in.
      path: the file, which must be there.
      shape: N and D. Rows that were never written are zero and take no space on the disk.
      dtype: the type of its numbers.
    """

    def __init__(self, files: "RowFiles", path: Path, shape: tuple[int, int], dtype: Any) -> None:
        self.files, self.path = files, path
        self.shape, self.dtype = shape, np.dtype(dtype)
        self.size = math.prod(shape)
        self._spare: RowFile | None = None
        self._owner: RowFile | None = None  # the array that removes the file, if it is another one
        self._handle = os.open(path, os.O_RDWR)
        # As an array's memory is freed; a checkpoint's link to the file keeps it.
        weakref.finalize(self, _free, self._handle, path)

    def __len__(self) -> int:
        """N."""
        return self.shape[0]

    @property
    def row_bytes(self) -> int:
        """The bytes of a row."""
        return self.shape[1] * self.dtype.itemsize

    def read(self, first: int, rows: int) -> np.ndarray:
        """Returns so many rows from the first on; those outside of the array are zero."""
        rows_BxD = np.zeros((rows, self.shape[1]), self.dtype)
        start = max(first, 0)
        count = max(0, min(first + rows, len(self)) - start)
        buffer = _bytes(rows_BxD[start - first : start - first + count])
        done = 0
        while done < len(buffer):
            read = os.preadv(self._handle, [buffer[done:]], start * self.row_bytes + done)
            if read == 0:  # the file ends with the last row that was written
                break
            done += read
        return rows_BxD

    def write(self, first: int, rows_BxD: Any, column: int = 0) -> None:
        """Writes rows, or some columns of them; what would lie beyond the last row is left out.

        Args:
          first: the first row to write.
          rows_BxD: numbers; fewer than D columns leave the others as they are.
          column: the first column to write.

        Raises:
          MachineError: the disk is full, or fails.
        """
        rows_BxD = np.asarray(rows_BxD)[: max(0, len(self) - first)].astype(self.dtype, copy=False)
        if rows_BxD.shape[1] < self.shape[1]:
            whole_BxD = self.read(first, len(rows_BxD))
            whole_BxD[:, column : column + rows_BxD.shape[1]] = rows_BxD
            rows_BxD = whole_BxD
        buffer = _bytes(np.ascontiguousarray(rows_BxD))
        offset = first * self.row_bytes
        try:
            while buffer:
                written = os.pwrite(self._handle, buffer, offset)
                buffer, offset = buffer[written:], offset + written
        except OSError as error:
            raise self.files.fault(error, self.size * self.dtype.itemsize) from None

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """Returns a range of rows, or those of some indices; none may lie outside."""
        if isinstance(rows, slice):
            first, stop, _ = rows.indices(len(self))
            return self.read(first, max(0, stop - first))
        rows_BxD = np.empty((len(rows), self.shape[1]), self.dtype)
        for index in np.argsort(rows):  # in the order of the disk
            rows_BxD[index] = self.read(int(rows[index]), 1)[0]
        return rows_BxD

    def astype(self, dtype: Any) -> "RowFile":
        """Returns a file of the same rows as numbers of another type; this one if it has that type."""
        if self.dtype == np.dtype(dtype):
            return self
        other = self.files.make(self.shape, dtype)
        for first, rows in self.chunk_ranges():
            other.write(first, self.read(first, rows))
        return other

    def resize(self, rows: int) -> "RowFile":
        """Returns so many rows of the same file: what is cut off must be padding, what is added is zero."""
        other = copy.copy(self)
        other.shape = (rows, self.shape[1])
        other.size = math.prod(other.shape)
        other._spare, other._owner = None, self._owner or self
        return other

    def chunk_ranges(self, multiple: int = 1) -> list[tuple[int, int]]:
        """Returns first row and number of rows of each chunk; the last may reach beyond the end.

        Args:
          multiple: what the number of rows is a multiple of.
        """
        rows = max(1, CHUNK_BYTES // (self.row_bytes * multiple)) * multiple
        rows = min(rows, -(-len(self) // multiple) * multiple)
        return [(first, rows) for first in range(0, len(self), rows)]

    def successor(self) -> "RowFile":
        """Returns a file of the same shape for the numbers of the next step; see ``give_way``."""
        return self._spare or self.files.make(self.shape, self.dtype)

    def give_way(self, successor: "RowFile") -> "RowFile":
        """Returns the file that replaces this one, which is reused next unless a checkpoint links to it."""
        self._spare = None
        is_linked = os.fstat(self._handle).st_nlink > 1
        successor._spare = None if is_linked else self
        return successor

    def link(self, path: Path) -> None:
        """Makes a hard link to the file, which takes no space; a copy where the disk has no links."""
        try:
            _link(self.path, path)
        except OSError as error:
            raise self.files.fault(error, self.size * self.dtype.itemsize) from None

    def take_over(self, path: Path) -> "RowFile":
        """Returns a file of this one's shape with the rows of another file, which stays."""
        own = self.files.new_path()
        try:
            _link(path, own)
        except OSError as error:
            raise self.files.fault(error, self.size * self.dtype.itemsize) from None
        return RowFile(self.files, own, self.shape, self.dtype)


def _free(handle: int, path: Path) -> None:
    os.close(handle)
    path.unlink(missing_ok=True)


def _bytes(rows_BxD: np.ndarray) -> memoryview:
    """The memory of an array; bfloat16 has no buffer of its own type."""
    return memoryview(rows_BxD.view(np.uint8).reshape(-1))  # type: ignore[arg-type]


def _link(path: Path, other: Path) -> None:
    try:
        os.link(path, other)
    except OSError:
        shutil.copyfile(path, other)


class RowFiles:
    """A folder of ``RowFile``, removed on exit; one that a killed launch left is removed on entry.

    >>> import tempfile
    >>> with RowFiles(Path(tempfile.mkdtemp()) / "contexts") as files:
    ...     array = files.make((3, 2), np.float32)
    ...     array.write(1, np.ones((1, 2)))
    ...     array[0:3].tolist()
    [[0.0, 0.0], [1.0, 1.0], [0.0, 0.0]]
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._count = folder, 0

    def __enter__(self) -> "RowFiles":
        """Makes the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
        try:
            self.folder.mkdir(parents=True)
        except OSError as error:
            raise self.fault(error, 0) from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Removes it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def new_path(self) -> Path:
        """A name that no file has had."""
        self._count += 1
        return self.folder / f"{self._count}.rows"

    def make(self, shape: tuple[int, int], dtype: Any, used_rows: int | None = None) -> RowFile:
        """Makes a file of zeros.

        Args:
          shape: N and D.
          dtype: the type of its numbers.
          used_rows: how many rows will be written, if not all.

        Raises:
          MachineError: the disk has not enough space.
        """
        needed = min(shape[0], used_rows or shape[0]) * shape[1] * np.dtype(dtype).itemsize
        path = self.new_path()
        try:
            path.touch()
            free = shutil.disk_usage(self.folder).free
        except OSError as error:
            raise self.fault(error, needed) from None
        if needed > free:
            raise MachineError(self._too_little(needed, free))
        return RowFile(self, path, shape, dtype)

    def _too_little(self, needed: int, free: int) -> str:
        return (
            f"{self.folder} needs {needed / 2**30:.2f} GiB more for contexts, and {free / 2**30:.2f} GiB are"
            " free: free some, or use a --workdir on another disk."
        )

    def fault(self, error: OSError, needed: int) -> MachineError:
        """Returns the exception for a disk that refuses so many bytes."""
        return MachineError(
            f"cannot keep {needed / 2**30:.2f} GiB of contexts in {self.folder}:"
            f" {os.strerror(error.errno or 0)}; free some room, or use a --workdir on another disk."
        )


ChunkRange = tuple[int, int]


def read_ahead(
    chunks: Iterable[ChunkRange], read: Callable[[int, int], np.ndarray]
) -> Iterator[tuple[ChunkRange, np.ndarray]]:
    """Yields chunks with their rows, each read while the caller works on the one before it."""
    with ThreadPoolExecutor(1) as reader:
        current: tuple[ChunkRange, Future[np.ndarray]] | None = None
        for chunk in chunks:
            following = chunk, reader.submit(read, *chunk)
            if current is not None:
                yield current[0], current[1].result()
            current = following
        if current is not None:
            yield current[0], current[1].result()


@contextlib.contextmanager
def write_behind(write: Callable[[int, Any], None]) -> Iterator[Callable[[int, Any], None]]:
    """Yields a function that writes rows while the next are computed.

    At most one chunk waits to be written, so that memory stays bounded; on exit all are written.
    """
    with ThreadPoolExecutor(1) as writer:
        pending: Future[None] | None = None

        def wait() -> None:
            if pending is not None:
                pending.result()

        def submit(first: int, rows_BxD: Any) -> None:
            nonlocal pending
            wait()
            pending = writer.submit(write, first, rows_BxD)

        yield submit
        wait()
