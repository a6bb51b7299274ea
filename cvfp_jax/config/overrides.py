"""A config's fields by dotted name: read from text, listed and replaced."""

import dataclasses
from typing import Any

from cvfp_jax.config.documented import attribute_docs, describe
from cvfp_jax.errors import UserError


def flat_fields(config: Any, prefix: str = "") -> dict[str, Any]:
    """Returns every leaf field by its dotted name.

    >>> from cvfp_jax.config.settings import RunConfig
    >>> flat_fields(RunConfig())["phase1.max_iterations"]
    60
    """
    flat: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            flat |= flat_fields(value, f"{prefix}{field.name}.")
        else:
            flat[prefix + field.name] = value
    return flat


def _parse(name: str, text: str, kind: type) -> Any:
    """Reads the text of a field of the given type, or says which text would do."""
    if kind is bool:
        known = {"true": True, "1": True, "false": False, "0": False}
        if text.lower() in known:
            return known[text.lower()]
        raise UserError(f"config.{name}={text} is not allowed: it must be true or false.")
    try:
        return kind(text)
    except ValueError:
        what = {int: "a whole number", float: "a number"}[kind]
        raise UserError(f"config.{name}={text} is not allowed: it must be {what}.") from None


def parse_changes(config: Any, changes: dict[str, str]) -> dict[str, Any]:
    """Reads the texts of dotted fields as values of the fields' types.

    Args:
      config: the config whose fields are meant.
      changes: dotted field name to the text of its new value.

    Returns:
      Dotted field name to value, for ``replace``.

    Raises:
      UserError: a name is unknown, or a text is not of the field's type.

    >>> from cvfp_jax.config.settings import RunConfig
    >>> parse_changes(RunConfig(), {"phase1.max_iterations": "20"})
    {'phase1.max_iterations': 20}
    """
    known = flat_fields(config)
    for name in changes.keys() - known.keys():
        raise UserError(f"unknown field config.{name}: the fields are {', '.join(known)}.")
    return {name: _parse(name, text, type(known[name])) for name, text in changes.items()}


def replace(config: Any, values: dict[str, Any]) -> Any:
    """Returns a config with fields replaced by dotted name, validated once all of them are in place.

    >>> from cvfp_jax.config.settings import RunConfig
    >>> replace(RunConfig(), {"phase1.max_iterations": 20}).phase1.max_iterations
    20
    """
    top: dict[str, Any] = {}
    for name, value in values.items():
        section, dot, leaf = name.partition(".")
        if dot:
            top.setdefault(section, {})[leaf] = value
        else:
            top[section] = value
    for section, leaves in top.items():
        if isinstance(leaves, dict):
            top[section] = dataclasses.replace(getattr(config, section), **leaves)
    return dataclasses.replace(config, **top)


def field_docs(config: Any, prefix: str = "") -> dict[str, str]:
    """Returns the docstring, the type and the value of every leaf field by its dotted name.

    >>> from cvfp_jax.config.settings import RunConfig
    >>> field_docs(RunConfig())["phase2.batch_size"]
    'Tokens in a training step. (int; default: 8192)'
    """
    described: dict[str, str] = {}
    docs = attribute_docs(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            described |= field_docs(value, f"{prefix}{field.name}.")
        else:
            described[prefix + field.name] = describe(docs.get(field.name, ""), value)
    return described
