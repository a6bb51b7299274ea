"""Contexts on the disk: the very numbers of contexts in memory, wherever work is left and taken up again."""

import jax
import numpy as np
import pytest
from test_phase1 import small_problem
from test_resume import Stopping, equal, resumed  # noqa: F401
from test_run import CONFIG, TIMES, data_of

from cvfp_jax import row_file
from cvfp_jax.fields import replace
from cvfp_jax.phase1 import learn_contexts
from cvfp_jax.progress import CellProgress
from cvfp_jax.row_file import RowFiles
from cvfp_jax.run import run_cell

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(autouse=True)
def short_stretches(monkeypatch):
    """Of two micro-batches, or two chunks, at most."""
    monkeypatch.setattr(row_file, "STRETCH_BYTES", 2 * 16 * 8 * 4)


def in_memory(result):
    return result._replace(contexts_NxD=np.asarray(result.contexts_NxD[: len(result.contexts_NxD)]))


CASES = {
    "wrapped, noise": [131, {"context_noise": 0.1}],
    "zero first, exact start": [100, {"first_context": "zero", "initial_contexts": "sequential"}],
    "one loss": [40, {"batch_size": 0, "diversity": "OACD"}],
    "rounded": [131, {"context_dtype": "bfloat16", "stop": "improvement", "convergence_threshold": 0.5}],
}


@pytest.mark.parametrize("name", CASES)
def test_phase1_has_the_bits_of_memory(tmp_path, name):
    tokens, changes = CASES[name]
    block, vectors, ids, config = small_problem(tokens, **changes)
    whole = learn_contexts(block, vectors, ids, config, jax.random.key(1), capacity=tokens + 60)
    with RowFiles(tmp_path / "rows") as disk:
        streamed = learn_contexts(
            block, vectors, ids, config, jax.random.key(1), capacity=tokens + 60, disk=disk
        )
        equal(in_memory(streamed), in_memory(whole))
    assert whole.iterations > 3
    assert not (tmp_path / "rows").exists()


CELLS = {
    "parallel": {},
    "several layers, drawn rows": {
        "model.num_layers": 2, "model.num_input_tokens": 2, "phase1.context_dtype": "bfloat16",
        "effective_rank_rows": 60,
    },
    "blocks": {
        "model.num_blocks": 2, "model.context_mode": "A", "phase2.train_contexts": "sequential",
        "model.prev_context_steps": 2,
    },
    "recomputed": {"phase2.train_contexts": "recomputed"},
}  # fmt: skip


def cell(config, keeper=None, disk=None):
    record = run_cell(config, data_of(capacity=260), CellProgress("", visible=False), keeper, disk=disk)
    return {name: value for name, value in record.items() if name not in TIMES}


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_has_the_record_of_memory(tmp_path, name):
    config = replace(CONFIG, CELLS[name])
    assert cell(config, disk=tmp_path / "rows") == cell(config)
    assert not (tmp_path / "rows").exists()


def test_a_cell_is_left_and_taken_up_again_on_the_disk_or_in_memory(tmp_path, resumed):  # noqa: F811
    whole, launches = cell(CONFIG), []

    def work(keeper):
        launches.append(keeper)
        return cell(CONFIG, keeper, tmp_path / "rows" if len(launches) % 2 else None)

    assert resumed(work, 4) == whole
    assert len(launches) > 3
    assert resumed(lambda keeper: cell(CONFIG, keeper, tmp_path / "rows"), 3, by_signal=False) == whole
