"""The report's web page in a real browser."""

import pytest

from cvfp_jax.report.document import SweepReport, write_report
from cvfp_jax.report.page import Heading, Page, Table
from cvfp_jax.report.webpage import render
from tests.report import browser
from tests.report.made_records import NAMES, law_records, record

pytestmark = pytest.mark.skipif(browser.find() is None, reason=f"none of {', '.join(browser.NAMES)} on PATH")

COLUMN = "[...document.querySelectorAll('tbody tr')].map((row) => row.cells[{}].textContent)"
BUTTON = "document.querySelectorAll('thead button')[{}]"
SORTED = "[...document.querySelectorAll('thead th')].map((head) => head.getAttribute('aria-sort'))"


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    tab = browser.Browser(tmp_path_factory.mktemp("profile"))
    yield tab
    tab.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report with replicates, a failed cell and names that would break a careless page."""
    folder = tmp_path_factory.mktemp("report")
    made = [*law_records(8, -0.3, 9.0), *law_records(8, -0.3, 9.1, seed=43), *law_records(16, -0.5, 11.0)]
    broken = record(32, 400, None, val_acc=None, status="failed: phase 2 was not finite in epoch 1")
    outside = [
        record(64, 50, 6.0 + n / 10, series=f"{name} {'long' * 30}", corpus=name, device=name)
        for n, name in enumerate(NAMES.values())
    ]
    write_report(SweepReport(NAMES["attribute"], [*made, broken, *outside]), folder)
    return (folder / "report.html").as_uri()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_the_page_fits_any_width_and_breaks_nothing(tab, report, width, dark):
    tab.open(report, width, dark)
    page = "document.documentElement"
    assert tab.evaluate("innerWidth") == width
    assert tab.evaluate(f"{page}.scrollWidth") <= width
    # What is wider than the page scrolls in a frame of its own; at 360 pixels there is such a table.
    frames = "[...document.querySelectorAll('.table .scroll')]"
    assert tab.evaluate(f"{frames}.every((frame) => frame.clientWidth <= innerWidth)")
    if width == 360:
        assert tab.evaluate(f"{frames}.some((frame) => frame.scrollWidth > frame.clientWidth)")
        assert tab.evaluate("document.querySelector('img').clientWidth > 250")
    images = "[...document.images].map((image) => image.naturalWidth > 100 && image.alt > '')"
    assert tab.evaluate(images) == [True] * 4
    ground, text = (
        tab.evaluate(f"getComputedStyle(document.body).{name}") for name in ("backgroundColor", "color")
    )
    assert (_brightness(ground) < _brightness(text)) is dark
    assert abs(_brightness(ground) - _brightness(text)) > 150
    assert tab.told("Log.entryAdded") == tab.told("Runtime.consoleAPICalled") == []
    assert tab.told("Runtime.exceptionThrown") == tab.told("Page.javascriptDialogOpening") == []


def _brightness(colour):
    """Of 'rgb(1, 2, 3)'."""
    return sum(map(int, colour.removeprefix("rgb(").removesuffix(")").split(","))) / 3


def test_the_page_asks_for_nothing_and_is_let_have_nothing(tab, report):
    tab.open(report, 1280)
    urls = [event["request"]["url"] for event in tab.told("Network.requestWillBeSent")]
    assert [url for url in urls if not url.startswith("data:")] == [report]
    assert tab.evaluate("document.title") == NAMES["attribute"]
    assert tab.evaluate("document.scripts.length") == 1
    # The policy is in force: neither other files nor scripts in attributes.
    blocked = """new Promise((done) => {
        const found = [];
        addEventListener("securitypolicyviolation", (event) => {
            found.push(event.effectiveDirective);
            if (found.length === 2) done(found.sort());
        });
        document.body.insertAdjacentHTML("beforeend", "<p onclick='window.run = true'></p>");
        document.body.lastElementChild.click();
        new Image().src = "http://127.0.0.1:9/x.png";
    })"""
    assert tab.evaluate(blocked) == ["img-src", "script-src-attr"]
    assert tab.evaluate("window.run") is None


def show(tab, folder, table):
    """Opens a page with one table."""
    path = folder / "page.html"
    path.write_text(render(Page("t", [Heading(2, "Part"), table]), folder))
    tab.open(path.as_uri(), 360)


@pytest.fixture
def table(tab, tmp_path):
    """An open page with one table, with numbers as reports write them."""
    rows = [
        ["2L_8d", "1,234.6", "b", "-"],
        ["10L_8d", "79.7%", "a", "9 (1)"],
        ["1L_8d", "3.2e+09", "-", "10 (2)"],
        ["x", "-", "b", "not fitted"],
        ["y", "below 1", "a", "-"],
    ]
    show(tab, tmp_path, Table(["name", "number", "text", "mixed"], rows))


UP = {
    0: ["1L_8d", "2L_8d", "10L_8d", "x", "y"],
    1: ["below 1", "79.7%", "1,234.6", "3.2e+09", "-"],
    2: ["a", "a", "b", "b", "-"],
    3: ["9 (1)", "10 (2)", "not fitted", "-", "-"],
}
DOWN = {
    0: ["y", "x", "10L_8d", "2L_8d", "1L_8d"],
    1: ["3.2e+09", "1,234.6", "79.7%", "below 1", "-"],
    2: ["b", "b", "a", "a", "-"],
    3: ["10 (2)", "9 (1)", "not fitted", "-", "-"],
}


@pytest.mark.parametrize("column", range(4))
@pytest.mark.usefixtures("table")
def test_a_click_sorts_and_another_turns_the_order_around(tab, column):
    assert tab.evaluate(SORTED) == [None] * 4
    for order, expected in (("ascending", UP), ("descending", DOWN), ("ascending", UP)):
        tab.evaluate(BUTTON.format(column) + ".click()")
        assert tab.evaluate(COLUMN.format(column)) == expected[column]
        assert tab.evaluate(SORTED) == [order if at == column else None for at in range(4)]


@pytest.mark.parametrize("column", [1, 2], ids=["numbers", "text"])
def test_equal_rows_keep_their_order_either_way(tab, tmp_path, column):
    rows = [[name, str(n % 2), "ab"[n % 2]] for n, name in enumerate("qwertyuiop")]
    show(tab, tmp_path, Table(["name", "number", "text"], rows))
    press = BUTTON.format(column) + ".click()"
    tab.evaluate(press)
    assert "".join(tab.evaluate(COLUMN.format(0))) == "qetuo" + "wryip"
    tab.evaluate(press)
    assert "".join(tab.evaluate(COLUMN.format(0))) == "wryip" + "qetuo"
    tab.evaluate(BUTTON.format(0) + ".click()")
    tab.evaluate(press)
    assert "".join(tab.evaluate(COLUMN.format(0))) == "eoqtu" + "iprwy"


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize(
    ("key", "code", "text"), [("Enter", 13, "\r"), (" ", 32, " ")], ids=["enter", "space"]
)
def test_tables_are_sorted_by_keyboard(tab, key, code, text):
    for _ in range(10):
        tab.press("Tab", 9, "")
        if tab.evaluate("document.activeElement.textContent") == "number":
            break
    tab.press(key, code, text)
    assert tab.evaluate(COLUMN.format(1)) == UP[1]
    assert tab.evaluate("document.activeElement.textContent") == "number"
    tab.press(key, code, text)
    assert tab.evaluate(COLUMN.format(1)) == DOWN[1]


def test_links_lead_to_their_sections(tab, report):
    tab.open(report, 360)
    assert tab.evaluate("[...document.querySelectorAll('nav a')].length") > 5
    assert tab.evaluate(
        "[...document.querySelectorAll('a')].every((a) => document.getElementById(a.hash.slice(1)))"
    )
