"""Points of any file: sizes and measures, by group."""

import dataclasses
import json
import math
import re
from pathlib import Path

from cvfp_jax.errors import UserError
from cvfp_jax.scaling.rows import Row, Rows, read_rows, shown

ALL = "all"  # the name of the only group where no column names groups
REPLICATES = "seed"  # the column that tells measures of one size apart
# What a sweep's records always have, and the columns that stand for what is fitted in them.
_OF_RECORDS = ("experiment", "preset", "cell", "series", "status", "train_tokens")
_RECORDS_X, _RECORDS_Y, _RECORDS_GROUP = "train_tokens", "val_ppl", "series"
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:([,._' ])\d{3})(?:\1\d{3})*", re.ASCII)
_NOT_FINITE = re.compile(r"[+-]?(nan|inf|infinity)", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Group:
    """Points that one law is fitted to, by size; measures of the same size are replicates."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Points:
    """The groups of a file in its order, the columns they are made of, and what they leave out and why."""

    x: str
    y: str
    group: str | None
    groups: tuple[Group, ...]
    left_out: tuple[str, ...] = ()


def read_points(path: Path, x: str | None = None, y: str | None = None, group: str | None = None) -> Points:
    """Reads the points of a CSV, JSON or JSON Lines file, or of a sweep's records.

    Rows of one group and one size are replicates if a column ``seed`` tells them apart, and a mistake
    otherwise. Of records, those that failed are left out, and so are groups that are left with one size.

    Args:
      path: the file.
      x: the column of sizes; of records, ``train_tokens`` if none is given.
      y: the column of measures; of records, ``val_ppl`` if none is given.
      group: the column whose values name the groups; of records, ``series`` if none is given, and
        elsewhere all rows are one group, named ``all``.

    Returns:
      The groups, each of two sizes or more, and what is left out of them.

    Raises:
      UserError: the file cannot be used; the message names the line and the column.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "points.csv"
    ...     _ = path.write_text("tokens,ppl\\n2e6,90\\n1e6,100\\n")
    ...     read_points(path, "tokens", "ppl").groups
    (Group(name='all', x=(1000000.0, 2000000.0), y=(100.0, 90.0)),)
    """
    rows = read_rows(path)
    of_sweep = all(name in row.values for row in rows.rows for name in _OF_RECORDS)
    if of_sweep:
        x = _RECORDS_X if x is None else x
        y = _RECORDS_Y if y is None else y
        group = _RECORDS_GROUP if group is None else group
    if x is None or y is None:
        missing = " and ".join(f"--{flag}" for flag, name in (("x", x), ("y", y)) if name is None)
        raise UserError(f"no {missing}: name one of the columns of {path} for each: {_listed(rows)}.")
    for name in (x, y, group):
        if name is not None and (not name or name not in rows.columns):
            raise UserError(f"{path} has no column {shown(name)}: the columns are {_listed(rows)}.")
    if len({x, y, group}) < 3:
        raise UserError(f"x={x}, y={y} and group={group} are not three columns: name another for each.")
    left_out = []
    # By group and size, the line of each replicate.
    lines: dict[str, dict[float, dict[str | None, str]]] = {}
    by_group: dict[str, list[tuple[float, float]]] = {}
    for row in rows.rows:
        if of_sweep and (status := _failure(row, (x, y))):
            left_out.append(f"{row.where}: {_name(row, 'series')}, {status}")
            continue
        name = ALL if group is None else _name(row, group)
        size, measure = _number(row, x, rows.is_text), _number(row, y, rows.is_text)
        seeded = row.values.get(REPLICATES) not in (None, "")
        replicate = _name(row, REPLICATES) if seeded else None
        others = lines.setdefault(name, {}).setdefault(size, {})
        if replicate in others:
            same = "" if replicate is None else f" and {REPLICATES} {replicate}"
            raise UserError(
                f"{row.where}, column {x}: {size:.12g}{same} is already in {_line(others[replicate])}, in"
                f" group {name}; remove one, name groups with --group, or tell replicates apart in a column"
                f" {REPLICATES}."
            )
        others[replicate] = row.where
        by_group.setdefault(name, []).append((size, measure))
    for name, sizes in lines.items():
        if len(sizes) > 1:
            continue
        first = next(iter(next(iter(sizes.values())).values()))
        message = f"{first}, column {x}: the only size of group {name}, and a law needs two or more"
        if not of_sweep:
            raise UserError(f"{message}; add points or remove the group.")
        left_out.append(message)
        del by_group[name]
    if not by_group:
        raise UserError(f"{path} has no group of two sizes or more: {'; '.join(left_out[:3])}.")
    groups = []
    for name, pairs in by_group.items():
        xs, ys = zip(*sorted(pairs), strict=True)
        groups.append(Group(name, xs, ys))
    return Points(x, y, group, tuple(groups), tuple(left_out))


def _listed(rows: Rows) -> str:
    return ", ".join(_printable(name) for name in rows.columns if name) or "none"


def _line(where: str) -> str:
    """The line alone, where the file has been named already."""
    return where.rpartition(", ")[2]


def _printable(text: str) -> str:
    """Returns a text on one line that any terminal and any file takes."""
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


def _failure(record: Row, columns: tuple[str, str]) -> str | None:
    """Says why a sweep's record has no point, if it has none."""
    status = record.values["status"]
    if not isinstance(status, str):
        raise UserError(f"{record.where}, column status: {shown(status)} is no text; see how it was written.")
    # A number that is not finite is null in a record, and its status names it.
    lost = any(record.values.get(name, 0) is None and name in status for name in columns)
    return _printable(status) if status.startswith("failed") or lost else None


def _name(row: Row, column: str) -> str:
    """The name of a row's group or replicate: a text, a number or a truth value."""
    value = row.values.get(column)
    if isinstance(value, str) and value.strip():
        return _printable(value.strip())
    if isinstance(value, bool | int | float) and math.isfinite(value):
        return json.dumps(value)
    what = "nothing" if value is None or value == "" else shown(value)
    raise UserError(f"{row.where}, column {column}: {what} is no name; give each row a text or a number.")


def _number(row: Row, column: str, is_text: bool) -> float:
    """The number in a column, which must be above zero."""
    value = row.values.get(column)
    where = f"{row.where}, column {column}"
    advice = "give a number above zero, such as 250 or 1e6, or remove the row"
    if value is None or value == "":
        raise UserError(f"{where}: nothing is there; {advice}.")
    if isinstance(value, str):
        if _NOT_FINITE.fullmatch(value):
            raise UserError(f"{where}: {shown(value)} is not finite; {advice}.")
        if not _NUMBER.fullmatch(value) or not is_text:
            raise UserError(f"{where}: {shown(value)} is text; {_rewritten(value) or advice}.")
        number = float(value)
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{where}: {shown(value)} is no number; {advice}.")
    else:
        number = float(value)
    if not math.isfinite(number):
        raise UserError(f"{where}: {shown(value)} is not finite or too large; {advice}.")
    if number <= 0:
        raise UserError(f"{where}: {shown(value)} is not above zero; {advice}.")
    return number


def _rewritten(text: str) -> str:
    """How to write what a person would read as a number; empty if nobody would."""
    if _NUMBER.fullmatch(text):
        return f"write {text}, without quotes"
    if _THOUSANDS.fullmatch(text):
        plain = re.sub(r"[^\d+-]", "", text)
        return f"write {plain}, without separators of thousands"
    if _NUMBER.fullmatch(text.replace(",", ".")):
        return f"write {text.replace(',', '.')}, with a decimal point"
    return ""
