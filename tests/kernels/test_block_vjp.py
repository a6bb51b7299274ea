"""The gradient in closed form against automatic differentiation of the equations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cvfp_jax.config.settings import ModelConfig
from cvfp_jax.core.model import ContextBlock
from cvfp_jax.kernels.block_vjp import backward, forward, into_params, no_gradient, output, output_sum

CONFIGS = [
    ModelConfig(6, 5, 1, 1),
    ModelConfig(6, 5, 3, 2),
    ModelConfig(6, 5, 2, 1, activation="gelu"),
    ModelConfig(6, 5, 3, 2, token_input_all_layers=False),
    ModelConfig(6, 5, 2, 1, activation="gelu", ffn_num_layers=2),
    ModelConfig(6, 5, 2, 1, ffn_num_layers=2, token_input_all_layers=False),
]


def problem(config, precision="f32", rows=7):
    """A block, contexts before, a window and a gradient; gains and biases are neither one nor zero."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(rng.standard_normal(shape), jnp.float32)

    def value(path, leaf):
        return 0.3 * normal(*leaf.shape) + ("scale" in jax.tree_util.keystr(path))

    block = nnx.eval_shape(lambda: ContextBlock(config, precision, rngs=nnx.Rngs(0)))
    graphdef, shapes = nnx.split(block)
    params = jax.tree.map_with_path(value, shapes)
    context = normal(rows, config.context_dim)
    window = normal(rows, config.num_input_tokens * config.embed_dim)
    return graphdef, params, context, window, normal(*context.shape)


@functools.partial(jax.jit, static_argnums=0)
def by_differentiation(graphdef, params, context, window, gradient):
    out, of_params = jax.vjp(lambda params: nnx.merge(graphdef, params)(context, window), params)
    return out, of_params(gradient)[0]


@functools.partial(jax.jit, static_argnums=0)
def in_closed_form(graphdef, params, context, window, gradient):
    """The contexts, the gradient as the parameters are kept, and without its token terms."""
    block = nnx.merge(graphdef, params)
    terms, of_params = jax.vjp(lambda params: nnx.merge(graphdef, params).token_terms(window), params)
    out, kept = forward(block, context, terms)
    gradients, of_terms = backward(block, context, kept, gradient)
    of_terms = [
        jnp.broadcast_to(of_term, term.shape) if len(term) > 1 else of_term.sum(0, keepdims=True)
        for of_term, term in zip(of_terms, terms, strict=True)
    ]
    return out, into_params(graphdef, of_params(of_terms)[0], gradients), gradients


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_contexts_and_gradients_are_those_of_the_equations(config):
    graphdef, params, *arrays = problem(config)
    expected, by_hand = by_differentiation(graphdef, params, *arrays)
    out, found, gradients = in_closed_form(graphdef, params, *arrays)
    np.testing.assert_allclose(out, expected, rtol=0, atol=2e-6)
    assert jax.tree.structure(found) == jax.tree.structure(by_hand)
    for path, leaf in jax.tree.leaves_with_path(by_hand):
        other = dict(jax.tree.leaves_with_path(found))[path]
        np.testing.assert_allclose(other, leaf, rtol=0, atol=2e-5, err_msg=jax.tree_util.keystr(path))
    zeros = no_gradient(nnx.merge(graphdef, params))
    assert jax.tree.map(jnp.shape, zeros) == jax.tree.map(jnp.shape, gradients)
    assert not any(leaf.any() for leaf in jax.tree.map(np.asarray, jax.tree.leaves(zeros)))


@pytest.mark.parametrize("config", [CONFIGS[1], CONFIGS[4]], ids=str)
def test_bf16_gradients_are_near_those_in_single_precision(config):
    exact = in_closed_form(*problem(config))[1]
    near = in_closed_form(*problem(config, "bf16"))[1]
    for path, leaf in jax.tree.leaves_with_path(exact):
        other = dict(jax.tree.leaves_with_path(near))[path]
        assert other.dtype == jnp.float32
        error = np.linalg.norm(np.asarray(other - leaf)) / np.linalg.norm(np.asarray(leaf))
        # A bias of the last LayerNorm is added after all products.
        assert error < 0.05, jax.tree_util.keystr(path)
        assert error > 0 or "norm" in jax.tree_util.keystr(path)


def test_a_sum_of_outputs_is_that_of_the_rows_that_are_not_written_down():
    graphdef, params, context, window, _ = problem(ModelConfig(6, 5, 2, 1))
    weights = jnp.array([1.0, 0, 2, 0, 1, 1, 0])

    @jax.jit
    def outputs(params):
        block = nnx.merge(graphdef, params)
        out, kept = forward(block, context, block.token_terms(window))
        last = block.layers[-1], kept[-1]
        return out, output(*last), output_sum(*last, weights)

    out, again, total = outputs(params)
    np.testing.assert_array_equal(again, out)
    np.testing.assert_allclose(total, weights @ out, rtol=0, atol=2e-6)
