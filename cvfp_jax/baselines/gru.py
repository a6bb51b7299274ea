"""A recurrent network of gated units between the frozen embedding and the frozen head.

Shapes: B lanes, S tokens of a segment, E embedding width, H width of the state.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from cvfp_jax.baselines.network import Carry, Dropout, maybe, whole_stream
from cvfp_jax.baselines.widths import GRUShape
from cvfp_jax.core.model import affine

_OUTPUT_STD = 0.02  # small logits to begin with


class GRULayer(nnx.Module):
    """``h' = (1 - z) n + z h``, with gates r and z of the input x and the state h.

    ``r, z = sigmoid(W x + U h)`` and ``n = tanh(W x + r (U h + b))``, each with rows and biases of its own.

    References:
      Cho et al., Learning Phrase Representations using RNN Encoder-Decoder, 2014.
    """

    def __init__(self, width_in: int, width: int, precision: str, *, rngs: nnx.Rngs) -> None:
        """Makes Xavier-uniform weights for the input and orthogonal ones for the state."""
        self.width, self.precision = width, precision
        xavier, orthogonal = nnx.initializers.xavier_uniform(), nnx.initializers.orthogonal()
        self.reads = nnx.Linear(width_in, 3 * width, kernel_init=xavier, rngs=rngs)
        self.keeps = nnx.Linear(width, 3 * width, kernel_init=orthogonal, rngs=rngs)

    def __call__(self, state_BxH: jax.Array, inputs_BxSxI: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the state after a segment, and those after each token, [B, S, H]."""
        lanes, tokens, width = inputs_BxSxI.shape
        # Of all tokens at once, which do not depend on the state.
        terms = affine(self.reads, inputs_BxSxI.reshape(-1, width), self.precision)
        terms_SxBx3H = terms.reshape(lanes, tokens, -1).swapaxes(0, 1)

        def step(state_BxH: jax.Array, term_Bx3H: jax.Array) -> tuple[jax.Array, jax.Array]:
            read_r, read_z, read_n = jnp.split(term_Bx3H, 3, axis=1)
            kept_r, kept_z, kept_n = jnp.split(affine(self.keeps, state_BxH, self.precision), 3, axis=1)
            update_BxH = jax.nn.sigmoid(read_z + kept_z)
            new_BxH = jnp.tanh(read_n + jax.nn.sigmoid(read_r + kept_r) * kept_n)
            state_BxH = (1 - update_BxH) * new_BxH + update_BxH * state_BxH
            return state_BxH, state_BxH

        state_BxH, states_SxBxH = jax.lax.scan(step, state_BxH, terms_SxBx3H)
        return state_BxH, states_SxBxH.swapaxes(0, 1)


class GRU(nnx.Module):
    """Layers of gated units, and a linear map to what the head reads.

    Dropout thins out what goes from layer to layer and to the map, and no state (Zaremba et al., Recurrent
    Neural Network Regularization, 2014).

    Args:
      embed_dim: E.
      shape: the width H and the number of layers.
      precision: of products; see ``core.matmul``.
      rngs: draws the weights.
    """

    def __init__(self, embed_dim: int, shape: GRUShape, precision: str = "f32", *, rngs: nnx.Rngs) -> None:
        width, num_layers = shape
        self.width, self.precision = width, precision
        widths = [embed_dim] + [width] * (num_layers - 1)
        self.layers = nnx.List([GRULayer(size, width, precision, rngs=rngs) for size in widths])
        small = nnx.initializers.normal(_OUTPUT_STD)
        self.output = nnx.Linear(width, embed_dim, kernel_init=small, rngs=rngs)

    def start(self, lanes: int) -> Carry:
        """Returns states of zeros, one a layer."""
        return [jnp.zeros((lanes, self.width)) for _ in self.layers]

    def segment(
        self, carry: Carry, vectors_BxSxE: jax.Array, dropout: Dropout | None = None
    ) -> tuple[Carry, jax.Array]:
        """Returns the states after a segment, and what the head reads after each token, [B, S, E]."""
        hidden, states = vectors_BxSxE, []
        for place, (layer, state_BxH) in enumerate(zip(self.layers, carry, strict=True)):
            state_BxH, hidden = layer(state_BxH, hidden)
            hidden = maybe(dropout, hidden, place)
            states.append(state_BxH)
        rows = affine(self.output, hidden.reshape(-1, self.width), self.precision)
        return states, rows.reshape(vectors_BxSxE.shape)

    def stream(self, vectors_NxE: jax.Array) -> jax.Array:
        """Returns what the head reads after each token of a stream, [N, E]."""
        return whole_stream(self, vectors_NxE)
