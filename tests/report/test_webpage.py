import base64
import hashlib
import html.parser
import re
import tomllib
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvfp_jax.report.formats import number, percent, whole
from cvfp_jax.report.page import (
    Block,
    Bullets,
    Facts,
    Figure,
    Heading,
    Links,
    Note,
    Page,
    Paragraph,
    Sentences,
    Table,
    Terms,
)
from cvfp_jax.report.webpage import render, sort_value
from tests.report.made_records import NAMES

# One transparent pixel.
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)


class Reader(html.parser.HTMLParser):
    """The elements of a page in order: tag, attributes, text that is in no other element."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open = [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append([tag, dict(attrs), ""])
        if tag not in {"meta", "img"}:
            self.open.append(self.elements[-1])

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if self.open:
            self.open[-1][2] += data

    def all(self, tag):
        return [(attributes, text) for found, attributes, text in self.elements if found == tag]


@pytest.fixture
def figures(tmp_path):
    (tmp_path / "f.png").write_bytes(PNG)
    return tmp_path


def every_block(text):
    return Page(
        text,
        [
            Facts([(text, text)]),
            Heading(2, text),
            Paragraph(text),
            Note(text),
            Bullets([text]),
            Heading(3, text),
            Table([text, "n"], [[text, "1"], [text, "-"]], text),
            Figure("f.png", text, text),
            Terms([(text, text)]),
            Sentences([text, text, text], [[text, text, text], [text, "", text]]),
            Links([(text, f"#{text}")]),
        ],
    )


def test_every_kind_of_block_is_among_them():
    assert {type(block) for block in every_block("Text").blocks} == set(get_args(Block))


def test_what_is_no_block_is_refused():
    with pytest.raises(TypeError, match="a str is no block of a page"):
        render(Page("t", ["text"]), "unused")


def test_every_block_is_there_and_every_element_is_closed(figures):
    page = Reader(render(every_block("Text"), figures))
    assert page.open == []
    for tag in ("title", "h1", "h2", "h3", "p", "li", "button", "dt", "dd", "figcaption"):
        assert "Text" in [text for _, text in page.all(tag)], tag
    ((attributes, _),) = page.all("html")
    assert attributes["lang"] == "en"
    metas = {attributes.get("name"): attributes.get("content") for attributes, _ in page.all("meta")}
    assert metas["viewport"] == "width=device-width, initial-scale=1"
    ((image, _),) = page.all("img")
    assert image["alt"] == "Text"
    assert (image["width"], image["height"]) == ("1", "1")
    assert base64.b64decode(image["src"].removeprefix("data:image/png;base64,")) == PNG


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_names_from_outside_are_text(name, figures):
    page, plain = (Reader(render(every_block(text), figures)) for text in (name, "Text"))
    assert page.open == []
    assert [tag for tag, _, _ in page.elements] == [tag for tag, _, _ in plain.elements]
    assert [list(attributes) for _, attributes, _ in page.elements] == [
        list(attributes) for _, attributes, _ in plain.elements
    ]
    assert page.all("h1")[0][1] == page.all("img")[0][0]["alt"] == page.all("dd")[0][1] == name
    assert page.all("a")[-1] == ({"href": f"#{name}"}, name)
    assert page.all("td")[-1] == ({"data-name": name}, name)


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=30))
def test_any_text_is_shown_as_it_is(text):
    page = Reader(render(Page("t", [Paragraph(text), Bullets([text]), Heading(2, text)]), "unused"))
    assert page.all("p")[0][1] == text
    assert page.open == []


def test_the_page_loads_nothing_and_runs_only_its_own_script(figures):
    text = render(every_block("Text"), figures)
    page = Reader(text)
    metas = {attributes.get("http-equiv"): attributes for attributes, _ in page.all("meta")}
    policy = metas["Content-Security-Policy"]["content"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    for tag in ("style", "script"):
        ((attributes, content),) = page.all(tag)
        assert attributes == {}
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert rules[f"{tag}-src"] == f"'sha256-{digest}'"
    assert not re.search(r"https?:|//[a-z]|@import|url\(", text.replace(base64.b64encode(PNG).decode(), ""))
    for _, attributes, _ in page.elements:
        assert not any(name.startswith("on") or name == "style" for name in attributes)
        assert attributes.get("src", "data:").startswith("data:")
        assert attributes.get("href", "#").startswith("#")


def test_the_contents_lead_to_every_section():
    titles = ["Findings", "1L_8d_1tok", "1L 8d 1tok", "結果", "Content", "結果"]
    page = Reader(render(Page("t", [Paragraph("first"), *(Heading(2, title) for title in titles)]), "unused"))
    links = [(attributes["href"].removeprefix("#"), text) for attributes, text in page.all("a")][1:]
    assert [text for _, text in links] == titles
    ids = [attributes["id"] for _, attributes, _ in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    headings = {attributes["id"]: text for attributes, text in page.all("h2")}
    assert [headings[name] for name, _ in links] == titles


def test_tables_scroll_sort_and_align(figures):
    rows = [["a", "1,234.6", "-", "fair"], ["b", "-", "-", "good"]]
    page = Reader(render(Page("t", [Heading(2, "Part"), Table(["", "n", "none", "text"], rows)]), figures))
    assert [attributes.get("class") for attributes, _ in page.all("th")] == [
        None,
        "n",
        None,
        None,
        None,
        None,
    ]
    assert [attributes["scope"] for attributes, _ in page.all("th")] == ["col"] * 4 + ["row"] * 2
    assert [attributes.get("data-value") for attributes, _ in page.all("td")] == ["1234.6"] + [None] * 5
    assert len(page.all("button")) == 4
    (scroll,) = [attributes for attributes, _ in page.all("div") if attributes.get("class") == "scroll"]
    assert (scroll["tabindex"], scroll["role"], scroll["aria-label"]) == ("0", "region", "Part")


def test_sentences_name_their_columns_where_they_stand_alone():
    page = Reader(render(Page("t", [Sentences(["a", "b", "c"], [["x", "", "z"]])]), "unused"))
    assert page.all("td") == [({"class": "empty"}, ""), ({"data-name": "c"}, "z")]
    ((attributes, _),) = page.all("table")
    assert attributes["aria-label"] == "table"


def test_values_are_written_as_scripts_read_them(figures):
    rows = [["a", "inf"], ["b", "-inf"], ["c", "3.2e+300"]]
    page = Reader(render(Page("t", [Table(["name", "n"], rows)]), figures))
    values = [attributes["data-value"] for attributes, _ in page.all("td")]
    assert values == ["Infinity", "-Infinity", "3.2e+300"]


def test_what_a_page_is_made_of_is_installed():
    root = Path(__file__).parents[2]
    patterns = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    folder = root / "cvfp_jax" / "report"
    installed = {path.name for pattern in patterns["cvfp_jax.report"] for path in folder.glob(pattern)}
    others = {path.name for path in folder.rglob("*") if path.suffix not in ("", ".py", ".pyc")}
    assert installed == others != set()


def test_one_row_needs_no_sorting(figures):
    for rows in ([], [["1"]]):
        assert not Reader(render(Page("t", [Table(["a"], rows)]), figures)).all("button")


def test_a_figure_that_is_no_picture_is_refused(tmp_path):
    (tmp_path / "f.png").write_text("<svg>")
    with pytest.raises(ValueError, match=r"f\.png is no PNG file"):
        render(Page("t", [Figure("f.png", "", "")]), tmp_path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("below 1", 1.0), ("31-37", 31.0), ("10 (max steps)", 10.0), ("inf", float("inf")),
        ("-0.4254", -0.4254), ("-inf", -float("inf")), ("< 0.001", 0.001), ("1.0 GiB", 1.0),
        ("3.2e-14", 3.2e-14), ("", None), ("not fitted: 2 points", None), ("1L_8d", None),
        ("e5", None), ("infinite", None), ("- 5", None),
    ],
)  # fmt: skip
def test_what_a_cell_is_sorted_by(text, value):
    assert sort_value(text) == value


@given(st.floats(allow_nan=False), st.floats(allow_nan=False), st.sampled_from([number, percent]))
def test_cells_are_sorted_as_their_numbers(one, other, write):
    low, high = sorted([one, other])
    assert sort_value(write(low)) <= sort_value(write(high))


@given(st.integers())
def test_whole_numbers_are_read_back(value):
    assert sort_value(whole(value)) == float(value)
