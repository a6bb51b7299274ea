"""Every experiment's quick preset, cut down to a text of thirty short samples, writes a valid report."""

import dataclasses
import json
import math

import pytest

from cvfp_jax.config.grid import Grid
from cvfp_jax.config.overrides import replace
from cvfp_jax.report import records
from cvfp_jax.report.contrasts import BASES
from cvfp_jax.sweeps.runner import run_sweep
from experiments import EXPERIMENTS
from tests import tiny
from tests.tiers import cases

# What is tested here is that sweeps run and are reported, not how exactly.
pytestmark = pytest.mark.usefixtures("quick_compilation")

# One with a search and one with blocks; what other experiments set is tested where it is computed.
FAST = ("context_dim_search", "blocks")
SMALL = {
    "model.embed_dim": 8,
    "data.embedding": "random",
    "phase1.max_iterations": 4,
    "phase1.val_frequency": 2,
    "phase2.epochs": 2,
    "phase2.batch_size": 64,
    "baseline.num_heads": 2,
}


def cut_down(grid: Grid, corpus: str) -> Grid:
    """The same sweep on little text and, to compile little, one value of each axis."""
    axes = {name: values[:1] for name, values in grid.axes.items()} | {"num_samples": (6,)}
    for name in BASES.keys() & axes.keys():  # one beside the base
        axes[name] = grid.axes[name][:2]
    if "model.context_dim" in axes:
        axes["model.context_dim"] = (8,)
    tail = grid.base.data.val_tail is not None
    data = {"data.corpus": corpus, "data.val_samples": "tail:0.2" if tail else "24:30"}
    # Two layers show what more of them would.
    data["model.num_layers"] = min(2, grid.base.model.num_layers)
    base = replace(grid.base, {**SMALL, **data, "model.context_dim": 8, "num_samples": 6})
    tuning = grid.tuning and dataclasses.replace(grid.tuning, num_samples=6, trials=1)
    return dataclasses.replace(grid, base=base, axes=axes, tuning=tuning)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny.write_corpus(tmp_path_factory.mktemp("corpus")).removeprefix("--corpus=")


@pytest.mark.parametrize("experiment", cases(EXPERIMENTS, FAST))
def test_quick_cut_down_writes_a_report(experiment, corpus, tmp_path):
    grid = cut_down(EXPERIMENTS[experiment].PRESETS["quick"], corpus)
    assert run_sweep(grid, tmp_path)
    found = records.read(tmp_path / "records.jsonl")
    assert [record["cell"] for record in found] == [grid.place(cell) for cell in grid.cells()]
    for record in found:
        assert record["status"] == "ok"
        assert record["experiment"] == experiment
        assert record["val_ppl"] == pytest.approx(math.exp(record["val_loss"]))
        if record["architecture"] == "cvfp":
            assert 0 < record["val_effective_rank"] <= 1
            assert record["rank_verdict"] in ("good", "fair", "review")
    report = json.loads((tmp_path / "report.json").read_text())
    assert {summary["series"] for summary in report["summary"]} == {record["series"] for record in found}
    text = (tmp_path / "report.md").read_text()
    for summary in report["summary"]:
        assert f"## {summary['series']}" in text
    drawn = {path.name for path in (tmp_path / "figures").iterdir()}
    compared = {"contrasts.png"} if grid.axes.keys() & BASES.keys() else set()
    assert drawn == {"scaling.png", "effective_rank.png", "convergence.png", "training.png"} | compared
