"""The equations: context layers, token layers, the blocks they form, and the frozen embedding.

Shapes: B rows, D context width, E embedding width, K input tokens, L layers, V vocabulary.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from cvfp_jax.config.settings import ModelConfig
from cvfp_jax.core.matmul import product
from cvfp_jax.core.widths import FFN_EXPANSION, context_widths, token_context_widths, token_widths

LAYER_NORM_EPSILON = 1e-5
WEIGHT_STD = 0.1
BIAS_STD = 0.01

# Sets entries to zero at random and scales up the others.
Drop = Callable[[jax.Array], jax.Array]


def _linear(width_in: int, width_out: int, init: str, rngs: nnx.Rngs) -> nnx.Linear:
    normal = init == "normal"
    return nnx.Linear(
        width_in,
        width_out,
        kernel_init=nnx.initializers.normal(WEIGHT_STD) if normal else nnx.initializers.xavier_uniform(),
        bias_init=nnx.initializers.normal(BIAS_STD) if normal else nnx.initializers.zeros,
        rngs=rngs,
    )


def array_of(param: nnx.Param | None) -> jax.Array:
    """Returns a gain's or a bias's array; Flax types them as optional, and all of ours are there."""
    assert param is not None
    return param[...]


def affine(layer: nnx.Linear, x: jax.Array, precision: str) -> jax.Array:
    """Returns ``x W + b``."""
    return product(x, layer.kernel[...], precision) + array_of(layer.bias)[None, :]


def _layer_norm(width: int, rngs: nnx.Rngs) -> nnx.LayerNorm:
    # The fast variance E[x^2] - E[x]^2 loses digits that the parity tests see.
    return nnx.LayerNorm(width, epsilon=LAYER_NORM_EPSILON, use_fast_variance=False, rngs=rngs)


class LayerKind(NamedTuple):
    """What all layers of a model have in common."""

    activation: str = "relu"
    num_linear: int = 1
    init: str = "normal"
    precision: str = "f32"  # of products

    @classmethod
    def of(cls, config: ModelConfig, precision: str = "f32") -> "LayerKind":
        """The kind that a config asks for."""
        return cls(config.activation, config.ffn_num_layers, config.init, precision)

    def activate(self, x: jax.Array) -> jax.Array:
        """Returns relu(x), or x Phi(x) with Phi the normal distribution."""
        match self.activation:
            case "relu":
                return jax.nn.relu(x)
            case "gelu":
                return jax.nn.gelu(x, approximate=False)
        raise ValueError(f"no activation {self.activation!r}")

    def slope(self, x: jax.Array) -> jax.Array:
        """Returns the derivative of ``activate``: of relu as bool, of gelu ``Phi(x) + x phi(x)``."""
        match self.activation:
            case "relu":
                return x > 0
            case "gelu":
                return jax.scipy.stats.norm.cdf(x) + x * jax.scipy.stats.norm.pdf(x)
        raise ValueError(f"no slope of activation {self.activation!r}")


class Layer(nnx.Module):
    """``LN(R(kept) + f([context; token]))``: what context and token layers share.

    ``f(x) = phi(W x + b)``, or with a second linear map ``phi(W' phi(W x + b) + b')`` and four times the
    input's width between the two. The weight's rows for the context come first. ``R`` is the identity
    where the kept input is as wide as the output, and a linear map with bias elsewhere. A layer without
    context or token input has one of width zero.
    """

    def __init__(
        self,
        context_dim: int,
        token_dim: int,
        kept_dim: int,
        out_dim: int,
        kind: LayerKind = LayerKind(),  # noqa: B008 (immutable)
        *,
        rngs: nnx.Rngs,
    ) -> None:
        """Makes the weights, and a LayerNorm of gain 1."""
        self.context_dim = context_dim
        self.token_dim = token_dim
        self.kind = kind
        width_in = context_dim + token_dim
        inner = out_dim if kind.num_linear == 1 else FFN_EXPANSION * width_in
        self.linear = _linear(width_in, inner, kind.init, rngs)
        self.second = _linear(inner, out_dim, kind.init, rngs) if kind.num_linear == 2 else None
        self.norm = _layer_norm(out_dim, rngs)
        self.residual = _linear(kept_dim, out_dim, kind.init, rngs) if kept_dim != out_dim else None

    @property
    def first_bias(self) -> jax.Array:
        """The bias of the first linear map."""
        return array_of(self.linear.bias)

    def token_term(self, token: jax.Array) -> jax.Array:
        """The part of the first product that does not depend on the context, with the bias."""
        kernel = self.linear.kernel[self.context_dim :]
        return product(token[:, : self.token_dim], kernel, self.kind.precision) + self.first_bias[None, :]

    def step(
        self, kept: jax.Array, context: jax.Array, token_term: jax.Array, drop: Drop | None = None
    ) -> jax.Array:
        """The layer's output, given its token term; ``drop`` thins out what it adds."""
        precision = self.kind.precision
        first = product(context, self.linear.kernel[: self.context_dim], precision)
        delta = self.kind.activate(first + token_term)
        if self.second is not None:
            delta = self.kind.activate(affine(self.second, delta, precision))
        if drop is not None:
            delta = drop(delta)
        return self.norm((affine(self.residual, kept, precision) if self.residual else kept) + delta)


class ContextLayer(Layer):
    """``c' = LN(R(c) + f([c; w]))``, for a context c and a token window w."""

    def __init__(
        self,
        context_dim: int,
        token_dim: int,
        out_dim: int,
        kind: LayerKind = LayerKind(),  # noqa: B008
        *,
        rngs: nnx.Rngs,
    ) -> None:
        """Makes a layer that keeps its context input."""
        super().__init__(context_dim, token_dim, context_dim, out_dim, kind, rngs=rngs)

    def __call__(self, context: jax.Array, token: jax.Array) -> jax.Array:
        """Returns the next context."""
        return self.step(context, context, self.token_term(token))


class TokenLayer(Layer):
    """``h' = LN(R(h) + f([c; h]))``, for a context c and a token state h."""

    def __init__(
        self,
        context_dim: int,
        token_dim: int,
        out_dim: int,
        kind: LayerKind = LayerKind(),  # noqa: B008
        *,
        rngs: nnx.Rngs,
    ) -> None:
        """Makes a layer that keeps its token input."""
        super().__init__(context_dim, token_dim, token_dim, out_dim, kind, rngs=rngs)

    def __call__(self, context: jax.Array, token: jax.Array, drop: Drop | None = None) -> jax.Array:
        """Returns the next token state."""
        return self.step(token, context, self.token_term(token), drop)


class ContextBlock(nnx.Module):
    """L context layers from width D to width D."""

    def __init__(self, config: ModelConfig, precision: str = "f32", *, rngs: nnx.Rngs) -> None:
        """Makes the layers."""
        self.context_dim = config.context_dim
        self.num_input_tokens = config.num_input_tokens
        widths, window = context_widths(config), config.num_input_tokens * config.embed_dim
        tokens = [window if i == 0 or config.token_input_all_layers else 0 for i in range(config.num_layers)]
        kind = LayerKind.of(config, precision)
        self.layers = nnx.List(
            [
                ContextLayer(a, token, b, kind, rngs=rngs)
                for (a, b), token in zip(itertools.pairwise(widths), tokens, strict=True)
            ]
        )

    def to_single_precision(self) -> None:
        """Has all products be of numbers as they are.

        Exact contexts need it: rounded on their way they would not forget where they started to the last
        digits.
        """
        for layer in self.layers:
            layer.kind = layer.kind._replace(precision="f32")

    def token_terms(self, window_BxKE: jax.Array) -> list[jax.Array]:
        """Returns each layer's token term, [B, D_i]: all that can be computed ahead of time."""
        return [layer.token_term(window_BxKE) for layer in self.layers]

    def step(self, context_BxD: jax.Array, token_terms: Sequence[jax.Array]) -> list[jax.Array]:
        """Returns the contexts after each layer, [B, D_i]; the last is the block's output."""
        contexts = []
        for layer, token_term in zip(self.layers, token_terms, strict=True):
            context_BxD = layer.step(context_BxD, context_BxD, token_term)
            contexts.append(context_BxD)
        return contexts

    def every_layer(self, context_BxD: jax.Array, window_BxKE: jax.Array) -> list[jax.Array]:
        """Returns the contexts after each layer, [B, D_i]."""
        return self.step(context_BxD, self.token_terms(window_BxKE))

    def __call__(self, context_BxD: jax.Array, window_BxKE: jax.Array) -> jax.Array:
        """Returns the context after the last layer, [B, D]."""
        return self.every_layer(context_BxD, window_BxKE)[-1]


class TokenBlock(nnx.Module):
    """Token layers, each of which also reads the context that the mode gives it."""

    def __init__(self, config: ModelConfig, precision: str = "f32", *, rngs: nnx.Rngs) -> None:
        """Makes the layers."""
        kind = LayerKind.of(config, precision)
        widths = zip(token_context_widths(config), itertools.pairwise(token_widths(config)), strict=True)
        self.layers = nnx.List([TokenLayer(c, a, b, kind, rngs=rngs) for c, (a, b) in widths])

    def __call__(
        self, contexts: Sequence[jax.Array], window_BxKE: jax.Array, drops: Sequence[Drop | None] = ()
    ) -> jax.Array:
        """Returns the hidden vector that the head reads, [B, E]."""
        hidden = window_BxKE
        for layer, context, drop in itertools.zip_longest(self.layers, contexts, drops):
            hidden = layer(context, hidden, drop)
        return hidden


class Embedding(nnx.Module):
    """A frozen table of token vectors, and the LayerNorm on the way in."""

    def __init__(self, table_VxE: jax.Array, *, rngs: nnx.Rngs) -> None:
        """Takes the table as it is."""
        self.table = nnx.Param(table_VxE)
        self.norm = _layer_norm(table_VxE.shape[1], rngs)

    def token_vectors(self) -> jax.Array:
        """Returns the vectors e_v = LN(table_v) that the blocks read, [V, E]."""
        return self.norm(self.table[...])


class Head(nnx.Module):
    """An untied head, ``hidden @ table.T + bias``, zero to begin with."""

    def __init__(self, vocab_size: int, embed_dim: int) -> None:
        """Makes zeros."""
        self.table = nnx.Param(jnp.zeros((vocab_size, embed_dim)))
        self.bias = nnx.Param(jnp.zeros((vocab_size,)))


def layer_inputs(config: ModelConfig, final_BxD: jax.Array, before_BxD: jax.Array) -> list[jax.Array]:
    """Returns what each token layer reads, of final contexts only.

    Mode F: the first token layer reads the final context. G: the first that of the token before, the last
    the final one. A, and E with a single layer: all of them read the final context.

    Args:
      config: gives the mode and the number of token layers.
      final_BxD: float, the contexts after each token, with those of earlier tokens beside them if they
        are asked for.
      before_BxD: float, the contexts after the token before.

    Returns:
      An array a token layer, of width zero where it reads none.

    >>> now, before = jnp.ones((1, 2)), jnp.zeros((1, 2))
    >>> [a.tolist() for a in layer_inputs(ModelConfig(num_layers=3, context_mode="G"), now, before)]
    [[[0.0, 0.0]], [[]], [[1.0, 1.0]]]
    """
    none = final_BxD[:, :0]
    inside = config.token_depth - 1
    match config.context_mode:
        case "F":
            return [final_BxD] + [none] * inside
        case "G":
            return [before_BxD] + [none] * (inside - 1) + [final_BxD]
        case _:  # A, and E with a single layer
            return [final_BxD] * (inside + 1)


class TextState(NamedTuple):
    """All that a model keeps of a text it has read, however long: the last contexts and token vectors."""

    contexts_HxBxD: jax.Array  # those after the last H tokens, the newest first; of all blocks side by side
    window_BxKE: jax.Array  # of the last K tokens, the oldest first


class LanguageModel(nnx.Module):
    """The whole system; its logits are ``hidden @ table.T``, of the embedding table or a head of its own."""

    def __init__(
        self, config: ModelConfig, table_VxE: jax.Array, precision: str = "f32", *, rngs: nnx.Rngs
    ) -> None:
        """Makes the blocks and takes the table."""
        self.config = config
        self.precision = precision
        self.embedding = Embedding(table_VxE, rngs=rngs)
        blocks = range(config.num_blocks)
        self.context_blocks = nnx.List([ContextBlock(config, precision, rngs=rngs) for _ in blocks])
        self.token_block = TokenBlock(config, precision, rngs=rngs)
        # Data even where there is none: phase 2 may train a head that is tied to begin with.
        self.head: Head | None = nnx.data(None if config.use_weight_tying else Head(*table_VxE.shape))

    def start(self, batch: int = 1) -> TextState:
        """Returns the state before the first token of so many texts: zeros."""
        config, table_VxE = self.config, self.embedding.table[...]
        kept = config.prev_context_steps + (2 if config.context_mode == "G" else 1)
        contexts_HxBxD = jnp.zeros((kept, batch, config.num_blocks * config.context_dim), table_VxE.dtype)
        window = config.num_input_tokens * config.embed_dim
        return TextState(contexts_HxBxD, jnp.zeros((batch, window), table_VxE.dtype))

    def read(self, state: TextState, ids_B: jax.Array) -> tuple[TextState, list[jax.Array]]:
        """Returns the state after one more token of each text, and the contexts that token layers read."""
        config, D = self.config, self.config.context_dim
        vectors_BxE = self.embedding.norm(self.embedding.table[ids_B])
        window_BxKE = jnp.concatenate([state.window_BxKE[:, config.embed_dim :], vectors_BxE], axis=1)
        before_BxD = state.contexts_HxBxD[0]
        by_block = [
            block.every_layer(before_BxD[:, index * D : (index + 1) * D], window_BxKE)
            for index, block in enumerate(self.context_blocks)
        ]
        new_BxD = jnp.concatenate([layers[-1] for layers in by_block], axis=1)
        kept = len(state.contexts_HxBxD)
        contexts_HxBxD = jnp.concatenate([new_BxD[None], state.contexts_HxBxD])[:kept]
        state = TextState(contexts_HxBxD, window_BxKE)
        if config.reads_every_layer:
            return state, by_block[0]
        steps = config.prev_context_steps + 1
        final_BxD = jnp.concatenate(list(contexts_HxBxD[:steps]), axis=1)
        return state, layer_inputs(config, final_BxD, contexts_HxBxD[-1])

    def hidden(self, state: TextState, inputs: Sequence[jax.Array]) -> jax.Array:
        """Returns what the head reads after a token, [B, E], given what ``read`` returned."""
        return self.token_block(inputs, state.window_BxKE)

    def logits(self, hidden_BxE: jax.Array) -> jax.Array:
        """Returns the logits of the next token, [B, V]."""
        if self.head is None:
            return product(hidden_BxE, self.embedding.table[...].T, self.precision)
        logits_BxV = product(hidden_BxE, self.head.table[...].T, self.precision)
        return logits_BxV + self.head.bias[...][None, :]

    def __call__(self, ids_N: jax.Array) -> jax.Array:
        """Returns the logits of the token after each one of a text, [N, V], read one after the other.

        >>> config = ModelConfig(context_dim=4, embed_dim=3)
        >>> model = LanguageModel(config, jnp.ones((7, 3)), rngs=nnx.Rngs(0))
        >>> model(jnp.array([5, 0, 5])).shape
        (3, 7)
        """

        def step(state: TextState, id_: jax.Array) -> tuple[TextState, jax.Array]:
            state, inputs = self.read(state, id_[None])
            return state, self.hidden(state, inputs)[0]

        _, hidden_NxE = jax.lax.scan(step, self.start(), ids_N)
        return self.logits(hidden_NxE)


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
