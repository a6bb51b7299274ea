"""What follows from the laws of a sweep: the numbers of its tables, its figures and report.json."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from cvfp_jax.report.summary import Summary
from cvfp_jax.scaling.analysis import finite
from cvfp_jax.scaling.correlate import MIN_POINTS, Correlation, correlate, ppl_per_million, rank_rule_error
from cvfp_jax.scaling.derived import crossover, exponent_difference, size_for
from cvfp_jax.scaling.line import LogLine
from cvfp_jax.scaling.windows import Trend, Window, sliding_windows, window_trend

MOST_COMPARED = 4  # laws, which make six pairs
_NUM_TARGETS = 3


def fitted(summaries: Sequence[Summary]) -> dict[str, LogLine]:
    """Returns the laws that were fitted, by series."""
    return {summary.series: summary.law for summary in summaries if summary.law.fitted}


def pairs(laws: Mapping[str, LogLine]) -> list[tuple[str, str]]:
    """Returns every pair of two to four laws; none of more, whose intervals would mislead by their number.

    >>> pairs(dict.fromkeys("abc", LogLine("fitted", 4)))
    [('a', 'b'), ('a', 'c'), ('b', 'c')]
    >>> pairs(dict.fromkeys("abcde", LogLine("fitted", 4)))
    []
    """
    return list(itertools.combinations(laws, 2)) if len(laws) <= MOST_COMPARED else []


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


def sweep_targets(summaries: Sequence[Summary]) -> list[float]:
    """Returns round perplexities below the best one of a sweep."""
    measured = [record["val_ppl"] for summary in summaries for record in summary.points]
    return targets(min((ppl for ppl in measured if ppl is not None), default=math.nan))


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


def all_windows(summaries: Sequence[Summary]) -> list[SeriesWindows]:
    """Returns the windows of each series of four sizes or more: of four sizes where there are five."""
    found = []
    for summary in summaries:
        if summary.law.fitted and summary.num_sizes >= 4:
            points = summary.points
            x, losses = [r["train_tokens"] for r in points], [r["val_loss"] for r in points]
            found.append(SeriesWindows.of(summary.series, x, losses, 4 if summary.num_sizes > 4 else 3))
    return found


def ranks(summary: Summary) -> list[tuple[int, float, float]]:
    """Returns tokens, validation effective rank in per cent and perplexity of the cells that have them."""
    return [
        (record["train_tokens"], 100 * record["val_effective_rank"], record["val_ppl"])
        for record in summary.points
        if record["val_effective_rank"] is not None and record["val_ppl"] is not None
    ]


def rank_groups(summaries: Sequence[Summary]) -> dict[str, tuple[list[float], list[float]]]:
    """Returns effective ranks and perplexities of all cells, by series, and by size over the series."""
    several = len(summaries) > 1
    groups: dict[str, tuple[list[float], list[float]]] = {}
    by_size: dict[int, tuple[list[float], list[float]]] = {}
    for summary in summaries:
        for size, rank, ppl in ranks(summary):
            lists = [groups.setdefault("all cells", ([], []))]
            if several:
                lists += [groups.setdefault(summary.series, ([], [])), by_size.setdefault(size, ([], []))]
            for ranks_of, ppls_of in lists:
                ranks_of.append(rank)
                ppls_of.append(ppl)
    groups |= {f"at {size:,} tokens": found for size, found in sorted(by_size.items())}
    return {name: found for name, found in groups.items() if len(found[0]) >= MIN_POINTS}


def rule_errors(summaries: Sequence[Summary]) -> list[float]:
    """Returns the error of the rule PPL = 500 - 4 ER at each cell, as a share of the perplexity measured."""
    return [rank_rule_error(rank, ppl) for summary in summaries for _, rank, ppl in ranks(summary)]


def per_million(summaries: Sequence[Summary]) -> dict[str, float]:
    """Returns the best perplexity of each series over millions of context parameters."""
    found = {}
    for summary in summaries:
        best, params = summary.best, summary.records[0]["params_context_block"]
        if best and best["val_ppl"] is not None and params > 0:
            found[summary.series] = ppl_per_million(best["val_ppl"], params)
    return found


def to_json(summaries: Sequence[Summary]) -> dict[str, Any]:
    """Returns what follows from the laws, with every number in full precision."""
    laws = fitted(summaries)
    errors = rule_errors(summaries)
    return {
        "exponent_differences": [_difference(laws, first, second) for first, second in pairs(laws)],
        "targets": [
            {"series": name, **numbers(size_for(law, target))}
            for name, law in laws.items()
            for target in sweep_targets(summaries)
        ],
        "windows": [
            {
                "series": each.series,
                "num_sizes": each.num_sizes,
                "windows": [_window(window) for window in each.windows],
                "trend": numbers(each.trend),
            }
            for each in all_windows(summaries)
        ],
        "rank_correlations": [
            {"cells": name, **numbers(found)} for name, found in correlations(summaries).items()
        ],
        "rank_rule_errors": [min(errors), max(errors)] if errors else None,
        "ppl_per_million_context_parameters": per_million(summaries),
    }


def correlations(summaries: Sequence[Summary]) -> dict[str, Correlation]:
    """Returns how effective rank and perplexity go together, by group of cells."""
    return {name: correlate(*found) for name, found in rank_groups(summaries).items()}


def numbers(found: Any) -> dict[str, Any]:
    """Returns a dataclass for JSON: a number that is not finite is null."""
    return {
        name: finite(value) if isinstance(value, float) else value
        for name, value in dataclasses.asdict(found).items()
    }


def _difference(laws: Mapping[str, LogLine], first: str, second: str) -> dict[str, Any]:
    change, low, high = exponent_difference(laws[first], laws[second])
    return {
        "first": first,
        "second": second,
        "alpha_change": change,
        "interval": [low, high],
        "crossover": numbers(crossover(laws[first], laws[second])),
    }


def _window(window: Window) -> dict[str, Any]:
    return {"first": window.first, "last": window.last, "fit": numbers(window.line)}
