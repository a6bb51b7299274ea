"""Tables of text: a row a sample, below a line with the columns' names."""

import csv
from collections.abc import Iterator
from pathlib import Path

from cvfp_jax.data.text import decoding
from cvfp_jax.data.text.reading import SKIP, BadRowError, Row
from cvfp_jax.errors import UserError

_LONGEST_FIELD = 1 << 30  # characters; the module's own limit is 131,072


def csv_rows(path: Path) -> Iterator[Row]:
    """Yields the rows of a .csv or .tsv file as objects."""
    before = csv.field_size_limit(_LONGEST_FIELD)  # which holds for the whole process
    try:
        delimiter = "\t" if decoding.suffix_of(path) == ".tsv" else ","
        with decoding.open_text(path, newline="") as file:
            rows = csv.reader(file, delimiter=delimiter, strict=True)
            names: list[str] | None = None
            while True:
                try:
                    row = next(rows, None)
                except csv.Error as error:
                    where = f"{path}, line {rows.line_num}"
                    what = "a row that is no CSV"
                    yield BadRowError(f"{where}: {what} ({error}); mend it, or {SKIP}.", what), where
                    continue
                if row is None:
                    return
                if not row:
                    continue
                where = f"{path}, line {rows.line_num}"
                if names is None:
                    names = _column_names(row, where)
                elif len(row) > len(names):
                    yield _too_long(len(row), len(names), where), where
                else:
                    yield dict(zip(names, row, strict=False)), where
    finally:
        csv.field_size_limit(before)


def _column_names(row: list[str], where: str) -> list[str]:
    """The names in a table's first line, none of them twice."""
    names = [name.strip() for name in row]
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{where}: two columns are called {twice!r}: rename one.")
    return names


def _too_long(num_fields: int, num_columns: int, where: str) -> BadRowError:
    """A row whose text was probably cut at a separator that is not quoted."""
    return BadRowError(
        f"{where}: a row of {num_fields} fields under {num_columns} columns; quote fields that hold the"
        f" separator, or {SKIP}.",
        "too many fields",
    )
