"""The command line: flags, and what they ask for."""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from absl import flags

from cvfp_jax.config import RunConfig
from cvfp_jax.errors import UserError
from cvfp_jax.field_docs import field_docs
from cvfp_jax.grid import AXIS_FLAGS, Grid
from cvfp_jax.workdir import folder_of

# Flags that are short for a field.
_SHORT = {
    "corpus": "data.corpus",
    "val_samples": "data.val_samples",
    "embedding": "data.embedding",
    "seed": "seed",
}
_TEXTS = {
    "preset": "settings of the experiment (default: its first; see --list)",
    "workdir": "folder of records and report (default: runs/<experiment>-<preset>)",
    "samples": "training sizes in samples, for example 50,100",
    "context_dims": "context widths, for example 256,576",
    "corpus": "pydocs, ultrachat, ultrachat:FOLDER or text:PATH (.txt .md .json .jsonl .parquet)",
    "val_samples": "validation samples, START:STOP, behind the training samples",
    "embedding": "gpt2, file:PATH (.npy .npz .safetensors), spectral or random",
    "seed": "seed of every random number",
    "seeds": "replicates, each cell with so many seeds from --seed on, for example 3",
    "checkpoint_minutes": "minutes between two saves of a cell's state (default: 5; 0: after every step)",
}
_SWITCHES = {
    "list": "print the experiments and their presets",
    "dry_run": "print the plan only: nothing is downloaded, read or trained",
    "json": "print the plan of --dry_run as JSON",
    "force": "run cells that are expected not to fit in memory, too",
    "help": "print this text",
}
_PREFIX = "config."
_MOST_SEEDS = 100


@dataclasses.dataclass(frozen=True)
class Request:
    """What a command line asks for."""

    grid: Grid
    workdir: Path
    dry_run: bool
    json: bool
    checkpoint_minutes: float = 5.0
    force: bool = False


def _define_flags(experiments: Sequence[str]) -> flags.FlagValues:
    values = flags.FlagValues()
    texts = {"experiment": f"what to run: {', '.join(experiments)}", **_TEXTS}
    for name, text in field_docs(RunConfig()).items():
        if name not in ("experiment", "preset"):
            texts[_PREFIX + name] = text
    for name, text in texts.items():
        flags.DEFINE_string(name, None, text, flag_values=values)
    for name, text in _SWITCHES.items():
        flags.DEFINE_boolean(name, False, text, flag_values=values)
    return values


def _parse(argv: Sequence[str], values: flags.FlagValues) -> None:
    """Reads a command line; a mistake in it is one line."""
    names = [name for name in values if not name.startswith(_PREFIX)]
    choices = f"the flags are {', '.join('--' + name for name in sorted(names))} and --config.FIELD"
    try:
        rest = values(list(argv))[1:]
    except flags.UnrecognizedFlagError as error:
        if error.flagname.startswith(_PREFIX):
            fields = ", ".join(name for name in values if name.startswith(_PREFIX))
            raise UserError(f"unknown field --{error.flagname}: the fields are {fields}.") from None
        raise UserError(f"unknown flag --{error.flagname}: {choices}.") from None
    except flags.IllegalFlagValueError as error:
        raise UserError(
            f"{str(error).partition(': (')[0]}: a switch takes no value, or true or false."
        ) from None
    except (flags.Error, ValueError) as error:
        raise UserError(f"{error}: write --FLAG=VALUE; see --help.") from None
    if rest:
        raise UserError(f"unexpected argument {rest[0]!r}: {choices}.")


def help_text(experiments: dict[str, ModuleType]) -> str:
    """Returns what --help prints."""
    values = _define_flags(list(experiments))
    intro = "Train CVFP language models and fit data-scaling laws to them.\n\n" + list_text(experiments)
    return f"{intro}\nflags:\n{values.get_help(prefix='  ', include_special_flags=False)}"


def list_text(experiments: dict[str, ModuleType]) -> str:
    """Returns what --list prints: experiments, what they show, and their presets."""
    lines = []
    for name, module in experiments.items():
        lines.append(f"{name}: {(module.__doc__ or '').strip().splitlines()[0]}")
        lines.append(f"  presets: {', '.join(module.PRESETS)}")
    return "\n".join(lines) + "\n"


def _choose(kind: str, name: str | None, choices: Sequence[str]) -> str:
    if name in choices:
        return str(name)
    what = "is missing" if name is None else f"{name!r} is unknown"
    raise UserError(f"--{kind} {what}: choose {', '.join(choices)}.")


def _axis(flag: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UserError(
            f"--{flag}={text} is not a list of whole numbers: write for example --{flag}=50,100."
        ) from None


def _seeds(base: int, count: str, first: str | None) -> tuple[int, ...]:
    """The seeds that --seeds and --seed ask for."""
    try:
        number, start = int(count), base if first is None else int(first)
        if not 1 <= number <= _MOST_SEEDS:
            raise ValueError
    except ValueError:
        raise UserError(
            f"--seeds={count} is not a number of replicates from --seed={first or base} on: write for"
            f" example --seeds=3, at most {_MOST_SEEDS}."
        ) from None
    return tuple(range(start, start + number))


def _minutes(text: str) -> float:
    """The time between saves that --checkpoint_minutes asks for."""
    try:
        minutes = float(text)
        if not 0 <= minutes < math.inf:
            raise ValueError
    except ValueError:
        raise UserError(
            f"--checkpoint_minutes={text} is not a time: write minutes from 0 on, for example 5 or 0.5."
        ) from None
    return minutes


def read_request(argv: Sequence[str], experiments: dict[str, ModuleType]) -> Request | str:
    """Reads a command line.

    Args:
      argv: program name and arguments.
      experiments: the experiments by name; each module has ``PRESETS``, grids by name.

    Returns:
      What is asked for, or a text to print.

    Raises:
      UserError: a flag, a field, a preset, an experiment or a value is not allowed.
    """
    values = _define_flags(list(experiments))
    _parse(argv, values)
    given: dict[str, Any] = {name: values[name].value for name in values if values[name].value is not None}
    if given["help"]:
        return help_text(experiments)
    if given["list"]:
        return list_text(experiments)
    experiment = _choose("experiment", given.get("experiment"), list(experiments))
    presets: dict[str, Grid] = experiments[experiment].PRESETS
    preset = _choose("preset", given.get("preset", next(iter(presets))), list(presets))
    changes = {name.removeprefix(_PREFIX): text for name, text in given.items() if name.startswith(_PREFIX)}
    for flag in _SHORT.keys() & given.keys():
        if _SHORT[flag] in changes:
            raise UserError(f"--{flag} and --{_PREFIX}{_SHORT[flag]} set the same field: give one of them.")
        changes[_SHORT[flag]] = given[flag]
    grid = presets[preset]
    lists = {name: flag for name, flag in AXIS_FLAGS.items() if name != "seed"}
    axes = {name: _axis(flag, given[flag]) for name, flag in lists.items() if flag in given}
    if "seeds" in given:
        axes["seed"] = _seeds(grid.base.seed, given["seeds"], changes.pop("seed", None))
    if given["json"] and not given["dry_run"]:
        raise UserError("--json prints a plan: add --dry_run.")
    return Request(
        grid.resolve(axes, changes),
        folder_of(given.get("workdir", f"runs/{experiment}-{preset}")),
        bool(given["dry_run"]),
        bool(given["json"]),
        _minutes(given.get("checkpoint_minutes", "5")),
        bool(given["force"]),
    )


def show_plan(grid: Grid, as_json: bool) -> str:
    """Returns the plan of a sweep whose data have not been read."""
    from cvfp_jax.plan import plan_cell  # with the next line brings SciPy, which --help does without
    from cvfp_jax.report.tables import plan_table

    plans = [plan_cell(cell, series=grid.series(cell)) for cell in grid.cells()]
    if as_json:
        return json.dumps([plan.to_json() for plan in plans], indent=1)
    note = "Tokens and memory, and with vocabulary=corpus all parameters, are known once the text is read."
    settings = ", ".join(f"{name}={value}" for name, value in grid.shared_fields().items())
    return f"{plan_table(plans).text()}\n{note}\nSettings: {settings}"
