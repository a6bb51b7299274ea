"""Phase 1 with its contexts on the disk: the same iteration, a few micro-batches on the device at a time.

Shapes: N tokens, B rows of a stretch, K input tokens, D context width.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cvfp_jax.checkpointing.row_file import RowFile, Stretch, read_ahead, write_behind
from cvfp_jax.core import fixed_point
from cvfp_jax.core.fixed_point import Solution, Status, StepResult
from cvfp_jax.core.matmul import as_kept, as_numbers
from cvfp_jax.distributed.mesh import REPLICATED, shard_map
from cvfp_jax.kernels.token_tables import LayerTables
from cvfp_jax.phase1.micro_batches import Range, num_batches
from cvfp_jax.phase1.step import (
    Inputs,
    Settings,
    State,
    Sums,
    begin,
    end,
    renew_range,
    residual_sums,
    with_contexts,
)


def _whole(function: Any, settings: Settings) -> Any:
    """What the one device runs as each of several would."""
    return shard_map(function, settings.layout.mesh, REPLICATED)


def _fixed(inputs: Inputs) -> Inputs:
    """What every stretch reads: all but the places of tokens, which stay on the host."""
    return inputs._replace(tokens=inputs.tokens._replace(places_M=None))


@functools.partial(jax.jit, static_argnames="settings", donate_argnames="state")
def _start(state: State, inputs: Inputs, settings: Settings) -> Solution:
    def step(state: State, index: jax.Array, inputs: Inputs) -> StepResult:
        _, sums = begin(state.params, inputs, settings)
        return end(state, sums, index, inputs, settings)

    def start(state: State, inputs: Inputs) -> Solution:
        return fixed_point.start(
            functools.partial(step, inputs=inputs), state, settings.config.max_iterations - 1
        )

    return _whole(start, settings)(state, inputs)


@functools.partial(jax.jit, static_argnames="settings")
def _begin(params: Any, inputs: Inputs, settings: Settings) -> tuple[list[LayerTables], Sums]:
    return begin(params, inputs, settings)


def _own(old_CxD: jax.Array, place: np.int32, inputs: Inputs, settings: Settings) -> tuple[jax.Array, Range]:
    """A stretch's contexts, and what ``own_range`` says of a device's; it starts at a micro-batch's place."""
    size = settings.layout.rows
    batches = jnp.clip(num_batches(inputs.tokens, size) - place, 0, (len(old_CxD) - 1) // size)
    return old_CxD[1:], Range(jnp.asarray(place * size), jnp.asarray(place), batches, old_CxD[0])


@functools.partial(jax.jit, static_argnames="settings", donate_argnames="sums")
def _renew(
    old_CxD: jax.Array,
    place: np.int32,
    params: Any,
    tables: list[LayerTables],
    sums: Sums,
    index: jax.Array,
    inputs: Inputs,
    settings: Settings,
) -> tuple[jax.Array, Sums]:
    contexts_BxD, own = _own(old_CxD, place, inputs, settings)
    contexts_BxD, sums = renew_range(
        as_kept(contexts_BxD), own, params, tables, sums, index, inputs, settings
    )
    return as_numbers(contexts_BxD), sums


@functools.partial(jax.jit, static_argnames="settings", donate_argnames="solution")
def _end(solution: Solution, sums: Sums, inputs: Inputs, settings: Settings) -> Solution:
    def finish(solution: Solution, sums: Sums, inputs: Inputs) -> Solution:
        result = end(solution.state, sums, solution.steps, inputs, settings)
        return fixed_point.after(solution, result)

    return _whole(finish, settings)(solution, sums, inputs)


@functools.partial(jax.jit, static_argnames="settings")
def _residual(
    old_CxD: jax.Array,
    place: np.int32,
    sums: Any,
    params: Any,
    tables: list[LayerTables],
    inputs: Inputs,
    settings: Settings,
) -> tuple[jax.Array, jax.Array]:
    contexts_BxD, own = _own(old_CxD, place, inputs, settings)
    return residual_sums(contexts_BxD, own, sums, params, tables, inputs, settings)


def _stretches(contexts: RowFile, inputs: Inputs, settings: Settings) -> list[Stretch]:
    """Whole micro-batches at a time, as far as there are tokens."""
    num_tokens = int(inputs.tokens.num_tokens)
    return [place for place in contexts.stretches(settings.layout.rows) if place[0] < num_tokens]


def _read(contexts: RowFile, inputs: Inputs, settings: Settings, first: int, rows: int) -> np.ndarray:
    """A stretch of contexts with the one before it."""
    old_CxD = contexts.read(first - 1, rows + 1)
    if first == 0 and settings.wraps:
        old_CxD[0] = contexts.read(int(inputs.tokens.num_tokens) - 1, 1)[0]
    return old_CxD


def _places(inputs: Inputs, fixed: Inputs, contexts: RowFile, first: int, rows: int) -> Inputs:
    """What a stretch reads of its tokens."""
    around = len(inputs.tokens.places_M) - len(contexts)
    places_W = np.asarray(inputs.tokens.places_M[first : first + rows + around])
    places_W = np.pad(places_W, (0, rows + around - len(places_W)))
    return fixed._replace(tokens=fixed.tokens._replace(places_M=places_W))


def start(state: State, inputs: Inputs, settings: Settings) -> Solution:
    """Returns the iteration before its first step; see ``phase1_step.start``."""
    solution = _start(state._replace(contexts_NxD=None), _fixed(inputs), settings)
    return with_contexts(solution, state.contexts_NxD)


def advance(solution: Solution, inputs: Inputs, until: int, settings: Settings) -> Solution:
    """Goes on until so many steps have been made in all, or the iteration has ended.

    While the device works on a stretch the next one is read, and the last one's new contexts are written
    to a second file; the two change places after each step.

    Args:
      solution: its contexts are a ``RowFile``.
      inputs: the places of the tokens are an array of the host.
      until: the steps.
      settings: as for ``phase1_step.advance``.

    Returns:
      The new solution, of the same numbers as in memory.
    """
    until = min(until, len(solution.trace["loss"]))
    while int(solution.steps) < until and int(solution.status) == Status.RUNNING:
        solution = _step(solution, inputs, settings)
    return solution


def _step(solution: Solution, inputs: Inputs, settings: Settings) -> Solution:
    old, fixed, index = solution.state.contexts_NxD, _fixed(inputs), solution.steps
    params, new = solution.state.params, old.following()
    tables, sums = _begin(params, fixed, settings)
    stretches = read_ahead(_stretches(old, inputs, settings), functools.partial(_read, old, inputs, settings))
    with write_behind(new.write) as write:
        for (first, rows), old_CxD in stretches:
            place, own = np.int32(first // settings.layout.rows), _places(inputs, fixed, old, first, rows)
            new_BxD, sums = _renew(old_CxD, place, params, tables, sums, index, own, settings)
            write(first, new_BxD)
    solution = _end(with_contexts(solution, None), sums, fixed, settings)
    return with_contexts(solution, old.give_way(new))


def residual(params: Any, contexts: RowFile, inputs: Inputs, settings: Settings) -> tuple[float, float]:
    """Mean and maximum over tokens of the squared change that one more noise-free pass would make."""
    zero, fixed = jnp.zeros((), inputs.tokens.vectors_UxE.dtype), _fixed(inputs)
    sums: Any = (zero, zero)
    tables, _ = _begin(params, fixed, settings)
    stretches = read_ahead(
        _stretches(contexts, inputs, settings), functools.partial(_read, contexts, inputs, settings)
    )
    for (first, rows), old_CxD in stretches:
        own = _places(inputs, fixed, contexts, first, rows)
        place = np.int32(first // settings.layout.rows)
        sums = _residual(old_CxD, place, sums, params, tables, own, settings)
    num_tokens = inputs.tokens.num_tokens.astype(zero.dtype)
    return float(sums[0] / num_tokens), float(sums[1])
