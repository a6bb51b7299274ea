import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from cvfp_jax.config.settings import ModelConfig
from cvfp_jax.core.diversity import DIVERSITY_LOSSES
from cvfp_jax.core.model import ContextBlock
from cvfp_jax.kernels.block_vjp import forward, output_sum
from cvfp_jax.kernels.diversity_vjp import accumulate, from_moments, from_rows, no_moments, of_moments

pytestmark = pytest.mark.usefixtures("quick_compilation")


@jax.jit
def with_tile(moments, contexts, counted):
    return accumulate(moments, contexts, counted, jnp.where(counted[:, None], contexts, 0).sum(axis=0))


def value_and_gradient(name, contexts, counted, key, tile=5):
    if not of_moments(name):
        return from_rows(name, contexts, counted, key)
    moments = no_moments(contexts.shape[1], contexts.dtype)
    for first in range(0, len(contexts), tile):
        moments = with_tile(moments, contexts[first : first + tile], counted[first : first + tile])
    return from_moments(name, moments)


@functools.partial(jax.jit, static_argnames="name")
def in_tiles_and_as_defined(name, contexts, counted, key):
    loss, gradient = value_and_gradient(name, contexts, counted, key)
    found = jnp.where(counted[:, None], gradient.of_rows(contexts, gradient.rest_BxD), 0)
    return (loss, found), jax.value_and_grad(DIVERSITY_LOSSES[name])(contexts, counted, key)


@pytest.mark.parametrize("name", ["MCDL", "OACD", "WMSE", "HSIC"])
@settings(max_examples=10, deadline=None)
@given(valid=st.integers(1, 12), seed=st.integers(0, 2**31 - 1))
def test_a_gradient_is_that_of_the_loss(name, valid, seed):
    with jax.enable_x64(True):
        contexts = jnp.asarray(0.5 + np.random.default_rng(seed).normal(size=(12, 4)))
        counted = jnp.arange(12) < valid
        (loss, found), (expected, by_hand) = in_tiles_and_as_defined(
            name, contexts, counted, jax.random.key(seed)
        )
        assert float(loss) == pytest.approx(float(expected), rel=1e-12, abs=1e-14)
        np.testing.assert_allclose(found, by_hand, rtol=0, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=5), st.integers(0, 2**31 - 1))
def test_moments_of_tiles_are_those_of_all_rows(sizes, seed):
    rng = np.random.default_rng(seed)
    # Far from zero, where a sum of squares less the mean's square would lose all digits.
    rows = (1000 + rng.standard_normal((sum(sizes), 3))).astype(np.float32)
    counted = rng.random(len(rows)) < 0.7
    moments, first = no_moments(3, jnp.float32), 0
    for size in sizes:
        moments = with_tile(moments, rows[first : first + size], counted[first : first + size])
        first += size
    kept = rows[counted].astype(np.float64)
    assert moments.rows == len(kept)
    if len(kept):
        np.testing.assert_allclose(moments.mean_D, kept.mean(0), rtol=1e-6)
        squares = np.square(kept - kept.mean(0)).sum()
        np.testing.assert_allclose(moments.squares, squares, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["MCDL", "OACD"])
def test_equal_rows_have_a_finite_gradient(name):
    (loss, found), (_, expected) = in_tiles_and_as_defined(
        name, jnp.full((4, 3), 2.0), jnp.ones(4, bool), jax.random.key(0)
    )
    assert np.isfinite(loss)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@jax.jit
def contexts_and_moments(before):
    block, weights = ContextBlock(ModelConfig(96, 8, 1, 1), rngs=nnx.Rngs(0)), jnp.ones(1000)
    contexts, kept = forward(block, before, block.token_terms(jnp.ones((1000, 8))))
    total = output_sum(block.layers[-1], kept[-1], weights)
    return contexts, accumulate(no_moments(96, jnp.float32), contexts, weights > 0, total)


@pytest.mark.parametrize("spread", [1.0, 1e-3, 1e-5])
def test_moments_of_nearly_equal_contexts_keep_their_digits(spread):
    # A thousand rows one after the other in single precision: the sum alone would be off by 1e-5 of itself.
    rng = np.random.default_rng(0)
    before = rng.standard_normal((1, 96)) + spread * rng.standard_normal((1000, 96))
    contexts, moments = contexts_and_moments(jnp.asarray(before, jnp.float32))
    exact = np.asarray(contexts, np.float64)
    np.testing.assert_allclose(moments.mean_D, exact.mean(axis=0), rtol=0, atol=5e-7)
    np.testing.assert_allclose(moments.squares, np.square(exact - exact.mean(axis=0)).sum(), rtol=1e-4)
