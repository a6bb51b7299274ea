"""A pass over a whole token stream, a micro-batch at a time: every context anew from its predecessor's.

Shapes: N tokens, B rows of a micro-batch, D context width, E embedding width, K input tokens, V tokens.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from cvfp_jax.model import token_windows


class Tokens(NamedTuple):
    """A stream, padded to whole micro-batches or further."""

    vectors_VxE: jax.Array
    ids_N: jax.Array  # int32
    num_tokens: jax.Array  # int32, without the padding


class Batch(NamedTuple):
    """A micro-batch of a pass."""

    number: jax.Array  # int32, from 0
    shifted_BxD: jax.Array  # the previous contexts of the tokens before these
    window_BxKE: jax.Array
    previous_BxD: jax.Array  # the previous contexts of these tokens
    valid_B: jax.Array  # bool, which rows are no padding


# Returns what to add to a pass's sums, and the micro-batch's new contexts.
Visit = Callable[[Batch], tuple[Any, jax.Array]]


def num_batches(tokens: Tokens, batch_size: int) -> jax.Array:
    """Returns the number of micro-batches that hold tokens, the last perhaps not full."""
    return (tokens.num_tokens + batch_size - 1) // batch_size


def renew_contexts(
    contexts_NxD: jax.Array,
    tokens: Tokens,
    batch_size: int,
    num_input_tokens: int,
    wrap: bool,
    visit: Visit,
    sums: Any,
) -> tuple[jax.Array, Any]:
    """Visits all micro-batches in order.

    The context before a micro-batch's first token is taken across the border; before the stream's first
    token it is the last token's, if contexts wrap around as in R1 to R4, or zero.

    Args:
      contexts_NxD: float, the previous contexts, padded as the stream is.
      tokens: the stream.
      batch_size: B.
      num_input_tokens: K.
      wrap: whether the context before the first token is the last token's.
      visit: makes a micro-batch's new contexts, and something to add up.
      sums: a pytree of zeros like what ``visit`` adds.

    Returns:
      The new contexts, zero in the padding, and the sums.
    """

    def body(number: jax.Array, carry: tuple[jax.Array, jax.Array, Any]) -> tuple[jax.Array, jax.Array, Any]:
        new_NxD, before_D, sums = carry
        first = number * batch_size
        places_B = first + jnp.arange(batch_size, dtype=jnp.int32)
        previous_BxD = lax.dynamic_slice_in_dim(contexts_NxD, first, batch_size)
        valid_B = places_B < tokens.num_tokens
        shifted_BxD = jnp.concatenate([before_D[None, :], previous_BxD[:-1]])
        window_BxKE = token_windows(tokens.vectors_VxE, tokens.ids_N, places_B, num_input_tokens)
        added, new_BxD = visit(Batch(number, shifted_BxD, window_BxKE, previous_BxD, valid_B))
        new_BxD = jnp.where(valid_B[:, None], new_BxD, 0)
        new_NxD = lax.dynamic_update_slice_in_dim(new_NxD, new_BxD, first, axis=0)
        return new_NxD, previous_BxD[-1], jax.tree.map(jnp.add, sums, added)

    # The new contexts go to a second buffer: writing over the old ones, XLA's CPU compiler would copy
    # all of them for every micro-batch.
    before_D = contexts_NxD[tokens.num_tokens - 1] if wrap else jnp.zeros_like(contexts_NxD[0])
    carry = (jnp.zeros_like(contexts_NxD), before_D, sums)
    new_NxD, _, sums = lax.fori_loop(0, num_batches(tokens, batch_size), body, carry)
    return new_NxD, sums
