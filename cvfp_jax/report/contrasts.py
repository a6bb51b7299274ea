"""What a change does to the perplexity: cells beside those of the base with the same seed and size."""

import dataclasses
import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any, NamedTuple

from cvfp_jax.report.records import Record, cell_key, failed
from cvfp_jax.runtime.floats import exp, finite
from cvfp_jax.scaling.line import LEVEL, student_t

# Axes along which cells are compared, and the value with which.
BASES = {"arm": "base", "architecture": "cvfp"}


class Interval(NamedTuple):
    """A mean, and the ends of its 95 % interval by Student's t; NaN with fewer than two numbers."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, numbers: Sequence[float]) -> "Interval":
        """Returns that of some numbers.

        ``mean +- t s / sqrt(n)``, with n - 1 degrees of freedom.

        >>> [round(end, 3) for end in Interval.of([1.0, 2.0, 3.0])]
        [2.0, -0.484, 4.484]
        """
        mean, n = fmean(numbers), len(numbers)
        if n < 2:
            return cls(mean, math.nan, math.nan)
        half = student_t(LEVEL, n - 1) * stdev(numbers) / math.sqrt(n)
        return cls(mean, mean - half, mean + half)

    @property
    def known(self) -> bool:
        """Whether there are ends."""
        return not math.isnan(self.low)

    @property
    def told_from_zero(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.known and not self.low <= 0 <= self.high

    def exp(self) -> "Interval":
        """Returns the exponentials: of a difference of logarithms, the ratio."""
        return Interval(*(end if math.isnan(end) else exp(end) for end in self))


@dataclasses.dataclass(frozen=True)
class Contrast:
    """One value of an axis against the base, at one size."""

    name: str
    base: str
    num_samples: int
    train_tokens: int
    differences: dict[int, float]  # of ln PPL, by seed

    @property
    def interval(self) -> Interval:
        """The mean difference of ln PPL."""
        return Interval.of(list(self.differences.values()))

    def to_json(self) -> dict[str, Any]:
        """Returns the contrast with every number in full precision."""
        mean, low, high = self.interval
        return {
            "name": self.name,
            "base": self.base,
            "num_samples": self.num_samples,
            "train_tokens": self.train_tokens,
            "log_ppl_differences": {str(seed): value for seed, value in self.differences.items()},
            "mean": mean,
            "interval": [finite(low), finite(high)],
        }


def contrast_axis(records: Sequence[Record]) -> str | None:
    """Returns the axis that a sweep compares along; None if it compares nothing with a base.

    >>> contrast_axis([{"cell": {"arm": "base"}}, {"cell": {"arm": "zero"}}])
    'arm'
    """
    for axis, base in BASES.items():
        values = {record["cell"].get(axis) for record in records}
        if base in values and len(values) > 1:
            return axis
    return None


def contrasts(records: Sequence[Record]) -> list[Contrast]:
    """Returns what each change does, in the order of the records, each at all sizes from the least on.

    Args:
      records: of one sweep. Cells that failed, or have no partner of the same seed, are left out.
    """
    axis = contrast_axis(records)
    if axis is None:
        return []
    base = BASES[axis]
    usable = [record for record in records if record["val_loss"] is not None and not failed(record)]

    def rest(record: Record) -> str:
        return cell_key({name: value for name, value in record["cell"].items() if name != axis})

    partners = {rest(record): record for record in usable if record["cell"][axis] == base}
    found: dict[tuple[str, int], dict[int, float]] = {}
    tokens = {}
    for record in usable:
        name, partner = record["cell"][axis], partners.get(rest(record))
        if name != base and partner is not None:
            difference = record["val_loss"] - partner["val_loss"]
            found.setdefault((name, record["num_samples"]), {})[record["seed"]] = difference
            tokens[record["num_samples"]] = record["train_tokens"]
    order = list(dict.fromkeys(name for name, _ in found))
    return [
        Contrast(name, base, size, tokens[size], found[name, size])
        for name, size in sorted(found, key=lambda each: (order.index(each[0]), each[1]))
    ]
