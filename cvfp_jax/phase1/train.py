"""Phase 1: the context block learned while all contexts are iterated towards their fixed point.

Shapes: N tokens, D context width.
"""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cvfp_jax.checkpointing.checkpointer import Checkpointer, Facts, Pace
from cvfp_jax.config.settings import Phase1Config
from cvfp_jax.contexts.effective_rank import effective_rank
from cvfp_jax.contexts.recurrence import sequential_contexts
from cvfp_jax.contexts.runtime import Runtime
from cvfp_jax.contexts.store import ContextStore
from cvfp_jax.contexts.windows import StreamWindows
from cvfp_jax.core.fixed_point import Solution, Status
from cvfp_jax.core.matmul import as_kept
from cvfp_jax.core.model import ContextBlock, TokenBlock
from cvfp_jax.core.token_stream import TokenStream
from cvfp_jax.distributed import processes
from cvfp_jax.distributed.layout import Layout, lay_out
from cvfp_jax.distributed.mesh import (
    REPLICATED,
    ROWS,
    axis_index,
    device_put,
    shard_map,
    single_device_mesh,
    to_local_device,
)
from cvfp_jax.phase1 import lagged_task
from cvfp_jax.phase1.iteration import Iteration
from cvfp_jax.phase1.micro_batches import Tokens
from cvfp_jax.phase1.step import Inputs, Phase1Spec, State, Variant
from cvfp_jax.phase1.stop_rules import RankWatch, StopState, StopThresholds

INITIAL_STD = 0.01
_ROWS_DRAWN = 1024


class Phase1Result(NamedTuple):
    """The trained block, the contexts and how they were reached."""

    block: ContextBlock
    contexts: ContextStore  # made with the parameters before the last step; zeros beyond the stream
    status: Status
    iterations: int  # counts the start as 1, so it is one more than the steps
    # A step each: loss, cvfp_loss, diversity_loss, converged_tokens, grad_norm, and task_loss if it has one.
    trace: dict[str, np.ndarray]
    convergence_rate: float  # share of the tokens that had converged at the last step
    residual_mean: float  # over tokens, of mean_j (F(P)_tj - P_tj)^2 with the final parameters
    residual_max: float
    val_ranks: list[float]  # of the checks that stop=val_effective_rank made
    token_block: TokenBlock | None = None  # learned along, with ``lagged_task_weight``

    @property
    def contexts_NxD(self) -> jax.Array:
        """The contexts on the devices, which for those in a file is more than they may hold."""
        return self.contexts.array


def _initial_contexts(
    block: ContextBlock,
    stream: TokenStream,
    layout: Layout,
    config: Phase1Config,
    key: jax.Array,
    runtime: Runtime,
) -> ContextStore:
    """Returns the contexts of iteration 1, zero beyond the stream."""
    dtype = _context_dtype(stream, config)
    if config.initial_contexts == "sequential":
        # They are not saved for themselves: what goes on from them is.
        unsaved = dataclasses.replace(runtime, checkpointer=Checkpointer())
        all_rows = dataclasses.replace(stream, capacity=layout.all_rows)
        return sequential_contexts(block, all_rows, runtime=unsaved).astype(dtype).resized(layout.all_rows)
    store = runtime.new_store((layout.all_rows, block.context_dim), dtype, len(stream))
    num_tokens = device_put(jnp.int32(len(stream)), layout.mesh)
    key = device_put(key, layout.mesh)
    with store.writer() as write:
        for first, rows in store.chunk_ranges(layout.rows, len(stream)):
            chunk = dataclasses.replace(layout, batches=rows // layout.rows // layout.mesh.size)
            start = device_put(jnp.int32(first), layout.mesh)
            write(first, _random_contexts(key, num_tokens, start, chunk, block.context_dim, dtype))
    return store


@functools.partial(jax.jit, static_argnames=("layout", "dim", "dtype"))
def _random_contexts(
    key: jax.Array, num_tokens: jax.Array, first: jax.Array, layout: Layout, dim: int, dtype: Any
) -> jax.Array:
    """Draws the rows of a layout from a place on, as a state has them.

    Some rows at a time, each by a key of its own: all at once would take four times the memory.
    """
    own_rows = layout.own_rows
    rows = min(_ROWS_DRAWN, own_rows)

    def draw_own(key: jax.Array, num_tokens: jax.Array, start: jax.Array) -> jax.Array:
        def draw(index: jax.Array, contexts_NxD: jax.Array) -> jax.Array:
            # The last rows overlap with those before.
            first = jnp.minimum(index * rows, own_rows - rows)
            indices = start + axis_index() * own_rows + first + jnp.arange(rows, dtype=jnp.int32)
            keys = jax.vmap(functools.partial(jax.random.fold_in, key))(indices)
            drawn = INITIAL_STD * jax.vmap(lambda own: jax.random.normal(own, (dim,)))(keys)
            drawn = as_kept(jnp.where((indices < num_tokens)[:, None], drawn, 0).astype(dtype))
            return jax.lax.dynamic_update_slice_in_dim(contexts_NxD, drawn, first, axis=0)

        return jax.lax.fori_loop(0, -(-own_rows // rows), draw, as_kept(jnp.zeros((own_rows, dim), dtype)))

    return shard_map(draw_own, layout.mesh, (REPLICATED, REPLICATED, REPLICATED), ROWS)(
        key, num_tokens, first
    )


def _context_dtype(stream: TokenStream, config: Phase1Config) -> Any:
    """Of contexts between iterations."""
    return stream.vectors_VxE.dtype if config.context_dtype == "float32" else jnp.dtype(config.context_dtype)


def begin_iteration(
    block: ContextBlock,
    stream: TokenStream,
    config: Phase1Config,
    key: jax.Array,
    *,
    runtime: Runtime | None = None,
    initial_contexts: np.ndarray | jax.Array | None = None,
    variant: Variant = Variant(),  # noqa: B008 (immutable)
) -> Iteration:
    """Returns the iteration before its first step.

    Args:
      block: see ``learn_contexts``, as for the other arguments that it has.
      stream: the tokens.
      config: the settings.
      key: the random key.
      runtime: where it runs.
      initial_contexts: float [N, D] or fewer rows, in the place of those that the settings ask for.
      variant: what it does beside.
    """
    runtime = runtime or Runtime()
    layout = lay_out(runtime.mesh, stream.num_rows, config.batch_size)
    graphdef, params = nnx.split(block)
    start_key, noise_key = jax.random.split(key)
    if initial_contexts is None:
        contexts = _initial_contexts(block, stream, layout, config, start_key, runtime)
    else:
        shape, dtype = (layout.all_rows, block.context_dim), _context_dtype(stream, config)
        contexts = runtime.new_store(shape, dtype, len(stream))
        with contexts.writer() as write:
            write(0, jnp.asarray(initial_contexts, dtype))
    windows = StreamWindows(stream, block.num_input_tokens, layout.mesh)
    place = functools.partial(device_put, mesh=layout.mesh)
    num_tokens = len(stream)
    tokens = Tokens(windows.vectors_UxE, None, place(jnp.int32(num_tokens)))
    inputs = Inputs(tokens, place(StopThresholds.of(num_tokens, config)), place(noise_key))
    spec = Phase1Spec(config, graphdef, layout, variant.noise, variant.gradient_clip)
    # The state is donated, and the caller keeps the untrained block.
    params = jax.tree.map(jnp.copy, params)
    state = State(*place((params, spec.optimizer().init(params))), None, place(StopState.start()))
    if config.lagged_task_weight > 0:
        if variant.task is None:
            raise ValueError("lagged_task_weight needs a token block and a head")
        ids_M = jnp.asarray(np.pad(stream.ids_N, (0, layout.all_rows - num_tokens)), jnp.int32)
        task_spec, of_task, of_state = lagged_task.prepare(variant.task, stream.vectors_VxE, ids_M, config)
        spec = dataclasses.replace(spec, task=task_spec)
        inputs, state = inputs._replace(task=place(of_task)), state._replace(task=place(of_state))
    return Iteration(state, contexts, windows, inputs, spec)


def learn_contexts(
    block: ContextBlock,
    stream: TokenStream,
    config: Phase1Config,
    key: jax.Array,
    *,
    val_stream: TokenStream | None = None,
    runtime: Runtime | None = None,
    block_index: int = 0,
    variant: Variant = Variant(),  # noqa: B008 (immutable)
) -> Phase1Result:
    """Learns a context block by fixed-point iteration over a whole token stream.

    Each iteration computes ``C_t = block(P_{t-1} + noise, w_t)`` for all tokens in parallel, with P the
    contexts of the iteration before and ``P_{-1}`` the last of them or zero; takes per micro-batch of n
    tokens the loss ``(1 - w) mean_tj (C_tj - P_tj)^2 + w diversity(C)``; makes one step of clipped Adam
    on the mean of these losses; and replaces P by C. ``stop_rules`` says when it stops; a token has
    converged when ``mean_j (C_tj - P_tj)^2 < convergence_threshold``.

    Args:
      block: the untrained block; it is left as it is.
      stream: the tokens.
      config: the settings.
      key: the random key of the start, N(0, 0.01^2), of the noise and of the diversity loss.
      val_stream: the validation tokens, for ``stop=val_effective_rank``.
      runtime: where it runs, and what watches it; JAX's first device by default. What comes out does not
        depend on it, up to rounding.
      block_index: which block it is of several, by which its state is saved.
      variant: what clips gradients, and the token block that ``config.lagged_task_weight`` has learned along.

    Returns:
      A ``Phase1Result``; its status is CONVERGED, STALLED, MAX_STEPS or NON_FINITE.

    Raises:
      ValueError: the stop rule needs validation tokens and there are none.

    References:
      rato-tokyo/new-llm, reports of 2025-11-27 to 2025-12-03.
    """
    runtime = runtime or Runtime()
    checkpointer, part = runtime.checkpointer, part_name(block_index)
    watch = RankWatch(config) if config.stop == "val_effective_rank" else None
    if watch is not None and val_stream is None:
        raise ValueError("stop=val_effective_rank needs validation tokens")
    saved = checkpointer.facts(part)
    # What was saved takes their place.
    none = None if saved is None else np.zeros((0, block.context_dim), np.float32)
    iteration = begin_iteration(
        block, stream, config, key, runtime=runtime, initial_contexts=none, variant=variant
    )
    saved_rows = lay_out(single_device_mesh(), stream.num_rows, config.batch_size).all_rows
    if saved is not None:
        iteration.restore(checkpointer.restore(part, iteration.to_save(saved_rows)))
        if watch is not None:
            watch.recall(saved["val_ranks"])

    def state() -> tuple[Facts, Solution]:
        facts = {"steps": iteration.steps, "val_ranks": watch.ranks if watch else []}
        return facts, iteration.to_save(saved_rows)

    show = runtime.progress.phase1(block_index, len(stream))
    # Callbacks from inside the compiled loop would show progress too, but keep it out of JAX's
    # compilation cache; leaving the loop costs microseconds and changes no digit.
    pace = Pace()
    while iteration.status == Status.RUNNING:
        until = iteration.steps + pace.steps(checkpointer.seconds_left())
        if watch is not None:
            until = min(until, watch.next_check(iteration.steps + 1) - 1)
        with pace:
            iteration.advance(until)
        show(iteration.steps, iteration.trace)
        if iteration.status == Status.NON_FINITE:
            break
        if watch is not None and (iteration.steps + 1) % config.val_frequency == 0:
            assert val_stream is not None
            _check_rank(iteration, watch, val_stream)
        if iteration.status != Status.NON_FINITE:
            checkpointer.maybe_save(part, state, stage_end=iteration.status != Status.RUNNING)
    if iteration.status != Status.NON_FINITE:
        checkpointer.include(part, *state())
    return conclude(iteration, watch.ranks if watch else [])


def part_name(block_index: int) -> str:
    """Returns the name under which a block's iteration is saved."""
    return f"phase 1, block {block_index + 1}"


def _check_rank(iteration: Iteration, watch: RankWatch, val_stream: TokenStream) -> None:
    """Stops the iteration if the effective rank of exact contexts no longer grows."""
    config = iteration.spec.config
    # A copy, because the next steps donate the state that the block would share its arrays with.
    params = to_local_device(jax.tree.map(jnp.copy, iteration.solution.state.params))
    block = nnx.merge(iteration.spec.block, params)
    capacity = min(val_stream.capacity, config.val_sample_size)
    first = dataclasses.replace(val_stream[: config.val_sample_size], capacity=capacity)
    contexts = sequential_contexts(block, first[:-1])
    # Other hosts' last digits may differ, and all must stop at the same step.
    rank = processes.broadcast(effective_rank(contexts, len(first) - 1))
    status = iteration.status
    if not math.isfinite(rank):
        status = Status.NON_FINITE
    elif watch.stops(rank) and status in (Status.RUNNING, Status.MAX_STEPS):
        status = Status.STALLED
    iteration.end_with(status)


def conclude(iteration: Iteration, val_ranks: list[float] | None = None) -> Phase1Result:
    """Returns what an iteration has come to, with its residual at fixed parameters."""
    trace = iteration.trace
    residual_mean, residual_max = iteration.residual()
    return Phase1Result(
        nnx.merge(iteration.spec.block, to_local_device(iteration.solution.state.params)),
        iteration.contexts,
        iteration.status,
        iteration.steps + 1,
        trace,
        int(trace["converged_tokens"][-1]) / iteration.num_tokens,
        residual_mean,
        residual_max,
        val_ranks or [],
        _learned_token_block(iteration),
    )


def _learned_token_block(iteration: Iteration) -> TokenBlock | None:
    task, state = iteration.spec.task, iteration.solution.state.task
    return None if task is None else nnx.merge(task.token_block, to_local_device(state.params))
