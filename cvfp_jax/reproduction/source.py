"""What the original printed, and how an answer to one of its claims is written."""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cvfp_jax.report.inference import SeriesWindows
from cvfp_jax.report.page import Sentences
from cvfp_jax.scaling.line import LogLine, log_line

_DATA = Path(__file__).parent / "data"
Points = Sequence[Mapping[str, Any]]
Series = Mapping[str, Points]  # by name


@dataclasses.dataclass(frozen=True)
class Answer:
    """What follows from the numbers: for readers, and the numbers in it in full precision."""

    text: str
    values: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Source:
    """The tables of a report, what its logs and neighbours measured, and what it claims."""

    name: str
    tables: Mapping[str, Any]
    elsewhere: Mapping[str, Any]
    claims: Sequence[Mapping[str, Any]]
    reports: Mapping[str, Any]  # the tables of all reports


Rules = Mapping[str, Callable[[Source, Mapping[str, Any]], Answer]]


def load(name: str) -> Source:
    """Returns what is known of a report.

    >>> source = load("R1")
    >>> source.tables["points"][0]["val_ppl"], source.claims[0]["id"]
    (7152.28, 'best_epochs')
    """
    reports = json.loads((_DATA / "reports.json").read_text())
    said = json.loads((_DATA / "claims.json").read_text())
    return Source(name, reports[name], said["elsewhere"][name], said["claims"][name], reports)


def answers(source: Source, rules: Rules) -> dict[str, Answer]:
    """Returns what follows from the numbers for each claim of a report, in its order."""
    return {claim["id"]: rules[claim["id"]](source, claim.get("printed", {})) for claim in source.claims}


def claims_table(source: Source, answered: Mapping[str, Answer]) -> Sentences:
    """Each claim beside what follows from the numbers."""
    rows = [[claim["original"], answered[claim["id"]].text, claim["note"]] for claim in source.claims]
    return Sentences(["what the original printed", "what follows from its numbers", "note"], rows)


def column(points: Points, field: str) -> list[float]:
    """Returns one measure of the points."""
    return [point[field] for point in points]


def logs(values: Sequence[float]) -> list[float]:
    """Returns natural logarithms."""
    return [math.log(value) for value in values]


def law(points: Points, x: str = "tokens") -> LogLine:
    """Returns the power law of the validation perplexity."""
    return log_line(column(points, x), logs(column(points, "val_ppl")))


def laws(series: Series, x: str = "tokens") -> dict[str, LogLine]:
    """Returns the power law of each series."""
    return {name: law(points, x) for name, points in series.items()}


def windows(name: str, points: Points, window: int, x: str = "tokens") -> SeriesWindows:
    """Returns the windows of a series' validation perplexities."""
    return SeriesWindows.of(name, column(points, x), logs(column(points, "val_ppl")), window)


def sweeps(source: Source) -> Series:
    """Returns the points of R3 by name: ``768 v1`` and so on."""
    return {
        f"{sweep['context_dim']} {version}": sweep["points"]
        for version in ("v1", "v2", "v3")
        for sweep in source.reports["R3"][version]["sweeps"].values()
    }
