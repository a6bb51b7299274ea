"""Steps of phase 1 against the equations in double precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from cvfp_jax.config.settings import ModelConfig, Phase1Config
from cvfp_jax.core import reference
from cvfp_jax.core.model import ContextBlock
from cvfp_jax.core.token_stream import TokenStream
from cvfp_jax.phase1.train import begin_iteration
from tests.plain import close, drawn, module, of_block
from tests.tiers import cases

pytestmark = pytest.mark.usefixtures("quick_compilation")

plain_step = jax.jit(reference.phase1_step, static_argnames=("model", "config"))
# Tokens that are no multiple of the micro-batch, one that is left over, one in all; D above and below E.
PLAIN_CASES = {
    "ragged": (ModelConfig(6, 5, 2, 3), Phase1Config(batch_size=8), 13),
    "noise": (
        ModelConfig(5, 7, 1, 2, activation="gelu"),
        Phase1Config(
            batch_size=8, first_context="zero", context_noise=0.3, diversity="HSIC", dist_reg_weight=0.5
        ),
        9,
    ),
    "falling": (
        ModelConfig(4, 6, 2, 1, token_input_all_layers=False, ffn_num_layers=2),
        Phase1Config(batch_size=0, diversity="ODCM", gradient_clip=0.01),
        12,
    ),
    "one_token": (ModelConfig(3, 4), Phase1Config(diversity="OACD", dist_reg_weight=1.0), 1),
}


@pytest.mark.parametrize("name", cases(PLAIN_CASES, fast=["ragged"]))
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**31 - 1))
def test_steps_are_those_of_the_equations(name, seed):
    model, config, tokens = PLAIN_CASES[name]
    rng = np.random.default_rng(seed)
    vectors, ids = rng.normal(size=(9, model.embed_dim)), rng.integers(0, 9, tokens)
    previous = rng.normal(size=(tokens, model.context_dim))
    with jax.enable_x64(True):
        params, key = drawn(rng, reference.init_context_block, model), jax.random.key(seed)
        stream = TokenStream(jnp.asarray(vectors), ids)
        block = module(ContextBlock, model, params)
        iteration = begin_iteration(block, stream, config, key, initial_contexts=previous)
        window = reference.token_windows(jnp.asarray(vectors[ids]), model.num_input_tokens)
        state = reference.phase1_start(params, jnp.asarray(previous), config)
        noise_key = jax.random.split(key)[1]
        for index in range(3):
            iteration.advance(index + 1)
            state, metrics = plain_step(state, window, jax.random.fold_in(noise_key, index), model, config)
            contexts = iteration.contexts.array[:tokens]
            np.testing.assert_allclose(contexts, state.contexts_NxD, rtol=0, atol=1e-10)
            logged = {name: float(values[index]) for name, values in iteration.trace.items()}
            logged["converged_share"] = logged.pop("converged_tokens") / tokens
            assert logged == pytest.approx(jax.tree.map(float, metrics), rel=1e-9, abs=1e-12)
        # Adam makes steps of rounding where a gradient is next to nothing.
        trained = nnx.merge(iteration.spec.block, iteration.solution.state.params)
        close(of_block(trained), state.params, atol=1e-9)
