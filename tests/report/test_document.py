import contextlib
import cProfile
import inspect
import io
import json
import math

import numpy as np
import pytest

from cvfp_jax.errors import UserError
from cvfp_jax.report import document
from cvfp_jax.report.against import compare_sweeps
from cvfp_jax.report.curves import FILE_NAME as CURVES
from cvfp_jax.report.curves import Curves
from cvfp_jax.report.document import Figures, SweepReport, report_page, write_report
from cvfp_jax.report.findings import findings, warnings
from cvfp_jax.report.inference import infer
from cvfp_jax.report.page import markdown
from cvfp_jax.report.records import cell_folder
from cvfp_jax.report.summary import summarise
from cvfp_jax.report.terminal import show_report
from cvfp_jax.report.webpage import render
from cvfp_jax.scaling.analysis import analyse_group
from cvfp_jax.scaling.correlate import correlate
from cvfp_jax.scaling.derived import crossover, exponent_difference, size_for
from cvfp_jax.scaling.equal_sizes import at_equal_sizes
from cvfp_jax.scaling.laws import LAWS
from cvfp_jax.scaling.profile import profile_intervals
from cvfp_jax.scaling.windows import window_trend
from tests.report.made_records import NAMES, law_records, record

MADE = [
    *law_records(8, -0.3, 9.0, (50, 100, 200, 400, 800)),
    *law_records(16, -0.5, 11.0, (50, 100, 200, 400)),
    *law_records(32, -0.5, 11.0, (50, 100)),
]
OTHER = [*law_records(8, -0.4, 9.0, preset="v2"), record(64, status="failed: phase 1", preset="v2")]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A report, its folder, what was printed of it, and how often each function was called for it."""
    folder, out = tmp_path_factory.mktemp("report"), io.StringIO()
    against = compare_sweeps(("v2", "quick"), summarise(OTHER), summarise(MADE[:5]))
    report = SweepReport("A title", MADE, against)
    assert len(report.laws) == 1  # fitted now, as that takes twice the time when it is profiled
    with contextlib.redirect_stdout(out), cProfile.Profile() as profile:
        write_report(report, folder)
        show_report(report, folder)
    counts = {id(entry.code): entry.callcount for entry in profile.getstats()}

    def calls(function):
        return counts.get(id(inspect.unwrap(function).__code__), 0)

    return report, folder, out.getvalue(), calls


def test_the_report_is_written(written):
    _, folder, _, _ = written
    text, page = ((folder / name).read_text() for name in ("report.md", "report.html"))
    assert text.startswith("# A title\n")
    for part in ("## Summary", "figures/scaling.png", "## 1L_16d_1tok"):
        assert part in text
    for part in ("PPL at 10M tokens", "not fitted: 2 points", "1L_16d_1tok", "Terms"):
        assert part in text
        assert part in page
    report = json.loads((folder / "report.json").read_text())
    first, _, third = report["summary"]
    assert first["fit"]["alpha"] == pytest.approx(-0.3)
    prediction = first["fit"]["predictions"]["1000000"]
    assert prediction["ppl"] == pytest.approx(math.exp(9.0 - 0.3 * math.log(1e6)))
    assert prediction["extrapolated"] is True
    assert report["inference"]["targets"][0]["status"] == "reached"
    assert (third["fit"]["status"], third["fit"]["alpha"]) == (
        "not fitted: 2 points, 3 or more are needed",
        None,
    )
    assert report["records"] == MADE
    figures = list((folder / "figures").iterdir())
    assert {path.name for path in figures} == {
        "scaling.png", "effective_rank.png", "exponents.png", "windows.png", "rank_ppl.png", "laws-1.png",
        "against-1.png",
    }  # fmt: skip
    assert page.count("data:image/png;base64,") == len(figures)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in figures)


def test_five_sizes_bring_the_laws(written):
    _, folder, _, _ = written
    text = (folder / "report.md").read_text()
    places = [
        text.index(part) for part in ("## Power laws", "## Which law\n\n", "figures/laws-1.png", "## Terms")
    ]
    assert places == sorted(places)
    rows = json.loads((folder / "report.json").read_text())["laws"]
    assert [(row["group"], row["law"]) for row in rows] == [("1L_8d_1tok", law) for law in LAWS]
    assert rows[0]["params"]["a"] == pytest.approx(0.3)


def test_what_a_report_says_is_computed_once(written):
    """However many of its parts say it: report.json, the page, its figures and the terminal."""
    report, _, out, calls = written
    for function in (findings, warnings, infer):
        assert calls(function) == 1, function
    assert calls(window_trend) == 2  # series of four sizes or more
    assert calls(exponent_difference) == calls(crossover) == 1
    assert calls(size_for) == 2 * len({target.target for _, target in report.inference.targets}) > 0
    assert calls(correlate) == len(report.inference.rank_correlations) > 0
    assert calls(at_equal_sizes) == calls(analyse_group) == 0  # both were called before
    assert calls(profile_intervals) == 1  # for the band of the law's figure
    assert out.count(report.against.findings[0]) == 1


def test_names_from_outside_are_escaped(tmp_path):
    texts = ("corpus", "embedding", "series", "status", "rank_verdict", "phase1_status", "device")
    made = [record(samples=n, **dict.fromkeys(texts, NAMES["script"])) for n in (50, 100, 200)]
    made[0]["corpus"] = "text:\udcff"  # no text either, as names of files may hold any bytes
    write_report(SweepReport(NAMES["attribute"], made), tmp_path)
    text, page = ((tmp_path / name).read_text() for name in ("report.md", "report.html"))
    assert "<" not in text
    assert text.count("&lt;script&gt;") > 20
    assert page.count("<script") == page.count("</script>") == 1
    assert "<img src=x" not in page
    assert page.count("&lt;script&gt;") > 20
    assert "text:\\udcff" in text
    assert "text:\\udcff" in page
    assert "## Against" not in text


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


def test_curves_are_drawn_of_the_first_seed_of_each_series_and_size(tmp_path):
    records = [record(dim, seed=seed) for dim in (8, 16) for seed in (3, 1)]
    for each in records:
        Curves({"phase2_val_loss": np.array([each["seed"]])}).save(tmp_path / cell_folder(each) / CURVES)
    drawn = document._curves(records, tmp_path)
    assert [(each["context_dim"], each["seed"]) for each, _ in drawn] == [(8, 3), (16, 3)]
    assert [curves["phase2_val_loss"].tolist() for _, curves in drawn] == [[3], [3]]
