"""Writes docs/api.md from the docstrings of what cvfp_jax offers: python docs/api.py."""

import dataclasses
import functools
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import cvfp_jax as cj
from cvfp_jax.generation.score import Score
from cvfp_jax.generation.trained import Generated, NextToken
from cvfp_jax.report.curves import Curves

PAGE = Path(__file__).with_suffix(".md")
FUNCTIONS = ("train", "sweep", "load", "fit_law", "read_points", "effective_rank")
CLASSES = ("CellResult", "TrainedModel", "SweepReport", "LawFit", "UserError")
PARTS = (Score, Generated, NextToken, Curves)  # what methods return
_WIDTH = 100
_OPENING = """# Functions for notebooks

`import cvfp_jax as cj` imports nothing heavy; what a name needs is imported when it is first used.
`python docs/api.py` writes this page from the docstrings, which `help(cj)` shows too.
[The tour](tour.ipynb) has examples.
"""


def signature(function: Callable[..., Any], name: str) -> str:
    """How a function is called, an argument a line where it is long, without the names of modules."""
    found = inspect.signature(function)
    parameters = [p for p in found.parameters.values() if p.name not in ("self", "cls")]
    text = str(found.replace(parameters=parameters))
    text = text.replace("numpy.ndarray", "np.ndarray")
    text = re.sub(r"\b(?:[a-z_]\w*\.)+(?=[A-Z])", "", text).replace("'", '"')
    text = re.sub(r'-> "([\w.]+)"', r"-> \1", text)
    if len(name + text) <= _WIDTH:
        return name + text
    inside, _, end = text[1:].rpartition(")")
    return f"{name}(\n" + "".join(f"    {part},\n" for part in _split(inside)) + f"){end}"


def _split(arguments: str) -> Iterator[str]:
    """The arguments of a signature, which commas part that are in no brackets."""
    depth, part = 0, ""
    for letter in arguments:
        depth += (letter in "[(") - (letter in "])")
        if letter == "," and depth == 0:
            yield part.strip()
            part = ""
        else:
            part += letter
    yield part.strip()


def prose(text: str) -> str:
    """A docstring as Markdown: sections of arguments as lists, examples as code."""
    blocks = []
    for block in inspect.cleandoc(text).split("\n\n"):
        title, _, body = block.partition("\n")
        if block.startswith(">>> "):
            blocks.append(f"```pycon\n{block}\n```")
        elif title in ("Args:", "Raises:", "Yields:", "Returns:", "References:"):
            entries = re.split(r"\n(?=  \S)", body) if title in ("Args:", "Raises:") else [body]
            lines = [_entry(" ".join(entry.split()), title) for entry in entries]
            blocks.append(f"**{title[:-1]}**" + ("\n\n" if title == "Args:" else ": ") + "\n".join(lines))
        else:
            blocks.append(block)
    return re.sub(r"``(.+?)``", r"`\1`", "\n\n".join(blocks))


def _entry(text: str, title: str) -> str:
    """An argument, an exception, or what else a section has."""
    name, colon, rest = text.partition(": ")
    if title not in ("Args:", "Raises:") or not colon:
        return text
    return f"- `{name}`: {rest}" if title == "Args:" else f"`{name}`, if {rest}"


def fields(cls: type) -> Iterator[str]:
    """The fields of a dataclass or a named tuple, with what is said of them beside."""
    if dataclasses.is_dataclass(cls) or hasattr(cls, "_fields"):
        for name, kind, _, said in re.findall(
            r"^    (\w+): ([^=#\n]+?)( = [^#\n]+?)?(?:  # (.*))?$", inspect.getsource(cls), re.MULTILINE
        ):
            yield f"- `{name}: {kind}`" + (f": {said}" if said else "")


def members(cls: type) -> Iterator[tuple[str, Any]]:
    """The public methods and properties of a class, in the order of its source."""
    kinds = property | functools.cached_property | classmethod
    for name, value in vars(cls).items():
        if not name.startswith("_") and (isinstance(value, kinds) or inspect.isfunction(value)):
            yield name, value


def _member(cls: type, name: str, value: Any) -> str:
    title = f"### {cls.__name__}.{name}\n\n"
    if isinstance(value, property | functools.cached_property):
        function: Any = value.fget if isinstance(value, property) else value.func
        kind = signature(function, name).partition(" -> ")[2]
        shown = f"{name}: {kind}"
    else:
        shown = signature(getattr(cls, name), name)
    return f"{title}```python\n{shown}\n```\n\n{prose(getattr(cls, name).__doc__ or value.__doc__)}\n"


def _class(cls: type) -> str:
    text = f"## {cls.__name__}\n\n{prose(cls.__doc__ or '')}\n"
    if of := list(fields(cls)):
        text += "\n" + "\n".join(of) + "\n"
    return "\n".join([text, *(_member(cls, name, value) for name, value in members(cls))])


def _function(name: str) -> str:
    function = getattr(cj, name)
    return f"## {name}\n\n```python\n{signature(function, f'cj.{name}')}\n```\n\n{prose(function.__doc__)}\n"


def page() -> str:
    """All of docs/api.md."""
    classes = [*(getattr(cj, name) for name in CLASSES), *PARTS]
    rows = [(name, getattr(cj, name)) for name in FUNCTIONS] + [(cls.__name__, cls) for cls in classes]
    table = "| name | |\n|---|---|\n" + "".join(
        f"| [{name}](#{name.lower()}) | {prose(thing.__doc__ or '').partition(chr(10))[0]} |\n"
        for name, thing in rows
    )
    return "\n".join([_OPENING, table, *map(_function, FUNCTIONS), *map(_class, classes)]).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
