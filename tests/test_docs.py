"""The pages of docs/ name functions and files that exist, and quote code as it is."""

import ast
import inspect
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from cvfp_jax.cli import generate
from cvfp_jax.core import reference
from cvfp_jax.core.diversity import DIVERSITY_LOSSES
from cvfp_jax.report.curves import GROUPS, NAMES
from cvfp_jax.sweeps.options import KEEP

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
EQUATIONS = (ROOT / "docs/equations.md").read_text()
MODELS = (ROOT / "docs/models.md").read_text()
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


def section(page, title):
    return page.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_the_page_on_models_has_every_flag_and_every_array():
    flags = re.findall(r"^\| `--(\w+)", section(MODELS, "Generate on the command line"), re.MULTILINE)
    assert sorted(flags) == sorted([*generate.FLAGS, *generate.SWITCHES, "workdir"])
    rows = re.findall(r"^\| (`.*?) \|", section(MODELS, "The curves"), re.MULTILINE)
    assert re.findall(r"`(\w+)`", " ".join(rows)) == list(NAMES)
    assert len(GROUPS) == 4
    kept = re.findall(r"^\| `(\w+)`", section(MODELS, "What a cell leaves"), re.MULTILINE)
    assert kept == list(KEEP)


@pytest.mark.slow
def test_the_python_of_the_readme_runs(tmp_path):
    """Line by line as it stands, in an empty folder."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(code.splitlines()) <= 8
    away = ("JAX_DISABLE_MOST_OPTIMIZATIONS", "JAX_COMPILATION_CACHE_DIR")
    environment = {name: text for name, text in os.environ.items() if name not in away}
    environment |= {"PYTHONPATH": str(ROOT), "CVFP_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("The function returns")
    assert (tmp_path / "runs/first/curves.png").read_bytes().startswith(b"\x89PNG")
