"""The loop of phase 1's iterations as compiled programs, wherever its contexts are kept.

Contexts in memory are iterated by one compiled loop of many steps. Those in a file pass through the device a
chunk of whole micro-batches at a time, read ahead and written behind; the numbers are the same.

Shapes: N tokens, B rows of a chunk, D context width.
"""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cvfp_jax.contexts.store import ContextStore, MemoryStore
from cvfp_jax.contexts.windows import StreamWindows
from cvfp_jax.core import fixed_point
from cvfp_jax.core.fixed_point import Solution, Status, StepResult
from cvfp_jax.core.matmul import as_kept, as_numbers
from cvfp_jax.distributed.mesh import REPLICATED, ROWS, device_put, pmax, psum, shard_map
from cvfp_jax.kernels.token_tables import LayerTables, token_tables
from cvfp_jax.phase1.micro_batches import Range, Tokens, num_batches, own_range
from cvfp_jax.phase1.step import (
    Accumulators,
    Inputs,
    Phase1Spec,
    State,
    begin_step,
    finish_step,
    residual_sums,
    step,
    update_contexts,
)

# How a solution and its inputs are sharded: contexts and places by rows, all else replicated.
_STATE = State(REPLICATED, REPLICATED, ROWS, REPLICATED, REPLICATED)
_INPUTS = Inputs(Tokens(REPLICATED, ROWS, REPLICATED), REPLICATED, REPLICATED, REPLICATED)
_SOLUTION = Solution(_STATE, REPLICATED, REPLICATED, REPLICATED)


class Iteration:
    """Where phase 1 stands: its solution, its contexts, and what they are computed from.

    Args:
      state: the state before the first step, without contexts; its arrays are written over.
      contexts: the contexts of iteration 1.
      windows: the stream's token windows.
      inputs: what each step reads, without the places of tokens.
      spec: what the compiled programs depend on.
    """

    def __init__(
        self, state: State, contexts: ContextStore, windows: StreamWindows, inputs: Inputs, spec: Phase1Spec
    ) -> None:
        self.spec, self.contexts = spec, contexts
        self.solution = _start(state, inputs, spec)
        self._windows, self._shared = windows, inputs
        # In memory they are the same at each step.
        self._places_M = windows.places(0, len(contexts)) if contexts.is_resident else None

    @property
    def steps(self) -> int:
        """The steps made."""
        return int(self.solution.steps)

    @property
    def status(self) -> Status:
        """How the iteration stands."""
        return Status(int(self.solution.status))

    @property
    def num_tokens(self) -> int:
        """N."""
        return int(self._shared.tokens.num_tokens)

    @property
    def trace(self) -> dict[str, np.ndarray]:
        """The metrics of the steps made so far."""
        return {name: np.asarray(values)[: self.steps] for name, values in self.solution.trace.items()}

    def advance(self, until: int) -> None:
        """Goes on until so many steps have been made in all, or the iteration has ended.

        Leaving it and going on changes no digit.
        """
        if self.contexts.is_resident:
            solution = advance_in_memory(*self.in_memory(), jnp.int32(until), self.spec)
            self.contexts = MemoryStore.of(solution.state.contexts_NxD, self.spec.layout.mesh)
            self.solution = jax.block_until_ready(_with_contexts(solution, None))
            return
        until = min(until, len(self.solution.trace["loss"]))
        while self.steps < until and self.status == Status.RUNNING:
            self._step_through_chunks()

    def in_memory(self) -> tuple[Solution, Inputs]:
        """Returns what ``advance_in_memory`` is given, and writes over."""
        return _with_contexts(self.solution, self.contexts.kept_NxD), self._inputs(0, len(self.contexts))

    def _step_through_chunks(self) -> None:
        """One step; the new contexts go to a second store, and the two change places."""
        params, successor = self.solution.state.params, self.contexts.successor()
        tables, sums = _begin(self.solution.state, self._shared, self.spec)
        with successor.writer() as write:
            for first, contexts_BxD, start, inputs in self._chunks():
                new_BxD, sums = _renew(
                    contexts_BxD, start, params, tables, sums, self.solution.steps, inputs, self.spec
                )
                write(first, new_BxD)
        self.solution = _end(self.solution, sums, self._shared, self.spec)
        self.contexts = self.contexts.give_way(successor)

    def residual(self) -> tuple[float, float]:
        """Returns mean and maximum over tokens of ``mean_j (F(P)_tj - P_tj)^2``, F a pass without noise."""
        params = self.solution.state.params
        tables = _tables(params, self._shared, self.spec)
        zero = jnp.zeros((), self._shared.tokens.vectors_UxE.dtype)
        sums: Any = device_put((zero, zero), self.spec.layout.mesh)
        for _, contexts_BxD, start, inputs in self._chunks():
            sums = _add_residual(contexts_BxD, start, sums, params, tables, inputs, self.spec)
        return float(np.asarray(sums[0]) / np.asarray(self.num_tokens, zero.dtype)), float(sums[1])

    def _chunks(self) -> Iterator[tuple[int, Any, "_Start | None", Inputs]]:
        """Yields chunks that hold tokens: first row, contexts, where they start, and what a step reads."""
        rows = self.spec.layout.rows
        before_first = self.num_tokens - 1 if self.spec.wraps else -1
        for first, contexts_BxD, before_D in self.contexts.chunks(rows, self.num_tokens, before_first):
            start = None if self.contexts.is_resident else _Start(np.int32(first // rows), before_D)
            yield first, contexts_BxD, start, self._inputs(first, len(contexts_BxD))

    def _inputs(self, first: int, rows: int) -> Inputs:
        places_M = self._windows.places(first, rows) if self._places_M is None else self._places_M
        return self._shared._replace(tokens=self._shared.tokens._replace(places_M=places_M))

    def end_with(self, status: Status) -> None:
        """Sets the status, which a rule outside the compiled steps has found."""
        placed = device_put(jnp.int32(status), self.spec.layout.mesh)
        self.solution = self.solution._replace(status=placed)

    def to_save(self, rows: int) -> Solution:
        """Returns what a checkpoint takes, with so many rows of contexts, and asks for again."""
        return _with_contexts(self.solution, self.contexts.to_save(rows))

    def restore(self, saved: Solution) -> None:
        """Goes on from what a checkpoint has given back."""
        self.contexts = self.contexts.from_saved(saved.state.contexts_NxD)
        self.solution = device_put(_with_contexts(saved, None), self.spec.layout.mesh)


class _Start(NamedTuple):
    """Where a chunk of a file starts."""

    first_batch: Any  # int32, the index of its first micro-batch
    before_D: Any  # the old context before its first row


def _with_contexts(solution: Solution, contexts: Any) -> Solution:
    return solution._replace(state=solution.state._replace(contexts_NxD=contexts))


def _range(contexts_BxD: jax.Array, start: _Start | None, inputs: Inputs, spec: Phase1Spec) -> Range:
    """The rows that are here: a device's range of all, or a chunk of a file."""
    if start is None:
        return own_range(contexts_BxD, inputs.tokens, spec.layout, spec.wraps)
    rows = spec.layout.rows
    batches = num_batches(inputs.tokens, rows) - start.first_batch
    batches = jnp.clip(batches, 0, len(contexts_BxD) // rows)
    first_batch = jnp.asarray(start.first_batch)
    return Range(first_batch * rows, first_batch, batches, jnp.asarray(start.before_D))


@functools.partial(jax.jit, static_argnames="spec", donate_argnames="state")
def _start(state: State, inputs: Inputs, spec: Phase1Spec) -> Solution:
    def sums_only(state: State, index: jax.Array, inputs: Inputs) -> StepResult:
        _, sums = begin_step(state, inputs, spec)
        return finish_step(state, sums, index, inputs, spec)

    def start(state: State, inputs: Inputs) -> Solution:
        make_step = functools.partial(sums_only, inputs=inputs)
        return fixed_point.start(make_step, state, spec.config.max_iterations - 1)

    return shard_map(start, spec.layout.mesh, REPLICATED, REPLICATED)(state, inputs)


@functools.partial(jax.jit, static_argnames="spec", donate_argnames="solution")
def advance_in_memory(solution: Solution, inputs: Inputs, until: jax.Array, spec: Phase1Spec) -> Solution:
    """Steps until so many have been made in all, or the iteration has ended; see ``Iteration.advance``."""

    def go_on(solution: Solution, inputs: Inputs, until: jax.Array) -> Solution:
        return fixed_point.iterate(functools.partial(step, inputs=inputs, spec=spec), solution, until)

    each = shard_map(go_on, spec.layout.mesh, (_SOLUTION, _INPUTS, REPLICATED), _SOLUTION)
    return each(solution, inputs, until)


@functools.partial(jax.jit, static_argnames="spec")
def _begin(state: State, inputs: Inputs, spec: Phase1Spec) -> tuple[list[LayerTables], Accumulators]:
    return begin_step(state, inputs, spec)


@functools.partial(jax.jit, static_argnames="spec")
def _tables(params: Any, inputs: Inputs, spec: Phase1Spec) -> list[LayerTables]:
    return token_tables(nnx.merge(spec.block, params), inputs.tokens.vectors_UxE)


@functools.partial(jax.jit, static_argnames="spec", donate_argnames="sums")
def _renew(
    contexts_BxD: jax.Array,
    start: _Start,
    params: Any,
    tables: list[LayerTables],
    sums: Accumulators,
    index: jax.Array,
    inputs: Inputs,
    spec: Phase1Spec,
) -> tuple[jax.Array, Accumulators]:
    own = _range(contexts_BxD, start, inputs, spec)
    contexts_BxD, sums = update_contexts(
        as_kept(contexts_BxD), own, params, tables, sums, index, inputs, spec
    )
    return as_numbers(contexts_BxD), sums


@functools.partial(jax.jit, static_argnames="spec", donate_argnames="solution")
def _end(solution: Solution, sums: Accumulators, inputs: Inputs, spec: Phase1Spec) -> Solution:
    def finish(solution: Solution, sums: Accumulators, inputs: Inputs) -> Solution:
        return fixed_point.after(solution, finish_step(solution.state, sums, solution.steps, inputs, spec))

    return shard_map(finish, spec.layout.mesh, REPLICATED, REPLICATED)(solution, sums, inputs)


@functools.partial(jax.jit, static_argnames="spec")
def _add_residual(
    contexts_BxD: jax.Array,
    start: _Start | None,
    sums: tuple[jax.Array, jax.Array],
    params: Any,
    tables: list[LayerTables],
    inputs: Inputs,
    spec: Phase1Spec,
) -> tuple[jax.Array, jax.Array]:
    """The sum of a chunk's squared changes, and their maximum, with those of the chunks before."""

    def add(contexts_BxD: jax.Array, start: Any, sums: Any, params: Any, tables: Any, inputs: Inputs) -> Any:
        own = _range(contexts_BxD, start, inputs, spec)
        total, most = residual_sums(contexts_BxD, own, sums, params, tables, inputs, spec)
        return psum(total), pmax(most)

    specs = (ROWS, REPLICATED, REPLICATED, REPLICATED, REPLICATED, _INPUTS)
    each = shard_map(add, spec.layout.mesh, specs)
    return each(contexts_BxD, start, sums, params, tables, inputs)
