"""docs/api.md is what docs/api.py makes of the docstrings."""

import importlib.util
import inspect
import re
from pathlib import Path

import pytest

import cvfp_jax as cj

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def api():
    """The script that writes the page."""
    spec = importlib.util.spec_from_file_location("docs_api", DOCS / "api.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_current(api):
    assert api.page() == (DOCS / "api.md").read_text(), "run python docs/api.py"


def test_the_page_has_every_public_name_and_every_argument(api):
    sections = dict(re.findall(r"^##+ ([\w.]+)\n(.*?)(?=^##|\Z)", api.page(), re.MULTILINE | re.DOTALL))
    assert {*api.FUNCTIONS, *api.CLASSES} == set(cj.__all__) <= set(sections)
    for name in api.FUNCTIONS:
        described = re.findall(r"^- `\**(\w+)`: \S", sections[name], re.MULTILINE)
        assert described == list(inspect.signature(getattr(cj, name)).parameters), name


@pytest.mark.parametrize(
    ("text", "markdown"),
    [
        (
            "Says it.\n\nArgs:\n  a: of ``b``.\n  c: long,\n    longer.",
            "**Args**\n\n- `a`: of `b`.\n- `c`: long, longer.",
        ),
        ("Says it.\n\nRaises:\n  UserError: it is bad.", "**Raises**: `UserError`, if it is bad."),
        ("Says it.\n\nReturns:\n  One: two.", "**Returns**: One: two."),
        ("Says it.\n\n>>> 1 + 1\n2", "```pycon\n>>> 1 + 1\n2\n```"),
    ],
)
def test_docstrings_become_markdown(api, text, markdown):
    assert api.prose(text) == f"Says it.\n\n{markdown}"


def test_long_signatures_have_an_argument_a_line(api):
    def function(self, a: "Path", b: dict[str, int] = {}, c: tuple[int, str] = (1, "x")) -> None: ...  # noqa: B006

    short = 'f(a: "Path", b: dict[str, int] = {}, c: tuple[int, str] = (1, "x")) -> None'
    assert api.signature(function, "f") == short
    assert api.signature(function, "f" * 50).splitlines()[1:] == [
        '    a: "Path",',
        "    b: dict[str, int] = {},",
        '    c: tuple[int, str] = (1, "x"),',
        ") -> None",
    ]
