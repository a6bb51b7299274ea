"""Points of any table: sizes and measures, by group, and what the table has besides."""

import dataclasses
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from cvfp_jax.errors import UserError
from cvfp_jax.scaling.cells import (
    EMPTY,
    INFINITE,
    NAN,
    TEXT,
    NoNumberError,
    comma_votes,
    points_in_threes,
    read_number,
)
from cvfp_jax.scaling.choice import Choice
from cvfp_jax.scaling.rows import Row, Rows, read_rows, shown
from cvfp_jax.scaling.strict import strict_number

ALL = "all"  # the name of the only group where no column names groups
REPLICATES = "seed"  # the column that tells measures of one size apart, in any letters
# What a sweep's records always have, and the columns that stand for what is fitted in them.
_OF_RECORDS = ("experiment", "preset", "cell", "series", "status", "train_tokens")
_RECORDS_X, _RECORDS_Y, _RECORDS_GROUP = "train_tokens", "val_ppl", "series"
NOT_POSITIVE, NO_NUMBER, NO_NAME = "not above zero", "no number", "without a name"
Columns = str | Sequence[str] | None


@dataclasses.dataclass(frozen=True)
class Group:
    """Points that one law is fitted to, by size; measures of the same size are replicates."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    others: tuple[tuple[float, ...], ...] = ()  # further variables, each as long as x
    sigma: tuple[float, ...] = ()  # errors of y; none where they are not given
    tests: tuple[tuple[float, ...], ...] = ()  # rows of variables and y that are held out

    @property
    def variables(self) -> tuple[tuple[float, ...], ...]:
        """All variables, x first."""
        return (self.x, *self.others)


@dataclasses.dataclass(frozen=True)
class Points:
    """The groups of a table in its order, the columns they are made of, and what they leave out and why."""

    x: str
    y: str
    group: str | None
    groups: tuple[Group, ...]
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()  # how the table was understood
    variables: tuple[str, ...] = ()  # all columns of sizes, x first


def read_points(
    path: Path, x: Columns = None, y: str | None = None, group: Columns = None, choice: Choice | None = None
) -> Points:
    """Reads the points of a table, or of a sweep's records.

    Rows that have no number above zero where one is needed are left out and counted, by reason. Rows of one
    group and one size are replicates. Groups of one size are left out. ``Choice(strict=True)`` makes each of
    these a mistake, but for replicates that a column ``seed`` tells apart.

    Args:
      path: the file.
      x: the column of sizes, or several columns; of records, ``train_tokens`` if none is given.
      y: the column of measures; of records, ``val_ppl`` if none is given.
      group: the columns whose values name the groups; of records, ``series`` if none is given, and
        elsewhere all rows are one group, named ``all``.
      choice: which rows are taken, and how.

    Returns:
      The groups, each of two sizes or more, and what is left out of them.

    Raises:
      UserError: the file cannot be used; the message names the line and the column.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "points.csv"
    ...     _ = path.write_text("tokens,ppl\\n2e6,90\\n1M,100\\n4e6,nan\\n")
    ...     found = read_points(path, "tokens", "ppl")
    >>> found.groups
    (Group(name='all', x=(1000000.0, 2000000.0), y=(100.0, 90.0), others=(), sigma=(), tests=()),)
    >>> found.left_out
    ('1 row: ppl not a number (NaN) (line 4)',)
    """
    choice = choice or Choice()
    return points_of_rows(read_rows(path, choice.strict), str(path), x, y, group, choice)


def points_of_rows(
    rows: Rows, name: str, x: Columns, y: str | None, group: Columns, choice: Choice
) -> Points:
    """Returns the points of rows that have been read; as ``read_points``, ``name`` being the file's."""
    of_sweep = all(column in row.values for row in rows.rows for column in _OF_RECORDS)
    if of_sweep:
        x = _RECORDS_X if x is None else x
        y = _RECORDS_Y if y is None else y
        group = _RECORDS_GROUP if group is None else group
    if x is None or y is None:
        missing = " and ".join(f"--{flag}" for flag, given in (("x", x), ("y", y)) if given is None)
        raise UserError(f"no {missing}: name one of the columns of {name} for each: {_listed(rows)}.")
    derived = {each.name: each.factors(rows.columns) for each in choice.derive}
    known = (*rows.columns, *derived)
    sizes, groups = _several(x, known), () if group is None else _several(group, known)
    extra = [each.column for each in (*choice.where, *choice.holdout)]
    sigma = () if choice.sigma is None else (choice.sigma,)
    for column in (*sizes, y, *groups, *sigma, *extra):
        if not column or column not in known:
            raise UserError(f"{name} has no column {shown(column)}: the columns are {_listed(rows)}.")
    wanted = (*sizes, y, *sigma, *groups)
    if len(set(wanted)) < len(wanted):
        named = f"x={','.join(sizes)}, y={y} and group={','.join(groups) or None}"
        count = {2: "two", 3: "three", 4: "four"}.get(max(3, len(wanted)), str(len(wanted)))
        raise UserError(f"{named} are not {count} columns: name another for each.")
    reader = _Reader(rows, name, (*sizes, y, *sigma), groups, derived, choice, of_sweep)
    return reader.points(sizes, y)


def _several(columns: str | Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """Columns by name, or by names with commas between."""
    if not isinstance(columns, str):
        return tuple(columns)
    if columns in known or "," not in columns:
        return (columns,)
    return tuple(part.strip() for part in columns.split(","))


class _Reader:
    """Takes points out of rows, and counts what it leaves."""

    def __init__(
        self,
        rows: Rows,
        name: str,
        columns: tuple[str, ...],
        groups: tuple[str, ...],
        derived: dict[str, list[tuple[str | float, int]]],
        choice: Choice,
        of_sweep: bool,
    ) -> None:
        self.rows, self.name, self.columns, self.groups = rows, name, columns, groups
        self.derived, self.choice, self.of_sweep = derived, choice, of_sweep
        self.seed = next((column for column in rows.columns if column.lower() == REPLICATES), None)
        self.notes = list(rows.notes)
        inputs = {
            part
            for column in columns
            for part, _ in derived.get(column, [(column, 1)])
            if isinstance(part, str)
        }
        self.decimal_comma = {} if choice.strict else self._commas(sorted(inputs))
        self.skipped: dict[str, list[str]] = {}  # by reason, where
        self.examples: dict[str, str] = {}  # of texts, by reason
        for each in rows.skipped:
            self._leave(each.reason, each.where)
        self.failed: list[str] = []  # records
        # By group and size, the line of each replicate, and the rows of variables, y and sigma.
        self.lines: dict[str, dict[tuple[float, ...], dict[str | None, str]]] = {}
        self.found: dict[str, list[tuple[float, ...]]] = {}
        self.tests: dict[str, list[tuple[float, ...]]] = {}
        self.repeated: dict[str, list[str]] = {}

    def points(self, sizes: tuple[str, ...], y: str) -> Points:
        """Returns the groups, with what is left out of them."""
        for row in self.rows.rows:
            self._take(row, len(sizes))
        small = self._leave_small_groups()
        left_out = [*self.failed, *map(self._counted, self.skipped), *small]
        if not self.found:
            raise UserError(f"{self.name} has no group of two sizes or more: {'; '.join(left_out[:3])}.")
        groups = tuple(self._group(name, len(sizes)) for name in self.found)
        for name, lines in self.repeated.items():
            of = "" if name == ALL else f"group {name}: "
            self.notes.append(
                f"{of}{len(lines)} row{'s' * (len(lines) > 1)} of a size that has been there"
                f" ({_line(lines[0])}{' first' * (len(lines) > 1)}) taken as replicates"
            )
        group = ", ".join(self.groups) or None
        return Points(", ".join(sizes), y, group, groups, tuple(left_out), tuple(self.notes), sizes)

    def _leave(self, reason: str, where: str) -> None:
        self.skipped.setdefault(reason, []).append(where)

    def _counted(self, reason: str) -> str:
        lines = self.skipped[reason]
        count = f"{len(lines):,} row{'s' * (len(lines) > 1)}"
        such = f", such as {self.examples[reason]}" if reason in self.examples else ""
        return f"{count}: {_printable(reason)}{such} ({_line(lines[0])}{' first' * (len(lines) > 1)})"

    def _commas(self, columns: Iterable[str]) -> dict[str, bool]:
        """Which columns have decimal commas, after their own cells or, where those may be either, others'."""
        texts = {
            column: [cell for row in self.rows.rows if isinstance(cell := row.value(column), str)]
            for column in columns
        }
        votes = {column: comma_votes(cells) for column, cells in texts.items()}
        decimal, thousands = (sum(vote[n] for vote in votes.values()) for n in (0, 1))
        of_table = decimal > thousands or (decimal == thousands and self.rows.delimiter == ";")
        chosen = {}
        for column, vote in votes.items():
            if vote[0] != vote[1]:
                chosen[column] = vote[0] > vote[1]
            elif vote[2]:
                chosen[column] = of_table
                meant = "decimal marks" if of_table else "separators of thousands"
                self.notes.append(f"column {_printable(column)}: its commas are taken for {meant}")
            else:
                chosen[column] = decimal > thousands and points_in_threes(texts[column])
        return chosen

    def _take(self, row: Row, count: int) -> None:
        choice = self.choice
        if self.of_sweep and (status := _failure(row, self.columns)):
            self.failed.append(f"{row.where}: {_name(row, 'series')}, {status}")
            return
        if not all(condition.holds(row) for condition in choice.where):
            self._leave(f"not where {','.join(map(str, choice.where))}", row.where)
            return
        values = []
        for column in self.columns:
            number = self._number(row, column)
            if isinstance(number, str):
                self._leave(f"{column} {number}", row.where)
                return
            values.append(number)
        if not choice.min_x <= values[0] <= choice.max_x:
            end = "below --min_x" if values[0] < choice.min_x else "above --max_x"
            self._leave(f"{self.columns[0]} {end}", row.where)
            return
        name = self._group_name(row)
        if name is None:
            return
        if choice.holdout and all(condition.holds(row) for condition in choice.holdout):
            self.tests.setdefault(name, []).append(tuple(values[: count + 1]))
            return
        self._note_replicate(row, name, tuple(values[:count]))
        self.found.setdefault(name, []).append(tuple(values))

    def _group_name(self, row: Row) -> str | None:
        if not self.groups:
            return ALL
        if not self.choice.strict:
            for column in self.groups:
                value = row.value(column)
                if value is None or isinstance(value, list | dict) or not str(value).strip():
                    self._leave(f"{column} {NO_NAME}", row.where)
                    return None
        return ", ".join(_name(row, column) for column in self.groups)

    def _note_replicate(self, row: Row, name: str, size: tuple[float, ...]) -> None:
        seeded = self.seed is not None and row.value(self.seed) not in (None, "")
        replicate = None
        if seeded and self.seed is not None:
            value = row.value(self.seed)
            replicate = _name(row, self.seed) if self.choice.strict else shown(value)
        others = self.lines.setdefault(name, {}).setdefault(size, {})
        if replicate in others and not self.choice.best:
            if self.choice.strict:
                same = "" if replicate is None else f" and {self.seed} {replicate}"
                raise UserError(
                    f"{row.where}, column {self.columns[0]}: {size[0]:.12g}{same} is already in"
                    f" {_line(others[replicate])}, in group {name}; remove one, name groups with --group, or"
                    f" tell replicates apart in a column {REPLICATES}."
                )
            self.repeated.setdefault(name, []).append(row.where)
        others.setdefault(replicate, row.where)

    def _leave_small_groups(self) -> list[str]:
        """Drops groups of one size, and says so."""
        small = []
        for name, sizes in self.lines.items():
            if len(sizes) > 1:
                continue
            first = next(iter(next(iter(sizes.values())).values()))
            message = (
                f"{first}, column {self.columns[0]}: the only size of group {name}, and a law needs two or"
                " more"
            )
            if self.choice.strict and not self.of_sweep:
                raise UserError(f"{message}; add points or remove the group.")
            small.append(message)
            del self.found[name]
        return small

    def _group(self, name: str, count: int) -> Group:
        rows = sorted(self.found[name])
        if self.choice.best:
            least: dict[tuple[float, ...], tuple[float, ...]] = {}
            for row in rows:  # sorted, so that the first of a size has the least y
                least.setdefault(row[:count], row)
            if len(least) < len(rows):
                of = "" if name == ALL else f"group {name}: "
                self.notes.append(f"{of}the least measure of each size, {len(least)} of {len(rows)} rows")
            rows = list(least.values())
        columns = list(zip(*rows, strict=True))
        sigma = columns[count + 1] if self.choice.sigma is not None else ()
        tests = tuple(sorted(self.tests.get(name, [])))
        return Group(name, columns[0], columns[count], tuple(columns[1:count]), sigma, tests)

    def _number(self, row: Row, column: str) -> float | str:
        """A row's number above zero, or the reason why it has none."""
        if column not in self.derived:
            return self._cell(row, column)
        number = 1.0
        for part, power in self.derived[column]:
            value = self._cell(row, part) if isinstance(part, str) else part
            if isinstance(value, str):
                return f"({part} {value})"
            try:
                number *= value**power
            except (OverflowError, ZeroDivisionError):
                return INFINITE
        return number if 0 < number < math.inf else INFINITE

    def _cell(self, row: Row, column: str) -> float | str:
        value = row.value(column)
        if self.choice.strict:
            return strict_number(row, column, value, self.rows.is_text)
        if value is None:
            return EMPTY
        if isinstance(value, str):
            try:
                number = read_number(value, self.decimal_comma.get(column, False))
            except NoNumberError as reason:
                if str(reason) == TEXT:
                    self.examples.setdefault(f"{column} {TEXT}", shown(value))
                return str(reason)
        elif isinstance(value, bool) or not isinstance(value, int | float):
            return NO_NUMBER
        else:
            number = math.inf if isinstance(value, int) and abs(value) >= 10**308 else float(value)
        if math.isnan(number):
            return NAN
        if math.isinf(number):
            return INFINITE
        return number if number > 0 else NOT_POSITIVE


def _listed(rows: Rows) -> str:
    return ", ".join(_printable(name) for name in rows.columns if name) or "none"


def _line(where: str) -> str:
    """The line alone, where the file has been named already."""
    return where.rpartition(", ")[2]


def _printable(text: str) -> str:
    """Returns a text on one line that any terminal and any file takes."""
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


def _failure(record: Row, columns: Sequence[str]) -> str | None:
    """Says why a sweep's record has no point, if it has none."""
    status = record.values["status"]
    if not isinstance(status, str):
        raise UserError(f"{record.where}, column status: {shown(status)} is no text; see how it was written.")
    # A number that is not finite is null in a record, and its status names it.
    lost = any(record.values.get(name, 0) is None and name in status for name in columns)
    return _printable(status) if status.startswith("failed") or lost else None


def _name(row: Row, column: str) -> str:
    """The name of a row's group or replicate: a text, a number or a truth value."""
    value = row.value(column)
    if isinstance(value, str) and value.strip():
        return _printable(value.strip())
    if isinstance(value, bool | int | float) and math.isfinite(value):
        return json.dumps(value)
    what = "nothing" if value is None or value == "" else shown(value)
    raise UserError(f"{row.where}, column {column}: {what} is no name; give each row a text or a number.")
