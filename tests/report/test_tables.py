import pytest

from cvfp_jax.report import tables
from cvfp_jax.report.summary import summarise
from tests.report.made_records import law_records


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
