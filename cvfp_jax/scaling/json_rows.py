"""Rows of JSON: lists of objects, columns, what pandas and wandb write, and an object a line."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cvfp_jax.errors import UserError
from cvfp_jax.scaling.rows import Row, shown

SHAPES = (
    "a list of objects, an object with one such list or with lists of one length in it, or one object a line"
)
_SPACE = re.compile(r"[ \t\n\r]*")
# No double is as long; Python reads whole numbers of more than 4,300 digits not at all.
_MOST_DIGITS = 310


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


def read_lines(text: str, path: Path) -> list[Row]:
    """Returns the objects of JSON Lines."""
    # Not splitlines(): U+2028 is text.
    lines = enumerate(text.split("\n"), 1)
    return [_row(line.strip(), f"{path}, line {number}") for number, line in lines if line.strip()]


def read_json(text: str, path: Path) -> list[Row]:
    """Returns the rows of a JSON text, in whichever of its shapes.

    Raises:
      UserError: it is not valid, or has another shape.
    """
    try:
        content = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            return read_lines(text, path)
        raise UserError(f"{path}, line {error.lineno}: not valid JSON ({error.msg}).") from None
    except RecursionError:
        raise UserError(f"{path}: nested too deep; it must be {SHAPES}.") from None
    start = len(text) - len(text.lstrip())
    if isinstance(content, list):
        # A list of lists, the first of which names the columns.
        if len(content) > 1 and all(isinstance(entry, list) for entry in content):
            return _tabular(content[0], content[1:], path)
        return _listed(text, start, path)
    if isinstance(content, dict):
        if isinstance(content.get("columns"), list) and isinstance(content.get("data"), list):
            return _tabular(content["columns"], content["data"], path)  # wandb's tables, and pandas' "split"
        if columns := _columns(content):
            return _tabular(list(columns), list(zip(*columns.values(), strict=True)), path)
    lists = []
    if isinstance(content, dict):
        for name, at, value in _members(text, start):
            if isinstance(value, list) and (not value or any(isinstance(entry, dict) for entry in value)):
                lists.append((name, at, value))
    filled = [member for member in lists if member[2]]
    if len(filled or lists) != 1:
        shape = f"lists {', '.join(shown(name) for name, *_ in filled)}" if filled else shown(content)
        raise UserError(f"{path} has another shape ({shape}): it must be {SHAPES}.")
    return _listed(text, (filled or lists)[0][1], path)


def _columns(content: dict[str, Any]) -> dict[str, list[Any]]:
    """Columns by name, of lists or, as pandas has them by default, of values by row; none if they are not."""
    values = list(content.values())
    if not values or any(isinstance(value, list | dict) and not value for value in values):
        return {}
    if all(isinstance(value, list) for value in values):
        is_plain = not any(isinstance(entry, dict | list) for value in values for entry in value)
        return content if is_plain and len({len(value) for value in values}) == 1 else {}
    if all(isinstance(value, dict) for value in values):
        keys = list(values[0])
        if all(list(value) == keys for value in values) and all(key.isdecimal() for key in keys):
            return {name: list(value.values()) for name, value in content.items()}
    return {}


def _tabular(names: list[Any], entries: list[Any], path: Path) -> list[Row]:
    rows = []
    for n, entry in enumerate(entries, 1):
        if not isinstance(entry, list | tuple) or len(entry) != len(names):
            raise UserError(f"{path} (entry {n}): {shown(entry)} is no row of {len(names)} columns; mend it.")
        columns = [name if isinstance(name, str) else shown(name) for name in names]
        rows.append(Row(f"{path}, entry {n}", dict(zip(columns, entry, strict=True))))
    return rows


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
