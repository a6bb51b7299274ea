"""One step of phase 2: a batch's losses, and what they teach.

Shapes: N tokens of a stream, B rows of a batch, D context width, E embedding width, K input tokens, V tokens.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import lax
from jax.sharding import Mesh

from cvfp_jax.checkpointing.row_file import RowFile, read_ahead
from cvfp_jax.config.settings import ModelConfig, Phase2Config
from cvfp_jax.core.model import token_windows
from cvfp_jax.core.optimizer import adam
from cvfp_jax.distributed.mesh import (
    device_put,
    line_mesh,
    over_all,
    over_model,
    over_rows,
    replicated,
    resize_rows,
)
from cvfp_jax.kernels.cross_entropy import Losses, Shares, frozen_head_losses, trained_head_losses
from cvfp_jax.phase2.context_modes import cached_inputs, layer_inputs


class Stream(NamedTuple):
    """A token stream with its contexts; row t predicts token t + 1.

    The contexts are what ``context_inputs.cached_inputs`` reads: those after each token, except where
    every layer's are read; then those from which one more application of the block makes these.
    """

    ids_N: jax.Array  # int32; what stands beyond the stream's tokens is padding
    # May end one row early: nothing is predicted from the last token. The steps are given arrays.
    contexts_NxD: jax.Array | RowFile
    num_tokens: np.int32
    first_row: np.int32 = np.int32(0)  # of the contexts, in the stream

    @classmethod
    def of(cls, ids: np.ndarray, contexts_NxD: jax.Array | RowFile | None, capacity: int = 0) -> "Stream":
        """Pads a stream to at least so many tokens; streams of one capacity share their programs.

        A stream whose contexts are recomputed has none.
        """
        ids_N = np.pad(ids, (0, max(capacity - len(ids), 0)))
        if contexts_NxD is None:
            contexts_NxD = jnp.zeros((0, 0))
        elif not isinstance(contexts_NxD, RowFile) and (missing := capacity - 1 - len(contexts_NxD)) > 0:
            contexts_NxD = jnp.pad(contexts_NxD, ((0, missing), (0, 0)))
        return cls(jnp.asarray(ids_N, jnp.int32), contexts_NxD, np.int32(len(ids)))

    def on(self, mesh: Mesh) -> "Stream":
        """The stream on the devices of a mesh, each of which has a range of the contexts."""
        contexts_NxD = self.contexts_NxD
        if not isinstance(contexts_NxD, RowFile):
            rows = len(contexts_NxD)
            contexts_NxD = resize_rows(contexts_NxD, rows + -rows % mesh.size, line_mesh(mesh))
        return self._replace(ids_N=device_put(self.ids_N, mesh), contexts_NxD=contexts_NxD)

    def for_batches(
        self, batches: Sequence[tuple[np.int32, int]], settings: "Settings"
    ) -> "Iterator[Stream]":
        """The stream for each batch: of contexts on the disk with those that it reads.

        While a batch is worked on those of the next are read.
        """
        contexts = self.contexts_NxD
        if not isinstance(contexts, RowFile):
            yield from (self for _ in batches)
            return
        # A batch reads contexts of a few tokens before its first.
        before = settings.model.prev_context_steps + 1
        rows, dtype = settings.rows(self) + before, jnp.float32
        stretches = [(int(first) - before, rows) for first, _ in batches]
        for (first, _), contexts_BxD in read_ahead(stretches, contexts.read):
            on_device = jnp.asarray(contexts_BxD, dtype)
            yield self._replace(contexts_NxD=on_device, first_row=np.int32(first))

    @property
    def num_rows(self) -> int:
        """The number of predictions."""
        return int(self.num_tokens) - 1


class Trained(NamedTuple):
    """What phase 2 changes."""

    token_block: Any
    table_VxE: jax.Array | None = None  # the head, if it is not the frozen table
    bias_V: jax.Array | None = None  # of an untied head
    embed_norm: Any = None  # the embedding's LayerNorm, if contexts are recomputed


class Frozen(NamedTuple):
    """What phase 2 reads and does not change."""

    context_block: Any  # of the only block, or the first: its layers are read in mode E
    vectors_VxE: jax.Array
    table_VxE: jax.Array
    head_VxE: jax.Array  # the same, kept for the head's products, with rows of zeros for equal ranges
    key: jax.Array  # of dropout


class TrainState(NamedTuple):
    """What a step changes."""

    params: Trained
    optimizer: Any
    context_D: jax.Array  # after the last token, if contexts are recomputed


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the compiled steps depend on beside the shapes of arrays."""

    config: Phase2Config
    model: ModelConfig
    context_block: nnx.GraphDef
    token_block: nnx.GraphDef
    embed_norm: nnx.GraphDef
    mesh: Mesh
    precision: str

    @property
    def recomputed(self) -> bool:
        """Whether contexts are made again in every batch."""
        return self.config.train_contexts == "recomputed"

    def rows(self, stream: Stream) -> int:
        """The rows of a batch, the last one's too."""
        return min(self.config.batch_size, len(stream.ids_N) - 1)

    def optimizer(self) -> optax.GradientTransformation:
        """The optimizer of what is trained."""
        return adam(self.config.learning_rate, self.config.gradient_clip, self.config.weight_decay)


class _Rows(NamedTuple):
    """The rows of a batch."""

    places_B: jax.Array
    valid_B: jax.Array


def _rows(stream: Stream, first: jax.Array, settings: Settings) -> _Rows:
    """The batch that starts at a row, filled up to a multiple of the devices with rows that do not count."""
    num_rows = stream.num_tokens - 1
    batch_size = settings.rows(stream)
    devices = settings.mesh.size
    offsets_B = jnp.arange(-(-batch_size // devices) * devices, dtype=jnp.int32)
    offsets_B = lax.with_sharding_constraint(offsets_B, over_rows(settings.mesh))
    valid_B = (offsets_B < batch_size) & (first + offsets_B < num_rows)
    return _Rows(jnp.minimum(first + offsets_B, num_rows - 1), valid_B)


def _drops(key: jax.Array, settings: Settings) -> list[Callable[[jax.Array], jax.Array]]:
    """One thinning out a token layer; none without dropout."""
    rate = settings.config.dropout
    if rate == 0.0:
        return []

    def drop(delta: jax.Array, layer: int) -> jax.Array:
        keep = jax.random.bernoulli(jax.random.fold_in(key, layer), 1 - rate, delta.shape)
        return jnp.where(keep, delta / (1 - rate), 0)

    return [functools.partial(drop, layer=layer) for layer in range(settings.model.token_depth)]


def _losses(
    params: Trained,
    frozen: Frozen,
    ids_N: jax.Array,
    rows: _Rows,
    inputs: list[jax.Array],
    window_BxKE: jax.Array,
    drops: list[Callable[[jax.Array], jax.Array]],
    settings: Settings,
) -> Losses:
    """The sums over a batch, given what the token block reads."""
    hidden_BxE = nnx.merge(settings.token_block, params.token_block)(inputs, window_BxKE, drops)
    targets_B = ids_N[rows.places_B + 1]
    if params.table_VxE is None:
        shares = Shares(settings.mesh, len(frozen.table_VxE))
        return frozen_head_losses(
            hidden_BxE, frozen.head_VxE, targets_B, rows.valid_B, settings.precision, shares
        )
    return trained_head_losses(
        hidden_BxE, params.table_VxE, targets_B, rows.valid_B, params.bias_V, settings.precision
    )


def _cached(
    frozen: Frozen, stream: Stream, rows: _Rows, settings: Settings
) -> tuple[list[jax.Array], jax.Array]:
    """What the token block reads, from contexts made before."""
    block = nnx.merge(settings.context_block, frozen.context_block)
    K, contexts_NxD = settings.model.num_input_tokens, stream.contexts_NxD
    assert not isinstance(contexts_NxD, RowFile)
    window_BxKE = token_windows(frozen.vectors_VxE, stream.ids_N, rows.places_B, K)
    inputs = cached_inputs(
        settings.model, block, contexts_NxD, rows.places_B, window_BxKE, settings.mesh, stream.first_row
    )
    return inputs, window_BxKE


def _recomputed(
    params: Trained, context_D: jax.Array, frozen: Frozen, stream: Stream, rows: _Rows, settings: Settings
) -> tuple[list[jax.Array], jax.Array, jax.Array]:
    """What the token block reads, token by token from the context before; and the context after.

    The embedding's LayerNorm learns through the token path only: contexts are constants, as in R1.
    """
    K = settings.model.num_input_tokens
    places_BxK = rows.places_B[:, None] - jnp.arange(K - 1, -1, -1, dtype=jnp.int32)[None, :]
    vectors_BxKxE = frozen.table_VxE[stream.ids_N[jnp.maximum(places_BxK, 0)]]
    vectors_BxKxE = nnx.merge(settings.embed_norm, params.embed_norm)(vectors_BxKxE)
    vectors_BxKxE = jnp.where((places_BxK >= 0)[:, :, None], vectors_BxKxE, 0)
    window_BxKE = vectors_BxKxE.reshape(len(places_BxK), -1)
    block = nnx.merge(settings.context_block, frozen.context_block)

    def token_step(
        context_D: jax.Array, row: tuple[list[jax.Array], jax.Array]
    ) -> tuple[jax.Array, list[jax.Array]]:
        terms, valid = row
        layers = block.step(context_D[None, :], [term[None, :] for term in terms])
        # Rows that only fill up a batch are the next one's, which starts from the last row that counts.
        return jnp.where(valid, layers[-1][0], context_D), [layer[0] for layer in layers]

    terms = block.token_terms(lax.stop_gradient(window_BxKE))
    context_D, layers = lax.scan(token_step, context_D, (terms, rows.valid_B))
    if not settings.model.reads_every_layer:
        layers = layer_inputs(settings.model, layers[-1], layers[-1])
    return layers, window_BxKE, context_D


def _train_step(
    state: TrainState, frozen: Frozen, stream: Stream, first: jax.Array, number: jax.Array, settings: Settings
) -> tuple[TrainState, jax.Array, jax.Array]:
    """One optimizer step on one batch; returns its mean loss before the step and its gradient norm."""
    rows = _rows(stream, first, settings)
    key = jax.random.fold_in(jax.random.fold_in(frozen.key, number), first)
    # Contexts are carried over from one batch to the next, from zero at the stream's start.
    start_D = jnp.where(first == 0, 0, state.context_D)

    def mean_loss(params: Trained) -> tuple[jax.Array, jax.Array]:
        if settings.recomputed:
            inputs, window, context_D = _recomputed(params, start_D, frozen, stream, rows, settings)
        else:
            (inputs, window), context_D = _cached(frozen, stream, rows, settings), start_D
        drops = _drops(key, settings)
        losses = _losses(params, frozen, stream.ids_N, rows, inputs, window, drops, settings)
        count = rows.valid_B.sum(dtype=jnp.int32)
        return losses.loss / count.astype(losses.loss.dtype), context_D

    (loss, context_D), gradient = jax.value_and_grad(mean_loss, has_aux=True)(state.params)
    updates, optimizer_state = settings.optimizer().update(gradient, state.optimizer, state.params)
    params = optax.apply_updates(state.params, updates)
    return TrainState(params, optimizer_state, context_D), loss, optax.tree.norm(gradient)


def _evaluate(
    params: Trained, frozen: Frozen, stream: Stream, first: jax.Array, settings: Settings
) -> Losses:
    """The sums over one batch, nothing dropped and nothing changed."""
    rows = _rows(stream, first, settings)
    inputs, window = _cached(frozen, stream, rows, settings)
    return _losses(params, frozen, stream.ids_N, rows, inputs, window, [], settings)


@functools.cache
def compiled(settings: Settings) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Returns the training and the evaluation step, compiled for a mesh."""
    mesh, whole = settings.mesh, replicated(settings.mesh)
    frozen = Frozen(whole, whole, whole, over_model(mesh), whole)  # type: ignore[arg-type]
    stream = Stream(whole, over_all(mesh), whole, whole)  # type: ignore[arg-type]
    train = jax.jit(
        functools.partial(_train_step, settings=settings),
        in_shardings=(whole, frozen, stream, whole, whole),
        out_shardings=(whole, whole, whole),
        donate_argnums=0,
    )
    evaluate = jax.jit(
        functools.partial(_evaluate, settings=settings),
        in_shardings=(whole, frozen, stream, whole),
        out_shardings=whole,
    )
    return train, evaluate
