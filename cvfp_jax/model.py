"""The equations: context layers, token layers, the blocks they form, and the frozen embedding.

Shapes: B rows, D context width, E embedding width, K input tokens, L layers, V vocabulary.
"""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cvfp_jax.config import ModelConfig

LAYER_NORM_EPSILON = 1e-5
WEIGHT_STD = 0.1
BIAS_STD = 0.01


def _linear(width_in: int, width_out: int, rngs: nnx.Rngs) -> nnx.Linear:
    return nnx.Linear(
        width_in,
        width_out,
        kernel_init=nnx.initializers.normal(WEIGHT_STD),
        bias_init=nnx.initializers.normal(BIAS_STD),
        rngs=rngs,
    )


def _layer_norm(width: int, rngs: nnx.Rngs) -> nnx.LayerNorm:
    # The fast variance E[x^2] - E[x]^2 loses digits that the parity tests see.
    return nnx.LayerNorm(width, epsilon=LAYER_NORM_EPSILON, use_fast_variance=False, rngs=rngs)


class Layer(nnx.Module):
    """``LN(R(kept) + relu(W [context; token] + b))``: what context and token layers share.

    The weight's rows for the context come first. ``R`` is the identity where the kept input is as
    wide as the output, and a linear map with bias elsewhere.
    """

    def __init__(
        self, context_dim: int, token_dim: int, kept_dim: int, out_dim: int, *, rngs: nnx.Rngs
    ) -> None:
        """Makes weights N(0, 0.1^2), biases N(0, 0.01^2) and a LayerNorm of gain 1."""
        self.context_dim = context_dim
        self.linear = _linear(context_dim + token_dim, out_dim, rngs)
        self.norm = _layer_norm(out_dim, rngs)
        self.residual = _linear(kept_dim, out_dim, rngs) if kept_dim != out_dim else None

    def token_term(self, token: jax.Array) -> jax.Array:
        """The part of the product that does not depend on the context, with the bias."""
        bias: nnx.Param = self.linear.bias  # type: ignore[assignment]  # it always has one
        return token @ self.linear.kernel[self.context_dim :] + bias[None, :]

    def step(self, kept: jax.Array, context: jax.Array, token_term: jax.Array) -> jax.Array:
        """The layer's output, given its token term."""
        delta = jax.nn.relu(context @ self.linear.kernel[: self.context_dim] + token_term)
        return self.norm((self.residual(kept) if self.residual else kept) + delta)


class ContextLayer(Layer):
    """``c' = LN(R(c) + relu(W [c; w] + b))``, for a context c and a token window w."""

    def __init__(self, context_dim: int, token_dim: int, out_dim: int, *, rngs: nnx.Rngs) -> None:
        """Makes a layer that keeps its context input."""
        super().__init__(context_dim, token_dim, context_dim, out_dim, rngs=rngs)

    def __call__(self, context: jax.Array, token: jax.Array) -> jax.Array:
        """Returns the next context."""
        return self.step(context, context, self.token_term(token))


class TokenLayer(Layer):
    """``h' = LN(R(h) + relu(W [c; h] + b))``, for a context c and a token state h."""

    def __init__(self, context_dim: int, token_dim: int, out_dim: int, *, rngs: nnx.Rngs) -> None:
        """Makes a layer that keeps its token input."""
        super().__init__(context_dim, token_dim, token_dim, out_dim, rngs=rngs)

    def __call__(self, context: jax.Array, token: jax.Array) -> jax.Array:
        """Returns the next token state."""
        return self.step(token, context, self.token_term(token))


class ContextBlock(nnx.Module):
    """L context layers of width D, each of which also reads the window of the last K tokens."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        """Makes the layers."""
        self.context_dim = config.context_dim
        self.num_input_tokens = config.num_input_tokens
        D, window = config.context_dim, config.num_input_tokens * config.embed_dim
        self.layers = nnx.List([ContextLayer(D, window, D, rngs=rngs) for _ in range(config.num_layers)])

    def token_terms(self, window_BxKE: jax.Array) -> list[jax.Array]:
        """Returns each layer's token term, [B, D]: all of the block that can be computed ahead of time."""
        return [layer.token_term(window_BxKE) for layer in self.layers]

    def step(self, context_BxD: jax.Array, token_terms_LxBxD: Sequence[jax.Array]) -> list[jax.Array]:
        """Returns the contexts after each layer, [B, D]; the last is the block's output."""
        contexts = []
        for layer, token_term in zip(self.layers, token_terms_LxBxD, strict=True):
            context_BxD = layer.step(context_BxD, context_BxD, token_term)
            contexts.append(context_BxD)
        return contexts

    def every_layer(self, context_BxD: jax.Array, window_BxKE: jax.Array) -> list[jax.Array]:
        """Returns the contexts after each layer, [B, D]."""
        return self.step(context_BxD, self.token_terms(window_BxKE))

    def __call__(self, context_BxD: jax.Array, window_BxKE: jax.Array) -> jax.Array:
        """Returns the context after the last layer, [B, D]."""
        return self.every_layer(context_BxD, window_BxKE)[-1]


def token_widths(config: ModelConfig) -> list[int]:
    """Returns the token block's widths, from the window's K E to E in near-equal steps.

    ``T_i = K E - floor((K - 1) E i / L)`` for i = 0..L.

    Args:
      config: gives K, E and L.

    Returns:
      L + 1 widths.

    >>> token_widths(ModelConfig(num_layers=3, num_input_tokens=2))
    [1536, 1280, 1024, 768]
    """
    K, E, L = config.num_input_tokens, config.embed_dim, config.num_layers
    return [K * E - (K - 1) * E * i // L for i in range(L + 1)]


class TokenBlock(nnx.Module):
    """L token layers; layer i reads the context after context layer i."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        """Makes the layers."""
        widths = token_widths(config)
        self.layers = nnx.List(
            [TokenLayer(config.context_dim, a, b, rngs=rngs) for a, b in itertools.pairwise(widths)]
        )

    def __call__(self, contexts_LxBxD: Sequence[jax.Array], window_BxKE: jax.Array) -> jax.Array:
        """Returns the hidden vector that the head reads, [B, E]."""
        hidden = window_BxKE
        for layer, context_BxD in zip(self.layers, contexts_LxBxD, strict=True):
            hidden = layer(context_BxD, hidden)
        return hidden


class Embedding(nnx.Module):
    """A table of token vectors, frozen and tied to the head, and the LayerNorm on the way in."""

    def __init__(self, table_VxE: jax.Array, *, rngs: nnx.Rngs) -> None:
        """Takes the table as it is."""
        self.table = nnx.Param(table_VxE)
        self.norm = _layer_norm(table_VxE.shape[1], rngs)

    def token_vectors(self) -> jax.Array:
        """Returns the vectors e_v = LN(table_v) that the blocks read, [V, E]."""
        return self.norm(self.table[...])


class LanguageModel(nnx.Module):
    """The whole system; its logits are ``hidden @ table.T``."""

    def __init__(self, config: ModelConfig, table_VxE: jax.Array, *, rngs: nnx.Rngs) -> None:
        """Makes the blocks and takes the table."""
        self.embedding = Embedding(table_VxE, rngs=rngs)
        self.context_block = ContextBlock(config, rngs=rngs)
        self.token_block = TokenBlock(config, rngs=rngs)


def token_windows(
    vectors_VxE: jax.Array, ids_N: jax.Array, places_B: jax.Array, num_input_tokens: int
) -> jax.Array:
    """Returns the window of the last K token vectors at each place of a stream.

    ``w_t = [e_{t-K+1}; ...; e_t]``, oldest first, zeros before the stream's first token. Sample
    borders do not matter.

    Args:
      vectors_VxE: float, the token vectors.
      ids_N: int, the stream.
      places_B: int, the places t.
      num_input_tokens: K.

    Returns:
      [B, K E], of the vectors' type.

    >>> token_windows(jnp.array([[1.0], [2.0]]), jnp.array([0, 1]), jnp.array([0, 1]), 2).tolist()
    [[0.0, 1.0], [1.0, 2.0]]
    """
    back_K = jnp.arange(num_input_tokens - 1, -1, -1, dtype=places_B.dtype)
    places_BxK = places_B[:, None] - back_K[None, :]
    vectors_BxKxE = vectors_VxE[ids_N[jnp.maximum(places_BxK, 0)]]
    vectors_BxKxE = jnp.where((places_BxK >= 0)[:, :, None], vectors_BxKxE, 0)
    return vectors_BxKxE.reshape(len(places_B), -1)


def num_params(config: ModelConfig, vocab_size: int, freeze_embedding: bool = True) -> dict[str, int]:
    """Counts parameters as the reports print them.

    Args:
      config: the architecture.
      vocab_size: V.
      freeze_embedding: whether phase 2 leaves the table alone.

    Returns:
      ``params_context_block``, ``params_token_block``, ``params_total`` (with the table and its
      LayerNorm) and ``params_trainable_phase2``: the token block, the table unless it is frozen, and
      the LayerNorm, which the reports count although no gradient reaches it while its outputs are
      cached.

    >>> num_params(ModelConfig(), 50257)["params_context_block"]
    1181952
    """

    def make() -> LanguageModel:
        return LanguageModel(config, jnp.zeros((vocab_size, config.embed_dim)), rngs=nnx.Rngs(0))

    model = nnx.eval_shape(make)

    def count(module: nnx.Module) -> int:
        return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))

    trained_table = 0 if freeze_embedding else vocab_size * config.embed_dim
    return {
        "params_context_block": count(model.context_block),
        "params_token_block": count(model.token_block),
        "params_total": count(model),
        "params_trainable_phase2": count(model.token_block) + count(model.embedding.norm) + trained_table,
    }
