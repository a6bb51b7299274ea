"""A sweep over sizes compiles each function at most twice, and nothing at all after its second cell."""

import collections
import importlib
import pkgutil

import jax
import pytest

import cvfp_jax
from cvfp_jax.cli.main import read_request
from cvfp_jax.runtime.compilation import reported
from cvfp_jax.sweeps import runner
from experiments import EXPERIMENTS
from tests import tiny
from tests.tiers import cases

SIZES = "3,6,12,20"
# Together they reach each array whose length could be that of one cell's text.
SWEEPS = {
    "contexts in parallel": ["--config.effective_rank_rows=150"],
    "exact contexts, and a tail that validates": [
        "--config.phase1.initial_contexts=sequential",
        "--config.phase1.stop=val_effective_rank",
        "--config.phase1.val_frequency=2",
        "--config.phase2.train_contexts=sequential",
        "--val_samples=tail:0.2",
    ],
    "blocks": [
        "--config.model.num_blocks=2",
        "--config.model.context_mode=A",
        "--config.phase2.train_contexts=sequential",
    ],
    "contexts made again in each batch": ["--config.phase2.train_contexts=recomputed"],
}


def own_functions():
    """The names of the project's compiled functions."""
    names = {"_train_step", "_evaluate"}  # which are compiled for a mesh
    for module in pkgutil.walk_packages(cvfp_jax.__path__, "cvfp_jax."):
        found = vars(importlib.import_module(module.name))
        names |= {name for name, value in found.items() if isinstance(value, type(jax.jit(abs)))}
    return names


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("name", cases(SWEEPS, fast=["contexts in parallel"]))
def test_sizes_share_their_programs(name, tmp_path, monkeypatch):
    corpus = tiny.write_corpus(tmp_path / "corpus")
    flags = tiny.flags(corpus, f"--samples={SIZES}", "--context_dims=8", *SWEEPS[name])
    request = read_request(["launch.py", *flags], EXPERIMENTS)
    cells = []  # of each, what was compiled
    run_cell = runner.run_cell

    def counted(*arguments):
        cells.append([])
        with reported(cells[-1].append):
            return run_cell(*arguments)

    monkeypatch.setattr(runner, "run_cell", counted)
    jax.clear_caches()
    assert runner.run_sweep(request.grid, tmp_path / "work")
    assert len(cells) == 4
    counts = collections.Counter(compilation.name for cell in cells for compilation in cell)
    own = own_functions()
    assert {"advance_in_memory", "_train_step", "_scan"} <= own & counts.keys()
    assert {name: count for name, count in counts.items() if name in own and count > 2} == {}
    # Programs of one operation are many in the first cell; of later ones none has shapes of its own.
    assert [compilation.line() for cell in cells[2:] for compilation in cell] == []
