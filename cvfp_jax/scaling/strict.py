"""Cells that must be plain numbers: what --strict reads, and what it says of others."""

import math
import re
from typing import Any

from cvfp_jax.errors import UserError
from cvfp_jax.scaling.rows import Row, shown

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:([,._' ])\d{3})(?:\1\d{3})*", re.ASCII)
_NOT_FINITE = re.compile(r"[+-]?(nan|inf|infinity)", re.IGNORECASE)


def strict_number(row: Row, column: str, value: Any, is_text: bool) -> float:
    """Returns the number in a column, which must be above zero.

    Args:
      row: where it stands.
      column: the column's name.
      value: what stands there.
      is_text: whether numbers are texts in this format.

    Raises:
      UserError: it is none, or is not written plainly.
    """
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
