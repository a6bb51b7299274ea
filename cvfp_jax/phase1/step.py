"""One iteration of phase 1: new contexts, their loss and its gradient, and one optimizer step.

Shapes: N tokens, B rows of a micro-batch, M micro-batches, D context width, E embedding width, V tokens.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax

from cvfp_jax.config.settings import Phase1Config
from cvfp_jax.core.fixed_point import StepResult
from cvfp_jax.core.model import ContextBlock
from cvfp_jax.core.optimizer import GradientClip, adam, clip_by_global_norm
from cvfp_jax.distributed.layout import Layout
from cvfp_jax.distributed.mesh import (
    all_gather_pieces,
    piece_index,
    psum,
    psum_pieces,
)
from cvfp_jax.kernels.block_vjp import (
    LayerGradient,
    Residuals,
    backward,
    forward,
    into_params,
    no_gradient,
    output,
    output_sum,
    row_means,
)
from cvfp_jax.kernels.diversity_vjp import (
    Gradient,
    Moments,
    accumulate,
    from_moments,
    from_rows,
    no_moments,
    of_all,
    of_moments,
)
from cvfp_jax.kernels.token_tables import LayerTables, add_terms, terms_of, token_tables, without_token_rows
from cvfp_jax.phase1 import lagged_task, stop_rules
from cvfp_jax.phase1.lagged_task import LaggedTask, TaskInputs, TaskSpec, TaskState, TaskSums
from cvfp_jax.phase1.micro_batches import (
    Batch,
    Range,
    Tile,
    Tokens,
    num_batches,
    num_tiles,
    own_range,
    padding_rows,
    read_contexts,
    renew_contexts,
    tile_reader,
)
from cvfp_jax.phase1.stop_rules import StopState, StopThresholds

# Maps (steps made before, micro-batch) to what is added to a micro-batch's shifted contexts, [B, D].
Noise = Callable[[jax.Array, jax.Array], jax.Array]
# A micro-batch's key draws its noise; folded with this it draws what its diversity loss needs.
_FOR_DIVERSITY = 1


class Variant(NamedTuple):
    """What an iteration does that its settings do not say."""

    gradient_clip: GradientClip = clip_by_global_norm  # given ``config.gradient_clip``
    noise: Noise | None = None  # in the place of normal noise
    task: LaggedTask | None = None  # what ``config.lagged_task_weight`` weighs


@dataclasses.dataclass(frozen=True)
class Phase1Spec:
    """What the compiled iteration depends on beside the shapes of arrays."""

    config: Phase1Config
    block: nnx.GraphDef
    layout: Layout
    noise: Noise | None = None
    gradient_clip: GradientClip = clip_by_global_norm
    task: TaskSpec | None = None

    @property
    def wraps(self) -> bool:
        """Whether the context before the first token is the last token's."""
        return self.config.first_context == "last"

    def optimizer(self) -> optax.GradientTransformation:
        """The optimizer of the block."""
        return adam(self.config.learning_rate, self.gradient_clip(self.config.gradient_clip))


class Inputs(NamedTuple):
    """What the iteration reads and does not change."""

    tokens: Tokens
    limits: StopThresholds
    key: jax.Array
    task: TaskInputs | None = None


class State(NamedTuple):
    """What the iteration changes."""

    params: Any
    optimizer: Any
    # Of the previous iteration; zeros where the ids are padded. Of bf16 numbers the bits (see
    # ``matmul.as_kept``); None while they stand in a ``ContextStore``.
    contexts_NxD: Any
    watch: StopState
    task: TaskState | None = None


class _Scratch(NamedTuple):
    """What the pass backward over a micro-batch needs of the pass forward, a tile after the other."""

    residuals: list[Residuals]
    change: jax.Array  # each token's mean squared change


class Accumulators(NamedTuple):
    """What is added up over micro-batches, and buffers that all of them work in."""

    metrics: dict[str, jax.Array]
    gradients: list[LayerGradient]
    tables: list[LayerTables]  # the gradient of the token tables
    scratch: _Scratch
    task: TaskSums | None


def _forward_tile(block: ContextBlock, tables: list[LayerTables], tile: Tile) -> tuple[jax.Array, _Scratch]:
    terms = [terms_of(table, tile.places_KxT) for table in tables]
    contexts_TxD, residuals = forward(block, tile.shifted_TxD, terms)
    return contexts_TxD, _Scratch(residuals, row_means(jnp.square(contexts_TxD - tile.old_TxD)))


def _no_scratch(block: ContextBlock, tables: list[LayerTables], inputs: Inputs, spec: Phase1Spec) -> _Scratch:
    """Zeros in the shapes of a micro-batch's scratch, [tiles, ...]."""
    tiles, rows = num_tiles(spec.layout.rows)
    dtype = inputs.tokens.vectors_UxE.dtype
    old = jax.ShapeDtypeStruct((rows, block.context_dim), dtype)
    places = jax.ShapeDtypeStruct((block.num_input_tokens, rows), jnp.int32)
    shapes = jax.eval_shape(
        lambda old, places: _forward_tile(block, tables, Tile(old, old, places))[1], old, places
    )
    return jax.tree.map(lambda leaf: jnp.zeros((tiles, *leaf.shape), leaf.dtype), shapes)


def has_converged(change_B: jax.Array, config: Phase1Config) -> jax.Array:
    """Says of each token whether its mean squared change is below the threshold, strictly."""
    return change_B < config.convergence_threshold


def _noise(
    index: jax.Array, batch_index: jax.Array, key: jax.Array, old_CxD: jax.Array, spec: Phase1Spec
) -> Any:
    """What is added to a micro-batch's shifted contexts, if anything is; drawn for all pieces, as for one."""
    layout, sigma = spec.layout, spec.config.context_noise
    if spec.noise is not None:
        noise = spec.noise(index, batch_index)
    elif sigma == 0:
        return None
    else:
        noise = sigma * jax.random.normal(key, (layout.batch_size, old_CxD.shape[1]), old_CxD.dtype)
    return _own_piece(noise, layout)


def _own_piece(rows_BxD: jax.Array, layout: Layout) -> jax.Array:
    """Of a micro-batch's rows those that are this device's."""
    if layout.pieces == 1:
        return rows_BxD
    return lax.dynamic_slice_in_dim(rows_BxD, piece_index() * layout.rows, layout.rows)


def _diversity(
    moments: Moments, contexts_BxD: jax.Array, valid_B: jax.Array, key: jax.Array, spec: Phase1Spec
) -> tuple[jax.Array, Gradient]:
    """The diversity loss of a micro-batch, and its gradient for this device's rows."""
    name, layout = spec.config.diversity, spec.layout
    if of_moments(name):
        return from_moments(name, moments if layout.pieces == 1 else of_all(moments, psum_pieces))
    if layout.pieces == 1:
        return from_rows(name, contexts_BxD, valid_B, key)
    every_B = all_gather_pieces(valid_B)
    loss, gradient = from_rows(name, all_gather_pieces(contexts_BxD), every_B, key)
    assert gradient.rest_BxD is not None
    own = gradient._replace(rest_BxD=_own_piece(gradient.rest_BxD, layout))
    return jnp.where(every_B.any(), loss, 0), own


def _update_micro_batch(
    batch: Batch,
    sums: Accumulators,
    index: jax.Array,
    inputs: Inputs,
    block: ContextBlock,
    tables: list[LayerTables],
    spec: Phase1Spec,
) -> tuple[jax.Array, Accumulators]:
    """A micro-batch's new contexts, and its losses and gradients added to the sums.

    The loss is ``(1 - w) mean_tj (C_tj - P_tj)^2 + w diversity(C)``, divided by the number of
    micro-batches: a short last one weighs as much as a full one, which is the original's convention.
    """
    config, layout = spec.config, spec.layout
    tiles, rows = num_tiles(layout.rows)
    key = jax.random.fold_in(jax.random.fold_in(inputs.key, index), batch.batch_index)
    read = tile_reader(batch, _noise(index, batch.batch_index, key, batch.old_CxD, spec), rows)
    last = block.layers[-1]
    dim = batch.old_CxD.shape[1]

    def forward_tile(tile_index: jax.Array, carry: tuple[_Scratch, Moments]) -> tuple[_Scratch, Moments]:
        scratch, moments = carry
        contexts_TxD, of_tile = _forward_tile(block, tables, read(tile_index))
        if of_moments(config.diversity):
            valid_T = lax.dynamic_slice_in_dim(batch.valid_B, tile_index * rows, rows)
            weights_T = valid_T.astype(contexts_TxD.dtype)
            sum_D = output_sum(last, of_tile.residuals[-1], weights_T)
            moments = accumulate(moments, contexts_TxD, valid_T, sum_D)
        scratch = jax.tree.map(
            lambda buffer, leaf: lax.dynamic_update_index_in_dim(buffer, leaf, tile_index, 0),
            scratch,
            of_tile,
        )
        return scratch, moments

    start = sums.scratch, no_moments(dim, batch.old_CxD.dtype)
    scratch, moments = lax.fori_loop(0, tiles, forward_tile, start)
    contexts_BxD = jax.vmap(lambda residuals: output(last, residuals))(scratch.residuals[-1]).reshape(-1, dim)
    change_B = jnp.where(batch.valid_B, scratch.change.reshape(-1), 0)
    whole = psum_pieces if layout.pieces > 1 else lambda own: own
    count, changed = whole(batch.valid_B.sum()), whole(change_B.sum())
    n = jnp.maximum(count, 1).astype(change_B.dtype)
    diversity_key = jax.random.fold_in(key, _FOR_DIVERSITY)
    own_BxD, own_valid_B = contexts_BxD[: layout.rows], batch.valid_B[: layout.rows]
    diversity_loss, diversity_gradient = _diversity(moments, own_BxD, own_valid_B, diversity_key, spec)
    weight, cvfp_loss = config.dist_reg_weight, changed / n
    batches = num_batches(inputs.tokens, layout.batch_size).astype(n.dtype)
    # Scalars first: rows are multiplied by no more than they must be, and divided by nothing.
    diversity_gradient, cvfp_scale = (
        diversity_gradient.times(weight / batches),
        (1 - weight) * 2 / (n * dim * batches),
    )
    rest_BxD = diversity_gradient.rest_BxD
    if rest_BxD is not None:
        rest_BxD = jnp.pad(rest_BxD, ((0, tiles * rows - layout.rows), (0, 0)))
    task, task_loss = sums.task, jnp.zeros_like(cvfp_loss)
    if task is not None:
        assert spec.task is not None
        assert inputs.task is not None
        drawn = lagged_task.draw(
            key, batch.batch_index, inputs.tokens.num_tokens, config.lagged_task_places, layout
        )
        scale = config.lagged_task_weight / batches
        task, task_loss, task_BxD = lagged_task.add_task(
            task, contexts_BxD, drawn, scale, inputs.task, spec.task
        )
        task_loss = whole(task_loss)

    def backward_tile(
        tile_index: jax.Array, carry: tuple[list[LayerGradient], list[LayerTables]]
    ) -> tuple[list[LayerGradient], list[LayerTables]]:
        gradients, of_tables = carry
        first = tile_index * rows
        tile = read(tile_index)
        residuals = jax.tree.map(
            lambda buffer: lax.dynamic_index_in_dim(buffer, tile_index, 0, False), scratch.residuals
        )
        contexts_TxD = output(last, residuals[-1])
        rest = None if rest_BxD is None else lax.dynamic_slice_in_dim(rest_BxD, first, rows)
        gradient_TxD = diversity_gradient.of_rows(contexts_TxD, rest)
        if weight < 1:
            gradient_TxD += cvfp_scale * (contexts_TxD - tile.old_TxD)
        if task is not None:
            gradient_TxD += lax.dynamic_slice_in_dim(task_BxD, first, rows)
        valid = lax.dynamic_slice_in_dim(batch.valid_B, first, rows)
        gradient_TxD = jnp.where(valid[:, None], gradient_TxD, 0)
        added, of_terms = backward(block, tile.shifted_TxD, residuals, gradient_TxD)
        of_tables = [
            add_terms(table, tile.places_KxT, of_term)
            for table, of_term in zip(of_tables, of_terms, strict=True)
        ]
        return jax.tree.map(jnp.add, gradients, added), of_tables

    gradients, of_tables = lax.fori_loop(0, tiles, backward_tile, (sums.gradients, sums.tables))
    converged_B = batch.valid_B & has_converged(change_B, config)
    # What is logged is weighed by the number of tokens, each piece's own.
    own = batch.valid_B.sum().astype(n.dtype)
    total_loss = (1 - weight) * cvfp_loss + weight * diversity_loss
    if task is not None:
        total_loss += config.lagged_task_weight * task_loss
        task = task._replace(loss=task.loss + task_loss * own)
    metrics = {
        "loss": total_loss * own,
        "cvfp_loss": cvfp_loss * own,
        "diversity_loss": diversity_loss * own,
        "converged_tokens": converged_B.sum(dtype=jnp.int32),
    }
    metrics = jax.tree.map(jnp.add, sums.metrics, metrics)
    return contexts_BxD, Accumulators(metrics, gradients, of_tables, scratch, task)


def begin_step(state: State, inputs: Inputs, spec: Phase1Spec) -> tuple[list[LayerTables], Accumulators]:
    """The token tables of an iteration, and its sums before the first micro-batch."""
    block, vectors_UxE = nnx.merge(spec.block, state.params), inputs.tokens.vectors_UxE
    tables = token_tables(block, vectors_UxE)
    zero = jnp.zeros((), vectors_UxE.dtype)
    metrics = {"loss": zero, "cvfp_loss": zero, "diversity_loss": zero, "converged_tokens": jnp.int32(0)}
    scratch = _no_scratch(block, tables, inputs, spec)
    task = None if state.task is None else lagged_task.no_sums(state.task.params, zero.dtype)
    no_tables = jax.tree.map(jnp.zeros_like, tables)
    return tables, Accumulators(metrics, no_gradient(block), no_tables, scratch, task)


def update_contexts(
    contexts_NxD: jax.Array,
    own: Range,
    params: Any,
    tables: list[LayerTables],
    sums: Accumulators,
    index: jax.Array,
    inputs: Inputs,
    spec: Phase1Spec,
) -> tuple[jax.Array, Accumulators]:
    """The new contexts of a range, and its losses and gradients added to the sums."""
    block = without_token_rows(nnx.merge(spec.block, params))
    renew = functools.partial(
        _update_micro_batch, index=index, inputs=inputs, block=block, tables=tables, spec=spec
    )
    rows = spec.layout.rows
    return renew_contexts(contexts_NxD, inputs.tokens, own, rows, renew, sums, padding=padding_rows(rows))


def finish_step(
    state: State, sums: Accumulators, index: jax.Array, inputs: Inputs, spec: Phase1Spec
) -> StepResult:
    """The optimizer step of an iteration that has its new contexts, and what becomes of it."""
    config, vectors_UxE = spec.config, inputs.tokens.vectors_UxE
    _, of_params = jax.vjp(
        lambda params: token_tables(nnx.merge(spec.block, params), vectors_UxE), state.params
    )
    (of_terms,) = of_params(sums.tables)
    # The only all-reduce beside a row of contexts each, however many tokens there are.
    own = into_params(spec.block, of_terms, sums.gradients), sums.metrics
    of_task = None if sums.task is None else (sums.task.gradient, sums.task.loss)
    (gradient, sums_of_all), of_task = psum((own, of_task))
    n = inputs.tokens.num_tokens.astype(vectors_UxE.dtype)
    metrics = {name: sums_of_all[name] / n for name in ("loss", "cvfp_loss", "diversity_loss")}
    metrics["converged_tokens"] = converged = sums_of_all["converged_tokens"]
    metrics["grad_norm"] = optax.tree.norm(gradient)
    task, finite = state.task, jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
    if task is not None and of_task is not None:
        token_gradient, task_loss = of_task
        task = lagged_task.finish(task, token_gradient, config)
        metrics["task_loss"] = task_loss / n
        finite &= jnp.isfinite(optax.tree.norm(token_gradient))
    updates, optimizer_state = spec.optimizer().update(gradient, state.optimizer, state.params)
    iteration = index + 2  # the start was iteration 1
    status, watch = stop_rules.check_stop(converged, iteration, state.watch, inputs.limits, config)
    return StepResult(
        State(optax.apply_updates(state.params, updates), optimizer_state, state.contexts_NxD, watch, task),
        metrics,
        status,
        finite=finite,
    )


def step(state: State, index: jax.Array, inputs: Inputs, spec: Phase1Spec) -> StepResult:
    """One iteration: every context anew from its predecessor's old one, then one optimizer step."""
    tables, sums = begin_step(state, inputs, spec)
    own = own_range(state.contexts_NxD, inputs.tokens, spec.layout, spec.wraps)
    contexts_NxD, sums = update_contexts(
        state.contexts_NxD, own, state.params, tables, sums, index, inputs, spec
    )
    return finish_step(state._replace(contexts_NxD=contexts_NxD), sums, index, inputs, spec)


def residual_sums(
    contexts_NxD: jax.Array,
    own: Range,
    sums: tuple[jax.Array, jax.Array],
    params: Any,
    tables: list[LayerTables],
    inputs: Inputs,
    spec: Phase1Spec,
) -> tuple[jax.Array, jax.Array]:
    """The squared changes of a range added to their sum, and their maximum so far."""
    block = without_token_rows(nnx.merge(spec.block, params))
    tiles, rows = num_tiles(spec.layout.rows)

    def visit(batch: Batch, sums: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        read = tile_reader(batch, None, rows)
        change = lax.map(
            lambda tile_index: _forward_tile(block, tables, read(tile_index))[1].change, jnp.arange(tiles)
        )
        change_B = jnp.where(batch.valid_B, change.reshape(-1), 0)
        return sums[0] + change_B.sum(), jnp.maximum(sums[1], change_B.max())

    each = spec.layout.rows
    return read_contexts(contexts_NxD, inputs.tokens, own, each, visit, sums, padding=padding_rows(each))
