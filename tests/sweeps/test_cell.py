import dataclasses
import math

import jax
import numpy as np
import pytest

from cvfp_jax.config.baseline import ARCHITECTURES
from cvfp_jax.config.overrides import replace
from cvfp_jax.config.settings import RunConfig
from cvfp_jax.data.dataset import CellData
from cvfp_jax.report import records
from cvfp_jax.sweeps.cell import run_cell
from tests.tiers import cases

pytestmark = pytest.mark.usefixtures("quick_compilation")
CONFIG = replace(
    RunConfig(preset="test", num_samples=5),
    {
        "model.context_dim": 10,
        "model.embed_dim": 8,
        "phase1.max_iterations": 8,
        "phase1.batch_size": 50,
        "phase2.epochs": 3,
        "phase2.batch_size": 32,
        "phase2.learning_rate": 0.01,
    },
)
TIMES = [name for name in records.FIELDS if name.endswith("_seconds")]


def data_of(seed=0, **changes):
    """Tokens of which each but every fifth is the one before plus one."""
    rng = np.random.default_rng(seed)
    ids = (np.cumsum(np.where(rng.random(300) < 0.2, rng.integers(0, 12, 300), 1)) % 12).astype(np.int32)
    table = rng.normal(size=(12, 8)).astype(np.float32)
    return dataclasses.replace(CellData(ids[:200], ids[200:], table, "0" * 64, "1" * 64, 2.5), **changes)


def append(folder, record):
    """Writes a record as a sweep does."""
    return records.append(folder / "records.jsonl", {"cell": {}, "series": "a", **record})


def run(config=CONFIG, data=None):
    return run_cell(config, data or data_of()).record


@pytest.fixture(scope="module")
def record():
    # Another module may have run this very cell in this process, and left nothing to compile.
    jax.clear_caches()
    return run()


def test_a_record_has_every_field_and_makes_sense(record, tmp_path):
    append(tmp_path, record)
    assert record["status"] == "ok"
    assert (record["config_name"], record["context_dim"], record["vocab_size"]) == ("1L_10d_1tok", 10, 12)
    assert (record["train_tokens"], record["val_tokens"]) == (200, 100)
    assert record["unigram_ppl"] == pytest.approx(math.exp(2.5))
    assert (
        record["params_total"] == 12 * 8 + 16 + record["params_context_block"] + record["params_token_block"]
    )
    assert 2 <= record["phase1_iterations"] <= 8
    assert record["phase1_status"] in ("converged", "max steps")
    assert 0 <= record["phase1_convergence_rate"] <= 1
    assert 0 < record["residual_mean"] <= record["residual_max"]
    assert 0.1 <= record["train_effective_rank"] <= 1
    assert 0.1 <= record["val_effective_rank"] <= 1
    assert 1 <= record["best_epoch"] <= record["phase2_epochs"] <= 3
    assert record["val_ppl"] == pytest.approx(math.exp(record["val_loss"]))
    assert 0 <= record["val_acc"] <= 1
    assert all(record[name] >= 0 for name in TIMES)
    assert record["compile_seconds"] > 0


def test_the_same_cell_gives_the_same_numbers(record):
    again = run()
    assert again.keys() == record.keys()
    for name, value in record.items():
        if name not in TIMES:
            assert again[name] == value, name


def test_another_seed_gives_other_numbers(record):
    other = run(replace(CONFIG, {"seed": 43}))
    for name in ("val_loss", "phase1_loss", "train_effective_rank"):
        assert other[name] != record[name]


def test_room_for_larger_cells_changes_nothing_but_rounding(record):
    roomy = run(data=data_of(capacity=500, val_capacity=300))
    numbers = ("val_loss", "train_loss", "phase1_loss", "residual_mean", "train_effective_rank")
    for name in (*numbers, "val_effective_rank", "context_distance_mean", "val_acc"):
        assert roomy[name] == pytest.approx(record[name], rel=1e-4), name
    for name in ("phase1_iterations", "best_epoch", "phase2_epochs"):
        assert roomy[name] == record[name], name


def test_training_contexts_can_be_exact(record):
    exact = run(replace(CONFIG, {"phase2.train_contexts": "sequential"}))
    assert exact["status"] == "ok"
    assert exact["train_loss"] != record["train_loss"]
    assert exact["val_effective_rank"] == record["val_effective_rank"]
    assert exact["phase1_loss"] == record["phase1_loss"]


def test_the_effective_rank_can_be_that_of_some_rows(record):
    some = run(replace(CONFIG, {"effective_rank_rows": 60}))
    assert some["train_effective_rank"] != record["train_effective_rank"]
    assert some["train_effective_rank"] == pytest.approx(record["train_effective_rank"], rel=0.1)
    assert some["val_loss"] == record["val_loss"]


def test_a_phase1_that_breaks_down_is_recorded(tmp_path):
    table = np.full((12, 8), np.nan, np.float32)
    broken = run(data=data_of(table=table))
    assert broken["status"] == "failed: phase 1 was not finite at iteration 2"
    written = append(tmp_path, broken)
    assert written["val_loss"] is None
    assert written["phase2_status"] == "not run"
    assert written["status"].startswith("failed: phase 1 was not finite at iteration 2; not finite: ")


def test_a_phase2_that_breaks_down_is_recorded(tmp_path):
    broken = run(replace(CONFIG, {"phase2.learning_rate": 1e30}))
    assert broken["status"].startswith("failed: phase 2 was not finite in epoch ")
    assert append(tmp_path, broken)["phase2_status"] == "non-finite"


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"precision": "bf16"}, {"phase1.context_dtype": "bfloat16"}])
def test_rounded_numbers_change_the_perplexity_by_less_than_half_a_per_cent(changes):
    rng = np.random.default_rng(0)
    table = rng.normal(size=(12, 24)).astype(np.float32)
    ids = (np.cumsum(np.where(rng.random(6000) < 0.2, rng.integers(0, 12, 6000), 1)) % 12).astype(np.int32)
    data = data_of(train_ids=ids[:4000], val_ids=ids[4000:], table=table)
    # Trained until it predicts well: on the way there, a step more or less is worth more than rounding.
    config = replace(
        CONFIG,
        {
            "model.context_dim": 32,
            "model.embed_dim": 24,
            "phase1.batch_size": 1000,
            "phase2.epochs": 15,
            "phase2.batch_size": 128,
            "phase2.learning_rate": 0.003,
        },
    )
    exact, rounded = run(config, data), run(replace(config, changes), data)
    assert (exact["precision"], rounded["precision"]) == ("f32", changes.get("precision", "f32"))
    assert rounded["val_ppl"] == pytest.approx(exact["val_ppl"], rel=5e-3)
    assert rounded["val_ppl"] != exact["val_ppl"]
    assert rounded["val_effective_rank"] == pytest.approx(exact["val_effective_rank"], rel=1e-2)


@pytest.mark.parametrize("contexts", ["untrained", "zero", "shuffled"])
def test_token_layers_can_read_other_contexts(record, contexts, tmp_path):
    result = run_cell(replace(CONFIG, {"phase2.contexts": contexts}), data_of())
    other = append(tmp_path, result.record)
    assert other["status"] == "ok"
    assert (other["phase1_iterations"] > 0) == (contexts == "shuffled")
    assert (other["val_effective_rank"] is None) == (contexts == "zero")
    assert other["val_loss"] != record["val_loss"]
    assert (other["params_trained"] < record["params_trained"]) == (contexts != "shuffled")
    assert other["train_flops"] > 0
    assert (result.model is None) == (contexts != "untrained"), "others' contexts are not their block's"
    train, val = result.contexts.train.array[:200], result.contexts.val.array[:99]
    zero = not np.any(train), not np.any(val)
    assert zero == (contexts == "zero",) * 2
    if contexts == "shuffled":
        assert other["phase1_loss"] == record["phase1_loss"]
        # The measures are of the right contexts, which come from the same tokens.
        assert other["val_effective_rank"] == record["val_effective_rank"]


@pytest.mark.parametrize("architecture", cases(ARCHITECTURES[1:], fast=["gru"]))
def test_a_baselines_record_is_complete_and_says_that_there_is_no_phase1(record, architecture, tmp_path):
    changes = {"architecture": architecture, "baseline.segment": 16, "baseline.num_heads": 2}
    result = run_cell(replace(CONFIG, changes), data_of())
    found = append(tmp_path, result.record)
    assert records.read(tmp_path / "records.jsonl") == [found]
    assert (found["status"], found["architecture"]) == ("ok", architecture)
    assert found["config_name"] == f"{architecture}_1L_10d_1tok"
    assert (found["phase1_iterations"], found["phase1_status"]) == (0, "not run")
    assert found["val_effective_rank"] is found["rank_verdict"] is found["residual_mean"] is None
    assert found["params_trained"] == pytest.approx(record["params_trained"], rel=0.15)
    assert found["params_total"] == found["params_trained"] + 12 * 8 + 16
    assert found["train_flops"] > 0
    assert 1 <= found["best_epoch"] <= found["phase2_epochs"] <= 3
    assert found["val_ppl"] == pytest.approx(math.exp(found["val_loss"])) != record["val_ppl"]
    assert found["unigram_loss"] == record["unigram_loss"]
    assert result.model is None
    batches = len(result.curves["batch_loss"])
    assert batches == found["phase2_epochs"] * -(-100 // 16)
    assert len(result.curves["phase1_loss"]) == 0


def test_a_baseline_that_breaks_down_is_recorded(tmp_path):
    changes = {"architecture": "bptt", "baseline.segment": 16, "phase2.learning_rate": 1e30}
    result = run_cell(replace(CONFIG, changes), data_of())
    broken = append(tmp_path, result.record)
    assert broken["status"].startswith("failed: bptt was not finite in epoch ")
    # An epoch that was broken off is still one epoch's batches.
    batches = np.arange(len(result.curves["batch_loss"]))
    np.testing.assert_array_equal(result.curves["batch_epoch"], 1 + batches // -(-100 // 16))
