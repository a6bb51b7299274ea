"""The program: from a command line, by its flags and the mistakes in them, to an exit code."""

import difflib
import logging
import os
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from types import ModuleType
from typing import NoReturn

from absl import flags

from cvfp_jax.cli import sweep
from cvfp_jax.cli.analyses import ANALYSES, Request
from cvfp_jax.cli.experiments import load_experiments
from cvfp_jax.cli.sweep import PREFIX, setting_flags, sweep_request
from cvfp_jax.cli.values import choose
from cvfp_jax.errors import UserError, file_error
from cvfp_jax.runtime import signals, streams
from cvfp_jax.runtime.version import VERSION

OK, CELL_FAILED = 0, 1  # exit codes; errors and signals have their own
_TEXTS = {
    "experiment": "what to run, by one of the names above",
    "workdir": "folder of everything written (default: runs/<experiment>-<preset>, runs/fit-<file> or"
    " runs/reports; report needs one)",
}
_SWITCHES = {
    "list": "print the experiments and their presets",
    "help": "print this text; -h for short",
    "version": "print the version",
}
_LIKENESS = 0.8  # of a name that may have been meant, as difflib counts
_EXPERIMENTS = Mapping[str, ModuleType]


def _define_flags() -> flags.FlagValues:
    values = flags.FlagValues()
    texts = {**_TEXTS, **sweep.FLAGS, **setting_flags()}
    for analysis in ANALYSES.values():
        texts |= analysis.flags
    for name, text in texts.items():
        flags.DEFINE_string(name, None, text, flag_values=values)
    switches = {**_SWITCHES, **sweep.SWITCHES}
    for analysis in ANALYSES.values():
        switches |= analysis.switches
    for name, text in switches.items():
        short = "h" if name == "help" else None
        flags.DEFINE_boolean(name, False, text, flag_values=values, short_name=short)
    return values


def _dashed(names: Iterable[str]) -> str:
    return ", ".join(f"--{name}" for name in names)


def _parse(argv: Sequence[str]) -> dict[str, str]:
    """Returns the flags that were given, switches only if they are on; a mistake is one line."""
    values = _define_flags()
    names = [name for name in values if name != "h"]  # which is short for help
    choices = f"the flags are {_dashed(n for n in names if not n.startswith(PREFIX))} and --{PREFIX}FIELD"
    try:
        rest = values(list(argv))[1:]
    except flags.UnrecognizedFlagError as error:
        is_field = error.flagname.startswith(PREFIX)
        known = [name for name in names if name.startswith(PREFIX) == is_field]
        what = f"unknown {'field' if is_field else 'flag'} --{error.flagname}"
        plain = {name.removeprefix(PREFIX): name for name in known}
        typed = error.flagname.removeprefix(PREFIX).replace("-", "_")
        near = [f"--{plain[name]}" for name in difflib.get_close_matches(typed, plain, cutoff=_LIKENESS)]
        if near:
            raise UserError(f"{what}: did you mean {' or '.join(near)}? (--help lists all)") from None
        listed = f"the fields are {', '.join(known)}" if is_field else choices
        raise UserError(f"{what}: {listed}.") from None
    except flags.IllegalFlagValueError as error:
        raise UserError(
            f"{str(error).partition(': (')[0]}: a switch takes no value, or true or false."
        ) from None
    except (flags.Error, ValueError) as error:
        raise UserError(f"{error}: write --FLAG=VALUE; see --help.") from None
    if rest:
        raise UserError(f"unexpected argument {rest[0]!r}: {choices}.")
    for name in names:
        if values[name].present > 1:
            raise UserError(f"--{name} is given twice: give it once.")
    given = {name: values[name].value for name in names if values[name].present}
    return {name: value for name, value in given.items() if value is not None and value is not False}


def _check_belongs(experiment: str, given: Iterable[str]) -> None:
    """Refuses flags of other experiments."""
    if experiment in ANALYSES:
        own, shown = [*ANALYSES[experiment].flags, *ANALYSES[experiment].switches], ""
    else:
        own, shown = [*sweep.FLAGS, *sweep.SWITCHES], f" and --{PREFIX}FIELD"
    for name in given:
        setting = name.startswith(PREFIX) and experiment not in ANALYSES
        if not setting and name not in own and name not in _TEXTS and name not in _SWITCHES:
            raise UserError(
                f"--{name} is no flag of --experiment={experiment}: its flags are"
                f" {_dashed([*own, 'workdir'])}{shown}."
            )


def list_text(experiments: _EXPERIMENTS) -> str:
    """Returns what --list prints: experiments, what they show, and their presets or flags."""
    lines = []
    for name, module in experiments.items():
        lines.append(f"{name}: {(module.__doc__ or '').strip().splitlines()[0]}")
        lines.append(f"  presets: {', '.join(module.PRESETS)}")
    lines.append("\nThese train nothing:")
    for name, analysis in ANALYSES.items():
        lines.append(f"{name}: {analysis.text}")
        named = f"flags: {_dashed([*analysis.flags, *analysis.switches, 'workdir'])}"
        lines.append(textwrap.fill(named, 100, initial_indent="  ", subsequent_indent="    "))
    return "\n".join(lines) + "\n"


def _command(program: str) -> str:
    """How a user starts the program, whose first argument this is.

    >>> [_command(program) for program in ("launch.py", "/lib/cvfp_jax/__main__.py", "/usr/bin/cvfp")]
    ['python launch.py', 'python -m cvfp_jax', 'cvfp']
    """
    name = PurePath(program).name
    return {"launch.py": "python launch.py", "__main__.py": "python -m cvfp_jax"}.get(name, "cvfp")


def help_text(experiments: _EXPERIMENTS, program: str = "launch.py") -> str:
    """Returns what --help prints."""
    parts = {
        "flags of every experiment": {**_TEXTS, **_SWITCHES},
        "flags of those that train": {**sweep.FLAGS, **sweep.SWITCHES},
        **{
            f"flags of {name}": {**analysis.flags, **analysis.switches}
            for name, analysis in ANALYSES.items()
            if analysis.flags
        },
        "settings of those that train; presets replace defaults; of an axis, a list such as 8,16": (
            setting_flags()
        ),
    }
    lines = ["Train CVFP language models and fit data-scaling laws to them.\n"]
    lines.append(f"{_command(program)} --experiment=NAME [--FLAG=VALUE ...]\n")
    lines.append(list_text(experiments))
    for title, texts in parts.items():
        lines.append(f"{title}:")
        lines += [
            textwrap.fill(f"--{name}: {text}", 100, initial_indent="  ", subsequent_indent="      ")
            for name, text in texts.items()
        ]
        lines.append("")
    return "\n".join(lines)


def read_request(argv: Sequence[str], experiments: _EXPERIMENTS) -> Request | str:
    """Reads a command line.

    Args:
      argv: program name and arguments.
      experiments: those that train, by name; each module has ``PRESETS``, grids by name.

    Returns:
      What is asked for, or a text to print.

    Raises:
      UserError: a flag, a field, a preset, an experiment or a value is not allowed.
    """
    given = _parse(argv)
    if "help" in given:
        return help_text(experiments, argv[0])
    if "version" in given:
        return f"cvfp_jax {VERSION}\n"
    if "list" in given:
        return list_text(experiments)
    experiment = choose("experiment", given.get("experiment"), [*experiments, *ANALYSES])
    _check_belongs(experiment, given)
    if experiment in ANALYSES:
        return ANALYSES[experiment].request(given)
    return sweep_request(experiment, experiments[experiment].PRESETS, given)


def _say(text: str) -> None:
    """Prints a text and all before it, here, where a reader who has gone is no error."""
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        _lose_output()
        raise file_error(
            f"cannot write standard output: {error.strerror}; send it elsewhere.", error
        ) from None


def _lose_output() -> None:
    """Has what is still to be printed go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(argv: Sequence[str]) -> int:
    """Does what a command line asks for; an interruption that was made into an ImportError is one again."""
    try:
        request = read_request(argv, load_experiments())
        if isinstance(request, str):
            _say(request)
            return OK
        ended_well = request.run()
        _say("")
        return OK if ended_well else CELL_FAILED
    except ImportError:
        signals.check()  # a compiled module that is struck while it is imported raises this
        raise


def main(argv: Sequence[str]) -> int:
    """Does what a command line asks for.

    Args:
      argv: program name and arguments.

    Returns:
      The exit code: 0; 1 if a cell failed or the machine is at fault; 2 for a user's mistake; 130 after
      Ctrl-C, 143 after SIGTERM and 129 after SIGHUP.
    """
    logging.basicConfig(format="%(message)s")
    try:
        return _run(argv)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader, such as head, has seen enough
        _lose_output()
        return OK
    except KeyboardInterrupt as stop:
        state = f"{stop}; " if str(stop) else ""
        print(f"interrupted: {state}the same command goes on with what is unfinished", file=sys.stderr)
        return signals.exit_code()


def launch() -> NoReturn:
    """Runs this process's own command line, and ends the process."""
    streams.open_closed()
    signals.listen()
    code = main(sys.argv)
    if signals.leaves():
        signals.leave(code)
    sys.exit(code)
