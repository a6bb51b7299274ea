"""The next token drawn from logits: temperature, the k likeliest, the likeliest of so much probability.

Shapes: B texts, V vocabulary.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from cvfp_jax.errors import UserError

_BITS = 32
_GROUP = 128


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How tokens are drawn from ``softmax(logits / temperature)``.

    Args:
      temperature: 0 takes the likeliest token; 1 the model's own distribution.
      top_k: draw from the k likeliest tokens only; 0: from all.
      top_p: of these, draw from the likeliest that have this share of the probability together; 1: from all.

    Raises:
      UserError: a value is not allowed.

    References:
      Fan et al., Hierarchical Neural Story Generation, 2018 (top_k); Holtzman et al., The Curious Case of
      Neural Text Degeneration, 2020 (top_p).
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        """Validates the values."""
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"temperature={self.temperature} is not allowed: it must be 0 or more.")
        if self.top_k < 0:
            raise UserError(f"top_k={self.top_k} is not allowed: it must be 0 (all tokens) or more.")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p={self.top_p} is not allowed: it must be above 0 and at most 1.")


def _sortable(values: jax.Array) -> jax.Array:
    """Float32 as uint32 of the same order."""
    bits = lax.bitcast_convert_type(jnp.where(values == 0, 0, values), jnp.uint32)  # -0.0 is 0.0
    negative = bits >> 31 == 1
    return jnp.where(negative, ~bits, bits | jnp.uint32(1 << 31))


def likeliest(logits_V: jax.Array, weights_V: jax.Array, limit: jax.Array | float) -> jax.Array:
    """Says which tokens are among the likeliest whose weights first reach a limit.

    A token is in if the weights of those before it are below the limit together. Of equal logits the first
    comes first, as argmax has it. Nothing is sorted: the last logit that is in is found a bit at a time.

    Args:
      logits_V: float32.
      weights_V: float, none below zero.
      limit: above zero.

    Returns:
      Bool [V].

    >>> logits = jnp.array([1.0, 3.0, 3.0, 2.0])
    >>> likeliest(logits, jnp.ones(4), 2).tolist(), likeliest(logits, jnp.ones(4), 1).tolist()
    ([False, True, True, False], [False, True, False, False])
    """
    keys_V = _sortable(logits_V)

    def add_bit(place: jax.Array, key: jax.Array) -> jax.Array:
        higher = key | (jnp.uint32(1 << (_BITS - 1)) >> place.astype(jnp.uint32))
        enough = jnp.where(keys_V >= higher, weights_V, 0).sum() >= limit
        return jnp.where(enough, higher, key)

    # The greatest key from which on there is enough; where there never is, all tokens are in.
    last = lax.fori_loop(0, _BITS, add_bit, jnp.uint32(0))
    above_V, ties_V = keys_V > last, keys_V == last
    of_ties_V = jnp.where(ties_V, weights_V, 0)
    before_V = jnp.where(above_V, weights_V, 0).sum() + jnp.cumsum(of_ties_V) - of_ties_V
    return above_V | (ties_V & (before_V < limit))


def _first_above(sums: jax.Array, bound: jax.Array) -> jax.Array:
    """The first place at which a running sum is above a bound, or if rounding hides it the last that adds."""
    above = sums > bound
    return jnp.where(above.any(), above.argmax(), (sums == sums[-1]).argmax())


def pick(weights_V: jax.Array, share: jax.Array) -> jax.Array:
    """Returns the token at which the running sum of the weights passes a share of their total.

    Of a uniform share it is drawn from the weights, by one random number where adding noise to each logit
    takes V of them. Groups of tokens come first, then the tokens of one.

    Args:
      weights_V: float32, none below zero, one above.
      share: from 0 to below 1.

    Returns:
      Int32; a token whose weight is above zero.

    >>> [int(pick(jnp.array([1.0, 0.0, 3.0]), jnp.float32(share))) for share in (0.0, 0.2, 0.3, 0.99)]
    [0, 0, 2, 2]
    """
    groups_GxW = jnp.pad(weights_V, (0, -len(weights_V) % _GROUP)).reshape(-1, _GROUP)
    sums_G = jnp.cumsum(groups_GxW.sum(axis=1))
    bound = share * sums_G[-1]
    group = _first_above(sums_G, bound)
    before = jnp.where(group > 0, sums_G[group - 1], 0)
    inside = _first_above(jnp.cumsum(groups_GxW[group]), jnp.maximum(bound - before, 0))
    return (group * _GROUP + inside).astype(jnp.int32)


def _draw(logits_V: jax.Array, key: jax.Array, sampling: Sampling) -> jax.Array:
    logits_V = logits_V.astype(jnp.float32)
    if sampling.temperature == 0 or sampling.top_k == 1:
        return logits_V.argmax().astype(jnp.int32)
    logits_V /= sampling.temperature
    if 0 < sampling.top_k < len(logits_V):
        is_in_V = likeliest(logits_V, jnp.ones_like(logits_V), sampling.top_k)
        logits_V = jnp.where(is_in_V, logits_V, -jnp.inf)
    if sampling.top_p < 1:
        is_in_V = likeliest(logits_V, jax.nn.softmax(logits_V), sampling.top_p)
        logits_V = jnp.where(is_in_V, logits_V, -jnp.inf)
    p_V = jnp.exp(logits_V - logits_V.max())
    return pick(p_V, jax.random.uniform(key, dtype=jnp.float32))


def draw(logits_BxV: jax.Array, keys_B: jax.Array, sampling: Sampling) -> jax.Array:
    """Returns a token a text, each drawn by a key of its own.

    Args:
      logits_BxV: float.
      keys_B: random keys.
      sampling: how to draw.

    Returns:
      Int32 [B].

    >>> logits = jnp.array([[0.0, 2.0, 1.0]])
    >>> draw(logits, jax.random.split(jax.random.key(0), 1), Sampling(temperature=0)).tolist()
    [1]
    """
    return jax.vmap(lambda logits_V, key: _draw(logits_V, key, sampling))(logits_BxV, keys_B)
