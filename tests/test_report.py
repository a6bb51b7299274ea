import json
import math

import numpy as np
import pytest

from cvfp_jax import records
from cvfp_jax.report import document, figures, tables
from cvfp_jax.report.summary import summarise


def record(dim=8, samples=50, loss=6.0, **changes):
    found = {
        **dict.fromkeys(records.FIELDS, 1),
        "status": "ok",
        "config_name": f"1L_{dim}d_1tok",
        "series": f"1L_{dim}d_1tok",
        "rank_verdict": "fair",
        "val_convergence_status": "CONVERGING",
        "is_identity": False,
        "is_zero_solution": False,
        "is_global_attractor": False,
        "context_dim": dim,
        "num_samples": samples,
        "train_tokens": 100 * samples,
        "corpus": "text:x",
        "embedding": "spectral",
        "vocabulary": "full",
        "device": "cpu",
        "params_context_block": dim * dim,
        "phase1_status": "converged",
        "phase1_iterations": 20,
        "phase1_convergence_rate": 0.99,
        "phase2_status": "early stop",
        "phase2_epochs": 3,
        "best_epoch": 2,
        "val_loss": loss,
        "val_ppl": math.exp(loss) if loss and loss < 700 else None,
        "val_acc": 0.2,
        "train_effective_rank": 0.8,
        "val_effective_rank": 0.7,
        "unigram_ppl": 700.0,
        "unigram_loss": math.log(700.0),
    }
    return found | changes


def law_records(dim, alpha, log_A, sizes=(50, 100, 200)):
    return [record(dim, n, log_A + alpha * math.log(100 * n)) for n in sizes]


def test_records_are_grouped_and_fitted_by_configuration():
    few, many = law_records(16, -0.5, 11.0), law_records(8, -0.3, 9.0, (200, 50, 100, 400))
    first, second = summarise([*few, *many])
    assert [first.series, second.series] == ["1L_8d_1tok", "1L_16d_1tok"]
    assert [r["num_samples"] for r in first.records] == [50, 100, 200, 400]
    assert (first.law.alpha, second.law.alpha) == pytest.approx((-0.3, -0.5))
    assert (first.law.n, second.law.n) == (4, 3)
    assert first.best["num_samples"] == 400


def test_failed_cells_are_left_out_of_the_law_and_said_so():
    broken = record(8, 400, None, val_acc=None, status="failed: phase 2 was not finite in epoch 1")
    (summary,) = summarise([*law_records(8, -0.3, 9.0), broken])
    assert summary.law.n == 3
    said = document.warnings([summary])
    assert "1L_8d_1tok, 400 samples: failed: phase 2 was not finite in epoch 1." in said
    assert "1L_8d_1tok: the law leaves out the failed cells of 400 samples." in said
    figures.scaling_figure([summary], "title")
    document.markdown("title", [summary], {})


def test_a_failed_cell_is_never_the_best_nor_measured():
    broken = record(8, 400, 1.0, status="failed: phase 2 was not finite in epoch 2")
    (summary,) = summarise([*law_records(8, -0.3, 9.0), broken])
    assert summary.best["num_samples"] == 200
    assert "measured from 5,000 to 20,000 tokens" in document.markdown("title", [summary], {})
    (alone,) = summarise([broken])
    assert alone.best is None
    assert "measured from" not in document.markdown("title", [alone], {})


def test_what_the_numbers_do_not_bear_out_is_said():
    worse = record(8, 50, math.log(900.0))
    said = document.warnings(summarise([worse]))
    assert any("900.0, is no better than the unigram model's, 700.0" in w for w in said)
    noisy = [record(8, n, loss) for n, loss in ((50, 5.0), (100, 5.5), (200, 4.9))]
    said = document.warnings(summarise(noisy))
    assert any("3 points do not tell this law from a flat one (p = " in w for w in said)
    said = document.warnings(summarise(law_records(8, -2.0, 20.0)))
    assert any("below 1, which cannot be, so it does not reach to 1,000,000" in w for w in said)


def test_a_perplexity_below_one_is_no_prediction():
    (summary,) = summarise(law_records(8, -2.0, 20.0))
    (row,) = tables.fits_table([summary], [1_000, 10_000_000]).rows
    assert row[-2:] == ["485.2", "below 1"]


def test_an_overflowing_perplexity_is_no_hindrance():
    overflowed = record(8, 25, 800.0, status="ok; not finite: val_ppl")
    (summary,) = summarise([overflowed, *law_records(8, -0.3, 9.0)])
    assert summary.law.n == 4


def test_findings_hold_the_numbers_and_claim_no_more_than_they_say():
    close = summarise([*law_records(8, -0.50, 10.0), *law_records(16, -0.52, 10.0)])
    for summary in close:
        object.__setattr__(summary.law, "std_err", 0.04)
    said = document.findings(close)
    assert any("differ by 0.0200: within twice the standard error" in line for line in said)
    for summary in close:
        object.__setattr__(summary.law, "std_err", 0.004)
    assert any("more than twice the standard error" in line for line in document.findings(close))
    assert any(f"multiplies the perplexity by {2**-0.5:.3f}" in line for line in said)
    (few,) = summarise(law_records(8, -0.5, 10.0, (50, 100)))
    assert "1L_8d_1tok: law not fitted: 2 points, 3 or more are needed." in document.findings([few])


def test_warnings_name_what_did_not_converge_or_was_cut_short():
    cut = record(phase1_status="max steps", phase1_convergence_rate=0.7)
    cut |= {"phase2_status": "max steps", "phase2_epochs": 10, "best_epoch": 10}
    said = document.warnings(summarise([cut]))
    assert any(
        "phase 1 ended at its last iteration, 20, with 70.0% of the tokens converged" in w for w in said
    )
    assert any(
        "phase 2 ended at its last epoch, 10, while the validation loss was still falling" in w for w in said
    )
    assert document.warnings(summarise([record()])) == []


def test_the_report_is_written(tmp_path):
    made = [*law_records(8, -0.3, 9.0), *law_records(16, -0.5, 11.0, (50, 100))]
    document.write_report("A title", made, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert text.startswith("# A title\n")
    for part in (
        "## Summary",
        "figures/scaling.png",
        "## 1L_16d_1tok",
        "PPL at 10M tokens",
        "not fitted: 2 points",
    ):
        assert part in text
    report = json.loads((tmp_path / "report.json").read_text())
    first, second = report["summary"]
    assert first["fit"]["alpha"] == pytest.approx(-0.3)
    assert first["fit"]["predictions"]["1000000"] == pytest.approx(math.exp(9.0 - 0.3 * math.log(1e6)))
    assert (second["fit"]["status"], second["fit"]["alpha"]) == (
        "not fitted: 2 points, 3 or more are needed",
        None,
    )
    assert report["records"] == made
    for name in ("scaling.png", "effective_rank.png"):
        assert (tmp_path / "figures" / name).read_bytes().startswith(b"\x89PNG")


def test_names_from_outside_are_escaped(tmp_path):
    made = [record(corpus="text:<script>alert(1)</script>|x", samples=n) for n in (50, 100, 200)]
    document.write_report("<b>", made, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "<script" not in text
    assert "<b>" not in text


def test_figures_have_labelled_axes_points_laws_and_a_baseline():
    summaries = summarise([*law_records(8, -0.3, 9.0), *law_records(16, -0.5, 11.0)])
    (axes,) = figures.scaling_figure(summaries, "title").axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("training tokens", "validation perplexity")
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    lines = axes.get_lines()
    assert len(lines) == 5
    np.testing.assert_allclose(lines[1].get_xdata(), [5000, 10000, 20000])
    # The law runs through the points that it was made from.
    law_x, law_y = lines[0].get_data()
    np.testing.assert_allclose(law_y, np.exp(9.0 - 0.3 * np.log(law_x)), rtol=1e-6)
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert any("alpha -0.300" in label for label in labels)
    assert "unigram baseline" in labels
    (axes,) = figures.effective_rank_figure(summaries, "title").axes
    assert axes.get_ylabel() == "effective rank (% of context dimensions)"
    assert axes.get_lines()[0].get_ydata().tolist() == [80.0] * 3


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
