"""Links and tables of sentences, which the rebuilt reports consist of."""

from cvfp_jax.report.page import Heading, Links, Page, Sentences, markdown
from cvfp_jax.report.webpage import render

NAME = '<b>"|'
PAGE = Page(
    "t",
    [
        Heading(2, "Claims"),
        Links([(NAME, "R1.md")]),
        Sentences(["said", "follows"], [[NAME, NAME], ["a", ""]]),
    ],
)


def test_markdown_links_and_wraps():
    text = markdown(PAGE)
    assert '- [&lt;b&gt;"\\|](R1.md)' in text
    assert '| said | follows |\n| :--- | :--- |\n| &lt;b&gt;"\\| | &lt;b&gt;"\\| |\n| a |  |' in text


def test_html_links_and_names_each_cell(tmp_path):
    text = render(PAGE, tmp_path)
    escaped = "&lt;b&gt;&quot;|"
    assert f'<li><a href="R1.md">{escaped}</a></li>' in text
    assert 'aria-label="Claims"' in text
    assert f'<th scope="row">{escaped}</th><td data-name="follows">{escaped}</td>' in text
    assert '<td class="empty"></td>' in text
    assert NAME not in text
