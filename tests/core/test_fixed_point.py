import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvfp_jax.core.fixed_point import Solution, Status, StepResult, iterate, start


def cosine(x, index):
    """One step of x <- cos x, whose fixed point is 0.739085..."""
    new = jnp.cos(x)
    change = jnp.abs(new - x)
    return StepResult(
        new,
        {"change": change, "index": index},
        jnp.where(change < 1e-6, Status.CONVERGED, Status.RUNNING),
        jnp.isfinite(new),
    )


def run(step, state, max_steps, until=None) -> Solution:
    return jax.jit(lambda state: iterate(step, start(step, state, max_steps), until))(state)


def test_it_converges_to_the_fixed_point_and_keeps_the_trace():
    solution = run(cosine, jnp.float32(0.0), 100)
    steps = int(solution.steps)
    assert int(solution.status) == Status.CONVERGED
    assert float(solution.state) == pytest.approx(0.7390851, abs=1e-6)
    np.testing.assert_array_equal(solution.trace["index"][:steps], np.arange(steps))
    changes = np.asarray(solution.trace["change"])
    assert (changes[: steps - 1] >= 1e-6).all()
    assert changes[steps - 1] < 1e-6
    assert not changes[steps:].any()


def test_it_ends_unconverged_after_enough_steps():
    solution = run(cosine, jnp.float32(0.0), 5)
    assert (int(solution.status), int(solution.steps)) == (Status.MAX_STEPS, 5)


def test_converging_at_the_last_step_counts_as_converged():
    steps = int(run(cosine, jnp.float32(0.0), 100).steps)
    assert int(run(cosine, jnp.float32(0.0), steps).status) == Status.CONVERGED
    assert int(run(cosine, jnp.float32(0.0), steps - 1).status) == Status.MAX_STEPS


def test_a_step_that_is_not_finite_ends_it_whatever_else_it_says():
    def explode(x, index):
        new = x * 1e30
        finite = jnp.isfinite(new)
        return StepResult(new, {"x": new}, jnp.where(finite, Status.RUNNING, Status.CONVERGED), finite)

    solution = run(explode, jnp.float32(1.0), 10)
    assert (int(solution.status), int(solution.steps)) == (Status.NON_FINITE, 2)


WHOLE = jax.jit(lambda state: iterate(cosine, start(cosine, state, 30)))
ADVANCE = jax.jit(lambda solution, until: iterate(cosine, solution, until))


@settings(max_examples=20, deadline=None)
@given(stops=st.lists(st.integers(1, 40), min_size=1, max_size=5))
def test_leaving_and_coming_back_changes_no_bit(stops):
    whole = WHOLE(jnp.float32(0.3))
    solution = start(cosine, jnp.float32(0.3), 30)
    for until in [*sorted(stops), 30]:
        solution = ADVANCE(solution, until)
        assert int(solution.steps) <= max(until, 30)
    for ours, theirs in zip(jax.tree.leaves(solution), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_status_labels():
    assert [status.label for status in Status] == [
        "running",
        "converged",
        "max steps",
        "non-finite",
        "no improvement",
    ]
