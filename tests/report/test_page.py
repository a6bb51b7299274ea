import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvfp_jax.report.page import (
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
    escape,
    markdown,
)
from tests.report.made_records import NAMES


def test_every_block_is_written():
    page = Page(
        "A title",
        [
            Facts([("seed", "42")]),
            Heading(2, "Part"),
            Paragraph("Some text."),
            Note("Mind."),
            Bullets(["one", "two"]),
            Bullets([]),
            Heading(3, "Deeper"),
            Table(["a", "b"], [["x", "1"]], "A caption"),
            Table(["a"], []),
            Figure("f.png", "what it shows", "what it is"),
            Terms([("PPL", "perplexity")]),
        ],
    )
    assert markdown(page) == (
        "# A title\n\n- seed: 42\n\n## Part\n\nSome text.\n\n> Mind.\n\n- one\n- two\n\n- none\n\n"
        "### Deeper\n\nA caption\n\n| a | b |\n|:---|---:|\n| x | 1 |\n\n| a |\n|:---|\n\n"
        "![what it shows](figures/f.png)\n\nwhat it is\n\n- PPL: perplexity\n"
    )


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_names_from_outside_are_escaped_everywhere(name):
    page = Page(
        name,
        [
            Facts([(name, name)]),
            Heading(2, name),
            Paragraph(name),
            Note(name),
            Bullets([name]),
            Table([name], [[name], [name]], name),
            Figure("f.png", name, name),
            Terms([(name, name)]),
        ],
    )
    text = markdown(page)
    assert "<" not in text
    assert text.count("&lt;") == 15 * name.count("<")


def test_links_and_sentences():
    name = '<b>"|'
    text = markdown(
        Page("t", [Links([(name, "R1.md")]), Sentences(["said", "follows"], [[name, name], ["a", ""]])])
    )
    assert '- [&lt;b&gt;"\\|](R1.md)' in text
    assert '| said | follows |\n| :--- | :--- |\n| &lt;b&gt;"\\| | &lt;b&gt;"\\| |\n| a |  |' in text


def test_a_name_neither_links_nor_ends_its_line():
    text = markdown(Page("![x](http://x)", [Bullets(["a\n# b", "`c`"])]))
    assert text == "# !\\[x\\](http://x)\n\n- a # b\n- \\`c\\`\n"


def test_tables_align_for_a_terminal():
    text = Table(["a", "bb"], [["long name", "1"], ["x", "1,000"]]).text()
    assert text.splitlines() == [
        "a             bb",
        "---------  -----",
        "long name      1",
        "x          1,000",
    ]
    assert Table(["a", "b"], []).text().splitlines() == ["a  b", "-  -"]


@given(st.text())
def test_escaped_text_stays_on_its_line_and_in_its_cell(text):
    escaped = escape(text)
    assert "<" not in escaped
    assert len(escaped.splitlines()) <= 1
    assert escaped.count("|") == escaped.count("\\|") == text.count("|")
