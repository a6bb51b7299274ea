"""Lanes against one walk from end to end."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvfp_jax.kernels import parallel_scan

pytestmark = pytest.mark.usefixtures("quick_compilation")


def recurrence(strength, dim=5, seed=0):
    """States that forget where they started (below 1), or never do."""
    rng = np.random.default_rng(seed)
    turn = jnp.asarray(np.linalg.qr(rng.standard_normal((dim, dim)))[0], jnp.float32)
    drive = jnp.asarray(rng.standard_normal((4096, dim)), jnp.float32)

    def step(before, places):
        return strength * before @ turn + drive[places]

    return step


def in_one_walk(step, start, count):
    states, state = [], start[None, :]
    for place in range(count):
        state = step(state, jnp.array([place]))
        states.append(state[0])
    return np.stack(states)


@settings(deadline=None, max_examples=10)
@given(st.integers(1, 5), st.integers(1, 40), st.sampled_from([0.0, 0.5, 0.9]))
def test_lanes_equal_one_walk(count, length, strength):
    step, start = recurrence(strength), jnp.arange(5.0)
    found = jax.jit(lambda start: parallel_scan.run(step, start, count, length))(start)
    np.testing.assert_allclose(found, in_one_walk(step, start, count * length), rtol=0, atol=1e-4)


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_each_state_follows_from_the_one_before(strength):
    # At strength 1 nothing is ever forgotten: lanes do not meet and the walk goes from end to end.
    step, start = recurrence(strength), jnp.ones(5)
    found = np.asarray(jax.jit(lambda start: parallel_scan.run(step, start, 4, 100))(start))
    before = np.concatenate([np.asarray(start)[None], found[:-1]])
    defect = np.linalg.norm(found - step(jnp.asarray(before), jnp.arange(400)), axis=1)
    assert (defect <= 64 * np.finfo(np.float32).eps * np.linalg.norm(found, axis=1)).all()


def walks(step, *, count=4, length=100):
    """The number of steps that lanes take, and of those that one walk takes after them."""
    steps = {}

    def counted(before, places):
        jax.debug.callback(lambda: steps.update({len(places): steps.get(len(places), 0) + 1}))
        return step(before, places)

    jax.block_until_ready(
        jax.jit(lambda start: parallel_scan.run(counted, start, count, length))(jnp.ones(5))
    )
    jax.effects_barrier()
    return steps


def test_a_recurrence_that_forgets_is_not_walked_from_end_to_end():
    steps = walks(recurrence(0.5))
    assert steps.keys() == {4}
    # A lane is 7 chunks long; after at most 2 more all lanes have met.
    assert 7 * 16 < steps[4] <= 9 * 16


def test_one_that_does_not_forget_is():
    assert walks(recurrence(1.0)) == {4: 4 * 7 * 16, 1: 400}


def test_a_broken_state_breaks_all_later_ones_and_none_before():
    step = recurrence(0.5)

    def broken(before, places):
        return jnp.where((places == 150)[:, None], jnp.nan, step(before, places))

    found = np.asarray(jax.jit(lambda start: parallel_scan.run(broken, start, 4, 100))(jnp.ones(5)))
    assert np.isfinite(found[:150]).all()
    assert np.isnan(found[150:]).all()
