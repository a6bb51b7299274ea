"""Docstrings of a dataclass's fields: the string below each, which editors show and Python does not keep."""

import ast
import dataclasses
import functools
import inspect
import sys
import textwrap
from typing import Any, TypeVar

_Class = TypeVar("_Class", bound=type)


@functools.cache
def _classes(module: str) -> dict[str, ast.ClassDef]:
    """A module's classes, as they are written; none where its source is not at hand."""
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except (OSError, TypeError):
        return {}
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


def attribute_docs(kind: type) -> dict[str, str]:
    """Returns the docstrings of a class's fields, each on one line.

    >>> from cvfp_jax.config.settings import Phase2Config
    >>> attribute_docs(Phase2Config)["batch_size"]
    'Tokens in a training step.'
    """
    node = _classes(kind.__module__).get(kind.__name__)
    docs = {}
    for field, below in zip(node.body, node.body[1:], strict=False) if node else ():
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            docs[field.target.id] = " ".join(str(below.value.value).split())
    return docs


def describe(doc: str, value: Any) -> str:
    """Returns a field's docstring with the type and the default.

    >>> describe("Whether to.", True), describe("Tokens.", 8)
    ('Whether to. (bool; default: true)', 'Tokens. (int; default: 8)')
    """
    default = str(value).lower() if isinstance(value, bool) else value
    return f"{doc} ({type(value).__name__}; default: {default})".lstrip()


def documented(kind: _Class) -> _Class:
    """Adds the docstrings of a dataclass's fields to its own, so that ``help`` shows them."""
    docs = attribute_docs(kind)
    lines = []
    for field in dataclasses.fields(kind):
        leaf = not dataclasses.is_dataclass(field.default)
        text = describe(docs.get(field.name, ""), field.default) if leaf else docs.get(field.name, "")
        lines.append(
            textwrap.fill(f"{field.name}: {text}", 96, initial_indent="  ", subsequent_indent="    ")
        )
    kind.__doc__ = "\n".join([inspect.cleandoc(kind.__doc__ or ""), "", "Attributes:", *lines, ""])
    return kind
