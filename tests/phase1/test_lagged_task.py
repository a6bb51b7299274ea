"""Phase 1 that also learns to predict, against the equations in double precision."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from cvfp_jax.config.settings import ModelConfig, Phase1Config
from cvfp_jax.contexts.runtime import Runtime
from cvfp_jax.core import lagged_reference as lagged
from cvfp_jax.core import reference
from cvfp_jax.core.model import ContextBlock, TokenBlock
from cvfp_jax.core.token_stream import TokenStream
from cvfp_jax.phase1.lagged_task import LaggedTask, draw
from cvfp_jax.phase1.step import Variant
from cvfp_jax.phase1.train import begin_iteration, learn_contexts
from tests.plain import close, drawn, module, of_block
from tests.tiers import cases

pytestmark = pytest.mark.usefixtures("quick_compilation")
V = 9
plain_step = jax.jit(lagged.lagged_step, static_argnames=("model", "config"))
CASES = {
    # Tokens that are no multiple of the micro-batch; fewer places than tokens.
    "ragged": (
        ModelConfig(6, 5, 2, 3, context_mode="A", num_token_layers=1),
        Phase1Config(batch_size=8, lagged_task_weight=0.7, lagged_task_places=5),
        13,
    ),
    # Moments and rows, noise, more places than tokens, and a last micro-batch of the last token only.
    "noise": (
        ModelConfig(5, 7, activation="gelu"),
        Phase1Config(
            batch_size=8, context_noise=0.3, diversity="ODCM", dist_reg_weight=0.5,
            lagged_task_weight=2.0, lagged_task_places=20,
        ),
        9,
    ),
    "alone": (
        ModelConfig(4, 6, 2, 1, context_mode="F"),
        Phase1Config(batch_size=0, dist_reg_weight=0.0, lagged_task_weight=1.0, first_context="zero"),
        12,
    ),
}  # fmt: skip


def made(name, seed):
    """What the reference and the iteration start from."""
    model, config, tokens = CASES[name]
    rng = np.random.default_rng(seed)
    vectors, ids = rng.normal(size=(V, model.embed_dim)), rng.integers(0, V, tokens)
    table = jnp.asarray(rng.normal(size=(V, model.embed_dim)))
    params = drawn(rng, reference.init_context_block, model)
    token_params = drawn(rng, reference.init_token_block, model)
    previous = jnp.asarray(rng.normal(size=(tokens, model.context_dim)))
    return model, config, vectors, ids, table, params, token_params, previous


@pytest.mark.parametrize("name", cases(CASES, fast=["ragged"]))
@settings(max_examples=4, deadline=None, phases=[Phase.generate])
@given(seed=st.integers(0, 2**31 - 1))
def test_steps_are_those_of_the_equations(name, seed):
    # Flax's LayerNorm mixes types under strict promotion.
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        model, config, vectors, ids, table, params, token_params, previous = made(name, seed)
        key = jax.random.key(seed)
        task = LaggedTask(model, module(TokenBlock, model, token_params), table, "f32")
        stream = TokenStream(jnp.asarray(vectors), ids)
        block = module(ContextBlock, model, params)
        iteration = begin_iteration(
            block, stream, config, key, initial_contexts=np.asarray(previous), variant=Variant(task=task)
        )
        window = reference.token_windows(jnp.asarray(vectors[ids]), model.num_input_tokens)
        state = lagged.lagged_start(params, token_params, previous, config)
        data, noise_key = lagged.TaskData(jnp.asarray(ids), table), jax.random.split(key)[1]
        for index in range(3):
            iteration.advance(index + 1)
            step_key = jax.random.fold_in(noise_key, index)
            state, metrics = plain_step(state, window, data, step_key, model, config)
            np.testing.assert_allclose(
                iteration.contexts.array[: len(ids)], state.contexts.contexts_NxD, rtol=0, atol=1e-10
            )
            assert iteration.trace["grad_norm"][index] == pytest.approx(float(metrics["grad_norm"]), rel=1e-9)
        found = iteration.solution.state
        close(of_block(nnx.merge(iteration.spec.block, found.params)), state.contexts.params, atol=1e-9)
        learned = nnx.merge(iteration.spec.task.token_block, found.task.params)
        close(of_block(learned), state.token_params, atol=1e-9)


def test_the_gradient_is_that_of_differences():
    # Flax's LayerNorm mixes types under strict promotion.
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        model, config, vectors, ids, table, params, token_params, previous = made("ragged", 3)
        window = reference.token_windows(jnp.asarray(vectors[ids]), model.num_input_tokens)
        data, key = lagged.TaskData(jnp.asarray(ids), table), jax.random.key(0)

        @jax.jit
        def loss(both):
            contexts = reference.context_block(both[0], reference.predecessors(previous), window, model)[-1]
            return lagged.task_loss(both[1], contexts, window, data, key, model, config)

        both = params, token_params
        gradient = jax.jit(jax.grad(loss))(both)
        rng = np.random.default_rng(0)
        way = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), both)
        ahead = loss(jax.tree.map(lambda leaf, step: leaf + 1e-6 * step, both, way))
        back = loss(jax.tree.map(lambda leaf, step: leaf - 1e-6 * step, both, way))
        along = sum(jnp.vdot(a, b) for a, b in zip(*map(jax.tree.leaves, (gradient, way)), strict=True))
        assert float(ahead - back) / 2e-6 == pytest.approx(float(along), rel=1e-6)


def test_places_are_drawn_from_a_micro_batch_and_the_last_token_does_not_count():
    iteration = begin_iteration(*started("ragged"))
    layout, tokens = iteration.spec.layout, jnp.int32(13)
    keys = jax.random.split(jax.random.key(1), 30)
    first, second = (
        jax.vmap(lambda key, index=index: draw(key, jnp.int32(index), tokens, 200, layout))(keys)
        for index in (0, 1)
    )
    assert set(np.asarray(first.places_S).ravel().tolist()) == set(range(8))
    assert first.counts_S.all()
    assert set(np.asarray(second.places_S).ravel().tolist()) == set(range(8, 13))
    np.testing.assert_array_equal(second.counts_S, second.places_S < 12)
    np.testing.assert_array_equal(second.rows_S, second.places_S - 8)


def test_places_do_not_depend_on_the_longest_stream():
    block, stream, _, key = started("ragged")
    drawn_with = []
    for capacity in (0, 300):
        roomy = dataclasses.replace(stream, capacity=capacity)
        layout = begin_iteration(block, roomy, Phase1Config(batch_size=0), key).spec.layout
        drawn_with.append(draw(key, jnp.int32(0), jnp.int32(len(stream)), 100, layout).places_S)
    np.testing.assert_array_equal(*drawn_with, strict=True)


def started(name):
    """A block, a stream, settings without a task and a key, in single precision."""
    model, _, tokens = CASES[name]
    rng = np.random.default_rng(0)
    vectors = jnp.asarray(rng.normal(size=(V, model.embed_dim)), jnp.float32)
    block, stream = ContextBlock(model, rngs=nnx.Rngs(0)), TokenStream(vectors, rng.integers(0, V, tokens))
    return block, stream, Phase1Config(batch_size=8), jax.random.key(0)


@pytest.mark.slow
def test_contexts_learn_to_predict():
    """A toss of a coin, a marker, the same again and another marker: a token alone tells nothing."""
    rng = np.random.default_rng(0)
    ids = np.concatenate([[toss, 2, toss, 3] for toss in rng.integers(0, 2, 100)])
    model = ModelConfig(16, 8, context_mode="A")
    vectors = jnp.asarray(rng.normal(size=(4, 8)), jnp.float32)
    block, token_block = (kind(model, rngs=nnx.Rngs(1)) for kind in (ContextBlock, TokenBlock))
    task = LaggedTask(model, token_block, vectors, "f32")
    config = Phase1Config(
        max_iterations=200, min_iterations=200, learning_rate=0.01, lagged_task_weight=1.0, batch_size=0
    )
    result = learn_contexts(
        block,
        TokenStream(vectors, ids),
        config,
        jax.random.key(0),
        runtime=Runtime(),
        variant=Variant(task=task),
    )
    # A quarter of the tokens are a toss; of the others none can be told without its context.
    assert np.log(2) / 4 - 0.05 < result.trace["task_loss"][-1] < 0.6 * np.log(2)
    assert result.token_block is not None
    assert token_block.layers[0].norm.scale[...].tolist() == [1.0] * 8, "the caller's is left as it is"


def test_without_a_task_nothing_is_learned_along():
    block, stream, _, key = started("ragged")
    with pytest.raises(ValueError, match="needs a token block"):
        begin_iteration(block, stream, CASES["ragged"][1], key)
    assert learn_contexts(*started("ragged")).token_block is None
