"""Differences to a base, paired by seed: their intervals, tables, verdicts and figure."""

import math

import numpy as np
import pytest
from scipy import stats

from cvfp_jax.report import contrast_figures
from cvfp_jax.report.contrast_sections import contrast_blocks, tables, verdicts
from cvfp_jax.report.contrasts import Interval, contrast_axis, contrasts
from cvfp_jax.report.page import Table
from cvfp_jax.report.summary import summarise
from tests.report.made_records import record

SEEDS = (1, 2, 3)


def arms(losses, samples=50):
    """Records of arms by name: a loss a seed."""
    found = []
    for arm, of_seeds in losses.items():
        for seed, loss in zip(SEEDS, of_seeds, strict=False):
            cell = {"arm": arm, "num_samples": samples, "seed": seed}
            found.append(record(samples=samples, loss=loss, cell=cell, seed=seed, series=f"a, {arm}"))
    return found


def models(losses):
    """Records of architectures: their losses by size, a seed each."""
    found = []
    for name, by_size in losses.items():
        for samples, of_seeds in by_size.items():
            for seed, loss in zip(SEEDS, of_seeds, strict=False):
                cell = {"architecture": name, "num_samples": samples, "seed": seed}
                changes = {"architecture": name, "series": name, "seed": seed, "params_trained": 1234}
                changes["tuned"] = {"phase2.learning_rate": 0.003}
                found.append(record(samples=samples, loss=loss, cell=cell, **changes))
    return found


BASE, ZERO = [6.0, 6.1, 5.8], [6.2, 6.33, 6.02]


def test_differences_are_paired_by_seed_with_students_interval():
    (found,) = contrasts(arms({"base": BASE, "zero": ZERO}))
    differences = np.subtract(ZERO, BASE)
    assert list(found.differences.values()) == pytest.approx(differences)
    low, high = stats.t.interval(0.95, 2, differences.mean(), stats.sem(differences))
    assert tuple(found.interval) == pytest.approx((differences.mean(), low, high))
    assert found.interval.told_from_zero, "though the seeds lie further apart than the arms"
    assert max(BASE) > min(ZERO)
    assert found.interval.exp().mean == pytest.approx(math.exp(differences.mean()))


def test_a_cell_without_a_partner_is_left_out():
    records = arms({"base": [6.0, None, 6.2], "zero": [6.3, 6.1, 6.5]})
    (found,) = contrasts(records)
    assert set(found.differences) == {1, 3}
    assert contrasts(arms({"base": BASE})) == []
    assert contrasts(arms({"one": BASE, "other": ZERO})) == []
    assert contrast_axis([record()]) is None


def test_one_seed_has_no_interval():
    (found,) = contrasts(arms({"base": [6.0], "zero": [6.2]}))
    assert not found.interval.known
    assert not found.interval.told_from_zero
    assert found.to_json()["interval"] == [None, None]
    assert verdicts([], [found]) == [
        "zero: 1.221 times the perplexity of base at 5,000 tokens (one seed, which tells nothing of another)."
    ]


def test_a_verdict_says_what_the_interval_supports():
    found = contrasts(
        arms({"base": BASE, "zero": ZERO, "same": [6.05, 6.05, 5.8], "good": [5.5, 5.61, 5.29]})
    )
    worse, same, better = verdicts([], found)
    assert worse.endswith("3 seeds): worse.")
    assert same.endswith("3 seeds): not told apart.")
    assert better.startswith("good: 0.607 times the perplexity of base at 5,000 tokens (95% interval 0.592")
    assert better.endswith("better.")


MODELS = {
    "cvfp": {50: [6.3, 6.4], 100: [6.0, 6.1], 200: [5.8, 5.8]},
    "gru": {50: [6.2, 6.2], 100: [5.8, 5.9], 200: [5.5, 5.4]},
}


def test_architectures_have_a_table_of_what_they_get_and_take():
    records = models(MODELS)
    summaries, found = summarise(records), contrasts(records)
    of_models, differences = tables(records, summaries, found)
    row = dict(zip(of_models.columns, of_models.rows[1], strict=True))
    assert row["model"] == "GRU"
    assert row["PPL at the most tokens"] == f"{math.exp(5.45):.1f}"
    assert row["PPL / trigram's"].startswith(f"{math.exp(5.45) / 250:.3f} (")
    assert row["trained parameters"] == "1,234"
    assert row["operations"] == "2.00e+11"
    assert row["chosen"] == "learning_rate 0.003"
    assert [line[1] for line in differences.rows] == ["5,000", "10,000", "20,000"]
    assert any("trigram" in sentence for sentence in verdicts(summaries, found))
    assert len(verdicts(summaries, found)) == 3, "the largest size only, and both models beside the trigram"


def test_the_section_stands_where_something_is_compared(tmp_path):
    for records in (models(MODELS), arms({"base": BASE, "zero": ZERO, "good": [5.5, 5.6, 5.4]})):
        summaries, found = summarise(records), contrasts(records)
        figures = contrast_figures.save_contrast_figures(found, "title", tmp_path)
        assert (tmp_path / "contrasts.png").read_bytes().startswith(b"\x89PNG")
        blocks = contrast_blocks(records, summaries, found, figures)
        assert figures["contrasts"] in blocks
        assert any(isinstance(block, Table) for block in blocks)
    assert contrast_blocks([record()], summarise([record()]), [], {}) == []
    assert contrast_figures.save_contrast_figures([], "title", tmp_path / "none") == {}


def test_the_figure_shows_every_arm_with_its_interval():
    found = contrasts(arms({"base": BASE, "zero": ZERO, "good": [5.5, 5.6, 5.4]}))
    (axes,) = contrast_figures.forest_figure(found, "title").axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["zero", "good"]
    assert axes.get_xlabel() == "ln PPL less that of base, at 5,000 tokens"
    intervals = [
        line.get_xdata() for line in axes.lines if line.get_linewidth() == 2 and len(line.get_xdata()) == 2
    ]
    assert intervals[0] == pytest.approx(found[0].interval[1:])


def test_an_interval_of_one_number_is_unknown():
    assert not Interval.of([1.0]).known
