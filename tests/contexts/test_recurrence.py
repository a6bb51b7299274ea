import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from cvfp_jax.config.settings import ModelConfig
from cvfp_jax.contexts import recurrence
from cvfp_jax.contexts.recurrence import predecessors, sequential_contexts
from cvfp_jax.core import reference
from cvfp_jax.core.model import ContextBlock, TokenBlock, token_windows
from cvfp_jax.core.token_stream import TokenStream
from tests.original import load_block
from tests.plain import drawn, module
from tests.tiers import cases

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of 8 tokens, which programs made before know nothing of."""
    monkeypatch.setattr(recurrence, "CHUNK", 8)
    jax.clear_caches()
    yield
    jax.clear_caches()


# Chunks of four short lanes, so that windows reach over their borders, and chunks of a single one.
LANES, CHUNKS = {"LEAST_LANE": 20, "CHUNK": 20, "CPU_LANES": 4}, {"CHUNK": 8}
FALLING = ModelConfig(5, 4, 2, 2, token_input_all_layers=False, ffn_num_layers=2, activation="gelu")


@pytest.mark.parametrize(
    ("sizes", "capacity", "model"),
    [
        pytest.param(LANES, 200, ModelConfig(5, 4, 2, 3), id="lanes"),
        pytest.param(LANES, 100, FALLING, id="falling", marks=pytest.mark.slow),
        pytest.param(CHUNKS, 30, ModelConfig(4, 6, 3, 1), id="chunks"),
    ],
)
def test_contexts_are_those_of_the_equations(monkeypatch, sizes, capacity, model):
    for name, size in sizes.items():
        monkeypatch.setattr(recurrence, name, size)
    exact_contexts = jax.jit(reference.exact_contexts, static_argnames="model")

    @settings(max_examples=8, deadline=None)
    @given(tokens=st.integers(1, capacity), seed=st.integers(0, 2**31 - 1))
    def check(tokens, seed):
        rng = np.random.default_rng(seed)
        params = drawn(rng, reference.init_context_block, model)
        vectors, ids = jnp.asarray(rng.normal(size=(5, model.embed_dim))), rng.integers(0, 5, capacity)
        start = jnp.asarray(rng.normal(size=model.context_dim))
        block = module(ContextBlock, model, params)
        stream = TokenStream(vectors, ids[:tokens], capacity)
        found = sequential_contexts(block, stream, start).array
        window = reference.token_windows(vectors[ids], model.num_input_tokens)
        expected = exact_contexts(params, window, start, model)
        np.testing.assert_allclose(found[:tokens], expected[:tokens], rtol=0, atol=1e-11)
        assert not found[tokens:].any()

    jax.clear_caches()
    # Flax's LayerNorm mixes types under strict promotion.
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        check()
    jax.clear_caches()


@pytest.mark.parametrize("K", cases([1, 2, 3], fast=[3]))
def test_sequential_contexts_equal_the_original(golden, K):
    _, arrays = golden("unit_windows_sequential")
    vectors = jnp.asarray(arrays["token_embeds"])
    block = ContextBlock(ModelConfig(6, 4, 2, K), rngs=nnx.Rngs(0))
    load_block(block, arrays, f"seq_K{K}/param/")
    contexts = sequential_contexts(block, TokenStream(vectors, np.arange(11))).array
    np.testing.assert_allclose(contexts, arrays[f"seq_K{K}/contexts"], rtol=0, atol=2e-6)
    # From the contexts before, one pass makes every layer again: what phase 2 does.
    places = jnp.arange(11)
    window = token_windows(vectors, places, places, K)
    np.testing.assert_allclose(window, arrays[f"seq_K{K}/combined"], rtol=0, atol=0)
    layers = block.every_layer(predecessors(contexts, places), window)
    np.testing.assert_allclose(layers, arrays[f"seq_K{K}/cache"], rtol=0, atol=2e-6)


@pytest.mark.parametrize("K", cases([1, 2, 3], fast=[3]))
def test_a_given_start_equals_the_original(golden, K):
    _, arrays = golden("unit_windows_sequential")
    block = ContextBlock(ModelConfig(6, 4, 2, K), rngs=nnx.Rngs(0))
    load_block(block, arrays, f"seq_K{K}/param/")
    start = jnp.asarray(arrays[f"seq_K{K}/prev"][-1])
    stream = TokenStream(jnp.asarray(arrays["token_embeds"]), np.arange(11))
    contexts = sequential_contexts(block, stream, start).array
    np.testing.assert_allclose(contexts, arrays[f"seq_K{K}/contexts_from_prev"], rtol=0, atol=2e-6)


@pytest.mark.parametrize("capacity", cases([31, 32, 50], fast=[50]))
def test_room_for_longer_streams_is_left_zero(small_chunks, capacity):
    rng = np.random.default_rng(0)
    block = ContextBlock(ModelConfig(6, 5, 2, 2), rngs=nnx.Rngs(0))
    vectors, ids = jnp.asarray(rng.normal(size=(7, 5)), jnp.float32), rng.integers(0, 7, 30)
    roomy = sequential_contexts(block, TokenStream(vectors, ids, capacity)).array
    assert roomy.shape == (capacity, 6)
    np.testing.assert_array_equal(roomy[:30], sequential_contexts(block, TokenStream(vectors, ids)).array)
    assert not roomy[30:].any()


def reaches(jacobian):
    """Which output rows move with which token vectors, [outputs, tokens]."""
    return np.abs(np.asarray(jacobian)).sum(axis=(1, 3)) > 0


@pytest.mark.parametrize("K", cases([1, 3], fast=[3]))
def test_no_context_and_no_logit_depends_on_a_later_token(K):
    tokens = 9
    config = ModelConfig(6, 5, 2, K)
    context_block, token_block = ContextBlock(config, rngs=nnx.Rngs(0)), TokenBlock(config, rngs=nnx.Rngs(1))
    places = jnp.arange(tokens)
    vectors = jax.random.normal(jax.random.key(0), (tokens, 5))  # a token of its own at each place

    def contexts_of(vectors):
        return sequential_contexts(context_block, TokenStream(vectors, np.arange(tokens))).array

    def logits_of(vectors):
        window = token_windows(vectors, places, places, K)
        layers = context_block.every_layer(predecessors(contexts_of(vectors), places), window)
        return token_block(layers, window)

    before = np.tril(np.ones((tokens, tokens), bool))
    # Every earlier token is reached, so the test can fail either way.
    np.testing.assert_array_equal(reaches(jax.jit(jax.jacfwd(contexts_of))(vectors)), before)
    np.testing.assert_array_equal(reaches(jax.jit(jax.jacfwd(logits_of))(vectors)), before)
