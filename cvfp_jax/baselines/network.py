"""What the baselines have in common: they read token vectors in lanes and return what the frozen head reads.

Shapes: B lanes, S tokens of a segment, N tokens of a stream, E embedding width.
"""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

# What a network knows of the tokens before a segment: a pytree of arrays [B, ...], zero to begin with.
Carry = Any


class Dropout(NamedTuple):
    """Sets entries to zero at random and scales up the others, so that their mean stays.

    References:
      Srivastava et al., Dropout: A Simple Way to Prevent Neural Networks from Overfitting, 2014.
    """

    key: jax.Array
    rate: jax.Array  # share that is dropped

    def __call__(self, x: jax.Array, place: int) -> jax.Array:
        """Returns ``x`` thinned out, in another way at each place of a network."""
        kept = jax.random.bernoulli(jax.random.fold_in(self.key, place), 1 - self.rate, x.shape)
        return jnp.where(kept, x / (1 - self.rate), 0)


class Network(Protocol):
    """A language model between the frozen embedding and the frozen head."""

    def start(self, lanes: int) -> Carry:
        """Returns what is known before the first token of so many lanes: zeros."""
        ...

    def segment(
        self, carry: Carry, vectors_BxSxE: jax.Array, dropout: Dropout | None = None
    ) -> tuple[Carry, jax.Array]:
        """Returns what is known after a segment, and what the head reads after each token, [B, S, E]."""
        ...

    def stream(self, vectors_NxE: jax.Array) -> jax.Array:
        """Returns what the head reads after each token of a whole stream, [N, E]."""
        ...


def maybe(dropout: Dropout | None, x: jax.Array, place: int) -> jax.Array:
    """Thins ``x`` out if there is dropout."""
    return x if dropout is None else dropout(x, place)


def whole_stream(network: Network, vectors_NxE: jax.Array) -> jax.Array:
    """Returns what a recurrent network gives to the head: the stream is one long segment of one lane."""
    _, hidden_BxSxE = network.segment(network.start(1), vectors_NxE[None])
    return hidden_BxSxE[0]
