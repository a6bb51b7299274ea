"""Steps of phase 2 against the equations in double precision."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from cvfp_jax.config.settings import ModelConfig, Phase2Config
from cvfp_jax.core import reference
from cvfp_jax.core.model import ContextBlock, LanguageModel, TokenBlock
from cvfp_jax.distributed.mesh import single_device_mesh
from cvfp_jax.phase2.step import compile_steps
from cvfp_jax.phase2.stream import Stream
from cvfp_jax.phase2.train import begin_training
from tests.plain import close, drawn, module, of_block
from tests.tiers import cases

pytestmark = pytest.mark.usefixtures("quick_compilation")

plain_step = jax.jit(reference.phase2_step, static_argnames=("model", "config"))
# The context mode with all else that changes a step; a last batch that is short, one batch, one prediction.
PLAIN_CASES = {
    "E": (ModelConfig(6, 5, 2, 3), Phase2Config(batch_size=8), 14),
    "E_one": (
        ModelConfig(5, 7, ffn_num_layers=2, activation="gelu"), Phase2Config(weight_decay=0.5), 2,
    ),
    "A": (
        ModelConfig(5, 7, 1, 2, num_token_layers=2, context_mode="A", activation="gelu"),
        Phase2Config(gradient_clip=0.01), 9,
    ),
    "G": (ModelConfig(4, 6, 3, context_mode="G"), Phase2Config(), 9),
}  # fmt: skip


@functools.partial(jax.jit, static_argnames="model")
def what_is_read(context_params, norm, table, ids, contexts, model):
    """What each token layer reads at each place of a stream, and the windows."""
    window = reference.token_windows(reference.layer_norm(table, norm)[ids], model.num_input_tokens)
    if model.reads_every_layer:
        return reference.parallel_contexts(context_params, contexts, window, model), window
    return reference.contexts_read([contexts], reference.predecessors(contexts), model), window


@pytest.mark.parametrize("name", cases(PLAIN_CASES, fast=["E"]))
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**31 - 1))
def test_steps_are_those_of_the_equations(name, seed):
    model, config, tokens = PLAIN_CASES[name]
    rng = np.random.default_rng(seed)
    ids, rows = rng.integers(0, 11, tokens), min(config.batch_size, tokens - 1)
    # Flax's LayerNorm mixes types under strict promotion.
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        table, contexts = (jnp.asarray(rng.normal(size=size)) for size in (
            (11, model.embed_dim), (tokens, model.context_dim),
        ))  # fmt: skip
        context_params = drawn(rng, reference.init_context_block, model)
        params = drawn(rng, reference.init_token_block, model)
        norm = reference.Norm(jnp.asarray(rng.normal(size=model.embed_dim)), jnp.ones(model.embed_dim))
        whole = nnx.eval_shape(lambda: LanguageModel(model, table, rngs=nnx.Rngs(0)))
        whole.context_blocks = nnx.List([module(ContextBlock, model, context_params)])
        whole.token_block = module(TokenBlock, model, params)
        whole.embedding.table = nnx.Param(table)
        whole.embedding.norm.scale, whole.embedding.norm.bias = map(nnx.Param, norm)
        state, frozen, spec = begin_training(whole, config, single_device_mesh(), jax.random.key(0))
        train_step, _ = compile_steps(spec)
        stream = Stream.of(ids, contexts)
        stream = next(spec.arrays(stream, stream.batches(rows)))

        read, window = what_is_read(context_params, norm, table, ids, contexts, model)
        plain = reference.phase2_start(params, config)
        for first in (0, 0, *range(rows, tokens - 1, rows)):
            state, loss, grad_norm = train_step(state, frozen, stream, np.int32(first), np.int32(1))
            batch = slice(first, min(first + rows, tokens - 1))
            inputs = [layer[batch] for layer in read], window[batch], jnp.asarray(ids[1:][batch])
            plain, metrics = plain_step(plain, *inputs, table, model, config)
            assert float(loss) == pytest.approx(float(metrics["loss"]), rel=1e-11)
            assert float(grad_norm) == pytest.approx(float(metrics["grad_norm"]), rel=1e-9)
        trained = nnx.merge(spec.token_block, state.params.token_block)
        close(of_block(trained), plain.params, atol=1e-10)
