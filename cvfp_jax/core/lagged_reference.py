"""Phase 1 with a lagged task in plain JAX: contexts that also learn to predict, one iteration at a time.

The variant of ``reference.py`` in which a token block is learned along with the context block. It is the
original's last idea. No gradient goes through time: what a token block reads was made from contexts that are
one iteration old, and those are constants.

Shapes: N tokens of a stream, S places drawn, D context width, E embedding width, K input tokens, V tokens.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cvfp_jax.config.settings import ModelConfig, Phase1Config
from cvfp_jax.core.optimizer import adam, clip_by_global_norm
from cvfp_jax.core.reference import (
    Layer,
    Phase1State,
    contexts_read,
    converged_share,
    phase1_loss,
    phase1_start,
    phase2_loss,
    token_block,
)


class TaskData(NamedTuple):
    """What is predicted, and through which head."""

    ids_N: jax.Array  # int
    table_VxE: jax.Array  # frozen


def task_loss(
    token_params: list[Layer],
    contexts_NxD: jax.Array,
    window_NxKE: jax.Array,
    data: TaskData,
    key: jax.Array,
    model: ModelConfig,
    config: Phase1Config,
) -> jax.Array:
    """Returns the mean over the M micro-batches of a token block's loss at places drawn from each.

    ``1/M sum_m mean_s -ln softmax(table h_s)[x_{s+1}]``, ``h_s = TokenBlock(C_s, w_s)``. As many places of a
    micro-batch are drawn, with replacement, as ``lagged_task_places`` says; the last token does not count.

    Args:
      token_params: the token block's.
      contexts_NxD: float, C, as an iteration makes them.
      window_NxKE: float, the token windows.
      data: the tokens and the table.
      key: the iteration's; folded with a micro-batch's number and then with 2 it draws its places.
      model: the architecture.
      config: the number of places, and the size of a micro-batch.

    Returns:
      A scalar, in nats.

    >>> from cvfp_jax.core.reference import init_token_block
    >>> model, config = ModelConfig(4, 3), Phase1Config()
    >>> params, data = init_token_block(jax.random.key(0), model), TaskData(jnp.arange(9), jnp.zeros((9, 3)))
    >>> loss = task_loss(params, jnp.ones((9, 4)), jnp.ones((9, 3)), data, jax.random.key(1), model, config)
    >>> round(float(jnp.exp(loss)), 4)
    9.0
    """
    num_tokens = len(contexts_NxD)
    size = config.batch_size or num_tokens
    starts, total = range(0, num_tokens, size), jnp.zeros((), contexts_NxD.dtype)
    for number, first in enumerate(starts):
        places_key = jax.random.fold_in(jax.random.fold_in(key, number), 2)
        count = min(size, num_tokens - first)
        draws = (config.lagged_task_places,)
        places_S = first + jax.random.randint(places_key, draws, 0, count, jnp.int32)
        counts_S = places_S + 1 < num_tokens
        context_SxD = contexts_NxD[places_S]
        inputs = contexts_read([context_SxD] * model.num_layers, context_SxD, model)
        hidden_SxE = token_block(token_params, inputs, window_NxKE[places_S], model)
        targets_S = data.ids_N[jnp.minimum(places_S + 1, num_tokens - 1)]
        loss_S = jax.vmap(lambda hidden_E, target: phase2_loss(hidden_E[None], data.table_VxE, target[None]))(
            hidden_SxE, targets_S
        )
        num_counted = jnp.maximum(counts_S.sum(dtype=jnp.int32), 1).astype(loss_S.dtype)
        mean = jnp.where(counts_S, loss_S, 0).sum() / num_counted
        total += mean / len(starts)
    return total


class LaggedState(NamedTuple):
    """Where phase 1 stands between two iterations."""

    contexts: Phase1State  # the context block, its optimizer, and P
    token_params: list[Layer]
    token_optimizer: Any


def lagged_step(
    state: LaggedState,
    window_NxKE: jax.Array,
    data: TaskData,
    key: jax.Array,
    model: ModelConfig,
    config: Phase1Config,
) -> tuple[LaggedState, dict[str, jax.Array]]:
    """Makes one iteration of phase 1 that also learns to predict.

    The loss is that of phase 1 and ``lagged_task_weight`` times ``task_loss``; each block makes a step of
    clipped Adam of its own, with phase 1's learning rate.

    Args:
      state: both blocks, their optimizers, and P.
      window_NxKE: float, the token windows.
      data: the tokens and the table.
      key: see ``task_loss``.
      model: the architecture.
      config: the settings.

    Returns:
      The new state; and ``loss`` and ``grad_norm`` of the context block.

    References:
      rato-tokyo/new-llm, experiments of 2025-12 (lagged contexts).
    """

    def loss_of(params: list[Layer], token_params: list[Layer]) -> tuple[jax.Array, jax.Array]:
        loss, (new_NxD, _) = phase1_loss(params, state.contexts.contexts_NxD, window_NxKE, key, model, config)
        task = task_loss(token_params, new_NxD, window_NxKE, data, key, model, config)
        return loss + config.lagged_task_weight * task, new_NxD

    old = state.contexts
    (loss, new_NxD), (gradient, token_gradient) = jax.value_and_grad(loss_of, (0, 1), has_aux=True)(
        old.params, state.token_params
    )
    optimizer = adam(config.learning_rate, clip_by_global_norm(config.gradient_clip))
    updates, moments = optimizer.update(gradient, old.optimizer, old.params)
    token_updates, token_moments = optimizer.update(token_gradient, state.token_optimizer, state.token_params)
    contexts = Phase1State(optax.apply_updates(old.params, updates), moments, new_NxD)
    share = converged_share(new_NxD, old.contexts_NxD, config.convergence_threshold)
    metrics = {"loss": loss, "converged_share": share, "grad_norm": optax.tree.norm(gradient)}
    token_params = optax.apply_updates(state.token_params, token_updates)
    return LaggedState(contexts, token_params, token_moments), metrics


def lagged_start(
    params: list[Layer], token_params: list[Layer], contexts_NxD: jax.Array, config: Phase1Config
) -> LaggedState:
    """Returns the state before the first iteration, given the contexts that it starts from."""
    optimizer = adam(config.learning_rate, clip_by_global_norm(config.gradient_clip))
    start = phase1_start(params, contexts_NxD, config)
    return LaggedState(start, token_params, optimizer.init(token_params))
