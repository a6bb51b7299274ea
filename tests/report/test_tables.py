import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvfp_jax.report import tables
from cvfp_jax.report.summary import summarise
from tests.report.made_records import law_records


def test_tables_say_what_is_unknown():
    assert tables.number(None) == tables.number(math.nan) == tables.percent(None) == tables.whole(None) == "-"
    assert tables.number(3.0e9) == "3e+09"
    assert tables.percent(0.1234, 2) == "12.34%"


def test_tables_align_for_a_terminal():
    text = tables.Table(["a", "bb"], [["long name", "1"], ["x", "1,000"]]).text()
    assert text.splitlines() == [
        "a             bb",
        "---------  -----",
        "long name      1",
        "x          1,000",
    ]
    assert tables.Table(["a", "b"], []).text().splitlines() == ["a  b", "-  -"]


@pytest.mark.parametrize("table", [tables.cells_table, tables.diagnostics_table, tables.times_table])
def test_the_seed_is_a_column_where_there_are_several(table):
    (one,) = summarise(law_records(8, -0.3, 9.0))
    assert "seed" not in table(one).columns
    (several,) = summarise([*law_records(8, -0.3, 9.0), *law_records(8, -0.3, 9.1, seed=43)])
    made = table(several)
    assert [row[:2] for row in made.rows[:3]] == [["50", "42"], ["50", "43"], ["100", "42"]]
    assert made.columns[:2] == ["samples", "seed"]
    assert {len(row) for row in made.rows} == {len(made.columns)}


def test_compiling_is_no_work():
    times = {"phase1_seconds": 10.0, "contexts_seconds": 2.0, "effective_rank_seconds": 0.25}
    times |= {"diagnostics_seconds": 1.0, "phase2_seconds": 20.0, "compile_seconds": 6.0}
    (summary,) = summarise(law_records(8, -0.3, 9.0, **times))
    made = tables.times_table(summary)
    assert dict(zip(made.columns, made.rows[0], strict=True)) == {
        "samples": "50",
        "P1": "10.0",
        "contexts": "2.0",
        "ER": "0.2",
        "diagnostics": "1.0",
        "P2": "20.0",
        "all work": "33.2",
        "compiling": "6.0",
    }


@given(st.text())
def test_escaped_text_stays_on_its_line_and_in_its_cell(text):
    escaped = tables.escape(text)
    assert "<" not in escaped
    assert len(escaped.splitlines()) <= 1
    assert escaped.count("|") == escaped.count("\\|") == text.count("|")


def test_durations():
    assert [tables.duration(seconds) for seconds in (0.4, 59.4, 60, 3599, 3600)] == [
        "0 s", "59 s", "1 min 0 s", "59 min 59 s", "1 h 0 min",
    ]  # fmt: skip
