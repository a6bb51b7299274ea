import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvfp_jax.core.optimizer import adam, clip_by_global_norm, scale_by_adam

pytestmark = pytest.mark.usefixtures("quick_compilation")
NUMBERS = st.floats(-1e3, 1e3, width=32)


@jax.jit
def clipped_to(gradient, max_norm):
    clip = clip_by_global_norm(max_norm)
    return clip.update(gradient, clip.init(gradient))[0]


@settings(max_examples=50, deadline=None)
@given(st.lists(NUMBERS, min_size=1, max_size=6), st.floats(1e-3, 1e3))
def test_clipping_bounds_the_norm_and_keeps_the_direction(values, max_norm):
    gradient = np.zeros(6, np.float32)  # of one shape, to compile once
    gradient[: len(values)] = values
    clipped = clipped_to(gradient, np.float32(max_norm))
    norm = np.linalg.norm(gradient.astype(np.float64))
    assert np.linalg.norm(clipped) <= max_norm * (1 + 1e-5) or norm <= max_norm
    expected = gradient * min(1.0, max_norm / (norm + 1e-6))
    np.testing.assert_allclose(clipped, expected, rtol=1e-5, atol=1e-30)


def test_adam_equals_double_precision_from_the_first_step_on():
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(300, 5)) * np.array([1e-7, 1e-4, 1.0, 10.0, 1e3])
    optimizer = adam(0.01, clip_by_global_norm(1e9))
    parameters = jnp.zeros(5)
    state = optimizer.init(parameters)
    step = jax.jit(lambda g, state, p: optimizer.update(g, state, p))
    m = v = x = np.zeros(5)
    for count, gradient in enumerate(gradients, 1):
        single = gradient.astype(np.float32)
        updates, state = step(jnp.asarray(single), state, parameters)
        m, v = 0.9 * m + 0.1 * single, 0.999 * v + 0.001 * single.astype(np.float64) ** 2
        expected = -0.01 * m / (1 - 0.9**count) / (np.sqrt(v / (1 - 0.999**count)) + 1e-8)
        np.testing.assert_allclose(updates, expected, rtol=0, atol=2e-8)
        parameters, x = optax.apply_updates(parameters, updates), x + expected
    np.testing.assert_allclose(parameters, x, rtol=0, atol=1e-6)


def test_the_state_is_that_of_optax():
    ours, theirs = scale_by_adam(), optax.scale_by_adam()
    parameters = {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}
    assert jax.tree.structure(ours.init(parameters)) == jax.tree.structure(theirs.init(parameters))


def test_a_zero_gradient_moves_nothing():
    optimizer = adam(0.01, clip_by_global_norm(1.0))
    updates, _ = optimizer.update(jnp.zeros(3), optimizer.init(jnp.zeros(3)), jnp.zeros(3))
    assert updates.tolist() == pytest.approx([0.0, 0.0, 0.0], abs=0.0)
