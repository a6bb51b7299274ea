import cProfile
import json
import math

import pytest

from cvfp_jax.errors import UserError
from cvfp_jax.report.against import compare_sweeps
from cvfp_jax.report.document import Figures, SweepReport, report_page, write_report
from cvfp_jax.report.findings import findings, warnings
from cvfp_jax.report.inference import infer
from cvfp_jax.report.page import markdown
from cvfp_jax.report.summary import summarise
from cvfp_jax.report.terminal import show_report
from cvfp_jax.report.webpage import render
from cvfp_jax.scaling.compare import at_equal_sizes
from cvfp_jax.scaling.correlate import correlate
from cvfp_jax.scaling.derived import crossover, exponent_difference, size_for
from cvfp_jax.scaling.laws import LAWS
from cvfp_jax.scaling.windows import window_trend
from tests.report.made_records import NAMES, law_records, record


def test_the_report_is_written(tmp_path):
    made = [*law_records(8, -0.3, 9.0), *law_records(16, -0.5, 11.0, (50, 100))]
    write_report(SweepReport("A title", made), tmp_path)
    text, page = ((tmp_path / name).read_text() for name in ("report.md", "report.html"))
    assert text.startswith("# A title\n")
    for part in ("## Summary", "figures/scaling.png", "## 1L_16d_1tok"):
        assert part in text
    for part in ("PPL at 10M tokens", "not fitted: 2 points", "1L_16d_1tok", "Terms"):
        assert part in text
        assert part in page
    assert page.count("data:image/png;base64,") == 3
    report = json.loads((tmp_path / "report.json").read_text())
    first, second = report["summary"]
    assert first["fit"]["alpha"] == pytest.approx(-0.3)
    prediction = first["fit"]["predictions"]["1000000"]
    assert prediction["ppl"] == pytest.approx(math.exp(9.0 - 0.3 * math.log(1e6)))
    assert prediction["extrapolated"] is True
    assert report["inference"]["targets"][0]["status"] == "reached"
    assert (second["fit"]["status"], second["fit"]["alpha"]) == (
        "not fitted: 2 points, 3 or more are needed",
        None,
    )
    assert report["records"] == made
    for name in ("scaling.png", "effective_rank.png", "rank_ppl.png"):
        assert (tmp_path / "figures" / name).read_bytes().startswith(b"\x89PNG")


def test_five_sizes_bring_the_laws(tmp_path):
    made = law_records(8, -0.3, 9.0, (50, 100, 200, 400, 800))
    write_report(SweepReport("A title", [*made, *law_records(16, -0.5, 11.0)]), tmp_path)
    text = (tmp_path / "report.md").read_text()
    places = [
        text.index(part) for part in ("## Power laws", "## Which law\n\n", "figures/laws-1.png", "## Terms")
    ]
    assert places == sorted(places)
    rows = json.loads((tmp_path / "report.json").read_text())["laws"]
    assert [(row["group"], row["law"]) for row in rows] == [("1L_8d_1tok", law) for law in LAWS]
    assert rows[0]["params"]["a"] == pytest.approx(0.3)
    assert (tmp_path / "figures" / "laws-1.png").exists()
    assert not (tmp_path / "figures" / "laws-2.png").exists()


def calls(profile, function):
    """How often a function was called while it was profiled."""
    return sum(entry.callcount for entry in profile.getstats() if entry.code is function.__code__)


def test_what_a_report_says_is_computed_once(tmp_path, capsys):
    """However many of its parts say it: report.json, the page, its figures and the terminal."""
    sizes = (50, 100, 200, 400)
    made = [*law_records(8, -0.3, 9.0, sizes), *law_records(16, -0.5, 11.0, sizes), record(32)]
    other = [*law_records(8, -0.4, 9.0, preset="v2"), record(64, status="failed: phase 1")]
    with cProfile.Profile() as profile:
        against = compare_sweeps(("v2", "quick"), summarise(other), summarise(made[:4]))
        report = SweepReport("A title", made, against)
        write_report(report, tmp_path)
        show_report(report, tmp_path)
    for function in (findings, warnings, infer):
        assert calls(profile, function) == 1, function
    assert calls(profile, window_trend) == 2  # series of four sizes
    assert calls(profile, exponent_difference) == 2  # one of these series, one of the sweeps
    assert calls(profile, crossover) == 1
    assert calls(profile, size_for) == 2 * len({target.target for _, target in report.inference.targets}) > 0
    assert calls(profile, correlate) == len(report.inference.rank_correlations) > 0
    assert calls(profile, at_equal_sizes) == len(against.pairs)
    assert capsys.readouterr().out.count(against.findings[0]) == 1


def test_names_from_outside_are_escaped(tmp_path):
    texts = ("corpus", "embedding", "series", "status", "rank_verdict", "phase1_status", "device")
    made = [record(samples=n, **dict.fromkeys(texts, NAMES["script"])) for n in (50, 100, 200)]
    write_report(SweepReport(NAMES["attribute"], made), tmp_path)
    text, page = ((tmp_path / name).read_text() for name in ("report.md", "report.html"))
    assert "<" not in text
    assert text.count("&lt;script&gt;") > 20
    assert page.count("<script") == page.count("</script>") == 1
    assert "<img src=x" not in page
    assert page.count("&lt;script&gt;") > 20


def test_a_name_that_is_no_text_stops_no_report(tmp_path):
    write_report(SweepReport("title", [record(corpus="text:\udcff")]), tmp_path)
    assert "text:\\udcff" in (tmp_path / "report.md").read_text()
    assert "text:\\udcff" in (tmp_path / "report.html").read_text()


def test_failed_cells_are_reported_too():
    broken = record(8, 400, None, val_acc=None, status="failed: phase 2 was not finite in epoch 1")
    for made in ([broken], [*law_records(8, -0.3, 9.0), broken]):
        page = report_page(SweepReport("title", made), Figures({}))
        for text in (markdown(page), render(page, "unused")):
            assert "failed: phase 2 was not finite in epoch 1" in text


def test_a_report_that_cannot_be_written_is_a_message(tmp_path):
    (tmp_path / "figures").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot write the report of .*figures: File exists; make room"):
        write_report(SweepReport("title", [record()]), tmp_path)
