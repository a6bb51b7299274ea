"""Contexts on the disk: the very numbers of contexts in memory, wherever work is left and taken up again."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from cvfp_jax.checkpointing import row_file
from cvfp_jax.checkpointing.checkpointer import Checkpointer
from cvfp_jax.checkpointing.orbax import OrbaxCheckpointer
from cvfp_jax.checkpointing.row_file import RowFiles
from cvfp_jax.config.overrides import replace
from cvfp_jax.contexts import parallel, recurrence
from cvfp_jax.contexts.runtime import Runtime
from cvfp_jax.core.token_stream import TokenStream
from cvfp_jax.phase1.train import learn_contexts
from cvfp_jax.sweeps.cell import run_cell
from tests.end_to_end.test_resume import StoppedError, equal, resumed  # noqa: F401
from tests.phase1.test_train import small_problem
from tests.sweeps.test_cell import CONFIG, TIMES, data_of
from tests.tiers import cases

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch):
    """Of two micro-batches at most; and passes of few rows at a time, so that there are several."""
    monkeypatch.setattr(row_file, "CHUNK_BYTES", 2 * 16 * 8 * 4)
    monkeypatch.setattr(parallel, "_CPU_ROWS", 32)
    monkeypatch.setattr(recurrence, "CHUNK", 64)


def in_memory(result):
    return result._replace(contexts=result.contexts.host_rows(0, len(result.contexts)))


CASES = {
    "wrapped, noise": [131, {"context_noise": 0.1}],
    "zero first, exact start": [100, {"first_context": "zero", "initial_contexts": "sequential"}],
    "one loss": [40, {"batch_size": 0, "diversity": "OACD"}],
    "rounded": [131, {"context_dtype": "bfloat16", "stop": "improvement", "convergence_threshold": 0.5}],
}


@pytest.mark.parametrize("name", cases(CASES, fast=["rounded"]))
def test_phase1_has_the_bits_of_memory(tmp_path, name):
    tokens, changes = CASES[name]
    block, vectors, ids, config = small_problem(tokens, **changes)
    given = block, TokenStream(vectors, ids, tokens + 60), config, jax.random.key(1)
    whole = learn_contexts(*given)
    with RowFiles(tmp_path / "rows") as files:
        streamed = learn_contexts(*given, runtime=Runtime(files=files))
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


def cell(config, checkpointer=None, disk=None):
    with RowFiles(disk) if disk else contextlib.nullcontext() as files:
        runtime = Runtime(checkpointer=checkpointer or Checkpointer(), files=files)
        record = run_cell(config, data_of(capacity=260), runtime).record
    return {name: value for name, value in record.items() if name not in TIMES}


@pytest.mark.parametrize("name", cases(CELLS, fast=["blocks", "recomputed"]))
def test_a_cell_has_the_record_of_memory(tmp_path, name):
    config = replace(CONFIG, CELLS[name])
    assert cell(config, disk=tmp_path / "rows") == cell(config)
    assert not (tmp_path / "rows").exists()


# Of several layers, phase 2 reads phase 1's own file.
@pytest.mark.slow
@pytest.mark.parametrize("num_layers", [1, 2])
def test_a_cell_is_left_and_taken_up_again_on_the_disk_or_in_memory(tmp_path, resumed, num_layers):  # noqa: F811
    config, launches = replace(CONFIG, {"model.num_layers": num_layers}), []

    def work(checkpointer):
        launches.append(checkpointer)
        return cell(config, checkpointer, tmp_path / "rows" if len(launches) % 2 else None)

    assert resumed(work, 4) == cell(config)
    assert len(launches) > 3


@pytest.mark.slow
def test_a_cell_that_is_gone_without_a_word_is_taken_up_again_on_the_disk(tmp_path, resumed):  # noqa: F811
    def work(checkpointer):
        return cell(CONFIG, checkpointer, tmp_path / "rows")

    assert resumed(work, 3, by_signal=False) == cell(CONFIG)


class SavedOnce(OrbaxCheckpointer):
    """Saves at the second offer only, and is gone at the fifth."""

    offers = 0

    def maybe_save(self, part, make, stage_end=False):
        self.offers += 1
        self._interval = 0.0 if self.offers == 2 else 1e9
        super().maybe_save(part, make, stage_end)
        if self.offers == 5:
            raise StoppedError


def test_steps_after_a_save_do_not_write_over_what_was_saved(tmp_path):
    block, vectors, ids, config = small_problem(100, convergence_threshold=1e-9, max_iterations=60)

    def learn(**runtime):
        given = block, TokenStream(vectors, ids), config, jax.random.key(1)
        return in_memory(learn_contexts(*given, runtime=Runtime(**runtime)))

    checkpointer = SavedOnce(tmp_path / "cell", {}, 0)
    with contextlib.suppress(StoppedError), RowFiles(tmp_path / "rows") as files, checkpointer:
        learn(checkpointer=checkpointer, files=files)
    assert checkpointer.offers == 5
    with RowFiles(tmp_path / "rows") as files, OrbaxCheckpointer(tmp_path / "cell", {}, 1e6) as checkpointer:
        assert checkpointer.facts("phase 1, block 1")["steps"] < 4
        equal(learn(checkpointer=checkpointer, files=files), learn())


# A process of its own, which may take no more memory for data than it has and some MiB.
LIMITED = """
import json, re, resource, sys
import jax
import numpy as np
from pathlib import Path
from cvfp_jax.checkpointing import row_file
from cvfp_jax.checkpointing.row_file import RowFiles
from cvfp_jax.config.settings import RunConfig
from cvfp_jax.data.dataset import CellData
from cvfp_jax.config.overrides import replace
from cvfp_jax.contexts.runtime import Runtime
from cvfp_jax.sweeps.cell import run_cell

def held():
    return 1024 * int(re.search("VmData:(.*) kB", Path("/proc/self/status").read_text())[1])

mebibytes, disk = int(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None
row_file.CHUNK_BYTES = 2**20
changes = {
    "model.context_dim": 96, "model.embed_dim": 32, "phase1.max_iterations": 3, "phase1.batch_size": 2000,
    "phase2.epochs": 1, "phase2.batch_size": 2000, "num_samples": 1,
}
config = replace(RunConfig(), changes)
rng = np.random.default_rng(0)
table = rng.normal(size=(500, 32)).astype(np.float32)

def run(tokens, disk=None):
    ids = rng.integers(0, 500, tokens + 500).astype(np.int32)
    data = CellData(ids[:tokens], ids[tokens:], table, "0" * 64, "1" * 64, 2.5)
    if disk is None:
        return run_cell(config, data).record
    with RowFiles(disk) as files:
        return run_cell(config, data, Runtime(files=files)).record

run(4000)
if mebibytes:
    limit = held() + mebibytes * 2**20
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
record = run(600_000, disk)
print(json.dumps({name: value for name, value in record.items() if not name.endswith("_seconds")}))
"""


def limited(*arguments):
    command = [sys.executable, "-c", LIMITED, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
def test_contexts_longer_than_memory_end_with_the_record_of_memory(tmp_path):
    """Contexts take 220 MiB, and phase 2's are made beside them."""
    whole, streamed, refused = limited(0), limited(340, tmp_path / "rows"), limited(340)
    assert streamed.returncode == whole.returncode == 0, streamed.stderr[-2000:]
    assert json.loads(streamed.stdout) == json.loads(whole.stdout)
    assert refused.returncode != 0
    # Whatever it is that asks for too much.
    told = ("RESOURCE_EXHAUSTED", "MemoryError", "bad_alloc", "Cannot allocate memory")
    assert any(word in refused.stderr for word in told), refused.stderr[-2000:]
