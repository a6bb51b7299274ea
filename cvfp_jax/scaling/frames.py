"""Rows of data frames, and of the formats that pandas reads: Parquet and Excel."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from cvfp_jax.errors import UserError
from cvfp_jax.scaling.rows import Row, Rows, rows_of_objects


def read_parquet(data: bytes, name: str) -> Rows:
    """Returns the rows of a Parquet file.

    Raises:
      UserError: it is none, or has no rows.
    """
    try:
        frame = pd.read_parquet(io.BytesIO(data))
    except ImportError:
        raise UserError(f"{name} is a Parquet file: pip install pyarrow, or save it as .csv.") from None
    except Exception as error:
        raise UserError(f"{name} is no Parquet file that can be read ({error}): write it again.") from None
    return read_frame(frame, name, "row", 1)


def read_workbook(data: bytes, name: str) -> Rows:
    """Returns the rows of the first sheet of an Excel file that has any, under a line of names.

    Raises:
      UserError: it is none, or has no rows.
    """
    try:
        sheets = pd.read_excel(io.BytesIO(data), sheet_name=None, keep_default_na=False, engine="openpyxl")
    except ImportError:
        raise UserError(
            f"{name} is an Excel file: pip install 'cvfp-jax[xlsx]', or save it as .csv."
        ) from None
    except Exception as error:
        raise UserError(
            f"{name} is no Excel file that can be read ({error}): save it again, or as .csv."
        ) from None
    for sheet, frame in sheets.items():
        if len(frame):
            return read_frame(frame, f"{name}, sheet {sheet}", "line", 2)
    raise UserError(f"{name} has no rows: the first line names the columns, and a row follows on each line.")


def read_frame(frame: Any, name: str = "the table", unit: str = "row", first: int = 0) -> Rows:
    """Returns the rows of a data frame, or of a mapping of columns.

    Args:
      frame: a frame of pandas or polars, or columns by name.
      name: what messages call it.
      unit: what they call a row.
      first: the number of the first row.

    Raises:
      UserError: it has no rows, or columns of several lengths.

    >>> read_frame({"tokens": [1e6, 2e6], "loss": [4.0, 3.5]}).rows[1]
    Row(where='the table, row 1', values={'tokens': 2000000.0, 'loss': 3.5})
    """
    if hasattr(frame, "to_pandas") and not isinstance(frame, pd.DataFrame):
        frame = frame.to_pandas()
    if isinstance(frame, Mapping):
        try:
            frame = pd.DataFrame(dict(frame))
        except ValueError as error:
            raise UserError(f"{name} is no table ({error}): give columns of one length.") from None
    if not isinstance(frame, pd.DataFrame):
        raise UserError(f"{name} is a {type(frame).__name__}: give a path, a data frame or columns by name.")
    if not len(frame):
        raise UserError(f"{name} has no rows.")
    names = [
        ".".join(str(part) for part in label if str(part)) if isinstance(label, tuple) else str(label)
        for label in frame.columns
    ]
    columns = [[_value(entry) for entry in frame.iloc[:, n].tolist()] for n in range(len(names))]
    return rows_of_objects(
        Row(f"{name}, {unit} {n}", _first_of_each(names, entries))
        for n, entries in enumerate(zip(*columns, strict=True), first)
    )


def _first_of_each(names: list[str], entries: tuple[Any, ...]) -> dict[str, Any]:
    """A row's values by column, of columns with one name the first."""
    values: dict[str, Any] = {}
    for name, entry in zip(names, entries, strict=True):
        values.setdefault(name, entry)
    return values


def _value(entry: Any) -> Any:
    """A value as JSON has it."""
    if entry is None or entry is pd.NA or entry is pd.NaT:
        return None
    if isinstance(entry, np.generic):
        return entry.item()
    return entry if isinstance(entry, bool | int | float | str | dict | list) else str(entry)
