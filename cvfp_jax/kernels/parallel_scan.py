"""A recurrence in lanes: segments of one sequence computed side by side, and corrected until they fit.

Shapes: M lanes, S places of a lane, P segments of a lane, D state width.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

# Two states are the same if they differ by no more than this many roundings of their norm: what is left
# between two trajectories that have met, which rounding keeps from being equal bit by bit.
_ROUNDINGS = 64
# After so many steps walks are compared.
_SEGMENT = 16
# A recurrence whose lanes have not met by then may never forget where it started.
_MOST_ROUNDS = 4

# Maps the states before, [M, D], and the places of the next ones, int32 [M], to the next states.
LaneStep = Callable[[jax.Array, jax.Array], jax.Array]


def same(new_MxD: jax.Array, old_MxD: jax.Array) -> jax.Array:
    """Says of states whether they differ by no more than rounding does; of none if they are no numbers."""
    tolerance = _ROUNDINGS * float(jnp.finfo(new_MxD.dtype).eps)
    # Squares, whose derivative is finite where nothing differs.
    change_M = jnp.square(new_MxD - old_MxD).sum(axis=1)
    return change_M <= tolerance**2 * jnp.square(new_MxD).sum(axis=1)


class _Walk(NamedTuple):
    """A walk along all lanes at once."""

    segment: jax.Array  # int32, the index of the next one
    before_MxD: jax.Array
    states_SxMxD: jax.Array
    marks_PxMxD: jax.Array  # the last states of each segment
    met: jax.Array  # bool: all states here are those of the walk before


def _walk(
    step: LaneStep, starts_MxD: jax.Array, states_SxMxD: jax.Array, old_PxMxD: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Walks along the lanes until all states are those of the walk before.

    Returns the states, the last ones of each segment, and whether they came to be the same.
    """
    length, lanes, _ = states_SxMxD.shape
    firsts_M = length * jnp.arange(lanes, dtype=jnp.int32)

    def advance(place: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        before_MxD, states_SxMxD = carry
        new_MxD = step(before_MxD, firsts_M + place)
        return new_MxD, lax.dynamic_update_index_in_dim(states_SxMxD, new_MxD, place, 0)

    def goes_on(walk: _Walk) -> jax.Array:
        return (walk.segment < len(old_PxMxD)) & ~walk.met

    def segment(walk: _Walk) -> _Walk:
        first = walk.segment * _SEGMENT
        carry = walk.before_MxD, walk.states_SxMxD
        new_MxD, states = lax.fori_loop(first, first + _SEGMENT, advance, carry)
        # States are only written here and compared with marks: read as well, all would be copied each time.
        old_MxD = lax.dynamic_index_in_dim(old_PxMxD, walk.segment, 0, False)
        met = same(new_MxD, old_MxD).all()
        marks = lax.dynamic_update_index_in_dim(walk.marks_PxMxD, new_MxD, walk.segment, 0)
        return _Walk(walk.segment + 1, new_MxD, states, marks, met)

    start = _Walk(jnp.int32(0), starts_MxD, states_SxMxD, old_PxMxD, jnp.zeros((), bool))
    end = lax.while_loop(goes_on, segment, start)
    return end.states_SxMxD, end.marks_PxMxD, end.met


def run(step: LaneStep, start_D: jax.Array, lanes: int, length: int) -> jax.Array:
    """Returns the states of a recurrence, ``h_t = step(h_{t-1}, t)``, up to rounding.

    The sequence is cut into lanes. All lanes but the first start from zero, and then again, round by
    round, from the last state of the lane before. A round ends once no lane's states change by more than
    rounding does: a recurrence that forgets where it started, as a contracting one does, takes two
    rounds, the second a short one. One that does not is computed from one end to the other.

    Args:
      step: makes the states at some places from those before.
      start_D: float, the state before the first.
      lanes: M.
      length: S.

    Returns:
      [M S, D]. Each state follows from the one before it to within 64 roundings of its norm.

    References:
      Lim, Zhu, Selfridge and Kasim, Parallelizing Non-linear Sequential Models over the Sequence Length,
      2024.

    >>> halve = lambda before, places: before / 2 + places[:, None].astype(float)
    >>> run(halve, jnp.zeros(1), lanes=2, length=2)[:, 0].tolist()
    [0.0, 1.0, 2.5, 4.25]
    """
    if lanes == 1:
        return _from_end_to_end(step, start_D, length)
    dim = len(start_D)
    rounded = length + -length % _SEGMENT

    def within(before_MxD: jax.Array, places_M: jax.Array) -> jax.Array:
        lane_M, place_M = places_M // rounded, places_M % rounded
        # Places beyond a lane's end, in its last segment, leave the state as it is.
        new_MxD = step(before_MxD, lane_M * length + jnp.minimum(place_M, length - 1))
        return jnp.where((place_M < length)[:, None], new_MxD, before_MxD)

    def unfinished(carry: tuple[jax.Array, jax.Array, jax.Array, jax.Array]) -> jax.Array:
        round_index, _, _, met = carry
        return (round_index < _MOST_ROUNDS) & ~met

    def improve(
        carry: tuple[jax.Array, jax.Array, jax.Array, jax.Array],
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        round_index, states, marks, _ = carry
        before_MxD = jnp.where(round_index > 0, marks[-1, :-1], 0)
        starts_MxD = jnp.concatenate([start_D[None, :], before_MxD])
        return round_index + 1, *_walk(within, starts_MxD, states, marks)

    states = jnp.zeros((rounded, lanes, dim), start_D.dtype)
    # No number is the same as one that is none: the first round goes to the end.
    marks = jnp.full((rounded // _SEGMENT, lanes, dim), jnp.nan, start_D.dtype)
    carry = (jnp.int32(0), states, marks, jnp.zeros((), bool))
    _, states, _, met = lax.while_loop(unfinished, improve, carry)
    side_by_side = jnp.swapaxes(states[:length], 0, 1).reshape(-1, dim)
    return lax.cond(met, lambda: side_by_side, lambda: _from_end_to_end(step, start_D, lanes * length))


def _from_end_to_end(step: LaneStep, start_D: jax.Array, count: int) -> jax.Array:
    def advance(before_D: jax.Array, place: jax.Array) -> tuple[jax.Array, jax.Array]:
        new_D = step(before_D[None, :], place[None])[0]
        return new_D, new_D

    return lax.scan(advance, start_D, jnp.arange(count, dtype=jnp.int32))[1]
