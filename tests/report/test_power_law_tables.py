import math

import pytest

from cvfp_jax.report import inference, power_law_tables
from cvfp_jax.report.summary import summarise
from cvfp_jax.scaling.correlate import correlate
from cvfp_jax.scaling.derived import crossover, exponent_difference, size_for
from cvfp_jax.scaling.line import log_line
from tests.report.made_records import law_records, record

LINE = log_line([1e3, 1e4, 1e5, 1e6], [math.log(y) for y in (900, 400, 210, 90)])
FLAT = log_line([1e3, 1e4, 1e5, 1e6], [math.log(y) for y in (500, 480, 510, 490)])


def targets(laws, perplexities):
    return power_law_tables.targets_table(inference.target_sizes(laws, perplexities))


def test_laws_stand_with_their_intervals():
    noisy = [record(8, n, loss) for n, loss in ((50, 6.0), (100, 5.5), (200, 5.3))]
    (summary,) = summarise(noisy)
    table = power_law_tables.fits_table([summary])
    row = dict(zip(table.columns, table.rows[0], strict=True))
    low, high = summary.law.alpha_interval()
    assert row["95% interval"] == f"{low:.3f} to {high:.3f}"
    assert row["less per doubling"] == (
        f"{100 * (1 - 2**summary.law.alpha):.1f}% ({100 * (1 - 2**high):.1f}% to {100 * (1 - 2**low):.1f}%)"
    )
    assert row["points"] == "3"
    assert "between seeds" not in row
    (few,) = summarise(noisy[:2])
    (unfitted,) = power_law_tables.fits_table([few]).rows
    assert unfitted[2:4] == ["not fitted: 2 points, 3 or more are needed", "-"]
    assert len(unfitted) == len(table.columns)


def test_replicates_are_counted_and_their_spread_is_told_from_that_about_the_law():
    (one,) = summarise(law_records(8, -0.3, 9.0, series="one"))
    both = [*law_records(16, -0.3, 9.0), *law_records(16, -0.3, 9.2, seed=43)]
    table = power_law_tables.fits_table([one, *summarise(both)])
    alone, row = (dict(zip(table.columns, found, strict=True)) for found in table.rows)
    assert row["points"] == "6 (3 sizes, 2 seeds)"
    assert row["between seeds"] == f"{0.1 * math.sqrt(2):.4f}"
    assert row["off the law"] == f"{math.sqrt(6 * 0.1**2 / 4):.4f}"
    assert (alone["points"], alone["between seeds"]) == ("3", "-")


def test_a_prediction_has_the_interval_of_one_more_run_and_a_mark_where_it_is_extrapolated():
    (row,) = power_law_tables.predictions_table({"a": LINE}, [1e5, 1e7]).rows
    low, high = LINE.interval(1e5)
    assert row == ["a", "1M", f"{LINE.predict(1e5):.1f} ({low:.1f} to {high:.1f})", row[3]]
    assert row[3].endswith(" *")


def test_a_perplexity_below_one_is_no_prediction():
    (summary,) = summarise(law_records(8, -2.0, 20.0))
    laws = inference.infer([summary]).laws
    (row,) = power_law_tables.predictions_table(laws, [1_000, 10_000_000]).rows
    assert row[2].startswith("485.2 (")
    assert row[3] == "below 1 (below 1 to below 1) *"


def test_the_size_for_a_target_says_where_it_lies_and_how_well_it_is_known():
    rows = targets({"a": LINE}, [300.0, 20.0]).rows
    found = size_for(LINE, 20.0)
    assert rows[0][-1] == "measured range"
    assert rows[1][2] == f"{found.size / 1e6:.4g}M"
    assert rows[1][-1] == f"extrapolated, {found.times_last:.3g} times the largest"
    unknown = log_line([1e3, 1e4, 1e5], [math.log(y) for y in (500, 300, 420)])
    (row,) = targets({"b": unknown}, [100.0]).rows
    assert row[3] == "none: alpha may be 0"
    rising = log_line([1e3, 1e4, 1e5], [math.log(y) for y in (500, 510, 600)])
    (row,) = targets({"c": rising}, [100.0]).rows
    assert row[4].startswith("not reached: the law does not fall")


def test_exponents_are_told_apart_where_their_interval_says_so():
    rows = power_law_tables.differences_table(
        inference.compare({"a": LINE, "b": FLAT, "c": LINE}, [("a", "b"), ("a", "c")])
    ).rows
    change, low, high = exponent_difference(LINE, FLAT)
    assert rows[0][:4] == ["a to b", f"{change:+.4f}", f"{low:.3f} to {high:.3f}", "yes"]
    assert rows[0][4] == f"{crossover(LINE, FLAT).size:,.0f} (measured range)"
    assert rows[1][1:] == ["+0.0000", rows[1][2], "no", "-"]


def test_windows_say_whether_their_change_is_within_error():
    x = [1, 2, 4, 8, 16]
    noisy = inference.SeriesWindows.of("a", x, [3.0, 2.4, 2.1, 1.4, 1.1], 4)
    assert [row[:3] for row in power_law_tables.windows_table([noisy]).rows] == [
        ["a", "1", "1 to 8"],
        ["a", "2", "2 to 16"],
    ]
    assert "is not told from none at 95%" in power_law_tables.trend_text(noisy)
    bent = inference.SeriesWindows.of("b", [2**n for n in range(8)], [(n - 8) ** 2 / 20 for n in range(8)], 4)
    text = power_law_tables.trend_text(bent)
    assert text.startswith("b: DEGRADING, +")
    assert text.endswith("5 degrees of freedom.")
    short = inference.SeriesWindows.of("c", x[:3], [3.0, 2.4, 2.1], 3)
    assert power_law_tables.trend_text(short) == "c: not compared: 2 windows of 3 sizes are needed, not 1."


def test_a_correlation_that_is_undefined_says_why():
    good, flat = correlate([70, 75, 80], [200, 190, 195]), correlate([70, 75, 80], [200, 200, 200])
    table = power_law_tables.correlations_table({"a": good, "b": flat})
    assert table.rows[0][2] == f"{good.pearson:.2f}"
    assert table.rows[1][2:] == ["-", "-", "-", "undefined: the second measure is constant"]
    assert "status" not in power_law_tables.correlations_table({"a": good}).columns


@pytest.mark.parametrize(("ratio", "text"), [(2.756, "2.76 times"), (2184.9, "2,185 times")])
def test_far_sizes_are_written_without_powers_of_ten(ratio, text):
    target = LINE.predict(ratio * LINE.last)
    (row,) = targets({"a": LINE}, [target]).rows
    assert text in row[-1]
