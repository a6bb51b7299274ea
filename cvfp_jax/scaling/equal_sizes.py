"""Two series at equal sizes: measured where both were, interpolated in between, refused elsewhere."""

import dataclasses
import math
from collections.abc import Sequence

MEASURED = "measured"
INTERPOLATED = "interpolated"


@dataclasses.dataclass(frozen=True)
class Ratio:
    """The second series over the first at one size; NaN where the two cannot be compared."""

    status: str  # measured, interpolated, or why there is none
    x: float
    first: float = math.nan
    second: float = math.nan

    @property
    def defined(self) -> bool:
        """Whether the two were compared."""
        return self.status in (MEASURED, INTERPOLATED)

    @property
    def ratio(self) -> float:
        """The second over the first: below 1 where the second is lower."""
        return self.second / self.first


def _series(x: Sequence[float], log_y: Sequence[float]) -> dict[float, float]:
    """Returns the mean ln y of each size, in order."""
    if len(x) != len(log_y):
        raise ValueError(f"{len(x)} sizes but {len(log_y)} measures")
    if not all(math.isfinite(value) for value in [*x, *log_y]) or any(size <= 0 for size in x):
        raise ValueError("sizes must be above zero and all numbers finite")
    by_size: dict[float, list[float]] = {}
    for size, value in zip(x, log_y, strict=True):
        by_size.setdefault(size, []).append(value)
    return {size: sum(values) / len(values) for size, values in sorted(by_size.items())}


def interpolate(x: Sequence[float], log_y: Sequence[float], at: float) -> tuple[str, float]:
    """Returns y at a size, on the log-log line between its two neighbours.

    ``ln y = ln y1 + (ln y2 - ln y1) (ln x - ln x1) / (ln x2 - ln x1)``

    Args:
      x: sizes measured, above zero; the mean of ln y stands for replicates.
      log_y: natural logarithms of the measure.
      at: the size wanted.

    Returns:
      How (``measured`` or ``interpolated``) and y; or why not, and NaN: sizes outside those
      measured are never guessed at.

    Raises:
      ValueError: the lengths differ, a size is not above zero, or a number is not finite.

    >>> status, y = interpolate([100, 400], [math.log(8), math.log(4)], 200)
    >>> status, round(y, 4)
    ('interpolated', 5.6569)
    """
    series = _series(x, log_y)
    if at in series:
        return MEASURED, math.exp(series[at])
    below = [size for size in series if size < at]
    above = [size for size in series if size > at]
    if not below or not above:
        return f"not compared: {at:,.10g} lies outside the sizes measured", math.nan
    left, right = below[-1], above[0]
    share = math.log(at / left) / math.log(right / left)
    return INTERPOLATED, math.exp(series[left] + share * (series[right] - series[left]))


def at_equal_sizes(
    first: tuple[Sequence[float], Sequence[float]], second: tuple[Sequence[float], Sequence[float]]
) -> list[Ratio]:
    """Compares two series at every size of either, never across sizes.

    Args:
      first: sizes, and natural logarithms of the measure.
      second: the same of the other series.

    Returns:
      One ratio a size, in order: ``measured`` where both have it, ``interpolated`` where one was read
      off the line between its neighbours, else why there is none.

    >>> rows = at_equal_sizes(([1, 4], [0.0, -1.0]), ([1, 2, 8], [0.1, -0.4, -1.2]))
    >>> [(row.x, row.status.split(":")[0], round(row.ratio, 3)) for row in rows]
    [(1, 'measured', 1.105), (2, 'interpolated', 1.105), (4, 'interpolated', 1.221), (8, 'not compared', nan)]
    """
    rows = []
    for size in sorted({*first[0], *second[0]}):
        (how1, y1), (how2, y2) = interpolate(*first, size), interpolate(*second, size)
        refusals = [how for how in (how1, how2) if how not in (MEASURED, INTERPOLATED)]
        if refusals:
            rows.append(Ratio(refusals[0], size))
            continue
        rows.append(Ratio(MEASURED if how1 == how2 == MEASURED else INTERPOLATED, size, y1, y2))
    return rows
