"""Tables of text: a row a sample, below a line with the columns' names."""

import csv
from collections.abc import Iterator
from pathlib import Path

from cvfp_jax.data.text import decoding
from cvfp_jax.data.text.reading import SKIP, BadRowError, Row

_LONGEST_FIELD = 1 << 30  # characters; the module's own limit is 131,072


def csv_rows(path: Path) -> Iterator[Row]:
    """Yields the rows of a .csv or .tsv file as objects."""
    before = csv.field_size_limit(_LONGEST_FIELD)  # which holds for the whole process
    try:
        delimiter = "\t" if decoding.suffix_of(path) == ".tsv" else ","
        with decoding.open_text(path, newline="") as file:
            rows = csv.reader(file, delimiter=delimiter)
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
                if names is None:
                    names = [name.strip() for name in row]
                else:
                    yield dict(zip(names, row, strict=False)), f"{path}, line {rows.line_num}"
    finally:
        csv.field_size_limit(before)
