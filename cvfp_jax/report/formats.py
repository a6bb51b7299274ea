"""Numbers, sizes, times and intervals as tables and sentences have them."""

import math
from collections.abc import Sequence

UNKNOWN = "-"


def number(value: float | None, digits: int = 1) -> str:
    """Returns a number with so many decimals, in powers of ten where it is huge.

    >>> number(1234.56), number(3.2e9), number(None)
    ('1,234.6', '3.2e+09', '-')
    """
    if value is None or math.isnan(value):
        return UNKNOWN
    return f"{value:,.{digits}f}" if abs(value) < 1e7 else f"{value:.3g}"


def whole(value: int | None) -> str:
    """Returns a whole number with its thousands marked.

    >>> whole(1181952)
    '1,181,952'
    """
    return UNKNOWN if value is None else f"{value:,}"


def percent(value: float | None, digits: int = 1) -> str:
    """Returns a share in per cent.

    >>> percent(0.7966)
    '79.7%'
    """
    return UNKNOWN if value is None or math.isnan(value) else f"{100 * value:.{digits}f}%"


def significant(value: float | None) -> str:
    """Returns a number of four digits.

    >>> significant(0.032312), significant(None)
    ('0.03231', '-')
    """
    return UNKNOWN if value is None else f"{value:.4g}"


def size(value: float) -> str:
    """Returns a number of tokens or samples with three to four digits.

    >>> size(1251389.0), size(324500.0), size(800), size(2.5e9), size(3e31)
    ('1.251M', '324.5k', '800', '2.5B', '3e+31')
    """
    for least, unit, letter in (
        (999.95e12, 0, ""),
        (999.95e9, 1e12, "T"),
        (999.95e6, 1e9, "B"),
        (999_950, 1e6, "M"),
    ):
        if value >= least:
            return f"{value / unit:.4g}{letter}" if unit else f"{value:.3g}"
    return f"{value / 1e3:.4g}k" if value >= 10_000 else f"{value:,.0f}"


def amount(count: float) -> str:
    """Returns bytes for people, in powers of 1,000 as the flags have them.

    >>> amount(999), amount(3_072_000), amount(3.07e15)
    ('999 B', '3.07 MB', '3.07 PB')
    """
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} PB" if count < 999.5 else f"{count:,.0f} PB"


def duration(seconds: float | None, precise: bool = False) -> str:
    """Returns a time in whole seconds, or precisely: to three digits of one unit.

    >>> duration(7.4), duration(75), duration(7500), duration(None)
    ('7 s', '1 min 15 s', '2 h 5 min', '-')
    >>> [duration(seconds, precise=True) for seconds in (0.0097, 90, 5400, 1e7)]
    ['9.7 ms', '90 s', '1.5 h', '116 d']
    """
    if seconds is None:
        return UNKNOWN
    if not precise:
        minutes, rest = divmod(round(seconds), 60)
        if minutes < 60:
            return f"{minutes} min {rest} s" if minutes else f"{rest} s"
        return f"{minutes // 60} h {minutes % 60} min"
    for least, unit, name in ((172_800, 86_400, "d"), (3600, 3600, "h"), (300, 60, "min"), (1, 1, "s")):
        if seconds >= least:
            value = seconds / unit
            return f"{value:.3g} {name}" if value < 999.5 else f"{value:,.0f} {name}"
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} us"


def interval(ends: Sequence[float | None] | None, digits: int | None = None) -> str:
    """Returns an interval with so many decimals, or in brackets with four digits; None for an end is none.

    >>> interval((80.04, 1234.5), 1)
    '80.0 to 1,234.5'
    >>> interval([1.23456, None]), interval(None)
    ('[1.235, no end]', '-')
    """
    if ends is None:
        return UNKNOWN
    if digits is not None:
        return " to ".join(f"{end:,.{digits}f}" for end in ends)
    return f"[{', '.join('no end' if end is None else significant(end) for end in ends)}]"
