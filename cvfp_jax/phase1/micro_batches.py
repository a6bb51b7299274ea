"""A pass over a token stream, a micro-batch at a time: every context anew from its predecessor's.

Shapes: N tokens of a stream, or a device's range of it, B rows of a micro-batch, or a device's piece of it,
and of its padding, C = B + 1, D context width, E embedding width, K input tokens, U distinct tokens,
W = B + K - 1 places.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from cvfp_jax.core.matmul import as_kept, as_numbers, numbers_type
from cvfp_jax.distributed.layout import Layout
from cvfp_jax.distributed.mesh import axis_index, from_previous, psum
from cvfp_jax.kernels.token_tables import window_places


class Tokens(NamedTuple):
    """A stream, padded to whole micro-batches or further; see ``token_tables``."""

    vectors_UxE: jax.Array
    # int32 array, of the K - 1 tokens before a device's range, none before the first, and of those in it
    places_M: Any
    num_tokens: jax.Array  # int32, of the whole stream without the padding


class Range(NamedTuple):
    """The rows of a stream that a device has."""

    first_row: jax.Array  # int32, in the stream
    first_batch: jax.Array  # int32, the index of its first micro-batch
    batches: jax.Array  # int32, how many of its micro-batches are to be visited
    before_D: jax.Array  # the old context before its first row


class Batch(NamedTuple):
    """A micro-batch of a pass."""

    batch_index: jax.Array  # int32, in the stream
    old_CxD: jax.Array  # the previous contexts of the token before the first and of all tokens, in f32
    places_W: jax.Array  # of the tokens of all windows
    valid_B: jax.Array  # bool, which rows are no padding


def num_batches(tokens: Tokens, batch_size: int) -> jax.Array:
    """Returns the number of micro-batches that hold tokens, the last perhaps not full."""
    return (tokens.num_tokens + batch_size - 1) // batch_size


def own_range(contexts_NxD: jax.Array, tokens: Tokens, layout: Layout, wrap: bool) -> Range:
    """Returns the range of the device that runs this.

    The context before its first row is the last one of the device before. Before the stream's first token
    it is the last token's, if contexts wrap around as in R1 to R4, or zero.

    Args:
      contexts_NxD: float or the bits of bf16 numbers, the device's own contexts.
      tokens: the stream.
      layout: how it lies over the devices.
      wrap: whether the context before the first token is the last token's.

    Returns:
      Its ``Range``. Devices that share micro-batches visit theirs even where it holds no token, because
      they wait for each other there.
    """
    device = axis_index()
    first_row, first_batch = device * layout.own_rows, device * layout.batches // layout.pieces
    before_D = from_previous(as_numbers(contexts_NxD[-1]), layout.mesh.size)
    if wrap:
        last = tokens.num_tokens - 1 - first_row
        is_here = (last >= 0) & (last < len(contexts_NxD))
        last_D = psum(jnp.where(is_here, as_numbers(contexts_NxD[jnp.where(is_here, last, 0)]), 0))
        before_D = jnp.where(device == 0, last_D, before_D)
    count = jnp.clip(num_batches(tokens, layout.batch_size) - first_batch, 0, layout.batches)
    count = jnp.ones_like(count) if layout.pieces > 1 else count
    return Range(first_row, first_batch, count, before_D)


def _batch(
    contexts_NxD: jax.Array,
    before_D: jax.Array,
    tokens: Tokens,
    own: Range,
    index: jax.Array,
    rows: int,
    padding: int,
) -> Batch:
    """Reads a device's micro-batch, given the context before its first token."""
    first = index * rows
    own_BxD = as_numbers(lax.dynamic_slice_in_dim(contexts_NxD, first, rows))
    # In one: to fill it up later would copy it.
    none_FxD = jnp.zeros((padding, len(before_D)), own_BxD.dtype)
    old_CxD = jnp.concatenate([before_D[None, :], own_BxD, none_FxD]).astype(tokens.vectors_UxE.dtype)
    if rows > 1:  # XLA 0.10.2 fails to compile the barrier around two rows
        # Read once and for all: contexts are overwritten in place.
        old_CxD = lax.optimization_barrier(old_CxD)
    windows = rows + len(tokens.places_M) - len(contexts_NxD)
    places_W = jnp.pad(lax.dynamic_slice_in_dim(tokens.places_M, first, windows), (0, padding))
    valid_B = own.first_row + first + jnp.arange(rows, dtype=jnp.int32) < tokens.num_tokens
    return Batch(own.first_batch + index, old_CxD, places_W, jnp.pad(valid_B, (0, padding)))


# Makes a micro-batch's new contexts, and carries on what it was given.
Renew = Callable[[Batch, Any], tuple[jax.Array, Any]]


def renew_contexts(
    contexts_NxD: jax.Array,
    tokens: Tokens,
    own: Range,
    rows: int,
    renew: Renew,
    carried: Any,
    *,
    padding: int = 0,
) -> tuple[jax.Array, Any]:
    """Visits the micro-batches of a range in order and writes new contexts in the place of the old ones.

    The context before a micro-batch's first token is taken across the border.

    Args:
      contexts_NxD: float or the bits of bf16 numbers, the previous contexts of the range, padded as the
        stream is. Bits are what a loop changes in place; see ``matmul.as_kept``.
      tokens: the stream.
      own: the range.
      rows: of a micro-batch, without its padding.
      renew: maps a micro-batch and what is carried to the new contexts [B, D] and what is carried on.
      carried: what the first micro-batch is given.
      padding: rows after each micro-batch's own that do not count.

    Returns:
      The new contexts, zero in the padding, and what the last micro-batch carried on.
    """

    def body(index: jax.Array, carry: tuple[jax.Array, jax.Array, Any]) -> tuple[jax.Array, jax.Array, Any]:
        contexts_NxD, before_D, carried = carry
        batch = _batch(contexts_NxD, before_D, tokens, own, index, rows, padding)
        new_BxD, carried = renew(batch, carried)
        new_BxD = jnp.where(batch.valid_B[:, None], new_BxD, 0)[:rows]
        new_BxD = new_BxD.astype(numbers_type(contexts_NxD.dtype))
        before_D = batch.old_CxD[rows].astype(before_D.dtype)
        return (
            lax.dynamic_update_slice_in_dim(contexts_NxD, as_kept(new_BxD), index * rows, 0),
            before_D,
            carried,
        )

    contexts_NxD, _, carried = lax.fori_loop(0, own.batches, body, (contexts_NxD, own.before_D, carried))
    return contexts_NxD, carried


def read_contexts(
    contexts_NxD: jax.Array,
    tokens: Tokens,
    own: Range,
    rows: int,
    visit: Callable[[Batch, Any], Any],
    carried: Any,
    *,
    padding: int = 0,
) -> Any:
    """Visits micro-batches as ``renew_contexts`` does and changes none; returns what is carried."""

    def body(index: jax.Array, carry: tuple[jax.Array, Any]) -> tuple[jax.Array, Any]:
        before_D, carried = carry
        batch = _batch(contexts_NxD, before_D, tokens, own, index, rows, padding)
        return batch.old_CxD[rows].astype(before_D.dtype), visit(batch, carried)

    return lax.fori_loop(0, own.batches, body, (own.before_D, carried))[1]


# The most rows of a tile on a CPU: a few arrays of so many contexts fit in its caches.
_CPU_ROWS = 1024
# Matrix units of CPUs sum over rows in steps of so many.
_STEP = 32


class Tile(NamedTuple):
    """Some rows of a micro-batch."""

    old_TxD: jax.Array
    shifted_TxD: jax.Array
    places_KxT: jax.Array


def num_tiles(num_rows: int) -> tuple[int, int]:
    """The number of tiles of a micro-batch and the rows of each, the last filled up as little as can be.

    An accelerator works on a whole micro-batch.

    >>> num_tiles(8000), num_tiles(5000), num_tiles(700)
    ((10, 800), (5, 1024), (1, 700))
    """
    if num_rows <= _CPU_ROWS or jax.default_backend() != "cpu":
        return 1, num_rows
    rows = min(range(_CPU_ROWS, _CPU_ROWS // 2, -_STEP), key=lambda rows: -num_rows % rows)
    return -(-num_rows // rows), rows


def padding_rows(num_rows: int) -> int:
    """The rows that the last tile of a micro-batch lacks."""
    tiles, rows = num_tiles(num_rows)
    return tiles * rows - num_rows


def tile_reader(batch: Batch, noise_BxD: jax.Array | None, rows: int) -> Callable[[jax.Array], Tile]:
    """Returns a function that reads a tile of a micro-batch by its index."""
    around = len(batch.places_W) - len(batch.valid_B)
    if noise_BxD is not None:
        noise_BxD = jnp.pad(noise_BxD, ((0, len(batch.valid_B) - len(noise_BxD)), (0, 0)))

    def read(index: jax.Array) -> Tile:
        first = index * rows
        both = lax.dynamic_slice_in_dim(batch.old_CxD, first, rows + 1)
        shifted_TxD = both[:-1]
        if noise_BxD is not None:
            shifted_TxD = shifted_TxD + lax.dynamic_slice_in_dim(noise_BxD, first, rows)
        of_T = first + jnp.arange(rows, dtype=jnp.int32)
        places_KxT = window_places(batch.places_W, of_T, around + 1)
        return Tile(both[1:], lax.optimization_barrier(shifted_TxD), places_KxT)

    return read
