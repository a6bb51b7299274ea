"""Rows of tables in text: cells between commas, semicolons, tabs, bars or blanks."""

import csv
import io
import re
from collections.abc import Iterator, Sequence

from cvfp_jax.errors import UserError
from cvfp_jax.scaling.cells import NoNumberError, read_number
from cvfp_jax.scaling.rows import Row, Rows, Skipped, shown

_QUOTED = re.compile('"[^"]*"')
_DELIMITERS = ",;\t|"
HEADER_AGAIN, MORE_CELLS = "the header again", "more cells than columns"


def read_table(text: str, name: str, strict: bool = False) -> Rows:
    """Returns the rows of a table.

    Cells stand between whichever of commas, semicolons, tabs and bars its first line has most of, or between
    blanks where it has none. Lines that begin with ``#`` are comments; the last of them names the columns if
    nothing else does.

    Args:
      text: the table, its lines ended by newlines.
      name: of the file, for messages.
      strict: whether rows must have as many cells as there are columns.

    Returns:
      Rows of cells, which are text without the blanks around them.

    Raises:
      UserError: there are no rows, or the quotes are broken; the line is named.

    >>> table = read_table("# a run\\ntokens;loss\\n1;4,5\\n", "t.csv")
    >>> table.columns, table.rows[0].values
    (('tokens', 'loss'), {'tokens': '1', 'loss': '4,5'})
    """
    lines = text.split("\n")
    commented = [line.lstrip().startswith("#") for line in lines]
    if all(is_comment or not line.strip() for line, is_comment in zip(lines, commented, strict=True)):
        commented = [False] * len(lines)
    first = next((n for n, line in enumerate(lines) if line.strip() and not commented[n]), 0)
    header, delimiter = first, _delimiter(lines[first], lines[first + 1 : first + 2])
    above = max((n for n in range(first) if commented[n]), default=None)
    if above is not None and _names(lines[above], lines[first], delimiter):
        header = above
        lines[above] = lines[above].lstrip().lstrip("#")
        commented[above] = False
    kept = ["" if is_comment else line for line, is_comment in zip(lines, commented, strict=True)]
    for n in range(header):
        kept[n] = ""
    comments = sum(commented[first:])
    return _parsed(kept, name, delimiter, strict, comments)


def _delimiter(header: str, following: Sequence[str]) -> str:
    bare = _QUOTED.sub("", header)
    best = max(_DELIMITERS, key=bare.count)
    if bare.count(best) or not following:
        return best
    columns = len(header.split())
    return " " if columns > 1 and columns == len(following[0].split()) else best


def _cells(line: str, delimiter: str) -> list[str]:
    return line.split() if delimiter == " " else next(csv.reader([line], delimiter=delimiter), [])


def _names(comment: str, first: str, delimiter: str) -> bool:
    """Whether a comment names the columns of the row below it, which has numbers only."""
    names, cells = _cells(comment.lstrip().lstrip("#").strip(), delimiter), _cells(first, delimiter)
    return len(names) == len(cells) and not any(map(_is_number, names)) and all(map(_is_number, cells))


def _is_number(cell: str) -> bool:
    try:
        read_number(cell)
    except NoNumberError:
        return False
    return True


def _records(lines: list[str], name: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The rows' cells with the lines where they begin."""
    if delimiter == " ":
        yield from ((n, line.split()) for n, line in enumerate(lines, 1))
        return
    source = io.StringIO("\n".join(lines), newline="")
    reader = csv.reader(source, delimiter=delimiter, skipinitialspace=delimiter != "\t", strict=True)
    line = 1
    try:
        for cells in reader:
            yield line, [cell.strip() for cell in cells]
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{name}, line {line}: not valid CSV ({error}); mend its quotes or cells, or remove it."
        ) from None


def _parsed(lines: list[str], name: str, delimiter: str, strict: bool, comments: int) -> Rows:
    columns: tuple[str, ...] = ()
    rows: list[Row] = []
    skipped: list[Skipped] = []
    for line, cells in _records(lines, name, delimiter):
        where = f"{name}, line {line}"
        if not any(cells):  # spreadsheets end with such lines
            continue
        if not columns:
            columns = tuple(cells)
            _check_header(columns, where, strict)
            continue
        if strict and len(cells) != len(columns):
            raise UserError(
                f"{where}: {len(cells)} cells, but the first line names {len(columns)} columns; give"
                " every row as many, and write numbers without separators of thousands."
            )
        if tuple(cells) == columns:
            skipped.append(Skipped(HEADER_AGAIN, where))
        elif any(cells[len(columns) :]):
            skipped.append(Skipped(MORE_CELLS, where))
        else:
            # What a short row has not is empty; of columns with one name the first counts.
            values: dict[str, str] = {}
            for column, cell in zip(columns, [*cells, *[""] * len(columns)], strict=False):
                values.setdefault(column, cell)
            rows.append(Row(where, values))
    if not rows:
        raise UserError(
            f"{name} has no rows: the first line names the columns, and a row follows on each line."
        )
    notes = (f"{comments} line{'s' * (comments > 1)} of comments",) if comments else ()
    return Rows(columns, tuple(rows), True, delimiter, tuple(skipped), notes)


def _check_header(columns: tuple[str, ...], where: str, strict: bool) -> None:
    for name in columns:
        # A column without a name, such as a data frame's index, cannot be asked for.
        if strict and name and columns.count(name) > 1:
            raise UserError(f"{where}: {columns.count(name)} columns are named {shown(name)}; rename them.")
