"""A decoder-only transformer between the frozen embedding and the frozen head.

Shapes: B lanes, S tokens of a segment, N tokens of a stream, E embedding width, M width of the transformer,
H heads, W windows.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from cvfp_jax.baselines.network import Carry, Dropout, maybe
from cvfp_jax.baselines.widths import TransformerShape
from cvfp_jax.core.model import LAYER_NORM_EPSILON, affine

_STD = 0.02
_LONGEST_WAVE = 10_000.0
_WINDOWS_AT_ONCE = 16  # more would take much memory for the attention of all


def rotate(x_BxHxSxC: jax.Array) -> jax.Array:
    """Turns pairs of a head's channels by angles that grow with the place: rotary positions.

    The pair ``(x_i, x_{i + C/2})`` of the token at place s is turned by ``s 10000^(-2 i / C)``, so that a
    product of two rotated vectors depends on how far apart they are, and not on where they stand.

    Args:
      x_BxHxSxC: float, with an even number C of channels.

    Returns:
      As x.

    References:
      Su et al., RoFormer: Enhanced Transformer with Rotary Position Embedding, 2021.

    >>> [[round(x, 3) for x in row] for row in rotate(jnp.ones((1, 1, 2, 2)))[0, 0].tolist()]
    [[1.0, 1.0], [-0.301, 1.382]]
    """
    tokens, half = x_BxHxSxC.shape[2], x_BxHxSxC.shape[3] // 2
    waves_C = _LONGEST_WAVE ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles_SxC = jnp.arange(tokens, dtype=jnp.float32)[:, None] * waves_C[None, :]
    cos, sin = jnp.cos(angles_SxC)[None, None], jnp.sin(angles_SxC)[None, None]
    one, other = x_BxHxSxC[..., :half], x_BxHxSxC[..., half:]
    return jnp.concatenate([one * cos - other * sin, one * sin + other * cos], axis=3)


class TransformerLayer(nnx.Module):
    """``x + attention(LN(x))``, then ``x + W' gelu(W LN(x))``: a layer whose norms stand before its parts.

    References:
      Vaswani et al., Attention Is All You Need, 2017; Radford et al., Language Models are Unsupervised
      Multitask Learners, 2019.
    """

    def __init__(
        self, width: int, inner: int, num_heads: int, output_std: float, precision: str, *, rngs: nnx.Rngs
    ) -> None:
        """Makes normal weights; what is added to x is smaller where layers are many."""
        self.num_heads, self.precision = num_heads, precision
        small, smaller = nnx.initializers.normal(_STD), nnx.initializers.normal(output_std)
        self.attention_norm = nnx.LayerNorm(width, epsilon=LAYER_NORM_EPSILON, rngs=rngs)
        self.queries_keys_values = nnx.Linear(width, 3 * width, kernel_init=small, rngs=rngs)
        self.attended = nnx.Linear(width, width, kernel_init=smaller, rngs=rngs)
        self.norm = nnx.LayerNorm(width, epsilon=LAYER_NORM_EPSILON, rngs=rngs)
        self.inner = nnx.Linear(width, inner, kernel_init=small, rngs=rngs)
        self.outer = nnx.Linear(inner, width, kernel_init=smaller, rngs=rngs)

    def _affine(self, linear: nnx.Linear, x_BxSxM: jax.Array) -> jax.Array:
        rows = affine(linear, x_BxSxM.reshape(-1, x_BxSxM.shape[2]), self.precision)
        return rows.reshape(*x_BxSxM.shape[:2], -1)

    def _attention(self, x_BxSxM: jax.Array) -> jax.Array:
        """Each token reads itself and those before it."""
        lanes, tokens, width = x_BxSxM.shape
        of_heads = self._affine(self.queries_keys_values, x_BxSxM)
        of_heads = of_heads.reshape(lanes, tokens, 3 * self.num_heads, -1).swapaxes(1, 2)
        queries, keys, values = jnp.split(of_heads, 3, axis=1)
        scores = jnp.einsum("bhsc,bhtc->bhst", rotate(queries), rotate(keys))
        seen_SxS = jnp.tril(jnp.ones((tokens, tokens), bool))
        scores = jnp.where(seen_SxS[None, None], scores / queries.shape[3] ** 0.5, -jnp.inf)
        read = jnp.einsum("bhst,bhtc->bhsc", jax.nn.softmax(scores, axis=3), values)
        return self._affine(self.attended, read.swapaxes(1, 2).reshape(lanes, tokens, width))

    def __call__(self, x_BxSxM: jax.Array, dropout: Dropout | None, place: int) -> jax.Array:
        """Returns what the next layer reads."""
        x_BxSxM += maybe(dropout, self._attention(self.attention_norm(x_BxSxM)), place)
        inner = jax.nn.gelu(self._affine(self.inner, self.norm(x_BxSxM)), approximate=False)
        return x_BxSxM + maybe(dropout, self._affine(self.outer, inner), place + 1)


class Transformer(nnx.Module):
    """Layers between two linear maps, from the token vectors and to what the head reads.

    It is trained on windows of ``window`` tokens. Of a stream it reads windows that overlap by half, and each
    prediction is made from half a window of tokens at least, except at the stream's start.

    Args:
      embed_dim: E.
      shape: the other sizes; the heads share the width M.
      window: the tokens it reads at a time in a stream.
      precision: of products but those of the attention; see ``core.matmul``.
      rngs: draws the weights.
    """

    def __init__(
        self,
        embed_dim: int,
        shape: TransformerShape,
        window: int,
        precision: str = "f32",
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.window, self.precision = window, precision
        width, inner, num_layers, num_heads = shape
        small = nnx.initializers.normal(_STD)
        self.input = nnx.Linear(embed_dim, width, kernel_init=small, rngs=rngs)
        added_std = _STD / (2 * num_layers) ** 0.5
        self.layers = nnx.List(
            [
                TransformerLayer(width, inner, num_heads, added_std, precision, rngs=rngs)
                for _ in range(num_layers)
            ]
        )
        self.norm = nnx.LayerNorm(width, epsilon=LAYER_NORM_EPSILON, rngs=rngs)
        self.output = nnx.Linear(width, embed_dim, kernel_init=small, rngs=rngs)

    def start(self, lanes: int) -> Carry:
        """Returns nothing: a window is all that it knows."""
        del lanes
        return ()

    def segment(
        self, carry: Carry, vectors_BxSxE: jax.Array, dropout: Dropout | None = None
    ) -> tuple[Carry, jax.Array]:
        """Returns nothing known, and what the head reads after each token of a window, [B, S, E]."""
        lanes, tokens, width = vectors_BxSxE.shape
        x = affine(self.input, vectors_BxSxE.reshape(-1, width), self.precision)
        x_BxSxM = maybe(dropout, x.reshape(lanes, tokens, -1), 0)
        for number, layer in enumerate(self.layers):
            x_BxSxM = layer(x_BxSxM, dropout, 1 + 2 * number)
        normed = self.norm(x_BxSxM).reshape(lanes * tokens, -1)
        return carry, affine(self.output, normed, self.precision).reshape(vectors_BxSxE.shape)

    def stream(self, vectors_NxE: jax.Array) -> jax.Array:
        """Returns what the head reads after each token of a stream, [N, E]."""
        N, window, hop = len(vectors_NxE), self.window, self.window // 2
        windows = 1 + -(-max(0, N - window) // hop)
        vectors_NxE = jnp.pad(vectors_NxE, ((0, window + (windows - 1) * hop - N), (0, 0)))
        places_WxS = jnp.arange(windows)[:, None] * hop + jnp.arange(window)[None, :]
        hidden_WxSxE = jax.lax.map(
            lambda places_S: self.segment((), vectors_NxE[places_S][None])[1][0],
            places_WxS,
            batch_size=_WINDOWS_AT_ONCE,
        )
        # Of the first window everything, of those after it what the one before has not reached.
        later_NxE = hidden_WxSxE[1:, window - hop :].reshape(-1, vectors_NxE.shape[1])
        return jnp.concatenate([hidden_WxSxE[0], later_NxE])[:N]
