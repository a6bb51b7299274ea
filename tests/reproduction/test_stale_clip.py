"""Left-over gradients count in the clip as they do in the original, which scales all of them in place."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvfp_jax.core.optimizer import clip_by_global_norm
from cvfp_jax.reproduction.stale_clip import StaleClip, stale_clip, stale_norm_after

NORMS = st.lists(st.floats(0, 100, width=32), min_size=1, max_size=8)


def torch_clip(gradients, max_norm):
    """What ``torch.nn.utils.clip_grad_norm_`` does to the gradients of all parameters."""
    norm = np.sqrt(sum(np.square(gradient).sum() for gradient in gradients))
    for gradient in gradients:
        gradient *= min(1.0, max_norm / (norm + 1e-6))


def gradients_of(norms, width=5):
    """Gradients with these norms, in double precision."""
    directions = np.random.default_rng(0).normal(size=(len(norms), width))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return np.array(norms)[:, None] * directions


@settings(max_examples=50, deadline=None)
@given(NORMS, st.floats(0.1, 10), st.floats(0, 100))
def test_steps_are_those_of_a_clip_over_all_parameters(norms, max_norm, stale_norm):
    left_over = np.array([0.6, -0.8]) * stale_norm
    clip = StaleClip(stale_norm)(max_norm)
    state = clip.init(jnp.zeros(5))
    for own in gradients_of(norms):
        clipped, state = clip.update(jnp.asarray(own, jnp.float32), state)
        torch_clip([own, left_over], max_norm)
        np.testing.assert_allclose(clipped, own, rtol=1e-5, atol=1e-7)
        assert float(state) == pytest.approx(np.linalg.norm(left_over), rel=1e-5, abs=1e-7)


@settings(max_examples=50, deadline=None)
@given(st.lists(NORMS, min_size=1, max_size=3), st.floats(0.1, 10))
def test_what_is_left_over_adds_up_over_blocks(blocks, max_norm):
    """The original's gradients of a block stay as its last step has left them."""
    left_over, results = [], []
    for norms in blocks:
        assert stale_clip(results, max_norm).stale_norm == pytest.approx(
            np.sqrt(sum(np.square(gradient).sum() for gradient in left_over)), rel=1e-9, abs=1e-12
        )
        for own in gradients_of(norms):
            torch_clip([own, *left_over], max_norm)
        left_over.append(own)
        results.append(SimpleNamespace(trace={"grad_norm": np.array(norms)}))
    before = stale_clip(results[:-1], max_norm).stale_norm
    after = stale_norm_after(results[-1].trace["grad_norm"], max_norm, before)
    assert after == stale_clip(results, max_norm).stale_norm


def test_the_first_block_is_clipped_by_its_own_norm():
    own, stale = clip_by_global_norm(1.0), stale_clip([], 1.0)(1.0)
    gradient = jnp.asarray(gradients_of([7.0])[0], jnp.float32)
    np.testing.assert_array_equal(
        stale.update(gradient, stale.init(gradient))[0], own.update(gradient, own.init(gradient))[0]
    )
