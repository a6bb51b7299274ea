"""One of several names, chosen by a flag."""

from collections.abc import Sequence

from cvfp_jax.errors import UserError


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
