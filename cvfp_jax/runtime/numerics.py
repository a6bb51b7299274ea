"""Settings of JAX that change numbers: a launch has its own, whatever the environment says."""

import logging
from typing import Any

import jax

from cvfp_jax.errors import UserError

# What records are made with: JAX's own defaults of today, which an environment variable of the same name in
# capitals may have changed. A record does not name them, so that nothing else can have made it.
PINNED: dict[str, Any] = {
    "jax_default_prng_impl": "threefry2x32",
    "jax_threefry_partitionable": True,
    "jax_random_seed_offset": 0,
    "jax_enable_x64": False,
    "jax_high_dynamic_range_gumbel": False,
}


def _others() -> dict[str, Any]:
    """The settings that differ from what is pinned."""
    values = {name: getattr(jax.config, name) for name in PINNED}
    return {name: value for name, value in values.items() if value != PINNED[name]}


def pin() -> None:
    """Gives JAX's settings the values that records are made with; what that changes is told, a line each.

    >>> jax.config.update("jax_random_seed_offset", 1)
    >>> pin()
    >>> jax.config.jax_random_seed_offset
    0
    """
    for name, value in _others().items():
        logging.warning("%s=%s would change every number: it is %s here", name.upper(), value, PINNED[name])
        jax.config.update(name, PINNED[name])


def check() -> None:
    """Refuses other settings, where they are those of somebody's session and not a launch's.

    Raises:
      UserError: a setting differs.
    """
    for name, value in _others().items():
        raise UserError(
            f"{name} is {value}, which would change every number: call jax.config.update({name!r},"
            f" {PINNED[name]!r}), or train in a process of its own."
        )
