"""Rows of numbers in a file: an array longer than memory, read and written a stretch at a time.

A file is read and written at places and not mapped into memory: a full disk is then an error that can be
told, where writing to a mapping would kill the process, and what was read counts as no process's own.

Shapes: N rows, B rows of a stretch, D their width.
"""

import contextlib
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

# Bytes of a stretch: long enough that what is done once a stretch does not count.
STRETCH_BYTES = 16 * 2**20


class RowFile:
    """An array [N, D] in a file, which is removed once nothing refers to the array.

    Args:
      files: the folder that it is in.
      path: its own place there.
      shape: N and D. Rows that were never written are zero and take no room.
      dtype: of its numbers.
    """

    def __init__(self, files: "RowFiles", path: Path, shape: tuple[int, int], dtype: Any) -> None:
        """Opens the file, which must be there."""
        self.files, self.path = files, path
        self.shape, self.dtype = shape, np.dtype(dtype)
        self.size = math.prod(shape)
        self._spare: RowFile | None = None
        self._handle = os.open(path, os.O_RDWR)
        # The disk is freed as an array's memory is; what else links to the file keeps it.
        weakref.finalize(self, _free, self._handle, path)

    def __len__(self) -> int:
        """N."""
        return self.shape[0]

    @property
    def row_bytes(self) -> int:
        """The bytes of a row."""
        return self.shape[1] * self.dtype.itemsize

    def read(self, first: int, rows: int) -> np.ndarray:
        """Returns rows from a place on; those before the first and beyond the last are zero."""
        found_BxD = np.zeros((rows, self.shape[1]), self.dtype)
        start = max(first, 0)
        count = max(0, min(first + rows, len(self)) - start)
        room = _bytes(found_BxD[start - first : start - first + count])
        done = 0
        while done < len(room):
            read = os.preadv(self._handle, [room[done:]], start * self.row_bytes + done)
            if read == 0:  # what stands beyond what was written is zero
                break
            done += read
        return found_BxD

    def write(self, first: int, rows_BxD: Any, column: int = 0) -> None:
        """Writes rows from a place on, or some columns of them; what goes beyond the last row is left out.

        Raises:
          MachineError: the disk is full, or fails.
        """
        rows_BxD = np.asarray(rows_BxD)[: max(0, len(self) - first)].astype(self.dtype, copy=False)
        if rows_BxD.shape[1] < self.shape[1]:
            whole_BxD = self.read(first, len(rows_BxD))
            whole_BxD[:, column : column + rows_BxD.shape[1]] = rows_BxD
            rows_BxD = whole_BxD
        left = _bytes(np.ascontiguousarray(rows_BxD))
        place = first * self.row_bytes
        try:
            while left:
                written = os.pwrite(self._handle, left, place)
                left, place = left[written:], place + written
        except OSError as error:
            raise self.files.fault(error, self.size * self.dtype.itemsize) from None

    def __getitem__(self, places: slice | np.ndarray) -> np.ndarray:
        """Returns a range of rows, or those at some places; none may lie outside."""
        if isinstance(places, slice):
            first, stop, _ = places.indices(len(self))
            return self.read(first, max(0, stop - first))
        found_BxD = np.empty((len(places), self.shape[1]), self.dtype)
        for index in np.argsort(places):
            found_BxD[index] = self.read(int(places[index]), 1)[0]
        return found_BxD

    def astype(self, dtype: Any) -> "RowFile":
        """Returns the rows as numbers of another type."""
        if self.dtype == np.dtype(dtype):
            return self
        other = self.files.make(self.shape, dtype)
        for first, rows in self.stretches():
            other.write(first, self.read(first, rows))
        return other

    def resize(self, rows: int) -> "RowFile":
        """Returns the same file with so many rows: what is cut off must be padding, what is added is zero."""
        self.shape = (rows, self.shape[1])
        self.size = math.prod(self.shape)
        return self

    def stretches(self, multiple: int = 1) -> list[tuple[int, int]]:
        """The first row and the rows of each stretch; the last may reach beyond the end."""
        rows = max(1, STRETCH_BYTES // (self.row_bytes * multiple)) * multiple
        rows = min(rows, -(-len(self) // multiple) * multiple)
        return [(first, rows) for first in range(0, len(self), rows)]

    def following(self) -> "RowFile":
        """Returns a file of the same shape for what takes this one's place; see ``give_way``."""
        return self._spare or self.files.make(self.shape, self.dtype)

    def give_way(self, following: "RowFile") -> "RowFile":
        """Returns the file that takes this one's place.

        This one is written over in its turn, unless a checkpoint links to it.
        """
        self._spare = None
        is_linked = os.fstat(self._handle).st_nlink > 1
        following._spare = None if is_linked else self
        return following

    def link(self, path: Path) -> None:
        """Gives the file a second name, which costs no room; a copy where the disk knows no such thing."""
        try:
            _link(self.path, path)
        except OSError as error:
            raise self.files.fault(error, self.size * self.dtype.itemsize) from None

    def take_over(self, path: Path) -> "RowFile":
        """Returns a file of this one's shape with what stands at a place, which stays."""
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
    """An array's own bytes; bf16 has no buffer of its own type."""
    return memoryview(rows_BxD.view(np.uint8).reshape(-1))  # type: ignore[arg-type]


def _link(path: Path, other: Path) -> None:
    try:
        os.link(path, other)
    except OSError:
        shutil.copyfile(path, other)


class RowFiles:
    """A folder of ``RowFile``, which is removed at the end, and before the beginning if a launch was killed.

    >>> import tempfile
    >>> with RowFiles(Path(tempfile.mkdtemp()) / "contexts") as files:
    ...     array = files.make((3, 2), np.float32)
    ...     array.write(1, np.ones((1, 2)))
    ...     array[0:3].tolist()
    [[0.0, 0.0], [1.0, 1.0], [0.0, 0.0]]
    """

    def __init__(self, folder: Path) -> None:
        """Takes the folder, which is made."""
        self.folder, self._made = folder, 0

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
        self._made += 1
        return self.folder / f"{self._made}.rows"

    def make(self, shape: tuple[int, int], dtype: Any, used_rows: int | None = None) -> RowFile:
        """Makes a file of zeros.

        Args:
          shape: N and D.
          dtype: of its numbers.
          used_rows: how many rows will be written; all if it is not said.

        Raises:
          MachineError: the disk has not so much room.
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
        """What to raise where the disk does not do."""
        return MachineError(
            f"cannot keep {needed / 2**30:.2f} GiB of contexts in {self.folder}:"
            f" {os.strerror(error.errno or 0)}; free some room, or use a --workdir on another disk."
        )


Stretch = tuple[int, int]


def read_ahead(
    stretches: Iterable[Stretch], read: Callable[[int, int], np.ndarray]
) -> Iterator[tuple[Stretch, np.ndarray]]:
    """Yields stretches with their rows, each read while the one before it is worked on."""
    with ThreadPoolExecutor(1) as reader:
        coming: tuple[Stretch, Future[np.ndarray]] | None = None
        for stretch in stretches:
            following = stretch, reader.submit(read, *stretch)
            if coming is not None:
                yield coming[0], coming[1].result()
            coming = following
        if coming is not None:
            yield coming[0], coming[1].result()


@contextlib.contextmanager
def write_behind(write: Callable[[int, Any], None]) -> Iterator[Callable[[int, Any], None]]:
    """What writes rows while the next are made: at most one stretch waits, and all are written at the end."""
    with ThreadPoolExecutor(1) as writer:
        waiting: list[Future[None]] = []

        def submit(first: int, rows_BxD: Any) -> None:
            while waiting:
                waiting.pop().result()
            waiting.append(writer.submit(write, first, rows_BxD))

        yield submit
        while waiting:
            waiting.pop().result()
