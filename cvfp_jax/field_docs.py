"""What config fields mean, read from the comments beside them so that it is written once."""

import dataclasses
import inspect
import re
from typing import Any

_FIELD = re.compile(r"    (\w+): [^#]*(?:# *(.*))?$")
_MORE = re.compile(r"    # *(.*)$")


def _comments(kind: type) -> dict[str, str]:
    """The comments of a dataclass's fields, those on the lines below a field joined on."""
    found: dict[str, str] = {}
    last = None
    for line in inspect.getsource(kind).splitlines():
        if "def " in line:
            break
        if more := _MORE.match(line):
            if last:
                found[last] += " " + more[1]
        elif field := _FIELD.match(line):
            last = field[1]
            found[last] = field[2] or ""
    return found


def field_docs(config: Any, prefix: str = "") -> dict[str, str]:
    """Returns the comment and the type of every leaf field by its dotted name.

    >>> from cvfp_jax.config import RunConfig
    >>> field_docs(RunConfig())["phase2.batch_size"]
    'tokens (int)'
    """
    docs: dict[str, str] = {}
    comments = _comments(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            docs |= field_docs(value, f"{prefix}{field.name}.")
        else:
            docs[prefix + field.name] = f"{comments[field.name]} ({type(value).__name__})".strip()
    return docs
