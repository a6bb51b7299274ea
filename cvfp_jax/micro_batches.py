"""A pass over a whole token stream, a micro-batch at a time: every context anew from its predecessor's.

Shapes: N tokens, B rows of a micro-batch, C = B + 1, D context width, E embedding width, K input tokens,
U distinct tokens, W = B + K - 1 places.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


class Tokens(NamedTuple):
    """A stream, padded to whole micro-batches or further; see ``token_tables``."""

    vectors_UxE: jax.Array
    places_M: jax.Array  # int32, of the K - 1 tokens before the stream, which are none, and of the N
    num_tokens: jax.Array  # int32, without the padding


class Batch(NamedTuple):
    """A micro-batch of a pass."""

    number: jax.Array  # int32, from 0
    old_CxD: jax.Array  # the previous contexts of the token before the first and of all tokens, in f32
    places_W: jax.Array  # of the tokens of all windows
    valid_B: jax.Array  # bool, which rows are no padding


def num_batches(tokens: Tokens, batch_size: int) -> jax.Array:
    """Returns the number of micro-batches that hold tokens, the last perhaps not full."""
    return (tokens.num_tokens + batch_size - 1) // batch_size


def _before_first(contexts_NxD: jax.Array, tokens: Tokens, wrap: bool) -> jax.Array:
    return contexts_NxD[tokens.num_tokens - 1] if wrap else jnp.zeros_like(contexts_NxD[0])


def _batch(
    contexts_NxD: jax.Array, before_D: jax.Array, tokens: Tokens, number: jax.Array, batch_size: int
) -> Batch:
    """Reads a micro-batch, given the context before its first token."""
    first = number * batch_size
    own_BxD = lax.dynamic_slice_in_dim(contexts_NxD, first, batch_size)
    old_CxD = jnp.concatenate([before_D[None, :], own_BxD]).astype(tokens.vectors_UxE.dtype)
    if batch_size > 1:  # XLA 0.10.2 fails to compile the barrier around two rows
        # Read once and for all: contexts are overwritten in place.
        old_CxD = lax.optimization_barrier(old_CxD)
    windows = batch_size + len(tokens.places_M) - len(contexts_NxD)
    places_W = lax.dynamic_slice_in_dim(tokens.places_M, first, windows)
    valid_B = first + jnp.arange(batch_size, dtype=jnp.int32) < tokens.num_tokens
    return Batch(number, old_CxD, places_W, valid_B)


# Makes a micro-batch's new contexts, and carries on what it was given.
Renew = Callable[[Batch, Any], tuple[jax.Array, Any]]


def renew_contexts(
    contexts_NxD: jax.Array, tokens: Tokens, batch_size: int, wrap: bool, renew: Renew, carried: Any
) -> tuple[jax.Array, Any]:
    """Visits all micro-batches in order and writes new contexts in the place of the old ones.

    The context before a micro-batch's first token is taken across the border; before the stream's first
    token it is the last token's, if contexts wrap around as in R1 to R4, or zero.

    Args:
      contexts_NxD: float, the previous contexts, padded as the stream is.
      tokens: the stream.
      batch_size: B.
      wrap: whether the context before the first token is the last token's.
      renew: maps a micro-batch and what is carried to the new contexts [B, D] and what is carried on.
      carried: what the first micro-batch is given.

    Returns:
      The new contexts, zero in the padding, and what the last micro-batch carried on.
    """

    def body(number: jax.Array, carry: tuple[jax.Array, jax.Array, Any]) -> tuple[jax.Array, jax.Array, Any]:
        contexts_NxD, before_D, carried = carry
        batch = _batch(contexts_NxD, before_D, tokens, number, batch_size)
        new_BxD, carried = renew(batch, carried)
        new_BxD = jnp.where(batch.valid_B[:, None], new_BxD, 0).astype(contexts_NxD.dtype)
        before_D = batch.old_CxD[-1].astype(before_D.dtype)
        first = number * batch_size
        return lax.dynamic_update_slice_in_dim(contexts_NxD, new_BxD, first, axis=0), before_D, carried

    carry = (contexts_NxD, _before_first(contexts_NxD, tokens, wrap), carried)
    contexts_NxD, _, carried = lax.fori_loop(0, num_batches(tokens, batch_size), body, carry)
    return contexts_NxD, carried


def read_contexts(
    contexts_NxD: jax.Array,
    tokens: Tokens,
    batch_size: int,
    wrap: bool,
    visit: Callable[[Batch, Any], Any],
    carried: Any,
) -> Any:
    """Visits all micro-batches as ``renew_contexts`` does and changes none; returns what is carried."""

    def body(number: jax.Array, carry: tuple[jax.Array, Any]) -> tuple[jax.Array, Any]:
        before_D, carried = carry
        batch = _batch(contexts_NxD, before_D, tokens, number, batch_size)
        return batch.old_CxD[-1].astype(before_D.dtype), visit(batch, carried)

    carry = (_before_first(contexts_NxD, tokens, wrap), carried)
    return lax.fori_loop(0, num_batches(tokens, batch_size), body, carry)[1]
