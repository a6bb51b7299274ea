"""What the documents link to and name is there, so that they change with the code."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "BUILD.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))
# A path in the source tree that stands in backticks.
NAMED = re.compile(r"`((?:cvfp_jax|tests|benchmarks|experiments|docs)/[\w./-]*)`")
ROOMS = [path.name for path in (ROOT / "cvfp_jax").iterdir() if (path / "__init__.py").exists()]


def anchors(page):
    """The names by which a page's headings are linked to, as GitHub makes them."""
    for title in re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE):
        yield re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        assert not anchor or anchor in set(anchors(target)), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_that_is_named_is_there(page):
    for name in NAMED.findall(page.read_text()):
        if "NAME" in name:
            continue  # the reader's own
        path = ROOT / name
        assert path.is_dir() if name.endswith("/") else path.exists(), name


def test_every_page_is_linked_from_the_first_two():
    linked = (ROOT / "README.md").read_text() + (ROOT / "BUILD.md").read_text()
    assert [page.name for page in PAGES if f"]({page.relative_to(ROOT)})" not in linked] == ["README.md"]


def test_the_layout_has_each_room_in_the_order_of_imports_and_names_files_that_exist():
    text = (ROOT / "docs/layout.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)/` \| [^|]* \| ([^|]*) \|$", text, re.MULTILINE))
    package = {room: files for room, files in rows.items() if room not in ("experiments", "benchmarks")}
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    layers = {
        name: level for level, names in enumerate(contract["layers"]) for name in re.findall(r"\w+", names)
    }
    assert sorted(package, key=layers.__getitem__) == list(package)
    assert set(package) == set(ROOMS)
    for room, files in package.items():
        for name in re.findall(r"`(\w+)`", files):
            assert (ROOT / "cvfp_jax" / room / f"{name}.py").is_file(), f"{room}/{name}"
