"""The pages of docs/ name functions and files that exist, and quote code as it is."""

import ast
import inspect
import re
import textwrap
from pathlib import Path

import pytest

from cvfp_jax.core import reference
from cvfp_jax.core.diversity import DIVERSITY_LOSSES

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
EQUATIONS = (ROOT / "docs/equations.md").read_text()
# folder/file.py::name, in the package.
NAMED = re.compile(r"`([\w/]+\.py)::(\w+)`")


def defined_in(path):
    """The names that a module defines at its top level."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        yield from (target.id for target in targets if isinstance(target, ast.Name))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_exists(page):
    for file, name in NAMED.findall(page.read_text()):
        assert name in set(defined_in(ROOT / "cvfp_jax" / file)), f"{file}::{name}"


def test_every_function_of_the_reference_has_its_place_on_the_page():
    functions = {
        name
        for name, function in inspect.getmembers(reference, inspect.isfunction)
        if function.__module__ == reference.__name__ and not name.startswith("_")
    }
    named = {name for file, name in NAMED.findall(EQUATIONS) if file == "core/reference.py"}
    assert functions - named == {"phase1_start", "phase2_start"}


def test_every_diversity_loss_is_on_the_page():
    section = EQUATIONS.partition("### Diversity losses")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| (\w+) \|", section, re.MULTILINE)) == set(DIVERSITY_LOSSES)


def test_code_is_quoted_as_it_is():
    source = inspect.getsource(reference)
    quotes = re.findall(r"```python\n(.*?)```", EQUATIONS, re.DOTALL)
    assert len(quotes) >= 3
    for quote in quotes:
        assert any(textwrap.indent(quote, " " * depth) in source for depth in (0, 4, 8)), quote
