"""Numbers as people write them in tables: 1,000,000, 4,25, 70M, 25%, 3 x 10^8, and cells that hold none."""

import math
import re
from collections.abc import Iterable

EMPTY, NAN, INFINITE, TEXT = "empty", "not a number (NaN)", "infinite or too large", "text"
_PLAIN = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_WITH_UNIT = re.compile(r"(.*?\d\.?) ?([kKMGBT%])", re.ASCII)
_UNITS = {"k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9, "T": 1e12, "%": 1e-2}
_POWER_OF_TEN = re.compile(r"(?:(.+?) ?[x*\u00d7\u00b7] ?)?10 ?(?:\^|\*\*) ?([+-]?\d{1,3})", re.ASCII)
_MISSING = {"", "-", "--", "?", "na", "n/a", "#n/a", "null", "none", "missing", "<na>"}
_NOT_A_NUMBER = re.compile(r"[+-]?nan", re.IGNORECASE)
_INFINITE = re.compile(r"[+-]?(inf|infinity|\u221e)", re.IGNORECASE)
_TYPOGRAPHY = str.maketrans({"\u2212": "-", "\u00a0": " ", "\u202f": " ", "\u2009": " ", "\u2019": "'"})
# Digits in threes: with one mark they may as well be three decimals.
_IN_THREES = {
    mark: re.compile(rf"[+-]?[1-9]\d{{0,2}}(?:{re.escape(mark)}\d{{3}})+", re.ASCII) for mark in ",."
}
_SEPARATED = re.compile(r"([+-]?\d{1,3}(?:[ _']\d{3})+)(\D.*)?", re.ASCII)
_COMMA = re.compile(r"[+-]?\d*,\d", re.ASCII)


class NoNumberError(ValueError):
    """A cell without a number; its text is the reason, a constant of this file."""


def read_number(text: str, decimal_comma: bool = False) -> float:
    """Returns the number that a cell shows.

    Args:
      text: the cell.
      decimal_comma: whether commas are decimal marks and points separate thousands.

    Returns:
      It, finite; of a percentage a hundredth, of ``70M`` 7e7, of ``1.4B`` 1.4e9.

    Raises:
      NoNumberError: there is none; the reason.

    >>> [read_number(text) for text in ("1,000,000", "1.4B", "25%", "1 000", "3 x 10^8", ".5e-3")]
    [1000000.0, 1400000000.0, 0.25, 1000.0, 300000000.0, 0.0005]
    >>> read_number("1.234,5", decimal_comma=True)
    1234.5
    """
    text = text.translate(_TYPOGRAPHY).strip()
    number = float(text) if _PLAIN.fullmatch(text) and not decimal_comma else _unusual(text, decimal_comma)
    if not math.isfinite(number):
        raise NoNumberError(INFINITE)
    return number


def _unusual(text: str, decimal_comma: bool) -> float:
    if text.lower() in _MISSING:
        raise NoNumberError(EMPTY)
    if _NOT_A_NUMBER.fullmatch(text):
        raise NoNumberError(NAN)
    if _INFINITE.fullmatch(text):
        raise NoNumberError(INFINITE)
    if power := _POWER_OF_TEN.fullmatch(text):
        return (_digits(power[1], decimal_comma) if power[1] else 1.0) * 10.0 ** int(power[2])
    if unit := _WITH_UNIT.fullmatch(text):
        return _digits(unit[1], decimal_comma) * _UNITS[unit[2]]
    return _digits(text, decimal_comma)


def _digits(text: str, decimal_comma: bool) -> float:
    """Digits with separators of thousands and a decimal mark."""
    if separated := _SEPARATED.fullmatch(text):
        text = re.sub("[ _']", "", separated[1]) + (separated[2] or "")
    point, thousands = (",", ".") if decimal_comma else (".", ",")
    whole, mark, rest = text.partition(point)
    if _IN_THREES[thousands].fullmatch(whole):
        whole = whole.replace(thousands, "")
    plain = f"{whole}.{rest}" if mark else whole
    if not _PLAIN.fullmatch(plain) or (decimal_comma and mark == "" and "." in plain):
        # A point that separates no thousands can only be a decimal mark.
        if not _PLAIN.fullmatch(text):
            raise NoNumberError(TEXT)
        plain = text
    return float(plain)


def comma_votes(cells: Iterable[str]) -> tuple[int, int, int]:
    """Counts cells whose comma must be a decimal mark, must separate thousands, and may be either.

    >>> comma_votes(["4,25", "0,125", "1.234,5", "1,000,000", "1,000.5", "1,000", "7"])
    (3, 2, 1)
    """
    decimal = thousands = either = 0
    for cell in cells:
        if not _COMMA.match(cell.replace(".", "")):
            continue
        number = cell.rstrip("kKMGBT% ")
        whole, point, _ = number.partition(".")
        if _IN_THREES[","].fullmatch(whole):
            if point or number.count(",") > 1:
                thousands += 1
            else:
                either += 1
        elif number.count(",") == 1 and number.rfind(".") < number.find(","):
            decimal += 1
    return decimal, thousands, either


def points_in_threes(cells: Iterable[str]) -> bool:
    """Says whether all points in a column can separate thousands, and some are there.

    >>> points_in_threes(["1.000", "500"]), points_in_threes(["1.0005"]), points_in_threes(["7"])
    (True, False, False)
    """
    pointed = [cell.rstrip("kKMGBT% ") for cell in cells if "." in cell]
    return bool(pointed) and all(_IN_THREES["."].fullmatch(cell) for cell in pointed)
