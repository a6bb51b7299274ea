import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from cvfp_jax.config import ModelConfig
from cvfp_jax.model import ContextBlock, token_windows
from cvfp_jax.token_tables import (
    add_terms,
    distinct_tokens,
    terms_of,
    token_tables,
    window_places,
    windowed,
)

CONFIGS = [
    ModelConfig(6, 5, 1, 1),
    ModelConfig(6, 5, 2, 3),
    ModelConfig(6, 5, 3, 2, token_input_all_layers=False),
    ModelConfig(6, 5, 1, 2, ffn_num_layers=2),
]


def stream(K, tokens=17, seed=0):
    rng = np.random.default_rng(seed)
    vectors = jnp.asarray(rng.normal(size=(11, 5)), jnp.float32)
    return vectors, rng.integers(0, 11, tokens)


@settings(deadline=None)  # the first example compiles
@given(st.lists(st.integers(0, 8), min_size=1, max_size=40), st.integers(0, 300))
def test_places_stand_for_the_tokens(ids, capacity):
    vectors = jnp.arange(1.0, 10.0)[:, None]
    found, places = distinct_tokens(vectors, np.array(ids), capacity)
    assert np.asarray(found)[places, 0].tolist() == [float(i + 1) for i in ids]
    assert len(found) > max(capacity, len(set(ids)))
    assert not np.asarray(found[len(set(ids)) :]).any()


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_terms_are_those_of_the_windows(config):
    K = config.num_input_tokens
    vectors, ids = stream(K)
    block = ContextBlock(config, rngs=nnx.Rngs(0))
    found, places = distinct_tokens(vectors, ids)
    in_row = jnp.asarray(windowed(places, K, len(found)))
    places = window_places(in_row, jnp.arange(len(ids)), K)
    window = token_windows(vectors, jnp.asarray(ids), jnp.arange(len(ids)), K)
    for tables, expected in zip(token_tables(block, found), block.token_terms(window), strict=True):
        terms = jnp.broadcast_to(terms_of(tables, places), expected.shape)
        np.testing.assert_allclose(terms, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_added_terms_are_the_gradient_of_terms(config):
    K = config.num_input_tokens
    vectors, ids = stream(K)
    found, places = distinct_tokens(vectors, ids)
    in_row = jnp.asarray(windowed(places, K, len(found)))
    places = window_places(in_row, jnp.arange(len(ids)), K)
    block = ContextBlock(config, rngs=nnx.Rngs(0))
    for tables in token_tables(block, found):
        shape = len(ids), tables[0].shape[1]
        gradient = jax.random.normal(jax.random.key(1), shape)

        def spread(tables, shape=shape):
            return jnp.broadcast_to(terms_of(tables, places), shape)

        (expected,) = jax.vjp(spread, tables)[1](gradient)
        zeros = jax.tree.map(jnp.zeros_like, tables)
        for a, b in zip(add_terms(zeros, places, gradient), expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=2e-6)
