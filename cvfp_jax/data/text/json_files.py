"""JSON and JSON Lines, and what files are that are neither."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cvfp_jax.data.text import decoding
from cvfp_jax.data.text.reading import SKIP, BadRowError, Row
from cvfp_jax.errors import UserError

_ONE_A_LINE = "put each record on a line of its own, for example with 'jq -c .'"
_PYTHON = ("None", "True", "False")


def json_file(path: Path) -> Iterator[Row]:
    """Yields the records of a file of one JSON value: those of a list, or the value itself."""
    text = decoding.whole(path)
    try:
        records = json.loads(text)
    except json.JSONDecodeError as error:
        what = _what_is_wrong(error) or _not_one_value(error) or "the file may have been cut short"
        raise UserError(f"{path}, line {error.lineno}: not valid JSON ({error.msg}); {what}.") from None
    except (ValueError, RecursionError) as error:
        raise _unreadable(f"{path}, line 1", error) from None
    if not isinstance(records, list) or _is_conversation(records):
        records = [records]
    for index, record in enumerate(records, 1):
        yield record, f"{path}, record {index}"


def json_lines(path: Path) -> Iterator[Row]:
    """Yields a record a line; a line that holds none is a bad row."""
    name, is_first = str(path), True
    for number, (line, following) in enumerate(
        itertools.pairwise(itertools.chain(decoding.lines(path), [None])), 1
    ):
        if not line or line.isspace():
            continue
        where = f"{name}, line {number}"
        row: Any
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            if is_first and following is not None:
                _check_layout(path, line, error)
            row = _broken(where, error, is_last=following is None)
        except (ValueError, RecursionError) as error:
            row = _unreadable(where, error)
        if is_first and _is_list_of_records(row):
            raise _array(path)
        is_first = False
        yield row, where


def _is_conversation(records: list[Any]) -> bool:
    """Says whether a list is one of turns and not of records."""
    keys = ({"role", "content"}, {"from", "value"})
    return bool(records) and all(
        isinstance(record, dict) and any(pair <= record.keys() for pair in keys) for record in records
    )


def _is_list_of_records(row: Any) -> bool:
    is_list = isinstance(row, list) and row and all(isinstance(record, dict) for record in row)
    return bool(is_list) and not _is_conversation(row)


def _array(path: Path) -> UserError:
    return UserError(
        f"{path} holds a JSON array and not a record a line: name it .json, or {_ONE_A_LINE[:-1]}[]'."
    )


def _check_layout(path: Path, line: str, error: json.JSONDecodeError) -> None:
    """Refuses a file whose first line does not hold all of its first value."""
    if error.doc[error.pos :].strip():
        return
    opening = line.lstrip()[0]
    if opening == "[":
        raise _array(path)
    if opening == "{" and not line.rstrip().endswith("}"):
        raise UserError(f"{path} holds objects over several lines and not a record a line: {_ONE_A_LINE}.")


def _what_is_wrong(error: json.JSONDecodeError) -> str | None:
    """Returns a known mistake in a text and what to do, or None."""
    before, after = error.doc[: error.pos].rstrip(), error.doc[error.pos :].lstrip()
    if before.endswith(",") and after[:1] in ("}", "]"):
        return f"there is a comma before the closing {after[0]}: remove it"
    if "trailing comma" in error.msg:  # of newer Pythons, which point at the comma
        return "there is a comma before a closing bracket: remove it"
    if after.startswith("'"):
        return (
            "it has single quotes, as Python prints them, and JSON has double ones: write it with json.dumps"
        )
    if after.startswith(_PYTHON):
        return f"{after.split(maxsplit=1)[0].rstrip(',}]')} is Python's: write it with json.dumps"
    if before.endswith((":", ",", "[")) and after[:3] in ("NaN", "nan", "inf"):
        return "it has a number that JSON has not: write null"
    if not before and after.startswith("<"):
        return "it is a page of HTML or XML: download the file itself"
    return None


def _not_one_value(error: json.JSONDecodeError) -> str | None:
    """What a .json file is that goes on behind its first value."""
    if error.msg != "Extra data":
        return None
    if "\n" in error.doc[: error.pos].strip():
        return "it holds one value after the other: put them in a list, for example with 'jq -s .'"
    return "if it holds a record a line, name it .jsonl"


def _not_one_record(error: json.JSONDecodeError, is_last: bool) -> str:
    """What a line is that is no record."""
    rest = error.doc[error.pos :].strip()
    if error.msg == "Extra data":
        if rest == ",":
            return "there is a comma behind the record: remove it"
        if rest.startswith(("{", "[")):
            return f"several records are in one line: {_ONE_A_LINE}"
        return "there is something behind the record: remove it"
    ends_early = not rest or error.msg.startswith("Unterminated string")
    if ends_early and is_last:
        return "the file may have been cut short: copy it again"
    return "the line is cut short: mend it" if ends_early else "mend the line"


def _broken(where: str, error: json.JSONDecodeError, is_last: bool) -> BadRowError:
    """Says what a line is that is not valid JSON."""
    known = _what_is_wrong(error)
    what = known or _not_one_record(error, is_last)
    # Where all lines will be so, leaving them out is no advice.
    skip = "" if known or what.endswith(_ONE_A_LINE) else f", or {SKIP}"
    return BadRowError(f"{where}: not valid JSON ({error.msg}); {what}{skip}.", "not valid JSON")


def _unreadable(where: str, error: Exception) -> BadRowError:
    """Says what Python cannot read although it is JSON."""
    if isinstance(error, RecursionError):
        return BadRowError(
            f"{where}: JSON nested too deeply; flatten it, or {SKIP}.", "JSON nested too deeply"
        )
    return BadRowError(f"{where}: not readable JSON ({error}); shorten it, or {SKIP}.", "not readable JSON")
