"""Rows of a user's table, whatever its format, each with its line for messages."""

import dataclasses
import gzip
import json
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cvfp_jax.errors import UserError

_LINES = (".jsonl", ".ndjson")
_TABLES = (".csv", ".tsv")
_ADVICE = "save it as UTF-8, or as one of .csv, .json, .jsonl, .parquet and .xlsx."
_GZIP, _PARQUET, _ZIP = b"\x1f\x8b", b"PAR1", b"PK\x03\x04"
# The marks of byte orders, the longer before those that they begin with.
_MARKS = ((b"\xff\xfe\0\0", "utf-32"), (b"\0\0\xfe\xff", "utf-32"), (b"\xff\xfe", "utf-16"),
          (b"\xfe\xff", "utf-16"), (b"", "utf-8-sig"))  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Row:
    """A row's values by column, and the file and line where it stands."""

    where: str
    values: dict[str, Any]

    def value(self, column: str) -> Any:
        """Returns the value of a column, of objects within objects by their names with dots between.

        >>> row = Row("line 1", {"val": {"bpc": 3.8}, "a.b": 1})
        >>> row.value("val.bpc"), row.value("a.b"), row.value("val.loss")
        (3.8, 1, None)
        """
        if column in self.values:
            return self.values[column]
        inner: Any = self.values
        for name in column.split("."):
            if not isinstance(inner, dict) or name not in inner:
                return None
            inner = inner[name]
        return inner


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A row that is left out: why, in the same words for all of its kind, and where it stands."""

    reason: str
    where: str


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows of a file, one or more."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    is_text: bool  # every value is text, because the format has no numbers
    delimiter: str = ""  # of a table in text
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()


def shown(value: Any) -> str:
    """Returns a value as messages show it: on one line, printable and short.

    >>> shown("a\\nb"), shown(None), shown([1] * 99)
    ("'a\\\\nb'", 'null', '[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,...')
    """
    try:
        text = repr(value) if isinstance(value, str) else json.dumps(value, default=repr)
    except (RecursionError, ValueError):
        text = "nested"
    return text if len(text) <= 43 else text[:40] + "..."


def read_rows(path: Path, strict: bool = False) -> Rows:
    """Reads the rows of a file.

    .csv and .tsv files are tables, .jsonl and .ndjson files JSON Lines, .parquet and .xlsx files what they
    say; of others the first character tells, and of packed ones (.gz) the name without its ending.

    Args:
      path: the file.
      strict: whether rows of another length than the header's, and columns with one name, are mistakes.

    Returns:
      Its rows. Cells of a table are text, without the blanks around them; values of JSON have their types,
      but for whole numbers too large for a double, which are infinite.

    Raises:
      UserError: the file cannot be read, is no text, has no rows or another shape; the message names the
        line.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}; check the path and its permissions."
        ) from None
    inner = path
    if data.startswith(_GZIP):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{path} cannot be unpacked ({error}): copy or pack it once more.") from None
        inner = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    suffix = inner.suffix.lower()
    if data.startswith(_PARQUET) or suffix == ".parquet":
        from cvfp_jax.scaling.frames import read_parquet  # brings pandas, which texts do without

        return read_parquet(data, str(path))
    if data.startswith(_ZIP) or suffix == ".xlsx":
        from cvfp_jax.scaling.frames import read_workbook

        return read_workbook(data, str(path))
    return _read_text(_decoded(data, path), path, suffix, strict)


def _decoded(data: bytes, path: Path) -> str:
    """A file's text with newlines alone, by its byte order mark or as UTF-8."""
    encoding = next(encoding for mark, encoding in _MARKS if data.startswith(mark))
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        name = encoding.removesuffix("-sig").upper()
        raise UserError(
            f"{path}, line {line}: not {name} (byte 0x{error.object[error.start]:02x}); {_ADVICE}"
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _read_text(text: str, path: Path, suffix: str, strict: bool) -> Rows:
    from cvfp_jax.scaling import json_rows  # they need what is defined above
    from cvfp_jax.scaling.delimited import read_table

    start = text.lstrip()[:1]
    if not start:
        raise UserError(f"{path} is empty: it needs rows with the names of their columns.")
    if suffix in _LINES:
        rows = json_rows.read_lines(text, path)
    elif suffix not in _TABLES and (suffix == ".json" or start in "[{"):
        rows = json_rows.read_json(text, path)
    else:
        return read_table(text, str(path), strict)
    if not rows:
        raise UserError(f"{path} has no rows: it must be {json_rows.SHAPES}.")
    return rows_of_objects(rows)


def rows_of_objects(rows: Iterable[Row]) -> Rows:
    """Returns rows with the columns that any of them has, those of objects within objects by dots."""
    listed = tuple(rows)
    columns: dict[str, None] = {}
    for row in listed:
        for name, value in row.values.items():
            columns.update(dict.fromkeys(_names(name, value)))
    return Rows(tuple(columns), listed, is_text=False)


def _names(name: str, value: Any, depth: int = 0) -> list[str]:
    if isinstance(value, Mapping) and value and depth < 8:
        return [path for key, inner in value.items() for path in _names(f"{name}.{key}", inner, depth + 1)]
    return [name]
