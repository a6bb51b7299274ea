"""What a fit of a file's points is asked for: its flags, once read."""

import dataclasses
from pathlib import Path

from cvfp_jax.scaling.choice import Choice


@dataclasses.dataclass(frozen=True)
class FitOptions:
    """What to fit to a file's points, and where to; None where the file's kind, or all laws, say."""

    points: Path
    x: str | None  # the columns of sizes, of measures and of the groups' names
    y: str | None
    group: str | None
    laws: tuple[str, ...] | None
    objective: str
    predict: tuple[tuple[float, ...], ...]  # sizes, a number a variable
    workdir: Path
    fix: tuple[tuple[str, float], ...] = ()  # parameters and their values
    bound: tuple[tuple[str, float, float], ...] = ()  # parameters, their least and their greatest values
    compute: str | None = None  # operations: a number and ND, or a column
    choice: Choice = dataclasses.field(default_factory=Choice)  # which rows are taken, and how
