"""Rows of a user's file, CSV, JSON or JSON Lines, each with its line for messages."""

import csv
import dataclasses
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cvfp_jax.errors import UserError, read_text

_LINES = (".jsonl", ".ndjson")
_TABLES = (".csv", ".tsv")
_SHAPES = "a list of objects, an object with one such list in it, or one object a line"
_QUOTED = re.compile('"[^"]*"')
_SPACE = re.compile(r"[ \t\n\r]*")
_NOT_UTF8 = "points are read from CSV, JSON and JSON Lines: save the file as one of them."
# No double is as long; Python reads whole numbers of more than 4,300 digits not at all.
_MOST_DIGITS = 310


@dataclasses.dataclass(frozen=True)
class Row:
    """A row's values by column, and the file and line where it stands."""

    where: str
    values: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows of a file, one or more."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    is_text: bool  # every value is text, because the format has no numbers


def shown(value: Any) -> str:
    """Returns a value as messages show it: on one line, printable and short.

    >>> shown("a\\nb"), shown(None), shown([1] * 99)
    ("'a\\\\nb'", 'null', '[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,...')
    """
    try:
        text = repr(value) if isinstance(value, str) else json.dumps(value)
    except RecursionError:
        text = "nested"
    return text if len(text) <= 43 else text[:40] + "..."


def read_rows(path: Path) -> Rows:
    """Reads the rows of a file.

    .csv and .tsv files are tables, .jsonl and .ndjson files JSON Lines; of others the first character tells.
    A table's cells stand between commas, semicolons or tabs, whichever its first line has most of.

    Args:
      path: the file.

    Returns:
      Its rows. Cells of a table are text, without the blanks around them; values of JSON have their types,
      but for whole numbers too large for a double, which are infinite.

    Raises:
      UserError: the file cannot be read, is not UTF-8, has no rows or another shape; the message names the
        line.
    """
    text = read_text(path, _NOT_UTF8)
    suffix, start = path.suffix.lower(), text.lstrip()[:1]
    if not start:
        raise UserError(f"{path} is empty: it needs rows with the names of their columns.")
    if suffix in _LINES:
        rows = _json_lines(text, path)
    elif suffix not in _TABLES and (suffix == ".json" or start in "[{"):
        rows = _json(text, path)
    else:
        return _table(text, path)
    if not rows:
        raise UserError(f"{path} has no rows: it must be {_SHAPES}.")
    columns = tuple(dict.fromkeys(name for row in rows for name in row.values))
    return Rows(columns, tuple(rows), is_text=False)


def _table(text: str, path: Path) -> Rows:
    header_line = _QUOTED.sub("", text).lstrip("\n").partition("\n")[0]
    delimiter = max(",;\t", key=header_line.count)
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=delimiter != "\t", strict=True
    )
    columns: tuple[str, ...] = ()
    rows = []
    line = 1
    try:
        for cells in reader:
            where, line = f"{path}, line {line}", reader.line_num + 1
            cells = [cell.strip() for cell in cells]
            if not any(cells):  # spreadsheets end with such lines
                continue
            if not columns:
                columns = tuple(cells)
                _check_header(columns, where)
            elif len(cells) != len(columns):
                raise UserError(
                    f"{where}: {len(cells)} cells, but the first line names {len(columns)} columns; give"
                    " every row as many, and write numbers without separators of thousands."
                )
            else:
                rows.append(Row(where, dict(zip(columns, cells, strict=True))))
    except csv.Error as error:
        raise UserError(
            f"{path}, line {line}: not valid CSV ({error}); mend its quotes or cells, or remove it."
        ) from None
    if not rows:
        raise UserError(
            f"{path} has no rows: the first line names the columns, and a row follows on each line."
        )
    return Rows(columns, tuple(rows), is_text=True)


def _check_header(columns: tuple[str, ...], where: str) -> None:
    for name in columns:
        # A column without a name, such as a data frame's index, cannot be asked for.
        if name and columns.count(name) > 1:
            raise UserError(f"{where}: {columns.count(name)} columns are named {shown(name)}; rename them.")


class _GivenTwiceError(ValueError):
    """A JSON object with a repeated name, of which json would silently keep the last."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise _GivenTwiceError(f"{shown(max(names, key=names.count))} is given twice")
    return values


def _whole(digits: str) -> float:
    return int(digits) if len(digits) < _MOST_DIGITS and abs(int(digits)) < 10**308 else float(digits)


_DECODER = json.JSONDecoder(parse_int=_whole)
_STRICT = json.JSONDecoder(parse_int=_whole, object_pairs_hook=_object)


def _row(text: str, where: str) -> Row:
    """Reads a text that must be one object."""
    try:
        value = _STRICT.decode(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not valid JSON ({error}); mend it or remove it.") from None
    if not isinstance(value, dict):
        raise UserError(f'{where}: {shown(value)} is no object; a row is one, such as {{"tokens": 1e6}}.')
    return Row(where, value)


def _json_lines(text: str, path: Path) -> list[Row]:
    # Not splitlines(): U+2028 is text.
    lines = enumerate(text.split("\n"), 1)
    return [_row(line.strip(), f"{path}, line {number}") for number, line in lines if line.strip()]


def _json(text: str, path: Path) -> list[Row]:
    try:
        content = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            return _json_lines(text, path)
        raise UserError(f"{path}, line {error.lineno}: not valid JSON ({error.msg}).") from None
    except RecursionError:
        raise UserError(f"{path}: nested too deep; it must be {_SHAPES}.") from None
    start = len(text) - len(text.lstrip())
    if isinstance(content, list):
        return _listed(text, start, path)
    lists = []
    if isinstance(content, dict):
        for name, at, value in _members(text, start):
            if isinstance(value, list) and (not value or any(isinstance(entry, dict) for entry in value)):
                lists.append((name, at, value))
    filled = [member for member in lists if member[2]]
    if len(filled or lists) != 1:
        shape = f"lists {', '.join(shown(name) for name, *_ in filled)}" if filled else shown(content)
        raise UserError(f"{path} has another shape ({shape}): it must be {_SHAPES}.")
    return _listed(text, (filled or lists)[0][1], path)


def _listed(text: str, start: int, path: Path) -> list[Row]:
    """The entries of a valid list that starts there."""
    rows: list[Row] = []
    line, counted = 1, 0
    at = _skip(text, start + 1)
    while text[at] != "]":
        line, counted = line + text.count("\n", counted, at), at
        _, end = _DECODER.raw_decode(text, at)
        rows.append(_row(text[at:end], f"{path}, line {line} (entry {len(rows) + 1})"))
        at = _skip(text, end)
        if text[at] == ",":
            at = _skip(text, at + 1)
    return rows


def _members(text: str, start: int) -> Iterator[tuple[str, int, Any]]:
    """The names, indices and values of the members of a valid object that starts there."""
    at = _skip(text, start + 1)
    while text[at] != "}":
        name, end = _DECODER.raw_decode(text, at)
        at = _skip(text, _skip(text, end) + 1)
        value, end = _DECODER.raw_decode(text, at)
        yield name, at, value
        at = _skip(text, end)
        if text[at] == ",":
            at = _skip(text, at + 1)


def _skip(text: str, at: int) -> int:
    """The index of the next character that is not blank."""
    blanks = _SPACE.match(text, at)
    return blanks.end() if blanks else at
