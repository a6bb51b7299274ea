"""Left anywhere and taken up again, work ends with the very bits of work that was never left."""

import dataclasses
import functools
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from cvfp_jax.checkpointing.checkpointer import Checkpointer
from cvfp_jax.checkpointing.orbax import OrbaxCheckpointer
from cvfp_jax.config.baseline import ARCHITECTURES
from cvfp_jax.config.overrides import replace
from cvfp_jax.config.settings import ModelConfig, Phase1Config
from cvfp_jax.contexts import recurrence
from cvfp_jax.contexts.runtime import Runtime
from cvfp_jax.contexts.store import ContextStore, as_store
from cvfp_jax.core.model import ContextBlock
from cvfp_jax.phase1.multi_block import exact_contexts, learn_blocks
from cvfp_jax.phase1.train import learn_contexts
from cvfp_jax.reproduction.stale_clip import stale_clip
from cvfp_jax.runtime import signals
from cvfp_jax.sweeps.cell import run_cell
from tests import quickly
from tests.phase1.test_train import stream_problem
from tests.phase2.test_train import learn, problem
from tests.sweeps.test_cell import CONFIG, TIMES, append, data_of
from tests.tiers import cases

pytestmark = pytest.mark.usefixtures("quick_compilation")

ROOT = Path(__file__).parents[2]
NEVER = 1e6  # minutes


class StoppedError(Exception):
    """The process is gone."""


class Stopping(OrbaxCheckpointer):
    """Stops at the k-th offer: by a signal, or, with everything saved as soon as offered, without a word."""

    def __init__(self, folder, stop_at, by_signal, identity=None):
        super().__init__(folder, identity or {"config": 1}, NEVER if by_signal else 0)
        self.offers, self.stop_at, self.by_signal = 0, stop_at, by_signal

    def maybe_save(self, part, make, stage_end=False):
        self.offers += 1
        last = self.offers == self.stop_at
        if last and self.by_signal:
            signals._asked = signal.SIGTERM
        super().maybe_save(part, make, stage_end)
        if last:
            raise StoppedError


@pytest.fixture
def resumed(tmp_path, monkeypatch):
    """Runs work in as many launches as it takes, each stopped at its k-th offer; returns its last result."""
    monkeypatch.setattr(signals, "_asked", 0)

    def run(work, every, by_signal=True, identity=None):
        launches, said = 0, []
        while True:
            launches += 1
            assert launches < 100
            signals._asked = 0
            try:
                with Stopping(tmp_path / "cell", every, by_signal, identity) as checkpointer:
                    assert (checkpointer.resumed_from is None) == (launches == 1)
                    result = work(checkpointer)
                assert launches > 1, "the case must be stopped"
                checkpointer.discard()
                assert all(text.startswith("saved in ") for text in said)
                return result
            except KeyboardInterrupt as stop:
                said.append(str(stop))
            except StoppedError:
                pass

    return run


def equal(found, expected):
    """Asserts that two results have the same leaves, bit for bit."""

    def leaves(result):
        fields = dataclasses.asdict(result) if dataclasses.is_dataclass(result) else result._asdict()
        parts = []
        for name, value in fields.items():
            value = nnx.split(value)[1] if isinstance(value, nnx.Module) else value
            value = value.host_rows(0, len(value)) if isinstance(value, ContextStore) else value
            found, _ = jax.tree_util.tree_flatten_with_path(value)
            parts += [(name + jax.tree_util.keystr(path), leaf) for path, leaf in found]
        return parts

    for (name, ours), (other, theirs) in zip(leaves(found), leaves(expected), strict=True):
        assert name == other
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs), err_msg=name, strict=True)


NOT_SAVED = Checkpointer()
PHASE1 = {
    "noise": {"context_noise": 0.1, "min_converged_ratio": 1.0},
    "random_loss": {"diversity": "UNIF", "convergence_threshold": 1e-9},
    "improvement": {"stop": "improvement", "convergence_threshold": 0.5, "no_improvement_patience": 3},
    "watched": {"stop": "val_effective_rank", "val_frequency": 2, "val_patience": 2},
}


@pytest.mark.parametrize("name", cases(PHASE1, fast=["noise"]))
def test_phase1_stopped_after_every_kth_step(resumed, name):
    block, stream, config = stream_problem(max_iterations=7, **PHASE1[name])
    stream, val_stream = dataclasses.replace(stream, capacity=50), stream[:20]

    def work(checkpointer=NOT_SAVED):
        key, runtime = jax.random.key(1), Runtime(checkpointer=checkpointer)
        return learn_contexts(block, stream, config, key, val_stream=val_stream, runtime=runtime)

    whole = work()
    assert whole.iterations > 4, "the case must make some steps"
    equal(resumed(work, 1), whole)
    if name == "noise":
        equal(resumed(work, 3), whole)
        equal(resumed(work, 2, by_signal=False), whole)


@pytest.mark.slow
def test_blocks_stopped_after_every_kth_step(resumed):
    _, stream, _ = stream_problem(tokens=60)
    blocks = [ContextBlock(ModelConfig(8, 6, 2, 2), rngs=nnx.Rngs(seed)) for seed in (0, 1)]
    config = Phase1Config(max_iterations=4, batch_size=16, gradient_clip=0.01)
    next_clip = functools.partial(stale_clip, max_norm=config.gradient_clip)

    def work(checkpointer=NOT_SAVED):
        key, runtime = jax.random.key(1), Runtime(checkpointer=checkpointer)
        return learn_blocks(blocks, stream, config, key, runtime=runtime, next_clip=next_clip)

    whole = work()
    for every in (1, 4):
        for ours, theirs in zip(resumed(work, every), whole, strict=True):
            equal(ours, theirs)


@pytest.mark.parametrize("tokens", cases([64, 61], fast=[61]))
def test_contexts_stopped_after_every_kth_chunk(resumed, monkeypatch, tokens):
    monkeypatch.setattr(recurrence, "CHUNK", 8)
    _, stream, _ = stream_problem(tokens=tokens)
    blocks = [ContextBlock(ModelConfig(8, 6, 2, 2), rngs=nnx.Rngs(seed)) for seed in (0, 1)]

    def work(checkpointer=NOT_SAVED):
        return exact_contexts(blocks, stream, runtime=Runtime(checkpointer=checkpointer), part="x").array

    whole = work()
    assert whole.shape == (tokens, 16)
    for every in (1, 2, 3):
        np.testing.assert_array_equal(resumed(work, every), whole, strict=True)


PHASE2 = {
    "frozen": {"patience": 9},
    "early_stop": {"learning_rate": 0.05, "epochs": 12, "patience": 2},
    "table_and_dropout": {"freeze_embedding": False, "dropout": 0.2, "weight_decay": 0.01},
    "recomputed": {"train_contexts": "recomputed"},
}


@pytest.mark.parametrize("name", cases(PHASE2, fast=["table_and_dropout"]))
def test_phase2_stopped_after_every_kth_batch(resumed, name):
    model, config, train, val = problem(**{"epochs": 3, **PHASE2[name]})

    def work(checkpointer=NOT_SAVED):
        return learn(model, config, train, val, jax.random.key(2), checkpointer=checkpointer)

    whole = work()
    per_epoch = 4
    assert len(whole.batch_losses) == per_epoch * len(whole.epochs)
    for every in (1, per_epoch) if name == "frozen" else (3,):
        equal(resumed(work, every), whole)
    if name == "frozen":
        equal(resumed(work, 3, by_signal=False), whole)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, marks=pytest.mark.slow),
        {
            "phase2.train_contexts": "sequential",
            "model.num_blocks": 2,
            "model.context_mode": "A",
            "model.use_weight_tying": False,
        },
        pytest.param(
            {
                "phase2.train_contexts": "recomputed",
                "model.num_layers": 2,
                "phase1.stop": "val_effective_rank",
            },
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"phase1.lagged_task_weight": 1.0, "phase2.token_block": "phase1"}, marks=pytest.mark.slow
        ),
    ],
)
def test_a_cell_stopped_now_and_then(resumed, monkeypatch, tmp_path, changes):
    monkeypatch.setattr(recurrence, "CHUNK", 64)
    config, data = replace(CONFIG, changes), data_of(capacity=250, val_capacity=120)
    # A sweep may have grown meanwhile: the cell's own arrays stay as they were.
    grown = data_of(capacity=400, val_capacity=200)
    spent_before = []

    def work(checkpointer=NOT_SAVED):
        before = checkpointer.facts("seconds")
        spent_before.append(before)
        return run_cell(config, grown if before else data, Runtime(checkpointer=checkpointer))

    whole, result = work(), resumed(work, 4)
    record = result.record
    for name, value in whole.record.items():
        if name not in TIMES:
            assert record[name] == value, name
    # So do the files of the model, its contexts and its curves, to the last bit.
    whole.save(tmp_path / "whole", "all")
    result.save(tmp_path / "resumed", "all")
    files = {path.name for path in (tmp_path / "whole").iterdir()} - {"model.json"}
    recomputed = config.phase2.train_contexts == "recomputed"
    assert len(files) >= (3 if recomputed else 5)
    for name in files:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "resumed" / name).read_bytes(), name
    steps = sum(iterations - 1 for iterations in record["phase1_block_iterations"])
    assert len(whole.curves["phase1_loss"]) == steps
    # Seconds add up over launches.
    before = spent_before[-1]
    for stage in ("phase1", "contexts", "diagnostics"):
        assert 0 < before[stage][0] <= record[f"{stage}_seconds"] + 5e-4
    assert record["phase2_seconds"] > before["phase2"][0] > 0


@pytest.mark.parametrize("architecture", cases(ARCHITECTURES[1:], fast=["gru"]))
def test_a_baseline_stopped_within_an_epoch_and_between_two(resumed, tmp_path, architecture):
    changes = {"architecture": architecture, "baseline.segment": 16, "phase2.dropout": 0.2}
    config = replace(CONFIG, changes)
    whole = run_cell(config, data_of(val_capacity=120))
    seen = []

    def work(checkpointer):
        before = checkpointer.facts("room")
        seen.append(before)
        # A sweep may have grown meanwhile: the cell's own arrays stay as they were.
        data = data_of(val_capacity=200 if before else 120)
        return run_cell(config, data, Runtime(checkpointer=checkpointer))

    again = resumed(work, every=5)
    assert seen[-1] == {"val_capacity": 120}
    assert whole.record["phase2_epochs"] == 3, "the case must go on after both kinds of stops"
    for name, value in whole.record.items():
        if name not in TIMES:
            assert again.record[name] == value, name
    for name, curve in whole.curves.items():
        np.testing.assert_array_equal(again.curves[name], curve, err_msg=name, strict=True)


def finite(folder):
    """Whether all numbers of the newest checkpoint are finite."""
    with OrbaxCheckpointer(folder, {"config": 1}, NEVER) as checkpointer:
        assert checkpointer.resumed_from
        arrays = [array for saved in checkpointer._saved.values() for array in saved.arrays]
    return all(np.isfinite(array).all() for array in arrays)


def test_a_phase2_that_breaks_down_leaves_the_last_good_checkpoint(tmp_path):
    config = replace(CONFIG, {"phase2.learning_rate": 1e30})
    with OrbaxCheckpointer(tmp_path, {"config": 1}, 0) as checkpointer:
        record = run_cell(config, data_of(), Runtime(checkpointer=checkpointer)).record
    assert record["status"] == "failed: phase 2 was not finite in epoch 1, batch 2"
    assert record["phase2_epochs"] == 1
    assert finite(tmp_path)


def test_a_phase1_that_breaks_down_leaves_the_last_good_checkpoint(tmp_path):
    problem = stream_problem(learning_rate=1e38, max_iterations=6)
    with OrbaxCheckpointer(tmp_path, {"config": 1}, 0) as checkpointer:
        result = learn_contexts(*problem, jax.random.key(1), runtime=Runtime(checkpointer=checkpointer))
    assert result.status.label == "non-finite"
    assert result.iterations > 2, "the case must make a good step first"
    assert finite(tmp_path)


@pytest.mark.parametrize(("stream", "length"), [("validation", 99), ("training", 200)])
def test_contexts_that_are_not_finite_end_the_cell(monkeypatch, tmp_path, stream, length):
    def broken(blocks, tokens, **options):
        contexts = exact_contexts(blocks, tokens, **options)
        return as_store(contexts.array.at[7, 2].set(np.nan)) if len(tokens) == length else contexts

    monkeypatch.setattr("cvfp_jax.sweeps.cell.exact_contexts", broken)
    config = replace(CONFIG, {"phase2.train_contexts": "sequential"})
    record = run_cell(config, data_of()).record
    assert record["status"] == f"failed: {stream} contexts were not finite at token 8"
    assert (record["phase2_status"], record["phase1_status"] != "non-finite") == ("not run", True)
    append(tmp_path, record)


DEVICES = """
import sys
import jax
import numpy as np
from pathlib import Path
from cvfp_jax.distributed.mesh import make_mesh, single_device_mesh
from tests.end_to_end.test_resume import NOT_SAVED, Stopping, signals
from tests.phase2.test_train import learn, problem

assert jax.device_count() == 8
model, config, train, val = problem(batch_size=20, epochs=2)

def work(mesh, checkpointer=NOT_SAVED):
    return learn(model, config, train, val, mesh=mesh, checkpointer=checkpointer)

whole = work(single_device_mesh())
try:
    with Stopping(Path(sys.argv[1]), 4, True) as checkpointer:
        work(single_device_mesh(), checkpointer)
except KeyboardInterrupt:
    signals._asked = 0
with Stopping(Path(sys.argv[1]), -1, True) as checkpointer:
    assert checkpointer.resumed_from
    more = work(make_mesh(), checkpointer)
assert (more.batch_losses[:4] == whole.batch_losses[:4]).all()
np.testing.assert_allclose(more.batch_losses, whole.batch_losses, rtol=1e-5)
np.testing.assert_allclose([e.val_loss for e in more.epochs], [e.val_loss for e in whole.epochs], rtol=1e-5)
for ours, theirs in zip(jax.tree.leaves(more.best_params), jax.tree.leaves(whole.best_params), strict=True):
    assert len(ours.sharding.device_set) == 8
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
print("equal")
"""


@pytest.mark.slow
def test_one_device_goes_on_as_eight(tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", DEVICES, str(tmp_path / "cell")],
        env={**os.environ, **quickly.environment(devices=8)},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert run.stdout.strip() == "equal", run.stderr[-2000:]
