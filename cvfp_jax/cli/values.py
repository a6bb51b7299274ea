"""Readers of flags' values: each returns what the text means, or says what would do in its place."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from cvfp_jax.errors import UserError
from cvfp_jax.sweeps.workdir import folder_of

_MOST_SEEDS = 100


def choose(flag: str, name: str | None, choices: Sequence[str]) -> str:
    """Returns the name that a flag gives.

    Raises:
      UserError: there is none, or it is no choice.

    >>> choose("objective", "log", ["log", "linear"])
    'log'
    """
    if name in choices:
        return str(name)
    what = "is missing" if name is None else f"{name!r} is unknown"
    raise UserError(f"--{flag} {what}: choose {', '.join(choices)}.")


def read_axis(flag: str, text: str) -> tuple[int, ...]:
    """Returns the whole numbers of a list; whether they make an axis, the grid says.

    Raises:
      UserError: an entry is no whole number.

    >>> read_axis("samples", "50,100")
    (50, 100)
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UserError(
            f"--{flag}={text} is not a list of whole numbers: write for example --{flag}=50,100."
        ) from None


def read_seeds(count: str, first: str | None, default: int) -> tuple[int, ...]:
    """Returns the seeds of replicates, one after the other.

    Args:
      count: the text of --seeds, how many there are.
      first: the text of --seed; None if it is not given.
      default: the first seed if it is not given.

    Raises:
      UserError: a text is no whole number, or there are none or too many.

    >>> read_seeds("3", None, 42), read_seeds("2", "7", 42)
    ((42, 43, 44), (7, 8))
    """
    try:
        num_seeds, start = int(count), default if first is None else int(first)
        if not 1 <= num_seeds <= _MOST_SEEDS:
            raise ValueError
    except ValueError:
        raise UserError(
            f"--seeds={count} is not a number of replicates from --seed={first or default} on: write for"
            f" example --seeds=3, at most {_MOST_SEEDS}."
        ) from None
    return tuple(range(start, start + num_seeds))


def read_minutes(text: str) -> float:
    """Returns the minutes between two saves, from --checkpoint_minutes.

    Raises:
      UserError: it is no number from 0 on.

    >>> read_minutes("0.5")
    0.5
    """
    try:
        minutes = float(text)
        if not 0 <= minutes < math.inf:
            raise ValueError
    except ValueError:
        raise UserError(
            f"--checkpoint_minutes={text} is not a time: write minutes from 0 on, for example 5 or 0.5."
        ) from None
    return minutes


def read_mesh(text: str | None) -> dict[str, int] | None:
    """Returns the axes of the mesh that --mesh names; None if it is not given.

    Raises:
      UserError: it is no mesh.
    """
    if text is None:
        return None
    from cvfp_jax.distributed.mesh import parse_mesh  # brings JAX, which the command line does without

    return parse_mesh(text)


def read_path(flag: str, text: str) -> Path:
    """Returns the file that a flag names.

    Raises:
      UserError: it is empty, or in the home of an unknown user.
    """
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:
        raise UserError(f"--{flag}={text} is not usable ({error}): name a file.") from None
    if not text:
        raise UserError(f"--{flag}= is not a file: name one.")
    return path


def read_whole(flag: str, text: str, least: int, most: int = 2**32 - 1) -> int:
    """Returns the whole number that a flag gives.

    Raises:
      UserError: it is none, too small or too large.

    >>> read_whole("max_tokens", "100", least=0)
    100
    """
    if not (text.isdecimal() and len(text) <= len(str(most)) and least <= int(text) <= most):
        raise UserError(f"--{flag}={text} is not allowed: write a whole number from {least} to {most}.")
    return int(text)


def read_number(flag: str, text: str) -> float:
    """Returns the number that a flag gives.

    Raises:
      UserError: it is none.

    >>> read_number("temperature", "0.8")
    0.8
    """
    try:
        return float(text)
    except ValueError:
        raise UserError(f"--{flag}={text} is not a number: write for example --{flag}=0.8.") from None


def read_sweep_folder(given: Mapping[str, str]) -> Path:
    """Returns the folder that --workdir names, which must be given.

    Raises:
      UserError: it is not given, or is no folder.
    """
    if "workdir" not in given:
        raise UserError(
            "--workdir is missing: name the folder of a sweep, for example --workdir=runs/context_dim-quick."
        )
    return folder_of(given["workdir"])
