import math

import pytest

from cvfp_jax.report import law_sections
from cvfp_jax.report.page import Figure, Page, markdown
from cvfp_jax.report.summary import summarise
from cvfp_jax.scaling.analysis import analyse_group
from cvfp_jax.scaling.points import Group
from tests.report.made_records import law_records, record

X = (122_795.0, 243_000.0, 485_000.0, 960_000.0, 1_920_992.0)
PPL = (321.4, 253.1, 186.0, 155.8, 134.7)
FIGURE = Figure("a.png", "What it shows.", "Caption.")


def by_name(table):
    return {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}


@pytest.fixture(scope="module")
def found():
    laws = ("power", "log_linear", "log_corrected")
    return analyse_group(Group("r5", X, PPL), laws, predict=(2.5e6,), draws=20)


def test_laws_stand_beside_the_naive_prediction(found):
    table = law_sections.laws_table(found.rows)
    cells = by_name(table)
    assert table.caption == "The laws; hold-out is the test at 1,920,992"
    assert cells["power"]["hold-out"] == f"{found.selection.holdout['power']:.4g}"
    assert cells["power"]["weight"] == f"{found.selection.weights['power']:.3f}"
    assert cells["the last size's value"]["hold-out"] == f"{math.log(155.8 / 134.7):.4g}"
    assert cells["the last size's value"]["k"] == "-"
    assert cells["power"]["AICc"] == f"{found.rows[0]['aicc']:.4g}"
    assert [cells[law]["limit"] for law in ("power", "log_linear")] == ["0", "unbounded"]
    assert cells["log_corrected"]["status"] == "on a bound"
    assert law_sections.status_details(found.rows) == ["log_corrected: on a bound: a = 0."]
    assert "lack of fit p" not in table.columns


def test_a_criterion_that_so_few_points_do_not_have_is_undefined():
    few = analyse_group(Group("g", X[:4], PPL[:4]), ("saturating",), draws=0)
    assert by_name(law_sections.laws_table(few.rows))["saturating"]["AICc"] == "undefined"


def test_parameters_and_predictions_have_their_intervals(found):
    power = found.rows[0]
    cells = by_name(law_sections.parameters_table(found.rows))["power: a"]
    low, high = power["intervals"]["a"]
    assert (cells["value"], cells["[95 %]"]) == (f"{power['params']['a']:.4g}", f"[{low:.4g}, {high:.4g}]")
    assert cells["bootstrap [95 %]"] != cells["[95 %]"]
    cells = by_name(law_sections.predictions_table(found.rows))["power"]
    (point,) = power["predictions"]
    for name, ends in (("law's [95 %]", "interval"), ("one more run's [95 %]", "run_interval")):
        assert cells[name] == f"[{point[ends][0]:.4g}, {point[ends][1]:.4g}]"
    assert cells["size"] == "2,500,000"


def test_replicates_bring_the_lack_of_fit():
    x = tuple(size for size in X for _ in range(2))
    y = tuple(value * f for value in PPL for f in (0.999, 1.001))
    found = analyse_group(Group("g", x, y), ("power",), draws=0)
    cells = by_name(law_sections.laws_table(found.rows))["power"]
    assert float(cells["lack of fit p"]) < 0.001
    assert "bootstrap [95 %]" not in law_sections.parameters_table(found.rows).columns


def test_what_cannot_be_fitted_has_a_status_and_no_numbers():
    found = analyse_group(Group("g", X[:2], PPL[:2]), ("saturating",), predict=(1e7,), draws=0)
    text = markdown(Page("t", law_sections.law_blocks(found, "tokens", "ppl", FIGURE)))
    assert "> These points are too few to fit a law and to test it." in text
    assert "- saturating: too few points: 2 sizes, 4 or more are needed." in text
    assert "| saturating | too few points | 3 | - | - | - | - | - | - | - |" in text
    assert "Parameters" not in text
    assert "Predictions" not in text


def test_series_of_five_sizes_are_analysed(monkeypatch):
    asked = []

    def analysed(group, **options):
        asked.append((group, options))
        return analyse_group(group, ("power",), draws=0)

    monkeypatch.setattr(law_sections, "analyse_group", analysed)
    five = law_records(16, -0.5, 11.0, (50, 100, 200, 400, 800))
    broken = record(16, 1600, None, status="failed: phase 1")
    overflown = record(16, 3200, 900.0)
    few = [*law_records(8, -0.3, 9.0, (50, 100, 200, 400)), *law_records(8, -0.3, 9.0, (50,), seed=7)]
    analyses = law_sections.analyse_series(summarise([*few, *five, broken, overflown]))
    ((group, options),) = asked
    assert group.name == "1L_16d_1tok"
    assert group.x == (5e3, 1e4, 2e4, 4e4, 8e4)
    assert group.y == tuple(cell["val_ppl"] for cell in five)
    assert options == {"predict": (1_000_000, 10_000_000), "draws": 200}
    text = markdown(Page("t", law_sections.which_law(analyses, [FIGURE])))
    assert "## Which law\n" in text
    assert "### 1L\\_16d" in text or "### 1L_16d_1tok" in text
    assert "![What it shows.](figures/a.png)" in text
    assert law_sections.which_law([], []) == []
