"""Parquet and Arrow files: only the columns that samples are made of are read."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cvfp_jax.data.text import decoding
from cvfp_jax.data.text.reading import SKIP, BadRowError, Row
from cvfp_jax.errors import UserError

if TYPE_CHECKING:
    import pyarrow

Wanted = Callable[[Sequence[str]], list[str]]  # which of a file's columns are read
_ROWS = 256  # at a time: a row can be a book


@contextlib.contextmanager
def _readable(path: Path, kind: str) -> Iterator[None]:
    """Makes what Arrow raises a line."""
    try:
        from pyarrow import ArrowException
    except ImportError:
        raise UserError(f"{path}: {kind} files need an extra: pip install 'cvfp-jax[hub]'.") from None
    try:
        yield
    except (ArrowException, OSError, UnicodeDecodeError, OverflowError, MemoryError) as error:
        raise UserError(f"{path}: not a readable {kind} file ({error}); export it again.") from None


def _check(path: Path) -> None:
    decoding.check_regular(path)
    with path.open("rb") as file:
        decoding.check_pointer(path, file.read(64))


def parquet_rows(path: Path, wanted: Wanted) -> Iterator[Row]:
    """Yields the rows of a Parquet file as objects of the columns that are wanted."""
    with _readable(path, "Parquet"):
        from pyarrow import parquet

        _check(path)
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            columns = _columns(names, wanted, path)
            yield from _rows(file.iter_batches(_ROWS, columns=columns), columns, path)


def arrow_rows(path: Path, wanted: Wanted) -> Iterator[Row]:
    """Yields the rows of an Arrow file, of either layout, as objects of the columns that are wanted."""
    with _readable(path, "Arrow"):
        import pyarrow

        _check(path)
        with pyarrow.memory_map(str(path)) as file:
            is_file = file.read(6) == b"ARROW1"
            file.seek(0)
            if is_file:
                table = pyarrow.ipc.open_file(file)
                columns = _columns(table.schema.names, wanted, path)
                batches = (table.get_batch(index) for index in range(table.num_record_batches))
                yield from _rows(batches, columns, path)
            else:
                stream = pyarrow.ipc.open_stream(file)
                columns = _columns(stream.schema.names, wanted, path)
                yield from _rows(iter(stream), columns, path)


def _columns(names: Sequence[str], wanted: Wanted, path: Path) -> list[str]:
    twice = (
        next((name for name in names if names.count(name) > 1), None)
        if len(set(names)) < len(names)
        else None
    )
    columns = wanted(names)
    if twice in columns:
        raise UserError(f"{path}: two columns are called {twice!r}; rename one of them.")
    return columns


def _rows(batches: "Iterator[pyarrow.RecordBatch]", columns: list[str], path: Path) -> Iterator[Row]:
    first = 1
    for batch in batches:
        for start in range(0, batch.num_rows, _ROWS):
            part = batch.slice(start, _ROWS)
            yield from _records([_plain(part.column(name)) for name in columns], columns, path, first)
            first += part.num_rows


def _records(arrays: "list[pyarrow.Array]", columns: list[str], path: Path, first: int) -> Iterator[Row]:
    """Yields the rows of columns; a value that is nothing of Python's is a bad row."""
    try:
        values = [array.to_pylist() for array in arrays]
    except (ValueError, OverflowError, ImportError, NotImplementedError):
        for index in range(len(arrays[0])):
            where = f"{path}, row {first + index}"
            yield _record([array[index] for array in arrays], columns, where), where
        return
    for index, row in enumerate(zip(*values, strict=True), first):
        yield dict(zip(columns, row, strict=True)), f"{path}, row {index}"


def _record(row: "list[pyarrow.Scalar]", columns: list[str], where: str) -> Any:
    record = {}
    for name, scalar in zip(columns, row, strict=True):
        try:
            record[name] = scalar.as_py()
        except (ValueError, OverflowError, ImportError, NotImplementedError) as error:
            what = "a value that cannot be read"
            return BadRowError(f"{where}: column {name} has {what} ({error}); mend it, or {SKIP}.", what)
    return record


def _plain(array: "pyarrow.Array") -> "pyarrow.Array":
    """Returns a column with times and dates as whole numbers: not all of them are dates of Python's."""
    kind = _plain_type(array.type)
    return array if kind == array.type else array.cast(kind)


def _plain_type(kind: "pyarrow.DataType") -> "pyarrow.DataType":
    import pyarrow
    from pyarrow import types

    if types.is_temporal(kind):
        return pyarrow.int32() if kind.bit_width == 32 else pyarrow.int64()
    if types.is_struct(kind):
        fields = [kind.field(index) for index in range(kind.num_fields)]
        return pyarrow.struct([field.with_type(_plain_type(field.type)) for field in fields])
    if types.is_list(kind) or types.is_large_list(kind):
        make = pyarrow.list_ if types.is_list(kind) else pyarrow.large_list
        return make(kind.value_field.with_type(_plain_type(kind.value_type)))
    return kind
