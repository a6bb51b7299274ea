"""What follows from the laws of a sweep: the numbers of its tables, its figures and report.json."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cvfp_jax.report.summary import Summary
from cvfp_jax.runtime.floats import finite
from cvfp_jax.scaling.correlate import MIN_POINTS, Correlation, correlate, ppl_per_million, rank_rule_error
from cvfp_jax.scaling.derived import (
    Crossover,
    ExponentDifference,
    TargetSize,
    crossover,
    exponent_difference,
    size_for,
)
from cvfp_jax.scaling.line import LogLine
from cvfp_jax.scaling.windows import Trend, Window, sliding_windows, window_trend

MOST_COMPARED = 4  # laws, which make six pairs
_NUM_TARGETS = 3

Laws = Mapping[str, LogLine]  # by series


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two power laws of a sweep: how far their exponents differ, and where the laws cross."""

    first: str
    second: str
    difference: ExponentDifference
    crossover: Crossover


@dataclasses.dataclass(frozen=True)
class SeriesWindows:
    """The windows of one series, and what they tell of its exponent."""

    series: str
    num_sizes: int  # in a window
    windows: Sequence[Window]
    trend: Trend

    @classmethod
    def of(cls, series: str, x: Sequence[float], log_y: Sequence[float], window: int) -> "SeriesWindows":
        """Fits the windows of a series."""
        return cls(series, window, sliding_windows(x, log_y, window), window_trend(x, log_y, window))


class RankedCell(NamedTuple):
    """A cell of which both effective rank and perplexity were measured."""

    tokens: int
    rank: float  # of the validation contexts, in per cent of their dimensions
    ppl: float


@dataclasses.dataclass(frozen=True)
class Inference:
    """What follows from a sweep's power laws, for whatever part of a report says it."""

    laws: Laws  # those that were fitted
    comparisons: list[Comparison]
    targets: list[tuple[str, TargetSize]]  # with the series of the law
    windows: list[SeriesWindows]
    ranked: dict[str, list[RankedCell]]  # by series
    rank_correlations: dict[str, Correlation]  # by group of cells
    rank_rule_errors: list[float]  # of the rule PPL = 500 - 4 ER at each cell, as shares of what was measured
    ppl_per_million: dict[str, float]  # the best perplexity over millions of context parameters, by series

    def to_json(self) -> dict[str, Any]:
        """Returns what follows from the laws, with every number in full precision."""
        errors = self.rank_rule_errors
        return {
            "exponent_differences": [
                {
                    "first": each.first,
                    "second": each.second,
                    "alpha_change": each.difference.change,
                    "interval": [each.difference.low, each.difference.high],
                    "crossover": _numbers(each.crossover),
                }
                for each in self.comparisons
            ],
            "targets": [{"series": name, **_numbers(target)} for name, target in self.targets],
            "windows": [
                {
                    "series": each.series,
                    "num_sizes": each.num_sizes,
                    "windows": [
                        {"first": window.first, "last": window.last, "fit": _numbers(window.line)}
                        for window in each.windows
                    ],
                    "trend": _numbers(each.trend),
                }
                for each in self.windows
            ],
            "rank_correlations": [
                {"cells": name, **_numbers(correlation)}
                for name, correlation in self.rank_correlations.items()
            ],
            "rank_rule_errors": [min(errors), max(errors)] if errors else None,
            "ppl_per_million_context_parameters": self.ppl_per_million,
        }


def _numbers(result: Any) -> dict[str, Any]:
    """A dataclass for JSON: a number that is not finite is null."""
    return {
        name: finite(value) if isinstance(value, float) else value
        for name, value in dataclasses.asdict(result).items()
    }


def infer(summaries: Sequence[Summary]) -> Inference:
    """Returns what follows from the laws of a sweep.

    Args:
      summaries: the sweep's series.
    """
    laws = {summary.series: summary.law for summary in summaries if summary.law.fitted}
    measured = [record["val_ppl"] for summary in summaries for record in summary.points]
    best = min((ppl for ppl in measured if ppl is not None), default=math.nan)
    ranked = {summary.series: _ranked(summary) for summary in summaries}
    return Inference(
        laws,
        compare(laws, pairs(laws)),
        target_sizes(laws, targets(best)),
        _all_windows(summaries),
        ranked,
        {name: correlate(*group) for name, group in _rank_groups(ranked).items()},
        [rank_rule_error(cell.rank, cell.ppl) for cells in ranked.values() for cell in cells],
        _per_million(summaries),
    )


def pairs(laws: Laws) -> list[tuple[str, str]]:
    """Returns every pair of two to four laws; none of more, whose intervals would mislead by their number.

    >>> pairs(dict.fromkeys("abc", LogLine("fitted", 4)))
    [('a', 'b'), ('a', 'c'), ('b', 'c')]
    >>> pairs(dict.fromkeys("abcde", LogLine("fitted", 4)))
    []
    """
    return list(itertools.combinations(laws, 2)) if len(laws) <= MOST_COMPARED else []


def compare(laws: Laws, names: Sequence[tuple[str, str]]) -> list[Comparison]:
    """Compares the laws of some pairs of series."""
    return [
        Comparison(
            first,
            second,
            exponent_difference(laws[first], laws[second]),
            crossover(laws[first], laws[second]),
        )
        for first, second in names
    ]


def targets(best: float) -> list[float]:
    """Returns round perplexities below the best one measured: 1, 2 or 5 times a power of ten, above 1.

    >>> targets(361.5), targets(200.0), targets(4.1)
    ([200.0, 100.0, 50.0], [100.0, 50.0, 20.0], [2.0])
    """
    if not 1 < best < math.inf:
        return []
    top = math.floor(math.log10(best))
    steps = [float(f"{lead}e{power}") for power in range(top, -1, -1) for lead in (5, 2, 1)]
    return [step for step in steps if 1 < step < best][:_NUM_TARGETS]


def target_sizes(laws: Laws, perplexities: Sequence[float]) -> list[tuple[str, TargetSize]]:
    """Returns the size at which each law reaches each perplexity, with the law's name."""
    return [(name, size_for(law, target)) for name, law in laws.items() for target in perplexities]


def _all_windows(summaries: Sequence[Summary]) -> list[SeriesWindows]:
    """The windows of each series of four sizes or more: of four sizes where there are five."""
    windows = []
    for summary in summaries:
        if summary.law.fitted and summary.num_sizes >= 4:
            points = summary.points
            x, losses = [r["train_tokens"] for r in points], [r["val_loss"] for r in points]
            windows.append(SeriesWindows.of(summary.series, x, losses, 4 if summary.num_sizes > 4 else 3))
    return windows


def _ranked(summary: Summary) -> list[RankedCell]:
    return [
        RankedCell(record["train_tokens"], 100 * record["val_effective_rank"], record["val_ppl"])
        for record in summary.points
        if record["val_effective_rank"] is not None and record["val_ppl"] is not None
    ]


def _rank_groups(ranked: Mapping[str, Sequence[RankedCell]]) -> dict[str, tuple[list[float], list[float]]]:
    """Effective ranks and perplexities of all cells, by series, and by size over the series."""
    groups: dict[str, list[RankedCell]] = {"all cells": [cell for cells in ranked.values() for cell in cells]}
    if len(ranked) > 1:
        groups |= {name: list(cells) for name, cells in ranked.items()}
        sizes = sorted({cell.tokens for cell in groups["all cells"]})
        groups |= {
            f"at {size:,} tokens": [cell for cell in groups["all cells"] if cell.tokens == size]
            for size in sizes
        }
    return {
        name: ([cell.rank for cell in cells], [cell.ppl for cell in cells])
        for name, cells in groups.items()
        if len(cells) >= MIN_POINTS
    }


def _per_million(summaries: Sequence[Summary]) -> dict[str, float]:
    ratios = {}
    for summary in summaries:
        best, params = summary.best, summary.records[0]["params_context_block"]
        if best and best["val_ppl"] is not None and params > 0:
            ratios[summary.series] = ppl_per_million(best["val_ppl"], params)
    return ratios
