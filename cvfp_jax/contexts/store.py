"""Where the contexts of a stream are: in the memory of the devices, or in a file.

Long work visits contexts a chunk at a time. Memory is a store of one chunk, a file one of many, so that what
is computed of contexts is written once for both.

Shapes: N rows, B rows of a chunk, D their width.
"""

import abc
import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding

from cvfp_jax.checkpointing.checkpointer import FirstRows
from cvfp_jax.checkpointing.row_file import RowFile, RowFiles, read_ahead, write_behind
from cvfp_jax.core.matmul import as_kept, as_numbers, numbers_type
from cvfp_jax.distributed.mesh import ROWS, line_mesh, resize_rows, rows_at, single_device_mesh

# Takes the first row of a chunk, and its rows.
Write = Callable[[int, Any], None]


class Chunk(NamedTuple):
    """Contexts that follow one another."""

    first: int  # the index of its first row
    # Float, or the bits of bf16 numbers; of several devices each holds a range.
    contexts_BxD: Any
    before_D: Any  # the context before the first row; of a store of one chunk zero


class ContextStore(abc.ABC):
    """The contexts of a stream, [N, D]; rows beyond the stream are zero."""

    shape: tuple[int, int]
    dtype: Any  # of the numbers
    is_resident: bool  # whether it is one chunk, on the devices

    def __len__(self) -> int:
        """N."""
        return self.shape[0]

    @property
    @abc.abstractmethod
    def array(self) -> jax.Array:
        """All contexts on the devices, [N, D]."""

    @property
    def kept_NxD(self) -> jax.Array:
        """The same as loops change them in place: of bf16 numbers the bits."""
        return as_kept(self.array)

    @abc.abstractmethod
    def host_rows(self, first: int, count: int) -> np.ndarray:
        """Returns some rows on the host; what would lie beyond the last is left out."""

    @abc.abstractmethod
    def take(self, indices: np.ndarray) -> jax.Array:
        """Returns the rows at some indices, whole on each device; zero where an index is N or more."""

    @abc.abstractmethod
    def chunk_ranges(self, multiple: int = 1, stop: int | None = None) -> list[tuple[int, int]]:
        """Returns the first row of each chunk and its number of rows.

        Args:
          multiple: rows come in multiples of this many; the last chunk may reach beyond the end.
          stop: leave out chunks from this row on.
        """

    @abc.abstractmethod
    def chunks(self, multiple: int = 1, stop: int | None = None, before_first: int = -1) -> Iterator[Chunk]:
        """Yields the chunks of ``chunk_ranges``, each read while the one before it is worked on.

        Args:
          multiple: see ``chunk_ranges``.
          stop: see ``chunk_ranges``.
          before_first: which row stands before the first chunk; none if it is -1. A store of one chunk leaves
            it to the program that reads it.
        """

    @abc.abstractmethod
    def windows(self, starts: Sequence[int], rows: int) -> Iterator[tuple[jax.Array, np.int32]]:
        """Yields for each start contexts that hold so many rows from there, and the index of their first."""

    @abc.abstractmethod
    def writer(self) -> contextlib.AbstractContextManager[Write]:
        """Returns what writes chunks, all of which are written once its block has ended."""

    @abc.abstractmethod
    def successor(self) -> "ContextStore":
        """Returns an empty store of the same shape for what takes this one's place; see ``give_way``."""

    @abc.abstractmethod
    def give_way(self, successor: "ContextStore") -> "ContextStore":
        """Returns the store that takes this one's place, whose room may be used again."""

    @abc.abstractmethod
    def empty(self, dtype: Any, used_rows: int) -> "ContextStore":
        """Returns a store of the same shape without contexts, of which so many rows will be written."""

    @abc.abstractmethod
    def astype(self, dtype: Any) -> "ContextStore":
        """Returns the contexts as numbers of another type."""

    @abc.abstractmethod
    def resized(self, rows: int, mesh: Mesh | None = None) -> "ContextStore":
        """Returns so many rows: what is cut off must be padding, what is added is zero.

        Args:
          rows: their number, a multiple of the devices.
          mesh: other devices in a line, for contexts in memory.
        """

    @abc.abstractmethod
    def beside(self, others: Sequence["ContextStore"]) -> "ContextStore":
        """Returns these contexts and others of as many rows side by side."""

    @abc.abstractmethod
    def to_save(self, rows: int) -> Any:
        """Returns the first rows as a checkpoint takes them, and asks for them again."""

    @abc.abstractmethod
    def from_saved(self, saved: Any) -> "ContextStore":
        """Returns what a checkpoint has given back, with as many rows as this store has, and in its place."""

    def block_until_ready(self) -> "ContextStore":
        """Waits for the devices."""
        return self


class MemoryStore(ContextStore):
    """Contexts in the memory of the devices in a line, each of which holds a range of the rows.

    Args:
      shape: N and D; N is a multiple of the devices.
      dtype: of the numbers.
      mesh: the devices in a line.
      kept_NxD: the contexts, of bf16 numbers the bits (see ``matmul.as_kept``); zeros if none are given,
        which take no room before they are asked for.
    """

    is_resident = True

    def __init__(
        self, shape: tuple[int, int], dtype: Any, mesh: Mesh, kept_NxD: jax.Array | None = None
    ) -> None:
        self.shape, self.dtype, self.mesh, self._kept_NxD = shape, jnp.dtype(dtype), mesh, kept_NxD

    @classmethod
    def of(cls, kept_NxD: jax.Array, mesh: Mesh) -> "MemoryStore":
        """Returns a store of an array."""
        rows, dim = kept_NxD.shape
        return cls((rows, dim), numbers_type(kept_NxD.dtype), mesh, kept_NxD)

    @property
    def kept_NxD(self) -> jax.Array:
        """The contexts, of bf16 numbers the bits."""
        if self._kept_NxD is None:
            sharding = NamedSharding(self.mesh, ROWS)
            self._kept_NxD = _zeros(self.shape, self.dtype, sharding)
        return self._kept_NxD

    @property
    def array(self) -> jax.Array:
        """All contexts on the devices."""
        return as_numbers(self.kept_NxD)

    def host_rows(self, first: int, count: int) -> np.ndarray:
        """Returns some rows on the host."""
        return np.asarray(self.kept_NxD)[first : first + count].view(self.dtype)

    def take(self, indices: np.ndarray) -> jax.Array:
        """Returns the rows at some indices."""
        return as_numbers(_take(self.kept_NxD, jnp.asarray(indices, jnp.int32), self.mesh))

    def chunk_ranges(self, multiple: int = 1, stop: int | None = None) -> list[tuple[int, int]]:
        """All rows in one."""
        del multiple, stop
        return [(0, len(self))]

    def chunks(self, multiple: int = 1, stop: int | None = None, before_first: int = -1) -> Iterator[Chunk]:
        """All rows in one."""
        del multiple, stop, before_first
        yield Chunk(0, self.kept_NxD, jnp.zeros((self.shape[1],), self.dtype))

    def windows(self, starts: Sequence[int], rows: int) -> Iterator[tuple[jax.Array, np.int32]]:
        """All contexts each time."""
        del rows
        array, first = self.array, np.int32(0)
        yield from ((array, first) for _ in starts)

    @contextlib.contextmanager
    def writer(self) -> Iterator[Write]:
        """Takes an array of all rows."""

        def write(first: int, rows_NxD: jax.Array) -> None:
            assert first == 0
            self._kept_NxD = resize_rows(as_kept(rows_NxD), len(self), self.mesh)

        yield write

    def successor(self) -> "MemoryStore":
        """Programs write over what they are given."""
        return self

    def give_way(self, successor: ContextStore) -> ContextStore:
        """Returns the successor."""
        return successor

    def empty(self, dtype: Any, used_rows: int) -> "MemoryStore":
        """Returns a store of the same shape without contexts."""
        del used_rows
        return MemoryStore(self.shape, dtype, self.mesh)

    def astype(self, dtype: Any) -> "MemoryStore":
        """Returns the contexts as numbers of another type."""
        return MemoryStore.of(as_kept(self.array.astype(dtype)), self.mesh)

    def resized(self, rows: int, mesh: Mesh | None = None) -> "MemoryStore":
        """Returns so many rows."""
        mesh = mesh or self.mesh
        return MemoryStore.of(resize_rows(self.kept_NxD, rows, mesh), mesh)

    def beside(self, others: Sequence[ContextStore]) -> ContextStore:
        """Returns these contexts and others side by side."""
        if not others:
            return self
        arrays = [self.array, *(other.array for other in others)]
        return MemoryStore.of(as_kept(jnp.concatenate(arrays, axis=1)), self.mesh)

    def to_save(self, rows: int) -> FirstRows:
        """What is saved does not depend on the devices: it lacks the padding that these need."""
        return FirstRows(self.kept_NxD, min(rows, len(self)))

    def from_saved(self, saved: jax.Array) -> "MemoryStore":
        """Returns what a checkpoint has given back, on the devices."""
        return MemoryStore.of(resize_rows(as_kept(saved), len(self), self.mesh), self.mesh)

    def block_until_ready(self) -> "MemoryStore":
        """Waits for the devices."""
        jax.block_until_ready(self.kept_NxD)
        return self


@functools.partial(jax.jit, static_argnames=("shape", "dtype", "sharding"))
def _zeros(shape: tuple[int, int], dtype: Any, sharding: NamedSharding) -> jax.Array:
    return lax.with_sharding_constraint(as_kept(jnp.zeros(shape, dtype)), sharding)


@functools.partial(jax.jit, static_argnames="mesh")
def _take(kept_NxD: jax.Array, indices_B: jax.Array, mesh: Mesh) -> jax.Array:
    exists_B = indices_B < len(kept_NxD)
    rows_BxD = rows_at(kept_NxD, jnp.where(exists_B, indices_B, 0), line_mesh(mesh))
    return jnp.where(exists_B[:, None], rows_BxD, 0)


class FileStore(ContextStore):
    """Contexts in a file, of which a chunk at a time is on the one device."""

    is_resident = False

    def __init__(self, file: RowFile) -> None:
        self.file, self.shape, self.dtype = file, file.shape, file.dtype

    @property
    def array(self) -> jax.Array:
        """All contexts on the device, where they may not fit."""
        return jnp.asarray(self.host_rows(0, len(self)))

    def host_rows(self, first: int, count: int) -> np.ndarray:
        """Returns some rows on the host."""
        return self.file[first : first + count]

    def take(self, indices: np.ndarray) -> jax.Array:
        """Returns the rows at some indices."""
        exists_B, rows_BxD = indices < len(self), np.zeros((len(indices), self.shape[1]), self.dtype)
        rows_BxD[exists_B] = self.file[indices[exists_B]]
        return jnp.asarray(rows_BxD)

    def chunk_ranges(self, multiple: int = 1, stop: int | None = None) -> list[tuple[int, int]]:
        """Returns the first row of each chunk and its number of rows."""
        stop = len(self) if stop is None else stop
        return [(first, rows) for first, rows in self.file.chunk_ranges(multiple) if first < stop]

    def chunks(self, multiple: int = 1, stop: int | None = None, before_first: int = -1) -> Iterator[Chunk]:
        """Yields chunks, each read while the one before it is worked on."""
        ranges = self.chunk_ranges(multiple, stop)
        for (first, _), old_CxD in read_ahead(
            ranges, lambda first, rows: self.file.read(first - 1, rows + 1)
        ):
            before_D = self.file.read(before_first, 1)[0] if first == 0 else old_CxD[0]
            yield Chunk(first, old_CxD[1:], before_D)

    def windows(self, starts: Sequence[int], rows: int) -> Iterator[tuple[jax.Array, np.int32]]:
        """Yields the rows of each window, read while the one before it is worked on."""
        for (first, _), contexts_BxD in read_ahead([(start, rows) for start in starts], self.file.read):
            yield jnp.asarray(contexts_BxD), np.int32(first)

    @contextlib.contextmanager
    def writer(self) -> Iterator[Write]:
        """Writes chunks while the next are made."""
        with write_behind(lambda first, rows_BxD: self.file.write(first, as_numbers(rows_BxD))) as write:
            yield write

    def successor(self) -> "FileStore":
        """Returns an empty store of the same shape."""
        return FileStore(self.file.successor())

    def give_way(self, successor: ContextStore) -> ContextStore:
        """Returns the successor."""
        assert isinstance(successor, FileStore)
        return FileStore(self.file.give_way(successor.file))

    def empty(self, dtype: Any, used_rows: int) -> "FileStore":
        """Returns a store of the same shape without contexts."""
        return FileStore(self.file.files.make(self.shape, dtype, used_rows))

    def astype(self, dtype: Any) -> "FileStore":
        """Returns the contexts as numbers of another type."""
        return FileStore(self.file.astype(dtype))

    def resized(self, rows: int, mesh: Mesh | None = None) -> "FileStore":
        """Returns so many rows of the same file."""
        del mesh
        return FileStore(self.file.resize(rows))

    def beside(self, others: Sequence[ContextStore]) -> ContextStore:
        """Returns these contexts and others side by side."""
        if not others:
            return self
        parts = [self, *others]
        whole = self.file.files.make((len(self), sum(part.shape[1] for part in parts)), self.dtype)
        column = 0
        for part in parts:
            for first, rows in self.chunk_ranges():
                whole.write(first, part.host_rows(first, rows), column)
            column += part.shape[1]
        return FileStore(whole)

    def to_save(self, rows: int) -> RowFile:
        """A checkpoint links to the file."""
        return self.file.resize(min(rows, len(self)))

    def from_saved(self, saved: RowFile) -> "FileStore":
        """Returns what a checkpoint has given back."""
        return FileStore(saved.resize(len(self)))


def new_store(
    shape: tuple[int, int],
    dtype: Any,
    mesh: Mesh,
    files: RowFiles | None = None,
    used_rows: int | None = None,
) -> ContextStore:
    """Returns a store of zeros.

    Args:
      shape: N and D; of several devices N is a multiple of their number.
      dtype: of the numbers.
      mesh: the devices in a line.
      files: where to keep contexts in a file; in memory if it is not said.
      used_rows: how many rows will be written; all if it is not said.

    Returns:
      The store.

    Raises:
      MachineError: the disk has not so much room.
    """
    if files is not None:
        return FileStore(files.make(shape, dtype, used_rows))
    return MemoryStore(shape, dtype, mesh)


def as_store(contexts: "ContextStore | jax.Array | np.ndarray", mesh: Mesh | None = None) -> ContextStore:
    """Returns contexts as a store: an array as one in memory.

    Args:
      contexts: float [N, D].
      mesh: the devices that have a range of an array's rows each; None if one has them all.

    >>> as_store(jnp.zeros((3, 2))).shape
    (3, 2)
    """
    if isinstance(contexts, ContextStore):
        return contexts
    return MemoryStore.of(as_kept(jnp.asarray(contexts)), line_mesh(mesh or single_device_mesh()))
