"""CVFP's own recurrence and token block, learned together by back-propagation through time: no phase 1.

Shapes: B lanes, S tokens of a segment, D context width, E embedding width, K input tokens, L layers.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from cvfp_jax.baselines.network import Carry, Dropout, whole_stream
from cvfp_jax.config.settings import ModelConfig
from cvfp_jax.core.model import ContextBlock, TokenBlock, layer_inputs


class Recurrence(nnx.Module):
    """``c_t = ContextBlock(c_{t-1}, w_t)``, and the head reads ``TokenBlock(c_t, w_t)``.

    Both blocks start as CVFP's do. Gradients go back through the contexts of a segment and stop at its start:
    truncated back-propagation through time. Dropout is phase 2's: it thins out what token layers add.

    References:
      Werbos, Backpropagation Through Time: What It Does and How to Do It, 1990.

    Args:
      config: the architecture, of one context block.
      precision: of products; see ``core.matmul``.
      rngs: draws the weights.
    """

    def __init__(self, config: ModelConfig, precision: str = "f32", *, rngs: nnx.Rngs) -> None:
        self.config = config
        self.context_block = ContextBlock(config, precision, rngs=rngs)
        self.token_block = TokenBlock(config, precision, rngs=rngs)

    def start(self, lanes: int) -> Carry:
        """Returns contexts of zeros, and zeros before the first window's last token."""
        config = self.config
        before = (lanes, config.num_input_tokens - 1, config.embed_dim)
        return jnp.zeros((lanes, config.context_dim)), jnp.zeros(before)

    def segment(
        self, carry: Carry, vectors_BxSxE: jax.Array, dropout: Dropout | None = None
    ) -> tuple[Carry, jax.Array]:
        """Returns what is known after a segment, and what the head reads after each token, [B, S, E]."""
        (start_BxD, before_BxKxE), (lanes, tokens, _) = carry, vectors_BxSxE.shape
        K = self.config.num_input_tokens
        read = jnp.concatenate([before_BxKxE, vectors_BxSxE], axis=1)
        window_SBxKE = jnp.concatenate([read[:, k : k + tokens] for k in range(K)], axis=2)
        window_SBxKE = window_SBxKE.swapaxes(0, 1).reshape(tokens * lanes, -1)
        terms = [term.reshape(tokens, lanes, -1) for term in self.context_block.token_terms(window_SBxKE)]

        def step(context_BxD: jax.Array, terms: list[jax.Array]) -> tuple[jax.Array, list[jax.Array]]:
            layers = self.context_block.step(context_BxD, terms)
            return layers[-1], layers

        end_BxD, layers = jax.lax.scan(step, start_BxD, terms)
        final_SxBxD = layers[-1]
        before_SxBxD = jnp.concatenate([start_BxD[None], final_SxBxD[:-1]])
        of_rows = [layer.reshape(tokens * lanes, -1) for layer in (*layers, before_SxBxD)]
        inputs = of_rows[:-1]
        if not self.config.reads_every_layer:
            inputs = layer_inputs(self.config, of_rows[-2], of_rows[-1])
        drops = []
        if dropout is not None:
            drops = [lambda delta, place=place: dropout(delta, place) for place in range(len(inputs))]
        hidden_SBxE = self.token_block(inputs, window_SBxKE, drops)
        hidden_BxSxE = hidden_SBxE.reshape(tokens, lanes, -1).swapaxes(0, 1)
        return (end_BxD, read[:, tokens:]), hidden_BxSxE

    def stream(self, vectors_NxE: jax.Array) -> jax.Array:
        """Returns what the head reads after each token of a stream, [N, E]."""
        return whole_stream(self, vectors_NxE)
