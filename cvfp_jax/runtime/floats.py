"""Numbers at the ends of what a float holds."""

import math


def exp(value: float) -> float:
    """Returns e to the power of a value, infinite where that overflows.

    >>> exp(0.0), exp(1e4)
    (1.0, inf)
    """
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf


def finite(value: float) -> float | None:
    """Returns a number for JSON, which has none that is not finite.

    >>> finite(0.5), finite(math.inf)
    (0.5, None)
    """
    return value if math.isfinite(value) else None
