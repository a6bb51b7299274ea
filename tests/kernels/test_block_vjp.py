"""The gradient in closed form against automatic differentiation of the equations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from cvfp_jax.config.settings import ModelConfig
from cvfp_jax.core import reference
from cvfp_jax.core.model import ContextBlock
from cvfp_jax.kernels.block_vjp import backward, forward, into_params, no_gradient, output, output_sum
from tests.plain import close, drawn, module, of_block
from tests.tiers import cases

pytestmark = pytest.mark.usefixtures("quick_compilation")

CONFIGS = [
    ModelConfig(6, 5, 3, 2),
    ModelConfig(6, 5, 2, 1, activation="gelu", ffn_num_layers=2),
    ModelConfig(6, 5, 2, 1, ffn_num_layers=2, token_input_all_layers=False),
    ModelConfig(6, 5, 1, 1),
    ModelConfig(6, 5, 2, 1, activation="gelu"),
    ModelConfig(6, 5, 3, 2, token_input_all_layers=False),
]
# The first three have each setting once.
FAST = CONFIGS[:3]


def problem(model, precision="f32", dtype=np.float32, seed=0):
    """Parameters, a block of them, and seven rows of contexts, windows and gradients."""
    rng, D = np.random.default_rng(seed), model.context_dim
    params = drawn(rng, reference.init_context_block, model, dtype)
    widths = D, model.num_input_tokens * model.embed_dim, D
    rows = [jnp.asarray(rng.normal(size=(7, width)), dtype) for width in widths]
    return params, module(functools.partial(ContextBlock, precision=precision), model, params), *rows


def in_closed_form(block, context, window, gradient):
    graphdef, params = nnx.split(block)
    return _in_closed_form(params, context, window, gradient, graphdef)


@functools.partial(jax.jit, static_argnames="graphdef")
def _in_closed_form(params, context, window, gradient, graphdef):
    block = nnx.merge(graphdef, params)
    terms, of_params = jax.vjp(lambda params: nnx.merge(graphdef, params).token_terms(window), params)
    out, kept = forward(block, context, terms)
    gradients, of_terms = backward(block, context, kept, gradient)
    of_terms = [
        jnp.broadcast_to(of_term, term.shape) if len(term) > 1 else of_term.sum(0, keepdims=True)
        for of_term, term in zip(of_terms, terms, strict=True)
    ]
    return out, into_params(graphdef, of_params(of_terms)[0], gradients)


@functools.partial(jax.jit, static_argnames="model")
def by_differentiation(params, context, window, gradient, model):
    out, of_params = jax.vjp(
        lambda params: reference.context_block(params, context, window, model)[-1], params
    )
    return out, of_params(gradient)[0]


@pytest.mark.parametrize("model", cases(CONFIGS, FAST), ids=str)
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**31 - 1))
def test_contexts_and_gradients_are_those_of_the_equations(model, seed):
    with jax.enable_x64(True):
        params, block, *rows = problem(model, dtype=np.float64, seed=seed)
        out, found = in_closed_form(block, *rows)
        expected, by_hand = by_differentiation(params, *rows, model)
        np.testing.assert_allclose(out, expected, rtol=0, atol=1e-12)
        close(of_block(nnx.merge(nnx.split(block)[0], found)), by_hand, atol=1e-11)


@pytest.mark.parametrize("model", cases(CONFIGS, FAST), ids=str)
def test_no_gradient_has_the_shapes_of_one(model):
    _, block, *rows = problem(model)
    found = jax.eval_shape(lambda: forward_gradient(block, *rows))
    zeros = jax.eval_shape(lambda: no_gradient(block))
    assert jax.tree.map(jnp.shape, zeros) == jax.tree.map(jnp.shape, found)


def forward_gradient(block, context, window, gradient):
    _, kept = forward(block, context, block.token_terms(window))
    return backward(block, context, kept, gradient)[0]


@pytest.mark.parametrize("config", cases(CONFIGS[:2], CONFIGS[:1]), ids=str)
def test_bf16_gradients_are_near_those_in_single_precision(config):
    exact = in_closed_form(*problem(config)[1:])[1]
    near = in_closed_form(*problem(config, "bf16")[1:])[1]
    for path, leaf in jax.tree.leaves_with_path(exact):
        other = dict(jax.tree.leaves_with_path(near))[path]
        assert other.dtype == jnp.float32
        error = np.linalg.norm(np.asarray(other - leaf)) / np.linalg.norm(np.asarray(leaf))
        # A bias of the last LayerNorm is added after all products.
        assert error < 0.05, jax.tree_util.keystr(path)
        assert error > 0 or "norm" in jax.tree_util.keystr(path)


def test_a_sum_of_outputs_is_that_of_the_rows_that_are_not_written_down():
    _, block, context, window, _ = problem(ModelConfig(6, 5, 2, 1))
    weights = jnp.array([1.0, 0, 2, 0, 1, 1, 0])

    @jax.jit
    def outputs(context, window):
        out, kept = forward(block, context, block.token_terms(window))
        last = block.layers[-1], kept[-1]
        return out, output(*last), output_sum(*last, weights)

    out, again, total = outputs(context, window)
    np.testing.assert_array_equal(again, out)
    np.testing.assert_allclose(total, weights @ out, rtol=0, atol=2e-6)
