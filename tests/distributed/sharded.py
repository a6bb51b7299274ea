"""On eight virtual devices what one computes: run by test_sharded.py, a case a process."""

import re
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cvfp_jax.config.overrides import replace
from cvfp_jax.config.settings import ModelConfig
from cvfp_jax.contexts.effective_rank import effective_rank
from cvfp_jax.contexts.parallel import parallel_contexts
from cvfp_jax.contexts.recurrence import sequential_contexts
from cvfp_jax.contexts.runtime import Runtime
from cvfp_jax.core.model import TokenBlock
from cvfp_jax.core.token_stream import TokenStream
from cvfp_jax.distributed.layout import lay_out
from cvfp_jax.distributed.mesh import line_mesh, make_mesh, resize_rows, single_device_mesh
from cvfp_jax.phase1.iteration import advance_in_memory
from cvfp_jax.phase1.lagged_task import LaggedTask
from cvfp_jax.phase1.step import Variant
from cvfp_jax.phase1.train import begin_iteration, learn_contexts
from cvfp_jax.sweeps.cell import run_cell
from tests.end_to_end.test_resume import StoppedError, Stopping
from tests.phase1.test_train import stream_problem
from tests.phase2.test_train import learn, problem
from tests.sweeps.test_cell import CONFIG, TIMES, data_of

MESHES = [{"data": 8}, {"data": 4, "model": 2}, {"model": 8, "data": 1}]
CLOSE = {"rtol": 1e-5, "atol": 1e-6}
# What is left between walks that have met, of either: 64 roundings of a context's norm, which here is 3.
MET = {"rtol": 0, "atol": 2 * 3 * 64 * 2.0**-23}


def task_of(block, stream):
    """A token block for a context block, and a head."""
    vocab, dim = stream.vectors_VxE.shape
    model = ModelConfig(
        block.context_dim, dim, 1, block.num_input_tokens, num_token_layers=1, context_mode="A"
    )
    table = jnp.asarray(np.random.default_rng(5).normal(size=(vocab, dim)), jnp.float32)
    return LaggedTask(model, TokenBlock(model, rngs=nnx.Rngs(2)), table, "f32")


def same_phase1(tokens, pieces, **changes):
    block, stream, config = stream_problem(tokens, **changes)
    mesh = make_mesh()
    assert lay_out(mesh, tokens, config.batch_size).pieces == pieces
    variant = Variant(task=task_of(block, stream) if config.lagged_task_weight else None)
    one, many = (
        learn_contexts(block, stream, config, jax.random.key(1), runtime=runtime, variant=variant)
        for runtime in (Runtime(), Runtime(mesh))
    )
    contexts_NxD = many.contexts.array
    assert len(contexts_NxD.sharding.device_set) == 8
    assert (one.status, one.iterations) == (many.status, many.iterations)
    assert one.convergence_rate == many.convergence_rate
    np.testing.assert_allclose(contexts_NxD[:tokens], one.contexts.array[:tokens], **CLOSE)
    assert not np.asarray(contexts_NxD[tokens:]).any()
    for name, values in one.trace.items():
        np.testing.assert_allclose(many.trace[name], values, **CLOSE)
    for name in ("residual_mean", "residual_max"):
        np.testing.assert_allclose(getattr(many, name), getattr(one, name), rtol=1e-4)
    for ours, theirs in zip(
        *(jax.tree.leaves(nnx.split((result.block, result.token_block))[1]) for result in (many, one)),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, **CLOSE)


def phase1_whole_batches():
    same_phase1(131, 1, convergence_threshold=0.3)  # 9 micro-batches, the last short, on 8 devices


def phase1_starts():
    same_phase1(200, 1, initial_contexts="sequential")
    same_phase1(200, 1, first_context="zero", diversity="HSIC")


def phase1_pieces():
    same_phase1(40, 2)  # 3 micro-batches of 16 rows, on 2 devices each; two devices have none
    same_phase1(37, 8, batch_size=0, diversity="OACD", context_noise=0.1)
    same_phase1(40, 2, diversity="ODCM", context_noise=0.1)


def lagged_task():
    # Small steps: where a gradient is next to nothing Adam's are of rounding.
    small = {"max_iterations": 5, "learning_rate": 1e-4, "lagged_task_weight": 1.0}
    same_phase1(131, 1, **small)
    same_phase1(40, 2, **small, lagged_task_places=6)


def contexts():
    mesh, (block, few, _) = make_mesh(), stream_problem()
    runtime = Runtime(mesh)
    for tokens in (5, 40, 3001, 9000):
        stream = TokenStream(few.vectors_VxE, np.random.default_rng(tokens).integers(0, 11, tokens))
        one, many = sequential_contexts(block, stream), sequential_contexts(block, stream, runtime=runtime)
        assert len(many.array.sharding.device_set) == 8
        np.testing.assert_allclose(many.array[:tokens], one.array, **MET)
        given = one.resized(len(many), line_mesh(mesh))
        many, one = (
            parallel_contexts(block, stream, given, runtime),
            parallel_contexts(block, stream, one),
        )
        assert len(many.array.sharding.device_set) == 8
        np.testing.assert_allclose(many.array[:tokens], one.array, **CLOSE)


def contexts_that_never_forget():
    # A block whose contexts keep what they started from: every device must be corrected to its end.
    block, stream, _ = stream_problem(400)
    for layer in block.layers:
        layer.linear.kernel[...] = 1e-3 * layer.linear.kernel[...]
    start = jnp.asarray(np.random.default_rng(0).normal(size=8), jnp.float32)
    one, many = (
        sequential_contexts(block, stream, start, runtime=runtime).array
        for runtime in (Runtime(), Runtime(make_mesh()))
    )
    assert np.abs(one - sequential_contexts(block, stream).array)[-1].max() > 0.1
    np.testing.assert_allclose(many[:400], one, rtol=1e-4, atol=1e-4)


def ranks():
    rng, mesh = np.random.default_rng(0), make_mesh()
    for rows, dim, most in ((24, 16, 0), (1000, 32, 0), (1000, 32, 100), (70000, 8, 0)):
        matrix = jnp.asarray(rng.normal(size=(rows, dim)) * rng.uniform(0.01, 1, dim), jnp.float32)
        shared = resize_rows(matrix, rows + -rows % 8, line_mesh(mesh))
        one = effective_rank(matrix, rows, most, np.random.default_rng(1))
        many = effective_rank(shared, rows, most, np.random.default_rng(1), mesh)
        np.testing.assert_allclose(many, one, rtol=1e-5)


def phase2():
    for changes in ({}, {"freeze_embedding": False}, {"train_contexts": "recomputed"}, {"dropout": 0.2}):
        model, config, train, val = problem(batch_size=20, epochs=2, **changes)
        one = learn(model, config, train, val)
        for shape in MESHES if changes in ({}, {"dropout": 0.2}) else MESHES[1:2]:
            many = learn(model, config, train, val, mesh=make_mesh(shape))
            np.testing.assert_allclose(many.batch_losses, one.batch_losses, rtol=1e-5)
            np.testing.assert_allclose(
                [epoch.val_loss for epoch in many.epochs], [epoch.val_loss for epoch in one.epochs], rtol=1e-5
            )
            assert [epoch.val_acc for epoch in many.epochs] == [epoch.val_acc for epoch in one.epochs]


def cell():
    for changes in (
        {},
        {"model.num_blocks": 2, "model.context_mode": "A", "phase2.train_contexts": "sequential"},
    ):
        config = replace(CONFIG, changes)
        data = data_of()
        one = run_cell(config, data).record
        for shape in MESHES if not changes else MESHES[1:2]:
            many = run_cell(config, data, Runtime(make_mesh(shape))).record
            for name in one.keys() - TIMES:
                if isinstance(one[name], float | list):
                    # What is left between passes that have met is rounding.
                    np.testing.assert_allclose(many[name], one[name], rtol=1e-4, atol=1e-9, err_msg=name)
                else:
                    assert many[name] == one[name], name


def launched(config, folder, stop_at, mesh):
    """A cell's record, None if it was left at an offer, and the parts that it went on from."""
    with Stopping(folder, stop_at, by_signal=False) as checkpointer:
        parts = set(checkpointer._saved)
        try:
            return run_cell(config, data_of(), Runtime(mesh, checkpointer)).record, parts
        except StoppedError:
            return None, parts


def other_devices_go_on():
    config = replace(CONFIG, {"phase2.train_contexts": "sequential"})
    one = run_cell(config, data_of()).record
    seen = set()
    first, second = single_device_mesh(), make_mesh()
    for stop_at in (2, 8, 9, 10, 13):
        with tempfile.TemporaryDirectory() as folder:
            assert launched(config, Path(folder) / "cell", stop_at, first)[0] is None
            record, parts = launched(config, Path(folder) / "cell", -1, second)
        first, second, seen = second, first, seen | parts
        for name in ("phase1_loss", "train_effective_rank", "val_effective_rank", "train_loss", "val_loss"):
            np.testing.assert_allclose(record[name], one[name], rtol=1e-4, err_msg=name)
        assert record["phase1_iterations"] == one["phase1_iterations"]
    assert {"phase 1, block 1", "training contexts, block 1", "contexts", "phase 2"} <= seen, seen


def _compiled(tokens, mesh):
    iteration = begin_iteration(*stream_problem(tokens), jax.random.key(0), runtime=Runtime(mesh))
    return advance_in_memory.lower(*iteration.in_memory(), jnp.int32(1), iteration.spec).compile()


def _told(compiled):
    """The shapes that devices tell each other in a step."""
    names = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
    return sorted(re.findall(rf"= (.*?) (?:{names})(?:-start)?\(", compiled.as_text()))


def cost():
    few, many = (_compiled(tokens, make_mesh()) for tokens in (4096, 65536))
    assert "all-gather" not in many.as_text()
    assert "all-reduce" in many.as_text()
    assert "collective-permute" in many.as_text()
    assert _told(few) == _told(many)
    alone = _compiled(65536, single_device_mesh())
    sizes = [
        compiled.memory_analysis().argument_size_in_bytes + compiled.memory_analysis().temp_size_in_bytes
        for compiled in (alone, many, few)
    ]
    # What does not depend on the tokens is the same on every device.
    fixed = sizes[2] - (sizes[1] - sizes[2]) // 15
    assert 0.9 < 8 * (sizes[1] - fixed) / (sizes[0] - fixed) < 1.1, sizes


if __name__ == "__main__":
    assert jax.device_count() == 8
    jax.config.update("jax_default_matmul_precision", "highest")
    globals()[sys.argv[1]]()
    print("equal")
