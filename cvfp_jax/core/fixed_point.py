"""Fixed-point iteration as one compiled loop that knows nothing of language models."""

import enum
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


class Status(enum.IntEnum):
    """How an iteration stands."""

    RUNNING = 0
    CONVERGED = 1
    MAX_STEPS = 2
    NON_FINITE = 3
    STALLED = 4

    @property
    def label(self) -> str:
        """The status in words, as records and reports print it."""
        labels = {Status.NON_FINITE: "non-finite", Status.STALLED: "no improvement"}
        return labels.get(self, self.name.lower().replace("_", " "))


class StepResult(NamedTuple):
    """What one step gives back."""

    state: Any
    metrics: dict[str, jax.Array]  # scalars
    status: jax.Array  # int32, a Status: RUNNING, CONVERGED or STALLED
    finite: jax.Array  # bool


class Solution(NamedTuple):
    """Where an iteration stands, and how it came there."""

    state: Any
    status: jax.Array  # int32, a Status
    steps: jax.Array  # int32, steps made
    trace: dict[str, jax.Array]  # the metrics of each step, [max_steps]; zero beyond ``steps``


Step = Callable[[Any, jax.Array], StepResult]


def start(step: Step, state: Any, max_steps: int) -> Solution:
    """Returns the solution before its first step.

    Args:
      step: maps a state and the number of steps before this one (int32) to a ``StepResult``.
      state: a pytree of arrays.
      max_steps: steps after which the iteration ends unconverged.

    Returns:
      A running ``Solution`` of no steps.
    """
    metrics = jax.eval_shape(step, state, jnp.int32(0)).metrics
    trace = {name: jnp.zeros((max_steps,), metric.dtype) for name, metric in metrics.items()}
    return Solution(state, jnp.int32(Status.RUNNING), jnp.int32(0), trace)


def after(solution: Solution, result: StepResult) -> Solution:
    """Returns the solution after one more step, which gave this result."""
    max_steps = len(jax.tree.leaves(solution.trace)[0])
    steps = solution.steps + 1
    trace = {
        name: values.at[solution.steps].set(result.metrics[name]) for name, values in solution.trace.items()
    }
    last = (steps >= max_steps) & (result.status == Status.RUNNING)
    status = jnp.where(last, Status.MAX_STEPS, result.status)
    status = jnp.where(result.finite, status, Status.NON_FINITE)
    return Solution(result.state, status.astype(jnp.int32), steps, trace)


def iterate(step: Step, solution: Solution, until: jax.Array | int | None = None) -> Solution:
    """Iterates ``state <- step(state)`` until it converges, breaks, or has made enough steps.

    One ``lax.while_loop``: call it under ``jax.jit`` and donate the solution, and the state is
    updated in place. Leaving the loop with ``until`` and calling again changes no digit.

    Args:
      step: as for ``start``.
      solution: where to go on.
      until: return, still running, once this many steps have been made in all.

    Returns:
      The new ``Solution``; its status says why it returned. A step that is not finite ends the
      iteration and is counted.

    References:
      Ortega and Rheinboldt, Iterative Solution of Nonlinear Equations in Several Variables, 1970.

    >>> def halve(x, index):
    ...     status = jnp.where(x < 0.2, Status.CONVERGED, Status.RUNNING)
    ...     return StepResult(x / 2, {"x": x}, status, finite=jnp.isfinite(x))
    >>> solution = iterate(halve, start(halve, jnp.float32(1.0), max_steps=10))
    >>> Status(int(solution.status)).label, int(solution.steps), float(solution.state)
    ('converged', 4, 0.0625)
    """
    max_steps = len(jax.tree.leaves(solution.trace)[0])
    limit = jnp.int32(max_steps) if until is None else jnp.minimum(jnp.int32(until), max_steps)

    def running(solution: Solution) -> jax.Array:
        return (solution.status == Status.RUNNING) & (solution.steps < limit)

    def advance(solution: Solution) -> Solution:
        return after(solution, step(solution.state, solution.steps))

    return lax.while_loop(running, advance, solution)
