"""The baseline computes what this project computes; skipped without PyTorch."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from benchmarks import ours, parts, timing
from benchmarks.workload import Workload
from cvfp_jax.config.settings import Phase1Config, Phase2Config
from cvfp_jax.contexts.effective_rank import effective_rank
from cvfp_jax.contexts.parallel import parallel_contexts
from cvfp_jax.contexts.recurrence import sequential_contexts
from cvfp_jax.contexts.store import as_store
from cvfp_jax.core.token_stream import TokenStream
from cvfp_jax.distributed.mesh import single_device_mesh
from cvfp_jax.phase1.train import begin_iteration
from cvfp_jax.phase2.step import compile_steps
from cvfp_jax.phase2.stream import Stream
from cvfp_jax.phase2.train import begin_training

torch = pytest.importorskip("torch", reason="PyTorch (the extra bench) is not installed")
plain_torch = pytest.importorskip("benchmarks.plain_torch")

pytestmark = pytest.mark.usefixtures("quick_compilation")
K = 2
WORK = Workload(tokens=300, context_dim=12, embed_dim=8, vocab=60, input_tokens=K)
MICRO_BATCH = 128  # so that the last one is short


@pytest.fixture
def both(monkeypatch):
    """The baseline, and this project's model with the same weights."""
    monkeypatch.setattr(plain_torch, "MICRO_BATCH", MICRO_BATCH)
    theirs = plain_torch.PlainTorch(WORK, "f32")
    mine = ours._model(WORK, "f32")
    for layer, other in (
        (mine.context_blocks[0].layers[0], theirs.context_layer),
        (mine.token_block.layers[0], theirs.token_layer),
    ):
        pairs = [(layer.linear, other.linear)]
        pairs += [(layer.residual, other.residual)] if layer.residual is not None else []
        for linear, torch_linear in pairs:
            linear.kernel[...] = jnp.asarray(torch_linear.weight.detach().numpy().T)
            linear.bias[...] = jnp.asarray(torch_linear.bias.detach().numpy())
    return mine, theirs


def same(mine, theirs, tolerance=2e-5):
    theirs = theirs.detach().numpy() if isinstance(theirs, torch.Tensor) else theirs
    np.testing.assert_allclose(np.asarray(mine), theirs, rtol=tolerance, atol=tolerance)


def test_an_iteration_of_phase1_is_the_same(both):
    mine, theirs = both
    config = Phase1Config(batch_size=MICRO_BATCH)
    vectors_VxE = mine.embedding.token_vectors()
    contexts = theirs.contexts_NxD.numpy().copy()
    stream = TokenStream(vectors_VxE, WORK.ids())
    iteration = begin_iteration(
        mine.context_blocks[0], stream, config, jax.random.key(0), initial_contexts=contexts
    )
    before = theirs.context_layer.linear.weight.detach().clone()
    for steps in (1, 2, 3):
        iteration.advance(steps)
        theirs.phase1_step()
    same(iteration.contexts.array[: WORK.tokens], theirs.contexts_NxD)
    block = nnx.merge(iteration.spec.block, iteration.solution.state.params)
    # Adam makes steps of 0.002 whatever the gradient is, so its tiny entries show rounding.
    same(block.layers[0].linear.kernel[...].T, theirs.context_layer.linear.weight, 2e-4)
    assert float((theirs.context_layer.linear.weight.detach() - before).abs().max()) > 0.004


def test_contexts_are_the_same(both):
    mine, theirs = both
    block, stream = mine.context_blocks[0], TokenStream(mine.embedding.token_vectors(), WORK.ids())
    same(sequential_contexts(block, stream).array, theirs.sequential_contexts(WORK.tokens))
    theirs.contexts_NxD = torch.from_numpy(WORK.contexts(WORK.tokens))
    once = parallel_contexts(block, stream, as_store(WORK.contexts(WORK.tokens)))
    same(once.array, theirs.parallel_contexts())


def test_phase2_is_the_same(both):
    mine, theirs = both
    batch = 100
    theirs.contexts_NxD = torch.from_numpy(WORK.contexts(WORK.tokens))
    config = Phase2Config(batch_size=batch)
    state, frozen, spec = begin_training(mine, config, single_device_mesh(), jax.random.key(0))
    stream = Stream.of(WORK.ids(), jnp.asarray(WORK.contexts(WORK.tokens)))
    stream = next(spec.arrays(stream, stream.batches(batch)))
    train, evaluate = compile_steps(spec)
    sums = evaluate(state.params, frozen, stream, np.int32(0))
    loss, hits = theirs.phase2_eval(0, batch)
    assert float(sums.loss) / batch == pytest.approx(loss, rel=1e-6)
    assert int(sums.hits) == hits
    for first in (0, 100):
        state, mean, _ = train(state, frozen, stream, np.int32(first), np.int32(1))
        assert float(mean) == pytest.approx(theirs.phase2_loss(first, batch)[0].item(), rel=1e-5)
        theirs.phase2_step(first, batch)
    block = nnx.merge(spec.token_block, state.params.token_block)
    same(block.layers[0].linear.kernel[...].T, theirs.token_layer.linear.weight, 2e-4)


def test_effective_ranks_are_the_same():
    matrix = WORK.contexts(50)
    assert effective_rank(jnp.asarray(matrix), 50) == pytest.approx(
        plain_torch.effective_rank(torch.from_numpy(matrix)), rel=1e-5
    )


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_every_part_runs(precision):
    work = dataclasses.replace(WORK, input_tokens=1)
    made = parts.parts(work, parts.Scale(recurrence_tokens=8, rank_rows=20))
    kinds = {part.kind: part for part in made.values()}
    runs = {kind: plain_torch.prepare(part, precision) for kind, part in kinds.items()}
    assert set(timing.alternate(runs, 1)) == set(parts.UNITS)
