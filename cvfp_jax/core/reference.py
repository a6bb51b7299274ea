"""The whole system in plain JAX: both phases, with no kernels, no sharding and no padding.

This is the paper in code. ``docs/equations.md`` quotes it, and every fast version is tested against it.
Parameters are pytrees of arrays. Nothing is compiled: wrap what you call often in ``jax.jit``, with the
configs static. It leaves out several context blocks, contexts of earlier tokens beside the present one,
dropout, a head or an embedding that learns, and the stop rules.

Shapes: N tokens of a stream, B rows, D context width, E embedding width, K input tokens, V vocabulary.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from cvfp_jax.config.settings import ModelConfig, Phase1Config, Phase2Config
from cvfp_jax.core.diversity import DIVERSITY_LOSSES
from cvfp_jax.core.optimizer import adam, clip_by_global_norm
from cvfp_jax.core.widths import FFN_EXPANSION, context_widths, token_context_widths, token_widths

LAYER_NORM_EPSILON = 1e-5
WEIGHT_STD, BIAS_STD = 0.1, 0.01


class Linear(NamedTuple):
    """``x W + b``."""

    kernel: jax.Array  # [in, out]
    bias: jax.Array  # [out]


class Norm(NamedTuple):
    """A LayerNorm's gain and bias, [width]."""

    scale: jax.Array
    bias: jax.Array


class Layer(NamedTuple):
    """A context layer or a token layer."""

    first: Linear  # its rows for the context come before those for the token
    second: Linear | None  # with ffn_num_layers=2
    residual: Linear | None  # where the width changes
    norm: Norm


def init_context_block(key: jax.Array, model: ModelConfig) -> list[Layer]:
    """Returns an untrained context block: L layers from width D to width D, see ``core/widths.py``.

    Weights are N(0, 0.1^2) and biases N(0, 0.01^2), or with ``init=xavier`` Xavier-uniform and zero.

    >>> init_context_block(jax.random.key(0), ModelConfig(4, 3))[0].first.kernel.shape
    (7, 4)
    """
    window, layers = model.num_input_tokens * model.embed_dim, []
    for number, (kept, out) in enumerate(itertools.pairwise(context_widths(model))):
        token = window if number == 0 or model.token_input_all_layers else 0
        layers.append(_init_layer(jax.random.fold_in(key, number), kept + token, kept, out, model))
    return layers


def init_token_block(key: jax.Array, model: ModelConfig) -> list[Layer]:
    """Returns an untrained token block, from the window's width K E to E; otherwise as a context block.

    >>> init_token_block(jax.random.key(0), ModelConfig(4, 3))[0].first.kernel.shape
    (7, 3)
    """
    layers, widths = [], itertools.pairwise(token_widths(model))
    for number, (context, (kept, out)) in enumerate(zip(token_context_widths(model), widths, strict=True)):
        layers.append(_init_layer(jax.random.fold_in(key, number), context + kept, kept, out, model))
    return layers


def _init_layer(key: jax.Array, width: int, kept: int, out: int, model: ModelConfig) -> Layer:
    def linear(number: int, width_in: int, width_out: int) -> Linear:
        kernel_key, bias_key = jax.random.split(jax.random.fold_in(key, number))
        shape = width_in, width_out
        if model.init == "xavier":
            return Linear(jax.nn.initializers.xavier_uniform()(kernel_key, shape), jnp.zeros(width_out))
        kernel = WEIGHT_STD * jax.random.normal(kernel_key, shape)
        return Linear(kernel, BIAS_STD * jax.random.normal(bias_key, (width_out,)))

    two = model.ffn_num_layers == 2
    inner = FFN_EXPANSION * width if two else out
    return Layer(
        first=linear(0, width, inner),
        second=linear(1, inner, out) if two else None,
        residual=linear(2, kept, out) if kept != out else None,
        norm=Norm(jnp.ones(out), jnp.zeros(out)),
    )


def layer_norm(x: jax.Array, norm: Norm) -> jax.Array:
    """Returns rows of mean 0 and variance 1, times a gain, plus a bias.

    ``LN(x) = gain (x - mean(x)) / sqrt(var(x) + 1e-5) + bias``, with the biased variance. Token vectors
    are ``e_v = LN(table_v)``.

    Args:
      x: float [B, width].
      norm: the gain and the bias.

    Returns:
      As x.

    References:
      Ba, Kiros and Hinton, Layer Normalization, 2016.

    >>> layer_norm(jnp.array([[1.0, 3.0]]), Norm(jnp.ones(2), jnp.zeros(2))).round(3).tolist()
    [[-1.0, 1.0]]
    """
    centred = x - x.mean(axis=1, keepdims=True)
    variance = jnp.square(centred).mean(axis=1, keepdims=True)
    return centred / jnp.sqrt(variance + LAYER_NORM_EPSILON) * norm.scale[None, :] + norm.bias[None, :]


def token_windows(vectors_NxE: jax.Array, num_input_tokens: int) -> jax.Array:
    """Returns the window of the last K token vectors at each place of a stream.

    ``w_t = [e_{t-K+1}; ...; e_t]``, oldest first, with zeros before the stream's first token.

    Args:
      vectors_NxE: float, the token vector of each place.
      num_input_tokens: K.

    Returns:
      [N, K E].

    >>> token_windows(jnp.array([[1.0], [2.0], [3.0]]), 2).tolist()
    [[0.0, 1.0], [1.0, 2.0], [2.0, 3.0]]
    """
    N, K = len(vectors_NxE), num_input_tokens
    padded = jnp.pad(vectors_NxE, ((K - 1, 0), (0, 0)))
    return jnp.concatenate([padded[k : k + N] for k in range(K)], axis=1)


def layer(params: Layer, kept: jax.Array, context: jax.Array, token: jax.Array, activation: str) -> jax.Array:
    """Returns the output of a layer, ``LN(R(kept) + f([context; token]))``.

    A context layer keeps the context, ``c' = LN(R(c) + f([c; w]))``; a token layer keeps the token state,
    ``h' = LN(R(h) + f([c; h]))``. ``f(x) = phi(x W + b)``, or with a second linear map
    ``phi(phi(x W + b) W' + b')``. R is the identity where the width stays, and a linear map with bias where
    it changes.

    Args:
      params: the layer's.
      kept: float [B, in], c or h.
      context: float [B, D], c; [B, 0] for a token layer that reads none.
      token: float [B, K E] or [B, T], w or h; [B, 0] for a context layer that reads none.
      activation: phi, ``relu`` or ``gelu`` (the exact one).

    Returns:
      [B, out].

    References:
      rato-tokyo/new-llm, reports of 2025-11-27 to 2025-12-03; Hendrycks and Gimpel, Gaussian Error
      Linear Units, 2016.

    >>> still = Layer(Linear(jnp.zeros((3, 2)), jnp.zeros(2)), None, None, Norm(jnp.ones(2), jnp.zeros(2)))
    >>> context, window = jnp.array([[1.0, 3.0]]), jnp.ones((1, 1))
    >>> layer(still, context, context, window, "relu").round(3).tolist()
    [[-1.0, 1.0]]
    """
    phi = _ACTIVATIONS[activation]
    delta = phi(_affine(params.first, jnp.concatenate([context, token], axis=1)))
    if params.second is not None:
        delta = phi(_affine(params.second, delta))
    return layer_norm((_affine(params.residual, kept) if params.residual else kept) + delta, params.norm)


_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
}


def _affine(linear: Linear, x: jax.Array) -> jax.Array:
    return x @ linear.kernel + linear.bias[None, :]


def context_block(
    params: list[Layer], context_BxD: jax.Array, window_BxKE: jax.Array, model: ModelConfig
) -> list[jax.Array]:
    """Returns the contexts after each context layer.

    Args:
      params: the block's layers.
      context_BxD: float, the contexts before each token.
      window_BxKE: float, the token windows.
      model: says whether every layer reads the window or only the first, and gives the activation.

    Returns:
      L arrays [B, D_i]; the last, [B, D], is the block's output.

    >>> model = ModelConfig(4, 3)
    >>> params = init_context_block(jax.random.key(0), model)
    >>> [layer.shape for layer in context_block(params, jnp.zeros((9, 4)), jnp.ones((9, 3)), model)]
    [(9, 4)]
    """
    contexts = [context_BxD]
    for number, of_layer in enumerate(params):
        reads = number == 0 or model.token_input_all_layers
        window = window_BxKE if reads else window_BxKE[:, :0]
        contexts.append(layer(of_layer, contexts[-1], contexts[-1], window, model.activation))
    return contexts[1:]


def contexts_read(
    contexts: Sequence[jax.Array], before_BxD: jax.Array, model: ModelConfig
) -> list[jax.Array]:
    """Returns the context that each token layer reads.

    Mode E: that of the context layer of its number. A: the last layer's. F: the last layer's in the first
    token layer, none in the others. G: that after the token before in the first, the last layer's in the
    last, none between.

    Args:
      contexts: float, those after each context layer.
      before_BxD: float, the last layer's after the token before; mode G alone reads it.
      model: gives the mode and the number of token layers.

    Returns:
      An array a token layer, [B, 0] where it reads none.

    References:
      rato-tokyo/new-llm, report of 2025-11-27 (E) and experiments of 2025-12-02 (A, F, G).

    >>> model = ModelConfig(num_layers=3, context_mode="F")
    >>> [context.shape for context in contexts_read([jnp.ones((5, 4))] * 3, jnp.ones((5, 4)), model)]
    [(5, 4), (5, 0), (5, 0)]
    """
    final, none, inside = contexts[-1], contexts[-1][:, :0], model.token_depth - 1
    match model.context_mode:
        case "E":
            return list(contexts)
        case "A":
            return [final] * (inside + 1)
        case "F":
            return [final] + [none] * inside
        case _:  # G
            return [before_BxD] + [none] * (inside - 1) + [final]


def token_block(
    params: list[Layer], contexts: Sequence[jax.Array], window_BxKE: jax.Array, model: ModelConfig
) -> jax.Array:
    """Returns the hidden vector that the head reads.

    Args:
      params: the block's layers.
      contexts: float, what each layer reads; see ``contexts_read``.
      window_BxKE: float, the token windows, from which the layers start.
      model: gives the activation.

    Returns:
      [B, E].

    >>> model = ModelConfig(4, 3)
    >>> params = init_token_block(jax.random.key(0), model)
    >>> token_block(params, [jnp.ones((9, 4))], jnp.ones((9, 3)), model).shape
    (9, 3)
    """
    hidden = window_BxKE
    for of_layer, context in zip(params, contexts, strict=True):
        hidden = layer(of_layer, hidden, context, hidden, model.activation)
    return hidden


def predecessors(contexts_NxD: jax.Array, first_context: str = "zero") -> jax.Array:
    """Returns the context before each token, ``P_{t-1}``.

    Args:
      contexts_NxD: float, P, the context after each token.
      first_context: P_{-1}, which is ``zero`` or the stream's ``last`` context.

    Returns:
      [N, D].

    >>> predecessors(jnp.array([[1.0], [2.0]])).tolist()
    [[0.0], [1.0]]
    """
    first_1xD = contexts_NxD[-1:] if first_context == "last" else jnp.zeros_like(contexts_NxD[:1])
    return jnp.concatenate([first_1xD, contexts_NxD[:-1]])


def cvfp_loss(contexts_BxD: jax.Array, previous_BxD: jax.Array) -> jax.Array:
    """Returns the fixed-point loss, ``mean_tj (C_tj - P_tj)^2``.

    Args:
      contexts_BxD: float, C, the new contexts.
      previous_BxD: float, P, those of the same tokens in the iteration before.

    Returns:
      A scalar.

    >>> cvfp_loss(jnp.array([[1.0, 2.0]]), jnp.array([[1.0, 0.0]])).tolist()
    2.0
    """
    return jnp.square(contexts_BxD - previous_BxD).mean()


def converged_share(contexts_NxD: jax.Array, previous_NxD: jax.Array, threshold: float) -> jax.Array:
    """Returns the share of the tokens with ``mean_j (C_tj - P_tj)^2 < threshold``.

    Args:
      contexts_NxD: float, C, the new contexts.
      previous_NxD: float, P, those of the iteration before.
      threshold: tau.

    Returns:
      A scalar from 0 to 1.

    >>> converged_share(jnp.array([[0.1], [2.0]]), jnp.zeros((2, 1)), 0.03).tolist()
    0.5
    """
    converged_N = jnp.square(contexts_NxD - previous_NxD).mean(axis=1) < threshold
    return converged_N.mean(dtype=contexts_NxD.dtype)


def phase1_loss(
    params: list[Layer],
    previous_NxD: jax.Array,
    window_NxKE: jax.Array,
    key: jax.Array,
    model: ModelConfig,
    config: Phase1Config,
) -> tuple[jax.Array, tuple[jax.Array, dict[str, jax.Array]]]:
    """Returns the loss of an iteration, which makes all contexts anew from their predecessors.

    ``C_t = block(P_{t-1} + sigma n_t, w_t)`` for all t at once, with n_t standard normal, and over the M
    micro-batches of consecutive tokens ``L = 1/M sum_m ((1 - lambda) cvfp_m + lambda diversity_m)``: a
    short last one weighs as much as a full one. P is a constant, so no gradient crosses from one token to
    another.

    Args:
      params: the context block's.
      previous_NxD: float, P.
      window_NxKE: float, the token windows.
      key: the iteration's; folded with a micro-batch's number it draws its noise, and folded again with 1
        what its diversity loss draws.
      model: the architecture.
      config: lambda (``dist_reg_weight``), the diversity loss, sigma (``context_noise``), the size of a
        micro-batch, and P_{-1} (``first_context``).

    Returns:
      The loss; and the contexts [N, D], with the losses as they are logged: means over tokens.

    References:
      rato-tokyo/new-llm, reports of 2025-11-27 to 2025-12-03.
    """
    num_tokens, weight = len(previous_NxD), config.dist_reg_weight
    size = config.batch_size or num_tokens
    starts = range(0, num_tokens, size)
    shifted_NxD = predecessors(previous_NxD, config.first_context)
    contexts, loss = [], jnp.zeros((), previous_NxD.dtype)
    logged = {"loss": loss, "cvfp_loss": loss, "diversity_loss": loss}
    for number, first in enumerate(starts):
        rows, batch_key = slice(first, first + size), jax.random.fold_in(key, number)
        shifted_BxD, previous_BxD = shifted_NxD[rows], previous_NxD[rows]
        if config.context_noise > 0:
            noise_BxD = jax.random.normal(batch_key, shifted_BxD.shape, shifted_BxD.dtype)
            shifted_BxD += config.context_noise * noise_BxD
        new_BxD = context_block(params, shifted_BxD, window_NxKE[rows], model)[-1]
        cvfp = cvfp_loss(new_BxD, previous_BxD)
        every_B, diversity_key = jnp.ones(len(new_BxD), bool), jax.random.fold_in(batch_key, 1)
        diversity = DIVERSITY_LOSSES[config.diversity](new_BxD, every_B, diversity_key)
        batch_loss = (1 - weight) * cvfp + weight * diversity
        loss += batch_loss / len(starts)
        batch = {"loss": batch_loss, "cvfp_loss": cvfp, "diversity_loss": diversity}
        logged = {name: logged[name] + batch[name] * len(new_BxD) / num_tokens for name in logged}
        contexts.append(new_BxD)
    return loss, (jnp.concatenate(contexts), logged)


class Phase1State(NamedTuple):
    """Where phase 1 stands between two iterations."""

    params: list[Layer]  # of the context block
    optimizer: Any
    contexts_NxD: jax.Array  # made with the parameters before the last step


def phase1_step(
    state: Phase1State, window_NxKE: jax.Array, key: jax.Array, model: ModelConfig, config: Phase1Config
) -> tuple[Phase1State, dict[str, jax.Array]]:
    """Makes one iteration of phase 1: all contexts anew, then one step of clipped Adam.

    ``theta <- theta - lr Adam(clip(grad L))`` and ``P <- C``, with C made before the step.

    Args:
      state: the parameters, Adam's moments and P. P starts as N(0, 0.01^2) or as exact contexts.
      window_NxKE: float, the token windows.
      key: see ``phase1_loss``.
      model: the architecture.
      config: the settings.

    Returns:
      The new state; and ``loss``, ``cvfp_loss``, ``diversity_loss``, ``converged_share`` and ``grad_norm``
      (before clipping).

    References:
      Kingma and Ba, Adam: A Method for Stochastic Optimization, 2015; rato-tokyo/new-llm, reports of
      2025-11-27 to 2025-12-03.

    >>> model, config = ModelConfig(4, 3), Phase1Config()
    >>> params = init_context_block(jax.random.key(0), model)
    >>> start = phase1_start(params, jnp.zeros((9, 4)), config)
    >>> step = jax.jit(phase1_step, static_argnames=("model", "config"))
    >>> state, metrics = step(start, jnp.ones((9, 3)), jax.random.key(1), model, config)
    >>> state.contexts_NxD.shape, sorted(metrics)
    ((9, 4), ['converged_share', 'cvfp_loss', 'diversity_loss', 'grad_norm', 'loss'])
    """
    loss_and_gradient = jax.value_and_grad(phase1_loss, has_aux=True)
    (_, (contexts_NxD, metrics)), gradient = loss_and_gradient(
        state.params, state.contexts_NxD, window_NxKE, key, model, config
    )
    optimizer = adam(config.learning_rate, clip_by_global_norm(config.gradient_clip))
    updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
    share = converged_share(contexts_NxD, state.contexts_NxD, config.convergence_threshold)
    metrics |= {"converged_share": share, "grad_norm": optax.tree.norm(gradient)}
    params = optax.apply_updates(state.params, updates)
    return Phase1State(params, optimizer_state, contexts_NxD), metrics


def phase1_start(params: list[Layer], contexts_NxD: jax.Array, config: Phase1Config) -> Phase1State:
    """Returns the state before the first iteration, given the contexts that it starts from."""
    optimizer = adam(config.learning_rate, clip_by_global_norm(config.gradient_clip))
    return Phase1State(params, optimizer.init(params), contexts_NxD)


def exact_contexts(
    params: list[Layer], window_NxKE: jax.Array, start_D: jax.Array, model: ModelConfig
) -> jax.Array:
    """Returns the contexts of a stream one after the other, ``c_t = block(c_{t-1}, w_t)``.

    They are the fixed point of phase 1's map with ``first_context=zero``, without noise.

    Args:
      params: the context block's.
      window_NxKE: float, the token windows.
      start_D: float, the context before the first token, usually zero.
      model: the architecture.

    Returns:
      [N, D].

    >>> model = ModelConfig(4, 3)
    >>> params, window = init_context_block(jax.random.key(0), model), jnp.ones((9, 3))
    >>> contexts = exact_contexts(params, window, jnp.zeros(4), model)
    >>> bool(jnp.allclose(parallel_contexts(params, contexts, window, model)[-1], contexts))
    True
    """

    def step(context_D: jax.Array, window_KE: jax.Array) -> tuple[jax.Array, jax.Array]:
        next_D = context_block(params, context_D[None, :], window_KE[None, :], model)[-1][0]
        return next_D, next_D

    return lax.scan(step, start_D, window_NxKE)[1]


def parallel_contexts(
    params: list[Layer], contexts_NxD: jax.Array, window_NxKE: jax.Array, model: ModelConfig
) -> list[jax.Array]:
    """Makes one more iteration of all contexts, without noise: ``c_t = block(P_{t-1}, w_t)``, ``P_{-1} = 0``.

    From those that phase 1 ends with, this makes what phase 2 trains on. From exact ones it makes the same
    again, and with them the contexts after the layers in between.

    Args:
      params: the context block's.
      contexts_NxD: float, P.
      window_NxKE: float, the token windows.
      model: the architecture.

    Returns:
      The contexts after each layer, [N, D_i].

    References:
      rato-tokyo/new-llm, report of 2025-11-30.
    """
    return context_block(params, predecessors(contexts_NxD), window_NxKE, model)


def effective_rank(contexts_NxD: jax.Array) -> jax.Array:
    """Returns how many dimensions contexts really use, the exponential of their spectrum's entropy.

    ``exp(-sum_i p_i ln p_i)``, ``p = s / sum(s)``, s the singular values; the contexts are not centred.

    Args:
      contexts_NxD: float.

    Returns:
      A scalar from 1 to min(N, D).

    References:
      Roy and Vetterli, The Effective Rank: A Measure of Effective Dimensionality, 2007.

    >>> effective_rank(jnp.eye(3)).round(4).tolist()
    3.0
    """
    values = jnp.linalg.svd(contexts_NxD, compute_uv=False)
    return jnp.exp(jax.scipy.special.entr(values / values.sum()).sum())


def phase2_loss(hidden_BxE: jax.Array, table_VxE: jax.Array, targets_B: jax.Array) -> jax.Array:
    """Returns the mean cross-entropy of the next tokens; its exponential is the perplexity.

    ``-mean_t ln softmax(table h_t)[x_{t+1}]``: the head is the embedding table, and frozen.

    Args:
      hidden_BxE: float, h, what the token block returns.
      table_VxE: float, the embedding table.
      targets_B: int, the next tokens.

    Returns:
      A scalar, in nats.

    References:
      Press and Wolf, Using the Output Embedding to Improve Language Models, 2017.

    >>> round(float(phase2_loss(jnp.ones((1, 2)), jnp.zeros((4, 2)), jnp.array([2]))), 4)
    1.3863
    """
    logits_BxV = hidden_BxE @ table_VxE.T
    return optax.softmax_cross_entropy_with_integer_labels(logits_BxV, targets_B).mean()


class Phase2State(NamedTuple):
    """Where phase 2 stands between two batches."""

    params: list[Layer]  # of the token block
    optimizer: Any


def phase2_step(
    state: Phase2State,
    contexts: Sequence[jax.Array],
    window_BxKE: jax.Array,
    targets_B: jax.Array,
    table_VxE: jax.Array,
    model: ModelConfig,
    config: Phase2Config,
) -> tuple[Phase2State, dict[str, jax.Array]]:
    """Makes one step of phase 2, clipped Adam on one batch of consecutive tokens.

    Args:
      state: the parameters and Adam's moments.
      contexts: float, what each token layer reads, which is constant; see ``contexts_read``.
      window_BxKE: float, the token windows.
      targets_B: int, the next tokens.
      table_VxE: float, the embedding table.
      model: the architecture.
      config: the step size, the clip and the weight decay.

    Returns:
      The new state; and ``loss`` (before the step) and ``grad_norm`` (before clipping).

    References:
      Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2019 (with a weight decay).

    >>> model, config = ModelConfig(4, 3), Phase2Config()
    >>> start = phase2_start(init_token_block(jax.random.key(0), model), config)
    >>> batch = [jnp.ones((5, 4))], jnp.ones((5, 3)), jnp.arange(5), jnp.eye(7, 3)
    >>> step = jax.jit(phase2_step, static_argnames=("model", "config"))
    >>> sorted(step(start, *batch, model, config)[1])
    ['grad_norm', 'loss']
    """

    def loss_of(params: list[Layer]) -> jax.Array:
        return phase2_loss(token_block(params, contexts, window_BxKE, model), table_VxE, targets_B)

    loss, gradient = jax.value_and_grad(loss_of)(state.params)
    optimizer = adam(config.learning_rate, clip_by_global_norm(config.gradient_clip), config.weight_decay)
    updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
    metrics = {"loss": loss, "grad_norm": optax.tree.norm(gradient)}
    return Phase2State(optax.apply_updates(state.params, updates), optimizer_state), metrics


def phase2_start(params: list[Layer], config: Phase2Config) -> Phase2State:
    """Returns the state before the first batch."""
    optimizer = adam(config.learning_rate, clip_by_global_norm(config.gradient_clip), config.weight_decay)
    return Phase2State(params, optimizer.init(params))
