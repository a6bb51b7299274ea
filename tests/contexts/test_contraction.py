import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from cvfp_jax.config.settings import ModelConfig
from cvfp_jax.contexts import contraction as measured
from cvfp_jax.contexts.contraction import contraction
from cvfp_jax.contexts.recurrence import sequential_contexts
from cvfp_jax.core.model import ContextBlock, token_windows
from cvfp_jax.core.token_stream import TokenStream

pytestmark = pytest.mark.usefixtures("quick_compilation")
D, E, K, N = 16, 4, 2, 150
CONFIG = ModelConfig(context_dim=D, embed_dim=E, num_input_tokens=K)


def make_block(gain, config=CONFIG):
    """A block that forgets the sooner, the greater the gain, up to 8."""
    block = ContextBlock(config, rngs=nnx.Rngs(1))
    for layer in block.layers:
        kernel = layer.linear.kernel[...]
        layer.linear.kernel = nnx.Param(kernel.at[: layer.context_dim].multiply(gain))
    return block


def make_stream(tokens=N, seed=0):
    rng = np.random.default_rng(seed)
    vectors = jnp.asarray(rng.normal(size=(7, E)), jnp.float32)
    return TokenStream(vectors, rng.integers(0, 7, tokens), capacity=N)


@functools.partial(jax.jit, static_argnames="graphdef")
def steps(params, before, windows, graphdef):
    """One step from each context, and its Jacobian."""

    def step(context, window):
        return nnx.merge(graphdef, params)(context[None], window[None])[0]

    return jax.vmap(step)(before, windows), jax.vmap(jax.jacobian(step))(before, windows)


def steps_from(block, stream, contexts):
    """The steps from the contexts before all tokens of a stream, zero before the first."""
    graphdef, params = nnx.split(block)
    ids = jnp.asarray(np.pad(stream.ids_N, (0, N - len(stream))))
    windows = token_windows(stream.vectors_VxE, ids, jnp.arange(N), K)
    before = jnp.concatenate([jnp.zeros((1, D)), contexts[: N - 1]])
    new, jacobians = steps(params, before, windows, graphdef)
    return new[: len(stream)], np.asarray(jacobians[: len(stream)], np.float64)


def exponent_by_qr(jacobians):
    """The mean log of R's first entry, the Jacobians multiplied out one by one with a QR of each product."""
    start = np.asarray(jax.random.normal(jax.random.key(0), (D,)))
    basis = np.linalg.qr(np.column_stack([start, np.eye(D)[:, 1:]]))[0]
    total = 0.0
    for jacobian in jacobians:
        basis, triangle = np.linalg.qr(jacobian @ basis)
        total += np.log(abs(triangle[0, 0]))
    return total / len(jacobians)


@settings(max_examples=8, deadline=None)
@given(st.sampled_from([0.5, 2.0, 8.0]), st.integers(1, N))
def test_the_exponent_is_that_of_a_product_of_jacobians(gain, tokens):
    block, stream = make_block(gain), make_stream(tokens, seed=tokens)
    contexts = sequential_contexts(block, stream).array
    found = contraction(block, stream, contexts).lyapunov_exponent
    _, jacobians = steps_from(block, stream, contexts)
    assert found == pytest.approx(exponent_by_qr(jacobians), abs=1e-4)


def test_the_iterations_and_their_rate_are_those_of_a_plain_loop():
    block, stream = make_block(8.0), make_stream()
    exact = sequential_contexts(block, stream).array
    contexts, changes = jnp.zeros_like(exact), []
    while float(jnp.sqrt(jnp.square(contexts - exact).mean())) > 1e-6:
        new, _ = steps_from(block, stream, contexts)
        changes.append(float(jnp.sqrt(jnp.square(new - contexts).mean())))
        contexts = new
    found = contraction(block, stream, exact)
    assert abs(found.iterations - len(changes)) <= 1  # a rounding may decide
    assert found.iterations < N / 2
    rate = (changes[-1] / changes[0]) ** (1 / (len(changes) - 1))
    assert found.rate == pytest.approx(rate, abs=0.01)
    assert found.lyapunov_exponent < -0.2


def test_a_recurrence_that_does_not_forget_is_told(monkeypatch):
    monkeypatch.setattr(measured, "MAX_ITERATIONS", 30)
    # Another number of tokens than in the tests above, which compile for the constant as it is.
    block, stream = make_block(0.5), make_stream()[: N - 1]
    contexts = sequential_contexts(block, stream).array[: N - 1]
    found = contraction(block, stream, contexts)
    assert found.lyapunov_exponent > -0.05
    assert found.iterations is None
    assert found.rate > 0.9


def test_a_map_that_ignores_contexts_settles_at_once_and_has_no_exponent():
    # A LayerNorm of width one returns its bias.
    block = make_block(1.0, ModelConfig(context_dim=1, embed_dim=E, num_input_tokens=K))
    stream = make_stream()
    found = contraction(block, stream, sequential_contexts(block, stream).array)
    assert found.lyapunov_exponent is None
    assert found.iterations == 0
    assert found.rate is None
