"""The experiments that train nothing: their flags, and what those ask for."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from cvfp_jax.cli import generate
from cvfp_jax.cli.fit_options import FitOptions
from cvfp_jax.cli.values import choose, read_path, read_sweep_folder
from cvfp_jax.errors import UserError
from cvfp_jax.scaling.choice import Choice, as_number, read_conditions, read_derived
from cvfp_jax.scaling.objectives import LOG, OBJECTIVES
from cvfp_jax.sweeps.workdir import folder_of


class Request(Protocol):
    """What a command line asks for."""

    def run(self) -> bool:
        """Does it, and returns whether all of it ended well."""
        ...


@dataclasses.dataclass(frozen=True)
class FitRequest(FitOptions):
    """Laws to be fitted to a file's points."""

    def run(self) -> bool:
        """Writes and prints the fits."""
        from cvfp_jax.cli.fit import run_fit  # brings SciPy, which the command line does without

        run_fit(self)
        return True


@dataclasses.dataclass(frozen=True)
class ReportRequest:
    """The report of a sweep's folder, to be made from its records once more."""

    workdir: Path
    against: Path | None = None  # the folder of a sweep to compare it with

    def run(self) -> bool:
        """Writes the report and prints its tables."""
        from cvfp_jax.report.rebuild import rebuild_report  # bring SciPy, as above
        from cvfp_jax.report.terminal import show_report

        show_report(rebuild_report(self.workdir, self.against), self.workdir)
        return True


@dataclasses.dataclass(frozen=True)
class ReportsRequest:
    """The five reports, to be made from the tables that the original printed."""

    workdir: Path

    def run(self) -> bool:
        """Writes the reports and prints where they are."""
        from cvfp_jax.reproduction.write import write_reports  # brings SciPy, as above

        for path in write_reports(self.workdir):
            print(f"wrote {path}")
        return True


def _sizes(flag: str, text: str) -> tuple[tuple[float, ...], ...]:
    """Sizes, of several variables with colons between."""
    sizes = [tuple(as_number(part) or math.nan for part in entry.split(":")) for entry in text.split(",")]
    if not all(size > 0 for entry in sizes for size in entry) or len({len(entry) for entry in sizes}) > 1:
        raise UserError(
            f"--{flag}={text} is not a list of sizes above zero: write for example --{flag}=1e6,1e7, and of"
            f" two variables --{flag}=70B:1.4T."
        )
    return tuple(dict.fromkeys(sizes))


def _end(flag: str, given: Mapping[str, str], default: float) -> float:
    """A number above zero that a flag gives."""
    number = as_number(given[flag]) if flag in given else default
    if number is None or number < 0:
        raise UserError(f"--{flag}={given[flag]} is not a size: write for example --{flag}=1e6.")
    return number


def _limits(flag: str, given: Mapping[str, str]) -> tuple[tuple[str, float, float], ...]:
    """Parameters of laws with a value, or with a least and a greatest one."""
    found = []
    for part in given[flag].split(",") if flag in given else ():
        name, _, text = part.partition("=")
        ends = [as_number(end) for end in text.split(":")]
        if not name or None in ends or len(ends) != (1 if flag == "fix" else 2) or ends[0] > ends[-1]:  # type: ignore
            example = "ppl_min=1.6" if flag == "fix" else "a=0.01:1"
            raise UserError(f"--{flag}={part} limits no parameter: write for example --{flag}={example}.")
        found.append((name.strip(), ends[0], ends[-1]))
    return tuple(found)  # type: ignore[arg-type]


def _compute(given: Mapping[str, str]) -> str | None:
    """Operations for a parameter and a token, such as 6ND, or a column."""
    text = given.get("compute")
    if text is None:
        return None
    number = text.upper().removesuffix("ND")
    if not text or (number != text.upper() and number and not as_number(number)):
        raise UserError(f"--compute={text} is no count of operations: write --compute=6ND, or name a column.")
    return text


def _choice(given: Mapping[str, str]) -> Choice:
    """Which rows are taken, and how."""
    return Choice(
        given.get("sigma"),
        read_conditions(given["where"]) if "where" in given else (),
        read_conditions(given["holdout"], "holdout") if "holdout" in given else (),
        read_derived(given["derive"]) if "derive" in given else (),
        "best" in given,
        _end("min_x", given, 0.0),
        _end("max_x", given, math.inf),
        "strict" in given,
    )


def _fit(given: Mapping[str, str]) -> FitRequest:
    if "points" not in given:
        raise UserError(
            "--points is missing: name a table (.csv, .json, .jsonl, .parquet, .xlsx), or a sweep's"
            " records.jsonl."
        )
    points = read_path("points", given["points"])
    return FitRequest(
        points,
        given.get("x"),
        given.get("y"),
        given.get("group"),
        tuple(dict.fromkeys(given["laws"].split(","))) if "laws" in given else None,
        choose("objective", given.get("objective", LOG), list(OBJECTIVES)),
        _sizes("predict", given["predict"]) if "predict" in given else (),
        folder_of(given.get("workdir", f"runs/fit-{points.stem}")),
        tuple((name, low) for name, low, _ in _limits("fix", given)),
        _limits("bound", given),
        _compute(given),
        _choice(given),
    )


def _report(given: Mapping[str, str]) -> ReportRequest:
    workdir, other = read_sweep_folder(given), given.get("against")
    return ReportRequest(workdir, None if other is None else read_path("against", other))


def _reports(given: Mapping[str, str]) -> ReportsRequest:
    return ReportsRequest(folder_of(given.get("workdir", "runs/reports")))


@dataclasses.dataclass(frozen=True)
class Command:
    """An experiment that trains nothing: what it does, its flags with their texts, and their reader."""

    text: str
    flags: dict[str, str]
    request: Callable[[Mapping[str, str]], Request]
    switches: dict[str, str] = dataclasses.field(default_factory=dict)


ANALYSES = {
    "generate": Command(
        "Continue texts with a model that a sweep has left, or say how well it predicts one.",
        generate.FLAGS,
        generate.generate_request,
        generate.SWITCHES,
    ),
    "fit": Command(
        "Fit scaling laws to the points of any file, and say which of them predicts.",
        {
            "points": "a table of points (.csv, .tsv, .json, .jsonl, .parquet, .xlsx, each also as .gz), or a"
            " sweep's records.jsonl",
            "x": "the column of sizes (default: train_tokens of records), or two such as params,tokens, and a"
            " third of unique tokens where data repeat",
            "y": "the column of measures (default: val_ppl of records)",
            "group": "the columns that name the groups, each with its own laws (default: series of records)",
            "laws": "power, saturating, log_corrected, exponential_decay, variable_exponent, constant,"
            " log_linear; for example power,saturating (default: all, and where y rises the next); broken,"
            " ceiling, hill besides. Of two variables: chinchilla, params_only, tokens_only, kaplan,"
            " data_constrained",
            "objective": "log (least squares of ln y; the default), linear (of y) or huber (of ln y)",
            "predict": "sizes to predict at, for example 1e6,1e7, and of two variables 70B:1.4T",
            "where": "the rows to take, for example arch=llama,params>1e8",
            "holdout": "the rows to leave out of the fits and test them on, for example split=test",
            "derive": "columns made of others and numbers, for example D=FLOP/6/params",
            "min_x": "the least size to take",
            "max_x": "the largest size to take",
            "compute": "operations of two variables, for the best sizes for a budget: 6ND, or a column",
            "fix": "values of parameters, for example ppl_min=1.6",
            "bound": "least and greatest values of parameters, for example a=0.01:1",
            "sigma": "the column of errors of y, by which points are weighted",
        },
        _fit,
        {
            "best": "of each size take the least measure only, such as the best learning rate's",
            "strict": "refuse a table whose rows are not all points in plain numbers, or repeat a size",
        },
    ),
    "report": Command(
        "Make the report of a sweep's folder once more, from its records.",
        {"against": "the folder of another sweep, such as another preset's, to compare this one with"},
        _report,
    ),
    "reports": Command(
        "Make the five reports from the tables that the original printed, beside what follows from them.",
        {},
        _reports,
    ),
}
