"""Runs timed side by side: each in turn, again and again, with medians and quartiles."""

import dataclasses
import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

import numpy as np

LEAST, MOST = 3, 9  # rounds
SECONDS = 8.0  # a part goes on so long, if it has made the least number of rounds

Run = Callable[[], object]
Key = TypeVar("Key", bound=Hashable)


@dataclasses.dataclass(frozen=True)
class Timing:
    """What one run took, in seconds."""

    first: float  # the first call, with what it compiles
    seconds: tuple[float, ...]  # a round each

    @property
    def median(self) -> float:
        """The middle one."""
        return float(np.median(self.seconds))

    @property
    def quartiles(self) -> tuple[float, float]:
        """A quarter of the rounds lies below the first and above the second."""
        low, high = np.quantile(self.seconds, (0.25, 0.75))
        return float(low), float(high)

    @property
    def compilation(self) -> float:
        """What the first call took longer than the median one."""
        return max(0.0, self.first - self.median)

    def facts(self, runs_per_unit: float, unit: str) -> dict[str, object]:
        """Returns the numbers for the JSON, in seconds a unit of work."""
        low, high = self.quartiles
        return {
            "median": self.median / runs_per_unit,
            "quartiles": [low / runs_per_unit, high / runs_per_unit],
            "repeats": len(self.seconds),
            "unit": f"seconds {unit}",
        }


def _seconds(run: Run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def alternate(runs: Mapping[Key, Run], repeats: int = 0) -> dict[Key, Timing]:
    """Calls each run once to warm up, then all of them in turn, round after round.

    What slows the machine down for a while slows all of them, so their ratios suffer less than their times.

    Args:
      runs: what to time; each must wait for its own results.
      repeats: rounds; 0 makes three to nine, no new one after eight seconds.

    Returns:
      A timing each.
    """
    first = {name: _seconds(run) for name, run in runs.items()}
    seconds: dict[Key, list[float]] = {name: [] for name in runs}
    start = time.perf_counter()
    done = 0
    while done < (repeats or LEAST) or (
        not repeats and done < MOST and time.perf_counter() - start < SECONDS
    ):
        for name, run in runs.items():
            seconds[name].append(_seconds(run))
        done += 1
    return {name: Timing(first[name], tuple(seconds[name])) for name in runs}
