"""Phase 2: the token block learned by next-token prediction, with the contexts frozen.

Shapes: N tokens of a stream, B rows of a batch, D context width, E embedding width, V tokens.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from cvfp_jax.config import Phase2Config
from cvfp_jax.cross_entropy import Losses, frozen_head_losses, trained_head_losses
from cvfp_jax.fixed_point import Status
from cvfp_jax.mesh import over_rows, replicated
from cvfp_jax.model import ContextBlock, TokenBlock, token_windows
from cvfp_jax.optimizer import clipped_adam
from cvfp_jax.recurrence import predecessors

# The host waits for the device every so many batches, so that progress tells of work done.
_BATCHES_BETWEEN_REPORTS = 16


class Stream(NamedTuple):
    """A token stream with the context after each token; row t predicts token t + 1."""

    ids_N: jax.Array  # int32; what stands beyond the stream's tokens is padding
    contexts_NxD: jax.Array  # may end one row early: nothing is predicted from the last token
    num_tokens: np.int32

    @classmethod
    def of(cls, ids: np.ndarray, contexts_NxD: jax.Array, capacity: int = 0) -> "Stream":
        """Pads a stream to at least so many tokens; streams of one capacity share their programs."""
        ids_N = np.pad(ids, (0, max(capacity - len(ids), 0)))
        missing = max(capacity - 1 - len(contexts_NxD), 0)
        if missing:
            contexts_NxD = jnp.pad(contexts_NxD, ((0, missing), (0, 0)))
        return cls(jnp.asarray(ids_N, jnp.int32), contexts_NxD, np.int32(len(ids)))

    @property
    def num_rows(self) -> int:
        """The number of predictions."""
        return int(self.num_tokens) - 1


class Trained(NamedTuple):
    """What phase 2 changes."""

    token_block: Any
    table_VxE: jax.Array | None  # the tied head, if it is not frozen


class _Frozen(NamedTuple):
    """What phase 2 reads and does not change."""

    context_block: Any
    vectors_VxE: jax.Array
    table_VxE: jax.Array


class _TrainState(NamedTuple):
    params: Trained
    optimizer: Any


@dataclasses.dataclass(frozen=True)
class _Settings:
    """What the compiled steps depend on beside the shapes of arrays."""

    config: Phase2Config
    context_block: nnx.GraphDef
    token_block: nnx.GraphDef
    mesh: Mesh


@dataclasses.dataclass(frozen=True)
class Epoch:
    """Measures of one epoch; losses are means in nats a token."""

    train_loss: float  # of each batch before its step: the weights change meanwhile
    val_loss: float
    val_acc: float  # share of the targets that got the largest logit


# Receives the epoch (from 1), the rows done in it and the mean loss of the latest batch.
Progress = Callable[[int, int, float], None]


@dataclasses.dataclass(frozen=True)
class Phase2Result:
    """The weights of the epoch with the lowest validation loss, and the course of training."""

    token_block: TokenBlock
    table_VxE: jax.Array  # the head's
    last_params: Trained  # of the last epoch, as the original leaves them
    epochs: list[Epoch]
    best_epoch: int  # from 1; 0 if no epoch ended with finite losses
    status: Status  # CONVERGED: stopped early; MAX_STEPS: all epochs ran; NON_FINITE
    batch_losses: np.ndarray  # before each step
    grad_norms: np.ndarray  # before clipping


def _losses(
    params: Trained, frozen: _Frozen, stream: Stream, first: jax.Array, settings: _Settings
) -> tuple[Losses, jax.Array]:
    """Returns the sums over the rows of the batch that starts at a row, and their number."""
    num_rows = stream.num_tokens - 1
    batch_size = min(settings.config.batch_size, len(stream.ids_N) - 1)
    devices = settings.mesh.size
    offsets_B = jnp.arange(-(-batch_size // devices) * devices, dtype=jnp.int32)
    offsets_B = jax.lax.with_sharding_constraint(offsets_B, over_rows(settings.mesh))
    valid_B = (offsets_B < batch_size) & (first + offsets_B < num_rows)
    places_B = jnp.minimum(first + offsets_B, num_rows - 1)
    block = nnx.merge(settings.context_block, frozen.context_block)
    window_BxKE = token_windows(frozen.vectors_VxE, stream.ids_N, places_B, block.num_input_tokens)
    # Only the last layer's contexts are kept in memory; those of the layers before are made again.
    contexts_LxBxD = block.every_layer(predecessors(stream.contexts_NxD, places_B), window_BxKE)
    hidden_BxE = nnx.merge(settings.token_block, params.token_block)(contexts_LxBxD, window_BxKE)
    targets_B = stream.ids_N[places_B + 1]
    if params.table_VxE is None:
        losses = frozen_head_losses(hidden_BxE, frozen.table_VxE, targets_B, valid_B)
    else:
        losses = trained_head_losses(hidden_BxE, params.table_VxE, targets_B, valid_B)
    return losses, valid_B.sum(dtype=jnp.int32)


def _train_step(
    state: _TrainState, frozen: _Frozen, stream: Stream, first: jax.Array, settings: _Settings
) -> tuple[_TrainState, jax.Array, jax.Array]:
    """One optimizer step on one batch; returns its mean loss before the step and its gradient norm."""

    def mean_loss(params: Trained) -> jax.Array:
        losses, count = _losses(params, frozen, stream, first, settings)
        return losses.loss / count.astype(losses.loss.dtype)

    loss, gradient = jax.value_and_grad(mean_loss)(state.params)
    optimizer = clipped_adam(settings.config.learning_rate, settings.config.gradient_clip)
    updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
    params = optax.apply_updates(state.params, updates)
    return _TrainState(params, optimizer_state), loss, optax.tree.norm(gradient)


@functools.cache
def _compiled(settings: _Settings) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Returns the training and the evaluation step, compiled for a mesh."""
    whole = replicated(settings.mesh)
    train = jax.jit(
        functools.partial(_train_step, settings=settings),
        in_shardings=(whole, whole, whole, whole),
        out_shardings=(whole, whole, whole),
        donate_argnums=0,
    )
    evaluate = jax.jit(
        functools.partial(_losses, settings=settings),
        in_shardings=(whole, whole, whole, whole),
        out_shardings=(whole, whole),
    )
    return train, evaluate


def _batches(stream: Stream, config: Phase2Config) -> list[tuple[np.int32, int]]:
    """The first row of each batch and the number of its rows."""
    starts = range(0, stream.num_rows, config.batch_size)
    return [(np.int32(first), min(config.batch_size, stream.num_rows - first)) for first in starts]


def _evaluate(params: Trained, frozen: _Frozen, stream: Stream, settings: _Settings) -> tuple[float, float]:
    """Returns the mean loss and the accuracy over a stream."""
    _, step = _compiled(settings)
    batches = _batches(stream, settings.config)
    results = jax.device_get([step(params, frozen, stream, first)[0] for first, _ in batches])
    # Summed in double precision: a stream holds millions of losses.
    loss = math.fsum(float(result.loss) for result in results)
    return loss / stream.num_rows, sum(int(result.hits) for result in results) / stream.num_rows


def learn_tokens(
    context_block: ContextBlock,
    token_block: TokenBlock,
    vectors_VxE: jax.Array,
    table_VxE: jax.Array,
    train: Stream,
    val: Stream,
    config: Phase2Config,
    mesh: Mesh,
    progress: Progress | None = None,
) -> Phase2Result:
    """Learns a token block that predicts the next token from frozen contexts.

    ``loss = -mean_t ln softmax(TokenBlock(C_t, w_t) @ table.T)[x_{t+1}]``, one step of clipped Adam
    for each batch of consecutive rows, in order. Training ends when the validation loss has not been
    strictly lower than its lowest for ``patience`` epochs; the weights of the best epoch are returned.

    Args:
      context_block: the trained context block.
      token_block: the untrained token block; both are left as they are.
      vectors_VxE: float32, the token vectors that the blocks read.
      table_VxE: float32, the tied head; trained along unless ``config.freeze_embedding``.
      train: the training stream.
      val: the validation stream.
      config: the settings.
      mesh: the devices; each batch is shared among them by rows.
      progress: called every few batches.

    Returns:
      A ``Phase2Result``.

    References:
      rato-tokyo/new-llm, report of 2025-11-30.
    """
    context_graph, context_params = nnx.split(context_block)
    token_graph, token_params = nnx.split(token_block)
    settings = _Settings(config, context_graph, token_graph, mesh)
    place = functools.partial(jax.device_put, device=replicated(mesh))
    frozen = place(_Frozen(context_params, vectors_VxE, table_VxE))
    train, val = place(train), place(val)
    # Each step donates its state, which must not share arrays with the caller's blocks.
    params = jax.tree.map(jnp.copy, Trained(token_params, None if config.freeze_embedding else table_VxE))
    optimizer = clipped_adam(config.learning_rate, config.gradient_clip)
    state = place(_TrainState(params, optimizer.init(params)))
    best, best_loss, best_epoch = jax.tree.map(jnp.copy, state.params), math.inf, 0
    epochs: list[Epoch] = []
    steps: list[tuple[float, float]] = []
    status = Status.MAX_STEPS
    for number in range(1, config.epochs + 1):
        state, losses = _train_epoch(state, frozen, train, settings, number, progress)
        steps += losses
        batches = zip(losses, _batches(train, config), strict=True)
        train_loss = math.fsum(loss * rows for (loss, _), (_, rows) in batches) / train.num_rows
        val_loss, val_acc = _evaluate(state.params, frozen, val, settings)
        epochs.append(Epoch(train_loss, val_loss, val_acc))
        if not (math.isfinite(train_loss) and math.isfinite(val_loss)):
            status = Status.NON_FINITE
            break
        if val_loss < best_loss:
            best, best_loss, best_epoch = jax.tree.map(jnp.copy, state.params), val_loss, number
        elif number - best_epoch >= config.patience:
            status = Status.CONVERGED
            break
    return Phase2Result(
        nnx.merge(token_graph, best.token_block),
        table_VxE if best.table_VxE is None else best.table_VxE,
        state.params,
        epochs,
        best_epoch,
        status,
        np.array([loss for loss, _ in steps]),
        np.array([norm for _, norm in steps]),
    )


def _train_epoch(
    state: _TrainState,
    frozen: _Frozen,
    stream: Stream,
    settings: _Settings,
    number: int,
    progress: Progress | None,
) -> tuple[_TrainState, list[tuple[float, float]]]:
    """Returns the new state, and the loss and gradient norm of each batch."""
    step, _ = _compiled(settings)
    measures: list[tuple[jax.Array, jax.Array]] = []
    for first, rows in _batches(stream, settings.config):
        state, loss, norm = step(state, frozen, stream, first)
        measures.append((loss, norm))
        if progress and len(measures) % _BATCHES_BETWEEN_REPORTS == 0:
            progress(number, int(first) + rows, float(loss))
    return state, [(float(loss), float(norm)) for loss, norm in jax.device_get(measures)]
