import json
from pathlib import Path

import pytest

from experiments import EXPERIMENTS, context_dim

PRESETS = [(name, preset) for name, module in EXPERIMENTS.items() for preset in module.PRESETS]


@pytest.mark.parametrize(("experiment", "preset"), PRESETS)
def test_presets_know_their_own_names_and_are_valid(experiment, preset):
    grid = EXPERIMENTS[experiment].PRESETS[preset]
    cells = grid.cells()
    assert {(cell.experiment, cell.preset) for cell in cells} == {(experiment, preset)}
    assert len({(cell.config_name, cell.num_samples) for cell in cells}) == len(cells)
    assert grid.base == cells[0], "the base stands at the first cell"


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_each_file_opens_with_its_command_device_time_and_numbers(name):
    text = EXPERIMENTS[name].__doc__
    assert f"python launch.py --experiment={name}" in text
    for word in ("Device", "Time", "Expect"):
        assert f"{word}:" in text


@pytest.mark.parametrize("preset", ["v1", "v2"])
def test_the_reports_settings(preset):
    printed = json.loads((Path(__file__).parent / "data" / "reports.json").read_text())["R3"]
    grid = context_dim.PRESETS[preset]
    cell, settings = grid.base, printed[preset]["settings"]
    assert cell.phase1.dist_reg_weight == settings["dist_reg_weight"]
    assert cell.phase1.max_iterations == settings["phase1_max_iterations"]
    assert cell.phase1.context_noise == settings["phase1_context_noise"]
    assert cell.phase2.epochs == settings["phase2_epochs"]
    assert cell.model.embed_dim == printed["embed_dim"]
    sweeps = printed[preset]["sweeps"].values()
    assert list(grid.axes["model.context_dim"]) == [sweep["context_dim"] for sweep in sweeps]
    for sweep in sweeps:
        assert list(grid.axes["num_samples"]) == [point["samples"] for point in sweep["points"]]
    # What the original ran with, beyond the printed settings.
    assert (cell.phase1.min_iterations, cell.phase1.min_converged_ratio) == (5, 0.99)
    assert (cell.phase1.batch_size, cell.phase1.gradient_clip, cell.phase1.learning_rate) == (
        8000,
        1.0,
        0.002,
    )
    assert (cell.phase1.convergence_threshold, cell.effective_rank_rows) == (0.03, 10_000)
    assert (cell.phase2.learning_rate, cell.phase2.patience, cell.phase2.gradient_clip) == (0.001, 1, 1.0)
    assert (cell.phase2.train_contexts, cell.phase2.freeze_embedding) == ("parallel", True)
    data = cell.data
    assert (data.corpus, data.embedding, data.val_samples, data.vocabulary) == (
        "ultrachat", "gpt2", "1000:1020", "full",
    )  # fmt: skip
    assert (cell.seed, data.max_sample_tokens) == (42, 0)


def test_quicks_widths_have_the_reports_parameter_ratios():
    from cvfp_jax.plan import plan_cell

    grid = context_dim.PRESETS["quick"]
    counts = sorted({plan_cell(cell).params["params_context_block"] for cell in grid.cells()})
    assert len(counts) == 3
    assert [count / counts[0] for count in counts] == pytest.approx([1, 2, 3], rel=0.01)
    assert len(grid.axes["num_samples"]) == 4
