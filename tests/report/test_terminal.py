from pathlib import Path

from cvfp_jax.report import records
from cvfp_jax.report.document import SweepReport
from cvfp_jax.report.terminal import show_report
from tests.report.made_records import law_records

TIMES = dict.fromkeys((name for name in records.FIELDS if name.endswith("_seconds")), 0.0)


def test_what_the_cells_took_is_told_and_compiling_apart(capsys):
    made = [
        *law_records(8, -0.3, 9.0, **TIMES | {"phase1_seconds": 50.0, "compile_seconds": 30.0}),
        *law_records(16, -0.3, 9.0, **TIMES | {"phase2_seconds": 10.0, "compile_seconds": 1.0}),
    ]
    show_report(SweepReport("title", made), Path("there"))
    *_, took, wrote = capsys.readouterr().out.splitlines()
    assert took == "The 6 cells took 3 min 0 s of work and 1 min 33 s of compiling."
    assert wrote.startswith("wrote there/report.html, ")
