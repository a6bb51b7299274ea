import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvfp_jax.generation.sampling import Sampling, draw, likeliest, pick

pytestmark = pytest.mark.usefixtures("quick_compilation")
SIZE = 12
_kept, _pick = jax.jit(likeliest), jax.jit(pick)
logits_of = st.lists(st.sampled_from([-3.0, -1.5, -0.0, 0.0, 0.5, 2.0, 7.0]), min_size=SIZE, max_size=SIZE)


def in_order(logits):
    """The tokens, the likeliest first and of equal ones the first."""
    return np.argsort(-np.array(logits), kind="stable")


@settings(deadline=None)
@given(logits_of, st.integers(1, SIZE))
def test_the_k_likeliest(logits, k):
    kept = _kept(jnp.array(logits), jnp.ones(SIZE), k)
    assert sorted(np.flatnonzero(kept)) == sorted(in_order(logits)[:k])


@settings(deadline=None)
@given(logits_of, st.floats(0.01, 0.99))
def test_the_likeliest_of_a_probability(logits, limit):
    p = np.asarray(jax.nn.softmax(jnp.array(logits)))
    order = in_order(logits)
    before = np.cumsum(p[order]) - p[order]
    # Sums of single precision may fall on either side of a limit that is this near.
    if np.abs(before - limit).min() > 1e-5:
        kept = _kept(jnp.array(logits), jnp.asarray(p), limit)
        assert sorted(np.flatnonzero(kept)) == sorted(order[before < limit])


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 1e-30, 1e-9, 0.25, 1.0, 3.0, 1e6]), min_size=300, max_size=300),
    st.floats(0, 1, width=32),
)
def test_no_token_without_weight_is_picked(weights, share):
    weights = np.array([*weights, 0.5, 0.0], np.float32)
    picked = int(_pick(jnp.asarray(weights), jnp.float32(min(share, 0.99999994))))
    assert weights[picked] > 0
    total = weights.astype(np.float64).sum()
    before = weights[:picked].astype(np.float64).sum() / total
    assert before - 1e-5 <= share <= before + weights[picked] / total + 1e-5


def test_tokens_are_drawn_as_often_as_they_are_likely():
    logits = jnp.array([1.0, 0.0, 2.0, -1.0])
    keys = jax.random.split(jax.random.key(0), 4000)
    draw_all = jax.jit(draw, static_argnames="sampling")

    def shares(sampling):
        drawn = draw_all(jnp.broadcast_to(logits, (4000, 4)), keys, sampling)
        return np.bincount(drawn, minlength=4) / 4000

    p = np.asarray(jax.nn.softmax(logits / 0.7))
    np.testing.assert_allclose(shares(Sampling(0.7)), p, atol=0.03)
    two = np.where([True, False, True, False], p, 0)
    np.testing.assert_allclose(shares(Sampling(0.7, top_k=2)), two / two.sum(), atol=0.03)
    np.testing.assert_allclose(shares(Sampling(0.7, top_p=p[2] + 0.01)), two / two.sum(), atol=0.03)
    assert shares(Sampling(0.7, top_k=1)).tolist() == [0, 0, 1, 0]
    assert shares(Sampling(0.0)).tolist() == [0, 0, 1, 0]
