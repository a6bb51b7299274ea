"""What a field may hold, and the one-line error that says so where it does not."""

import math

from cvfp_jax.errors import UserError

LARGEST = 1_000_000_000
_MOST_STEPS = 1_000_000  # a trace of each is kept


def require(condition: bool, field: str, value: object, allowed: str) -> None:
    """Raises a one-line error naming the field, its value and what is allowed."""
    if not condition:
        raise UserError(f"config.{field}={value} is not allowed: it must be {allowed}.")


def positive(section: str, config: object, *names: str) -> None:
    """Refuses fields that are not finite and above 0."""
    for name in names:
        value = getattr(config, name)
        require(math.isfinite(value) and value > 0, f"{section}.{name}", value, "a finite number above 0")


def not_negative(section: str, config: object, *names: str) -> None:
    """Refuses fields that are not finite and at least 0."""
    for name in names:
        value = getattr(config, name)
        require(math.isfinite(value) and value >= 0, f"{section}.{name}", value, "a finite number, 0 or more")


def share_of_one(section: str, config: object, *names: str) -> None:
    """Refuses fields outside 0 to 1."""
    for name in names:
        value = getattr(config, name)
        require(0.0 <= value <= 1.0, f"{section}.{name}", value, "between 0 and 1")


def at_least(least: int, section: str, config: object, *names: str) -> None:
    """Refuses fields below ``least``, and those too large to count with."""
    for name in names:
        value = getattr(config, name)
        most = _MOST_STEPS if name == "max_iterations" else LARGEST
        field = f"{section}.{name}".removeprefix(".")
        require(least <= value <= most, field, value, f"a whole number from {least} to {most}")


def one_of(choices: tuple[str, ...], section: str, config: object, name: str) -> None:
    """Refuses a field that is none of the choices."""
    value = getattr(config, name)
    field = f"{section}.{name}".removeprefix(".")
    require(value in choices, field, value, f"{', '.join(choices[:-1])} or {choices[-1]}")


def known_source(
    kind: str, name: str, alone: tuple[str, ...], with_place: tuple[str, ...], choices: str
) -> None:
    """Refuses a source that is no known name, and no known kind with a place behind a colon."""
    head, _, place = name.partition(":")
    if name not in alone and not (head in with_place and place):
        is_path = not place and ("/" in name or "." in name or name.startswith("~"))
        meant = f" for a path write {with_place[-1]}:{name};" if is_path else ""
        raise UserError(f"unknown {kind} {name!r}:{meant} choose {choices}.")


def refuse(both: bool, field: str, value: object, other: str, other_value: object, why: str) -> None:
    """Refuses two values that mean nothing together."""
    if both:
        raise UserError(f"config.{field}={value} and config.{other}={other_value} do not go together: {why}.")
