import json
import subprocess
import sys
from pathlib import Path

import pytest

from cvfp_jax.errors import UserError
from cvfp_jax.report import records
from cvfp_jax.report.document import SweepReport, write_report
from cvfp_jax.report.rebuild import rebuild_report
from tests.report.made_records import law_records, record

ROOT = Path(__file__).parents[2]


def write_records(folder, made):
    for found in made:
        records.append(folder / "records.jsonl", found)
    return folder


def test_a_rebuilt_report_is_the_sweeps_own_and_needs_no_jax(tmp_path):
    made = law_records(8, -0.3, 9.0)
    write_report(SweepReport("context_dim, preset quick", made), write_records(tmp_path, made))
    files = [path for path in sorted(tmp_path.rglob("*.*")) if path.name != "records.jsonl"]
    assert [path.name for path in files] == [
        "effective_rank.png", "rank_ppl.png", "scaling.png", "report.html", "report.json", "report.md",
    ]  # fmt: skip
    before = [path.read_bytes() for path in files]
    for path in files:
        path.unlink()
    # Where a sweep has run there may be no JAX, nor time to import it.
    script = (
        "import sys; from pathlib import Path; from cvfp_jax.report.rebuild import rebuild_report\n"
        "rebuild_report(Path(sys.argv[1])); print('jax' in sys.modules)"
    )
    command = [sys.executable, "-c", script, tmp_path]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
    assert [path.read_bytes() for path in files] == before


def test_the_last_record_of_a_cell_counts_and_sweeps_stay_apart(tmp_path):
    other = record(8, 50, 4.0, preset="v2", series="1L_8d_1tok, preset v2")
    write_records(tmp_path, [record(8, 50, 6.0), record(8, 50, 5.0), other])
    summaries = rebuild_report(tmp_path).summaries
    assert [[r["val_loss"] for r in summary.records] for summary in summaries] == [[5.0], [4.0]]
    title = json.loads((tmp_path / "report.json").read_text())["title"]
    assert title == "context_dim, preset quick; context_dim, preset v2"


def test_folders_without_records_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"missing is not there: name the folder of a sweep that has run\.$"):
        rebuild_report(tmp_path / "missing")
    with pytest.raises(UserError, match=r"records\.jsonl holds no records: name the folder"):
        rebuild_report(tmp_path)
    (tmp_path / "records.jsonl").write_text("\n")
    with pytest.raises(UserError, match=r"records\.jsonl holds no records"):
        rebuild_report(tmp_path)


def test_a_torn_line_is_named_and_left_as_it_is(tmp_path):
    path = write_records(tmp_path, [record(), record(8, 100)]) / "records.jsonl"
    torn = path.read_bytes()[:-20]
    path.write_bytes(torn)
    with pytest.raises(UserError, match=r"records\.jsonl, line 2: not valid JSON"):
        rebuild_report(tmp_path)
    assert path.read_bytes() == torn
    assert not (tmp_path / "report.md").exists()
