import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cvfp_jax.config.settings import ModelConfig
from cvfp_jax.contexts import recurrence
from cvfp_jax.contexts.parallel import parallel_contexts
from cvfp_jax.contexts.recurrence import predecessors, sequential_contexts
from cvfp_jax.contexts.store import as_store
from cvfp_jax.core.model import ContextBlock, TokenBlock, token_windows
from cvfp_jax.core.token_stream import TokenStream
from tests import oracle
from tests.original import load_block, named


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of 8 tokens, which programs made before know nothing of."""
    monkeypatch.setattr(recurrence, "CHUNK", 8)
    jax.clear_caches()
    yield
    jax.clear_caches()


@pytest.mark.parametrize("K", [1, 3])
@pytest.mark.parametrize("tokens", [97, 200])
def test_lanes_equal_the_oracle_in_double_precision(monkeypatch, tokens, K):
    """Windows reach over the borders of lanes, and 200 tokens are two chunks and a bit of a third."""
    monkeypatch.setattr(recurrence, "LEAST_LANE", 20)
    monkeypatch.setattr(recurrence, "CHUNK", 20)
    monkeypatch.setattr(recurrence, "CPU_LANES", 4)
    jax.clear_caches()
    rng = np.random.default_rng(tokens)
    ids = rng.integers(0, 5, tokens)
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        block = ContextBlock(ModelConfig(5, 4, 2, K), rngs=nnx.Rngs(1))
        load_block(block, named(block), dtype=np.float64)
        vectors = rng.normal(size=(5, 4))
        contexts = sequential_contexts(block, TokenStream(jnp.asarray(vectors), ids)).array
        expected = oracle.recurrence(named(block), 2, oracle.windows(vectors[ids], K), np.zeros(5))
        np.testing.assert_allclose(contexts, expected, rtol=0, atol=1e-11)
    jax.clear_caches()


@pytest.mark.parametrize("K", [1, 2, 3])
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


@pytest.mark.parametrize("K", [1, 2, 3])
def test_a_given_start_equals_the_original(golden, K):
    _, arrays = golden("unit_windows_sequential")
    block = ContextBlock(ModelConfig(6, 4, 2, K), rngs=nnx.Rngs(0))
    load_block(block, arrays, f"seq_K{K}/param/")
    start = jnp.asarray(arrays[f"seq_K{K}/prev"][-1])
    stream = TokenStream(jnp.asarray(arrays["token_embeds"]), np.arange(11))
    contexts = sequential_contexts(block, stream, start).array
    np.testing.assert_allclose(contexts, arrays[f"seq_K{K}/contexts_from_prev"], rtol=0, atol=2e-6)


@pytest.mark.parametrize("tokens", [1, 8, 30])
def test_chunks_equal_the_oracle_in_double_precision(small_chunks, tokens):
    rng = np.random.default_rng(tokens)
    ids = rng.integers(0, 5, tokens)
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        block = ContextBlock(ModelConfig(5, 4, 3, 2), rngs=nnx.Rngs(1))
        load_block(block, named(block), dtype=np.float64)
        vectors = rng.normal(size=(5, 4))
        contexts = sequential_contexts(block, TokenStream(jnp.asarray(vectors), ids)).array
        expected = oracle.recurrence(named(block), 3, oracle.windows(vectors[ids], 2), np.zeros(5))
        np.testing.assert_allclose(contexts, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("capacity", [31, 32, 50])
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


@pytest.mark.parametrize("K", [1, 3])
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


@pytest.mark.parametrize("rows", [30, 37])
def test_parallel_contexts_are_one_application_to_the_predecessors(small_chunks, rows):
    rng = np.random.default_rng(0)
    block = ContextBlock(ModelConfig(6, 5, 2, 2), rngs=nnx.Rngs(0))
    vectors, ids = jnp.asarray(rng.normal(size=(7, 5)), jnp.float32), rng.integers(0, 7, 30)
    given = jnp.asarray(rng.normal(size=(rows, 6)), jnp.float32)
    found = parallel_contexts(block, TokenStream(vectors, ids), as_store(given)).array
    assert len(found) == rows
    places = jnp.arange(30)
    window = token_windows(vectors, jnp.asarray(ids), places, 2)
    np.testing.assert_allclose(found[:30], block(predecessors(given, places), window), rtol=0, atol=1e-6)
