import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import launch
from cvfp_jax.config.overrides import replace
from cvfp_jax.config.settings import RunConfig
from cvfp_jax.errors import UserError
from cvfp_jax.planning import memory_model
from cvfp_jax.planning.memory_model import Share, cell_arrays
from cvfp_jax.planning.plan import (
    MOST_COUNTED,
    check_counted,
    check_fits,
    contexts_go_to_disk,
    expected_memory,
    plan_cell,
    work,
)
from cvfp_jax.runtime import memory
from cvfp_jax.sweeps import runner
from tests import tiny

ROOT = Path(__file__).parents[2]


def test_what_only_the_data_can_tell_is_null_until_they_are_read():
    full, corpus = RunConfig(), replace(RunConfig(), {"data.vocabulary": "corpus"})
    assert plan_cell(full).to_json() == {
        "config_name": "1L_768d_1tok",
        "series": "1L_768d_1tok",
        "seed": 42,
        "context_dim": 768,
        "num_samples": 50,
        "vocab_size": 50257,
        "train_tokens": None,
        "params_context_block": 1_181_952,
        "params_token_block": 1_181_952,
        "params_head": 0,
        "params_total": 40_962_816,
        "params_trainable_phase2": 1_183_488,
        "memory_bytes": None,
    }
    unread = plan_cell(corpus)
    assert (unread.vocab_size, unread.params["params_total"]) == (None, None)
    assert unread.params["params_context_block"] == 1_181_952
    trained = plan_cell(replace(corpus, {"phase2.freeze_embedding": False}))
    assert trained.params["params_trainable_phase2"] is None
    read = plan_cell(corpus, vocab_size=1000, train_tokens=5000)
    assert read.params["params_total"] == 1000 * 768 + 2 * 768 + 2 * 1_181_952
    assert read.memory_bytes == expected_memory(corpus, 1000, 5000)
    assert plan_cell(corpus, 1000, 5000, 9000).memory_bytes == expected_memory(corpus, 1000, 9000)


@pytest.mark.parametrize("host", [False, True])
def test_memory_grows_with_three_sets_of_contexts_and_the_token_ids(host):
    """Phase 1's, new ones in whole chunks, and those cut to the stream."""
    step = 125 * 2**20  # whole micro-batches and whole chunks
    sizes = (step, 2 * step)
    for contexts in ("parallel", "sequential"):
        config = replace(RunConfig(), {"phase2.train_contexts": contexts})
        few, many = (expected_memory(config, 50257, tokens, host) for tokens in sizes)
        assert many - few == step * 4 * (3 * 768 + 1)
    rounded = replace(config, {"phase1.context_dtype": "bfloat16"})
    few, many = (expected_memory(rounded, 50257, tokens, host) for tokens in sizes)
    assert many - few == step * 4 * (2.5 * 768 + 1)


def test_an_accelerator_works_on_more_at_a_time_than_a_cpu():
    config = replace(RunConfig(), {"phase2.train_contexts": "sequential"})
    made = {
        on_cpu: cell_arrays(config, 50257, Share.whole(config, 50257, 2_000_000, on_cpu))
        for on_cpu in (False, True)
    }
    lanes = {on_cpu: made[on_cpu]["contexts"]["lanes, later a copy"] for on_cpu in made}
    assert lanes == {False: 3 * 2**20 * 768 * 4, True: 2_000_000 * 768 * 4}
    heads = {on_cpu: made[on_cpu]["phase 2"]["logits at a time"] for on_cpu in made}
    assert heads == {False: 4 * 4 * 8192 * 8192, True: 4 * 2**25}


# Measured in a process of its own, whose peak nothing else has raised.
MEASURE = """
import json, sys
import numpy as np
from pathlib import Path
from cvfp_jax.checkpointing.orbax import OrbaxCheckpointer
from cvfp_jax.config.settings import RunConfig
from cvfp_jax.data.dataset import CellData
from cvfp_jax.config.overrides import replace
from cvfp_jax.planning.plan import expected_memory
from cvfp_jax.contexts.runtime import Runtime
from cvfp_jax.sweeps.cell import run_cell

folder, (tokens, vocab_size, changes) = sys.argv[1], json.loads(sys.argv[2])
few = {"model.embed_dim": 64, "phase1.max_iterations": 2, "phase2.epochs": 1, "num_samples": 1}
config = replace(RunConfig(), {**few, **changes})
rng = np.random.default_rng(0)
ids = rng.integers(0, vocab_size, tokens + 500).astype(np.int32)
table = rng.normal(size=(vocab_size, config.model.embed_dim)).astype(np.float32)
data = CellData(ids[:tokens], ids[tokens:], table, "0" * 64, "1" * 64, 2.5)
with OrbaxCheckpointer(Path(folder), {}, 0.01) as checkpointer:
    record = run_cell(config, data, Runtime(checkpointer=checkpointer)).record
assert record["status"] == "ok"
# Not of getrusage, whose peak a child inherits.
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
print(1024 * int(peak.split()[1]), expected_memory(config, vocab_size, tokens))
"""
CASES = {
    "pairs of rows": [
        12_000, 500, {"model.context_dim": 16, "phase1.diversity": "UNIF", "phase1.batch_size": 12_000},
    ],
    "one loss over all tokens": [300_000, 500, {"model.context_dim": 96, "phase1.batch_size": 0}],
    "a trained table": [500, 200_000, {"model.context_dim": 32, "phase2.freeze_embedding": False}],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_estimate_is_above_a_measured_peak_and_not_far(tmp_path, case):
    """In each case another array weighs most."""
    command = [sys.executable, "-c", MEASURE, str(tmp_path), json.dumps(CASES[case])]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    peak, estimate = map(int, run.stdout.split())
    assert peak <= estimate <= 2 * peak
    idle = expected_memory(replace(RunConfig(), {"model.context_dim": 16, "model.embed_dim": 64}), 500, 1000)
    assert peak > idle, "the case must weigh something"


@pytest.mark.parametrize(
    ("changes", "available", "advice"),
    [
        ({"phase1.batch_size": 0}, 6, "use --config.phase1.batch_size="),
        (
            {"phase1.diversity": "UNIF", "phase1.batch_size": 30_000},
            6,
            "use --config.phase1.batch_size=7500,",
        ),
        ({"phase2.batch_size": 500_000, "phase1.batch_size": 256}, 6, "use --config.phase2.batch_size="),
        ({}, 2.5, "use --context_dims="),
        ({}, 0.5, "use a smaller --config.phase1.batch_size"),
    ],
)
def test_a_cell_that_does_not_fit_is_refused_with_what_would(changes, available, advice):
    config = replace(RunConfig(), {"data.vocabulary": "full", **changes})
    plan = plan_cell(config, train_tokens=250_000)
    with pytest.raises(UserError) as caught:
        check_fits(plan, 0, int(available * 2**30), host=True)
    said = str(caught.value)
    assert advice in said
    assert f"1L_768d_1tok, 50 samples, needs about {plan.memory_bytes / 2**30:.1f} GiB" in said
    assert "--force" in said
    check_fits(plan, 0, plan.memory_bytes, host=True)
    if found := re.search(r"--(?:config\.)?([a-z0-9_.]+)=(\d+)", said):
        field = {"context_dims": "model.context_dim"}.get(found[1], found[1])
        followed = plan_cell(replace(config, {field: int(found[2])}), train_tokens=250_000)
        check_fits(followed, 0, int(available * 2**30), host=True)


@pytest.mark.usefixtures("quick_compilation")
def test_a_sweep_refuses_before_it_starts_unless_forced(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runner, "available_memory", lambda: (2**29, True))
    corpus, work = tiny.write_corpus(tmp_path / "corpus"), tmp_path / "work"
    flags = tiny.flags(corpus, f"--workdir={work}", "--samples=6", "--context_dims=8")
    command = ["launch.py", *flags]
    assert launch.main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "1L_8d_1tok, 6 samples, needs about" in line
    assert not (work / "records.jsonl").exists()
    assert launch.main([*command, "--force"]) == 0
    assert (work / "records.jsonl").exists()


@pytest.mark.parametrize("host", [False, True])
def test_contexts_go_to_the_disk_where_they_fit_only_so(host):
    plan = plan_cell(RunConfig(), 50257, 20_000_000)
    in_memory, on_disk = (
        expected_memory(plan.config, 50257, 20_000_000, host, on_disk=place) for place in (False, True)
    )
    assert on_disk < in_memory / 10

    def goes(contexts_in, available, devices=1):
        return contexts_go_to_disk(contexts_in, plan, 0, available, host, devices)

    assert not goes("auto", in_memory)
    assert goes("auto", in_memory - 1)
    assert goes("auto", on_disk)
    assert goes("disk", in_memory)
    assert not goes("memory", in_memory)
    for contexts_in, available, devices in (
        ("auto", on_disk - 1, 1),
        ("disk", on_disk - 1, 1),
        ("memory", in_memory - 1, 1),
        ("auto", on_disk // 2, 8),
    ):
        with pytest.raises(UserError, match="needs about"):
            goes(contexts_in, available, devices)


def test_on_the_disk_memory_hardly_grows_with_the_tokens():
    few, many = (expected_memory(RunConfig(), 50257, tokens, on_disk=True) for tokens in (10**7, 2 * 10**7))
    assert many - few == 10**7 * (memory_model.INDEX_BYTES + memory_model._PLACES_BYTES)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compilation")
def test_a_sweep_keeps_contexts_on_the_disk_and_makes_the_same_records(tmp_path, monkeypatch, capsys):
    corpus, found = tiny.write_corpus(tmp_path / "corpus"), {}
    small = ("--samples=6", "--context_dims=8")
    for contexts_in in ("memory", "disk"):
        work = tmp_path / contexts_in
        flags = tiny.flags(corpus, f"--workdir={work}", *small, f"--contexts_in={contexts_in}")
        assert launch.main(["launch.py", *flags]) == 0
        on_disk = (
            f"contexts of 1 cells are kept on the disk, in {work / 'contexts'}" in capsys.readouterr().out
        )
        assert on_disk == (contexts_in == "disk")
        assert not (work / "contexts").exists()
        record = json.loads((work / "records.jsonl").read_text())
        found[contexts_in] = {name: value for name, value in record.items() if "_seconds" not in name}
    assert found["memory"] == found["disk"]
    flags = tiny.flags(corpus, f"--workdir={tmp_path / 'other'}", *small, "--contexts_in=tape")
    assert launch.main(["launch.py", *flags]) == 2
    assert "'tape'" in capsys.readouterr().err


def test_memory_is_the_devices_or_what_the_system_can_give(monkeypatch):
    bytes_free, host = memory.available_memory()
    assert host
    assert 2**28 < bytes_free < 2**45

    class Accelerator:
        def memory_stats(self):
            return {"bytes_limit": 100, "bytes_in_use": 30}

    monkeypatch.setattr(memory.jax, "local_devices", lambda: [Accelerator()])
    assert memory.available_memory() == (70, False)


def test_a_containers_limit_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    without = memory.available_memory()[0]
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.stat").write_text(f"anon {2**33}\nfile {2**33}\n")
    assert abs(memory.available_memory()[0] - without) < 2**31
    (tmp_path / "memory.max").write_text(f"{2**33 + 1000}\n")
    own = memory._own()
    assert memory.available_memory()[0] == pytest.approx(own + 1000, rel=0.1)


def test_work_is_proportional_to_the_tokens():
    config = RunConfig()
    once = work(config, 50257, 1000, iterations=30, epochs=5)
    assert work(config, 50257, 2000, 30, 5) == pytest.approx(2 * once)
    assert work(config, 50257, 1000, 60, 10) == pytest.approx(2 * once)
    assert work(replace(config, {"model.context_dim": 1537}), 50257, 1000, 30, 5) > once


def test_tokens_beyond_int32_are_refused():
    check_counted(MOST_COUNTED)
    assert np.int32(MOST_COUNTED) == MOST_COUNTED
    with pytest.raises(UserError, match="2,147,483,648 tokens, and no more than 2,147,483,647"):
        check_counted(MOST_COUNTED + 1)
