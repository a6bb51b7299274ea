"""One step of phase 2: a batch's loss, its gradient and an optimizer step; and its evaluation.

Shapes: N tokens of a stream, B rows of a batch, D context width, E embedding width, K input tokens, V tokens.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax
from jax.sharding import Mesh

from cvfp_jax.config.settings import ModelConfig, Phase2Config
from cvfp_jax.core.model import layer_inputs, token_windows
from cvfp_jax.core.optimizer import adam, clip_by_global_norm
from cvfp_jax.distributed.mesh import (
    over_all,
    over_model,
    over_rows,
    replicated,
)
from cvfp_jax.kernels.cross_entropy import Losses, Shares, frozen_head_losses, trained_head_losses
from cvfp_jax.phase2.context_modes import cached_inputs
from cvfp_jax.phase2.stream import BatchRange, Stream, StreamArrays


class TrainableParams(NamedTuple):
    """What phase 2 changes."""

    token_block: Any
    table_VxE: jax.Array | None = None  # the head, if it is not the frozen table
    bias_V: jax.Array | None = None  # of an untied head
    embed_norm: Any = None  # the embedding's LayerNorm, if contexts are recomputed


class FrozenInputs(NamedTuple):
    """What phase 2 reads and does not change."""

    context_block: Any  # of the only block, or the first: its layers are read in mode E
    vectors_VxE: jax.Array
    table_VxE: jax.Array
    head_VxE: jax.Array  # the same, kept for the head's products, with rows of zeros for equal ranges
    key: jax.Array  # of dropout


class TrainState(NamedTuple):
    """What a step changes."""

    params: TrainableParams
    optimizer: Any
    context_D: jax.Array  # after the last token, if contexts are recomputed


@dataclasses.dataclass(frozen=True)
class Phase2Spec:
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

    def rows(self, stream: Stream | StreamArrays) -> int:
        """The rows of a batch, the last one's too."""
        return min(self.config.batch_size, len(stream.ids_N) - 1)

    def arrays(self, stream: Stream, batches: Sequence[BatchRange]) -> Iterator[StreamArrays]:
        """What the steps of some batches read of a stream."""
        return stream.for_batches(batches, self.rows(stream), self.model.prev_context_steps + 1)

    def optimizer(self) -> optax.GradientTransformation:
        """The optimizer of what is trained."""
        clip = clip_by_global_norm(self.config.gradient_clip)
        return adam(self.config.learning_rate, clip, self.config.weight_decay)


class _Rows(NamedTuple):
    """The rows of a batch."""

    places_B: jax.Array
    valid_B: jax.Array


def _rows(stream: StreamArrays, first: jax.Array, spec: Phase2Spec) -> _Rows:
    """The batch that starts at a row, filled up to a multiple of the devices with rows that do not count."""
    num_rows = stream.num_tokens - 1
    batch_size = spec.rows(stream)
    devices = spec.mesh.size
    offsets_B = jnp.arange(-(-batch_size // devices) * devices, dtype=jnp.int32)
    offsets_B = lax.with_sharding_constraint(offsets_B, over_rows(spec.mesh))
    valid_B = (offsets_B < batch_size) & (first + offsets_B < num_rows)
    return _Rows(jnp.minimum(first + offsets_B, num_rows - 1), valid_B)


def _drops(key: jax.Array, spec: Phase2Spec) -> list[Callable[[jax.Array], jax.Array]]:
    """The dropout of each token layer; none if nothing is dropped."""
    rate = spec.config.dropout
    if rate == 0.0:
        return []

    def drop(delta: jax.Array, layer: int) -> jax.Array:
        keep = jax.random.bernoulli(jax.random.fold_in(key, layer), 1 - rate, delta.shape)
        return jnp.where(keep, delta / (1 - rate), 0)

    return [functools.partial(drop, layer=layer) for layer in range(spec.model.token_depth)]


def _losses(
    params: TrainableParams,
    frozen: FrozenInputs,
    ids_N: jax.Array,
    rows: _Rows,
    inputs: list[jax.Array],
    window_BxKE: jax.Array,
    drops: list[Callable[[jax.Array], jax.Array]],
    spec: Phase2Spec,
) -> Losses:
    """The sums over a batch, given what the token block reads."""
    hidden_BxE = nnx.merge(spec.token_block, params.token_block)(inputs, window_BxKE, drops)
    targets_B = ids_N[rows.places_B + 1]
    if params.table_VxE is None:
        shares = Shares(spec.mesh, len(frozen.table_VxE))
        return frozen_head_losses(
            hidden_BxE, frozen.head_VxE, targets_B, rows.valid_B, spec.precision, shares
        )
    return trained_head_losses(
        hidden_BxE, params.table_VxE, targets_B, rows.valid_B, params.bias_V, spec.precision
    )


def _cached(
    frozen: FrozenInputs, stream: StreamArrays, rows: _Rows, spec: Phase2Spec
) -> tuple[list[jax.Array], jax.Array]:
    """What the token block reads, from contexts made before."""
    block = nnx.merge(spec.context_block, frozen.context_block)
    K, contexts_NxD = spec.model.num_input_tokens, stream.contexts_NxD
    window_BxKE = token_windows(frozen.vectors_VxE, stream.ids_N, rows.places_B, K)
    inputs = cached_inputs(
        spec.model, block, contexts_NxD, rows.places_B, window_BxKE, spec.mesh, stream.first_row
    )
    return inputs, window_BxKE


def _recomputed(
    params: TrainableParams,
    context_D: jax.Array,
    frozen: FrozenInputs,
    stream: StreamArrays,
    rows: _Rows,
    spec: Phase2Spec,
) -> tuple[list[jax.Array], jax.Array, jax.Array]:
    """What the token block reads, token by token from the context before; and the context after.

    The embedding's LayerNorm learns through the token path only: contexts are constants, as in R1.
    """
    K = spec.model.num_input_tokens
    places_BxK = rows.places_B[:, None] - jnp.arange(K - 1, -1, -1, dtype=jnp.int32)[None, :]
    vectors_BxKxE = frozen.table_VxE[stream.ids_N[jnp.maximum(places_BxK, 0)]]
    vectors_BxKxE = nnx.merge(spec.embed_norm, params.embed_norm)(vectors_BxKxE)
    vectors_BxKxE = jnp.where((places_BxK >= 0)[:, :, None], vectors_BxKxE, 0)
    window_BxKE = vectors_BxKxE.reshape(len(places_BxK), -1)
    block = nnx.merge(spec.context_block, frozen.context_block)

    def token_step(
        context_D: jax.Array, row: tuple[list[jax.Array], jax.Array]
    ) -> tuple[jax.Array, list[jax.Array]]:
        terms, valid = row
        layers = block.step(context_D[None, :], [term[None, :] for term in terms])
        # Rows that only fill up a batch are the next one's, which starts from the last row that counts.
        return jnp.where(valid, layers[-1][0], context_D), [layer[0] for layer in layers]

    terms = block.token_terms(lax.stop_gradient(window_BxKE))
    context_D, layers = lax.scan(token_step, context_D, (terms, rows.valid_B))
    if not spec.model.reads_every_layer:
        layers = layer_inputs(spec.model, layers[-1], layers[-1])
    return layers, window_BxKE, context_D


def _train_step(
    state: TrainState,
    frozen: FrozenInputs,
    stream: StreamArrays,
    first: jax.Array,
    epoch: jax.Array,
    spec: Phase2Spec,
) -> tuple[TrainState, jax.Array, jax.Array]:
    """One optimizer step on one batch; returns its mean loss before the step and its gradient norm."""
    rows = _rows(stream, first, spec)
    key = jax.random.fold_in(jax.random.fold_in(frozen.key, epoch), first)
    # Contexts are carried over from one batch to the next, from zero at the stream's start.
    start_D = jnp.where(first == 0, 0, state.context_D)

    def mean_loss(params: TrainableParams) -> tuple[jax.Array, jax.Array]:
        if spec.recomputed:
            inputs, window, context_D = _recomputed(params, start_D, frozen, stream, rows, spec)
        else:
            (inputs, window), context_D = _cached(frozen, stream, rows, spec), start_D
        drops = _drops(key, spec)
        losses = _losses(params, frozen, stream.ids_N, rows, inputs, window, drops, spec)
        count = rows.valid_B.sum(dtype=jnp.int32)
        return losses.loss / count.astype(losses.loss.dtype), context_D

    (loss, context_D), gradient = jax.value_and_grad(mean_loss, has_aux=True)(state.params)
    updates, optimizer_state = spec.optimizer().update(gradient, state.optimizer, state.params)
    params = optax.apply_updates(state.params, updates)
    return TrainState(params, optimizer_state, context_D), loss, optax.tree.norm(gradient)


def _evaluate(
    params: TrainableParams, frozen: FrozenInputs, stream: StreamArrays, first: jax.Array, spec: Phase2Spec
) -> Losses:
    """The sums over one batch, nothing dropped and nothing changed."""
    rows = _rows(stream, first, spec)
    inputs, window = _cached(frozen, stream, rows, spec)
    return _losses(params, frozen, stream.ids_N, rows, inputs, window, [], spec)


@functools.cache
def compile_steps(spec: Phase2Spec) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Returns the training and the evaluation step, compiled for a mesh."""
    mesh, whole = spec.mesh, replicated(spec.mesh)
    frozen = FrozenInputs(whole, whole, whole, over_model(mesh), whole)  # type: ignore[arg-type]
    stream = StreamArrays(whole, over_all(mesh), whole, whole)  # type: ignore[arg-type]
    train = jax.jit(
        functools.partial(_train_step, spec=spec),
        in_shardings=(whole, frozen, stream, whole, whole),
        out_shardings=(whole, whole, whole),
        donate_argnums=0,
    )
    evaluate = jax.jit(
        functools.partial(_evaluate, spec=spec),
        in_shardings=(whole, frozen, stream, whole),
        out_shardings=whole,
    )
    return train, evaluate
