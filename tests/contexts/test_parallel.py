import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvfp_jax.config.settings import ModelConfig
from cvfp_jax.contexts import parallel
from cvfp_jax.contexts.parallel import parallel_contexts
from cvfp_jax.contexts.store import as_store
from cvfp_jax.core import reference
from cvfp_jax.core.model import ContextBlock
from cvfp_jax.core.token_stream import TokenStream
from tests.plain import drawn, module
from tests.tiers import cases

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.parametrize("rows", cases([1, 37], fast=[37]))
def test_parallel_contexts_are_those_of_the_equations(monkeypatch, rows):
    """One application of the block to the predecessors, eight rows at a time."""
    monkeypatch.setattr(parallel, "_CPU_ROWS", 8)
    model = ModelConfig(6, 5, 2, 2)
    plain = jax.jit(reference.parallel_contexts, static_argnames="model")

    @settings(max_examples=8, deadline=None)
    @given(tokens=st.integers(1, rows), seed=st.integers(0, 2**31 - 1))
    def check(tokens, seed):
        rng = np.random.default_rng(seed)
        params = drawn(rng, reference.init_context_block, model)
        vectors, ids = jnp.asarray(rng.normal(size=(7, model.embed_dim))), rng.integers(0, 7, rows)
        contexts = jnp.asarray(rng.normal(size=(rows, model.context_dim)))
        block = module(ContextBlock, model, params)
        renewed = parallel_contexts(block, TokenStream(vectors, ids[:tokens]), as_store(contexts)).array
        assert len(renewed) == rows
        window = reference.token_windows(vectors[ids], model.num_input_tokens)
        expected = plain(params, contexts, window, model)[-1]
        np.testing.assert_allclose(renewed[:tokens], expected[:tokens], rtol=0, atol=1e-12)

    jax.clear_caches()
    # Flax's LayerNorm mixes types under strict promotion.
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        check()
    jax.clear_caches()
