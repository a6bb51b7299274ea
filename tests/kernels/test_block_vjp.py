"""The gradient in closed form against automatic differentiation of the equations."""

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
    block = ContextBlock(config, precision, rngs=nnx.Rngs(0))
    for number, layer in enumerate(block.layers):
        # A gain and a bias that are neither one nor zero.
        keys = jax.random.split(jax.random.key(number), 2)
        layer.norm.scale[...] = 1 + 0.3 * jax.random.normal(keys[0], layer.norm.scale.shape)
        layer.norm.bias[...] = 0.3 * jax.random.normal(keys[1], layer.norm.bias.shape)
    keys = jax.random.split(jax.random.key(9), 3)
    context = jax.random.normal(keys[0], (rows, config.context_dim))
    window = jax.random.normal(keys[1], (rows, config.num_input_tokens * config.embed_dim))
    return block, context, window, jax.random.normal(keys[2], context.shape)


def in_closed_form(block, context, window, gradient):
    graphdef, params = nnx.split(block)
    terms, of_params = jax.vjp(lambda params: nnx.merge(graphdef, params).token_terms(window), params)
    out, kept = forward(block, context, terms)
    gradients, of_terms = backward(block, context, kept, gradient)
    of_terms = [
        jnp.broadcast_to(of_term, term.shape) if len(term) > 1 else of_term.sum(0, keepdims=True)
        for of_term, term in zip(of_terms, terms, strict=True)
    ]
    return out, into_params(graphdef, of_params(of_terms)[0], gradients)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_contexts_and_gradients_are_those_of_the_equations(config):
    block, context, window, gradient = problem(config)
    graphdef, params = nnx.split(block)
    expected, of_params = jax.vjp(lambda params: nnx.merge(graphdef, params)(context, window), params)
    out, found = in_closed_form(block, context, window, gradient)
    np.testing.assert_allclose(out, expected, rtol=0, atol=2e-6)
    (by_hand,) = of_params(gradient)
    assert jax.tree.structure(found) == jax.tree.structure(by_hand)
    for path, leaf in jax.tree.leaves_with_path(by_hand):
        other = dict(jax.tree.leaves_with_path(found))[path]
        np.testing.assert_allclose(other, leaf, rtol=0, atol=2e-5, err_msg=jax.tree_util.keystr(path))
    zeros = no_gradient(block)
    assert jax.tree.structure(zeros) == jax.tree.structure(forward_gradient(block, context, window, gradient))


def forward_gradient(block, context, window, gradient):
    _, kept = forward(block, context, block.token_terms(window))
    return backward(block, context, kept, gradient)[0]


@pytest.mark.parametrize("config", [CONFIGS[1], CONFIGS[4]], ids=str)
def test_bf16_gradients_are_near_those_in_single_precision(config):
    exact = in_closed_form(*problem(config))[1]
    near = in_closed_form(*problem(config, "bf16"))[1]
    for path, leaf in jax.tree.leaves_with_path(exact):
        other = dict(jax.tree.leaves_with_path(near))[path]
        assert other.dtype == jnp.float32
        error = float(jnp.linalg.norm(other - leaf) / jnp.linalg.norm(leaf))
        # A bias of the last LayerNorm is added after all products.
        assert error < 0.05, jax.tree_util.keystr(path)
        assert error > 0 or "norm" in jax.tree_util.keystr(path)


def test_a_sum_of_outputs_is_that_of_the_rows_that_are_not_written_down():
    block, context, window, _ = problem(ModelConfig(6, 5, 2, 1))
    out, kept = forward(block, context, block.token_terms(window))
    np.testing.assert_array_equal(output(block.layers[-1], kept[-1]), out)
    weights = jnp.array([1.0, 0, 2, 0, 1, 1, 0])
    np.testing.assert_allclose(
        output_sum(block.layers[-1], kept[-1], weights), weights @ out, rtol=0, atol=2e-6
    )
