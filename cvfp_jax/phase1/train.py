"""Phase 1: the context block learned while all contexts are iterated towards their fixed point.

Shapes: N tokens, D context width, E embedding width, V tokens.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from cvfp_jax.checkpointing.checkpointer import Checkpointer, Facts, FirstRows, Pace
from cvfp_jax.checkpointing.row_file import RowFile, RowFiles
from cvfp_jax.config.settings import Phase1Config
from cvfp_jax.contexts.effective_rank import effective_rank
from cvfp_jax.contexts.recurrence import sequential_contexts, write_sequential
from cvfp_jax.core.fixed_point import Solution, Status
from cvfp_jax.core.matmul import as_kept, as_numbers
from cvfp_jax.core.model import ContextBlock
from cvfp_jax.distributed import processes
from cvfp_jax.distributed.layout import Layout, lay_out, with_overlap
from cvfp_jax.distributed.mesh import (
    REPLICATED,
    ROWS,
    axis_index,
    device_put,
    resize_rows,
    shard_map,
    single_device_mesh,
    to_local_device,
)
from cvfp_jax.kernels.token_tables import distinct_tokens, windowed
from cvfp_jax.phase1 import disk as phase1_disk
from cvfp_jax.phase1 import step as phase1_step
from cvfp_jax.phase1.micro_batches import Tokens
from cvfp_jax.phase1.step import Inputs, Noise, Settings, State, advance, with_contexts
from cvfp_jax.phase1.stop_rules import Limits, RankWatch, Watch

INITIAL_STD = 0.01
_ROWS_DRAWN = 1024

# Receives the steps made and the trace so far.
Progress = Callable[[int, dict[str, np.ndarray]], None]


class Phase1Result(NamedTuple):
    """The trained block, the contexts and how they were reached."""

    block: ContextBlock
    # Made with the parameters before the last step; zeros beyond the stream.
    contexts_NxD: jax.Array | RowFile
    status: Status
    iterations: int  # counts the start as 1, so it is one more than the steps
    trace: dict[str, np.ndarray]  # loss, cvfp_loss, diversity_loss, converged_tokens, grad_norm; a step each
    convergence_rate: float  # share of the tokens that had converged at the last step
    residual_mean: float  # over tokens, of mean_j (F(P)_tj - P_tj)^2 with the final parameters
    residual_max: float
    val_ranks: list[float]  # of the checks that stop=val_effective_rank made


def _initial_contexts(
    block: ContextBlock,
    vectors_VxE: jax.Array,
    ids: np.ndarray,
    layout: Layout,
    config: Phase1Config,
    key: jax.Array,
    dtype: Any,
) -> jax.Array:
    """Returns the contexts of iteration 1 as a state has them, zero beyond the stream."""
    if config.initial_contexts == "sequential":
        contexts_NxD = sequential_contexts(
            block, vectors_VxE, ids, capacity=layout.all_rows, mesh=layout.mesh
        )
        return resize_rows(as_kept(contexts_NxD.astype(dtype)), layout.all_rows, layout.mesh)
    num_tokens, first = device_put((jnp.int32(len(ids)), jnp.int32(0)), layout.mesh)
    return _random_contexts(device_put(key, layout.mesh), num_tokens, first, layout, block.context_dim, dtype)


def _write_initial(
    contexts: RowFile,
    block: ContextBlock,
    vectors_VxE: jax.Array,
    ids: np.ndarray,
    layout: Layout,
    config: Phase1Config,
    key: jax.Array,
) -> None:
    """Writes the same contexts to a file."""
    if config.initial_contexts == "sequential":
        write_sequential(contexts, block, vectors_VxE, ids, capacity=layout.all_rows)
        return
    num_tokens, dtype = jnp.int32(len(ids)), jnp.dtype(contexts.dtype)
    for first, rows in contexts.stretches(layout.rows):
        part = dataclasses.replace(layout, batches=rows // layout.rows)
        if first < len(ids):
            drawn = _random_contexts(key, num_tokens, jnp.int32(first), part, block.context_dim, dtype)
            contexts.write(first, as_numbers(drawn))


@functools.partial(jax.jit, static_argnames=("layout", "dim", "dtype"))
def _random_contexts(
    key: jax.Array, num_tokens: jax.Array, first: jax.Array, layout: Layout, dim: int, dtype: Any
) -> jax.Array:
    """Draws the rows of a layout from a place on, as a state has them.

    Some rows at a time, each by a key of its own: all at once would take four times the room.
    """
    room = layout.own_rows
    rows = min(_ROWS_DRAWN, room)

    def draw_own(key: jax.Array, num_tokens: jax.Array, start: jax.Array) -> jax.Array:
        def draw(part: jax.Array, contexts_NxD: jax.Array) -> jax.Array:
            # The last rows overlap with those before.
            first = jnp.minimum(part * rows, room - rows)
            places = start + axis_index() * room + first + jnp.arange(rows, dtype=jnp.int32)
            keys = jax.vmap(functools.partial(jax.random.fold_in, key))(places)
            drawn = INITIAL_STD * jax.vmap(lambda own: jax.random.normal(own, (dim,)))(keys)
            drawn = as_kept(jnp.where((places < num_tokens)[:, None], drawn, 0).astype(dtype))
            return jax.lax.dynamic_update_slice_in_dim(contexts_NxD, drawn, first, axis=0)

        return jax.lax.fori_loop(0, -(-room // rows), draw, as_kept(jnp.zeros((room, dim), dtype)))

    return shard_map(draw_own, layout.mesh, (REPLICATED, REPLICATED, REPLICATED), ROWS)(
        key, num_tokens, first
    )


def prepare(
    block: ContextBlock,
    vectors_VxE: jax.Array,
    ids: np.ndarray,
    config: Phase1Config,
    key: jax.Array,
    *,
    capacity: int = 0,
    distinct_capacity: int = 0,
    stale_norm: float | None = None,
    initial_contexts: np.ndarray | jax.Array | None = None,
    noise: Noise | None = None,
    mesh: Mesh | None = None,
    disk: RowFiles | None = None,
) -> tuple[Solution, Inputs, Settings]:
    """Returns the iteration before its first step; the arguments are those of ``learn_contexts``."""
    num_tokens = len(ids)
    layout = lay_out(mesh or single_device_mesh(), max(capacity, num_tokens), config.batch_size)
    graphdef, params = nnx.split(block)
    start_key, noise_key = jax.random.split(key)
    dtype = vectors_VxE.dtype if config.context_dtype == "float32" else config.context_dtype
    contexts_NxD: Any
    if disk is not None:
        contexts_NxD = disk.make((layout.all_rows, block.context_dim), dtype, num_tokens)
        if initial_contexts is None:
            _write_initial(contexts_NxD, block, vectors_VxE, ids, layout, config, start_key)
        else:
            contexts_NxD.write(0, initial_contexts)
    elif initial_contexts is None:
        contexts_NxD = _initial_contexts(block, vectors_VxE, ids, layout, config, start_key, dtype)
    else:
        contexts_NxD = as_kept(jnp.asarray(initial_contexts, dtype))
        contexts_NxD = resize_rows(contexts_NxD, layout.all_rows, layout.mesh)
    vectors_UxE, places_N = distinct_tokens(vectors_VxE, ids, distinct_capacity)
    before = block.num_input_tokens - 1
    places_M = np.pad(places_N, (0, layout.all_rows - num_tokens))
    places_M = windowed(places_M, block.num_input_tokens, len(vectors_UxE))
    places_M = with_overlap(places_M, before, layout.own_rows, layout.mesh.size)
    place = functools.partial(device_put, mesh=layout.mesh)
    places_M = places_M.astype(np.int32)
    places_32: Any = places_M if disk is not None else place(jnp.asarray(places_M), spec=ROWS)
    tokens = Tokens(place(vectors_UxE), places_32, place(jnp.int32(num_tokens)))
    inputs = Inputs(tokens, place(Limits.of(num_tokens, config)), place(noise_key))
    settings = Settings(config, graphdef, layout, noise, stale_norm)
    # The state is donated, and the caller keeps the untrained block.
    params, watch = jax.tree.map(jnp.copy, params), Watch.start()
    state = State(*place((params, settings.optimizer().init(params))), contexts_NxD, place(watch))
    start = phase1_step.start if disk is None else phase1_disk.start
    return start(state, inputs, settings), inputs, settings


def learn_contexts(
    block: ContextBlock,
    vectors_VxE: jax.Array,
    ids: np.ndarray,
    config: Phase1Config,
    key: jax.Array,
    *,
    val_ids: np.ndarray | None = None,
    capacity: int = 0,
    val_capacity: int = 0,
    distinct_capacity: int = 0,
    stale_norm: float | None = None,
    progress: Progress | None = None,
    checkpointer: Checkpointer | None = None,
    part: str = "phase 1",
    mesh: Mesh | None = None,
    disk: RowFiles | None = None,
) -> Phase1Result:
    """Learns a context block by fixed-point iteration over a whole token stream.

    Each iteration computes ``C_t = block(P_{t-1} + noise, w_t)`` for all tokens in parallel, with P the
    contexts of the iteration before and ``P_{-1}`` the last of them or zero; takes per micro-batch of n
    tokens the loss ``(1 - w) mean_tj (C_tj - P_tj)^2 + w diversity(C)``; makes one step of clipped Adam
    on the mean of these losses; and replaces P by C. ``stop_rules`` says when it stops; a token has
    converged when ``mean_j (C_tj - P_tj)^2 < convergence_threshold``.

    Args:
      block: the untrained block; it is left as it is.
      vectors_VxE: float32, the token vectors.
      ids: int [N], the stream.
      config: the settings.
      key: the random key of the start, N(0, 0.01^2), of the noise and of the diversity loss.
      val_ids: int, the validation stream, for ``stop=val_effective_rank``.
      capacity: the least number of tokens to compile for; streams of one capacity share their programs.
      val_capacity: the same of the validation stream.
      distinct_capacity: the least number of distinct tokens.
      stale_norm: counts in the gradient's norm when it is clipped (see ``optimizer``).
      progress: called about once a second.
      checkpointer: what the iteration is saved by on the way, and taken up again from.
      part: its name there.
      mesh: the devices, which have a range of the tokens each; the first one if none are given. What
        comes out does not depend on them, up to rounding.
      disk: where the contexts are kept in a file, of one device; in memory if it is not said.

    Returns:
      A ``Phase1Result``; its status is CONVERGED, STALLED, MAX_STEPS or NON_FINITE.

    Raises:
      ValueError: the stop rule needs validation tokens and there are none.

    References:
      rato-tokyo/new-llm, reports of 2025-11-27 to 2025-12-03.
    """
    checkpointer = checkpointer or Checkpointer()
    watch = RankWatch(config) if config.stop == "val_effective_rank" else None
    if watch is not None and val_ids is None:
        raise ValueError("stop=val_effective_rank needs validation tokens")
    saved = checkpointer.facts(part)
    solution, inputs, settings = prepare(
        block,
        vectors_VxE,
        ids,
        config,
        key,
        capacity=capacity,
        distinct_capacity=distinct_capacity,
        stale_norm=stale_norm,
        # Their place is taken by what was saved.
        initial_contexts=None if saved is None else np.zeros((0, block.context_dim), np.float32),
        mesh=mesh,
        disk=disk,
    )
    saved_rows = lay_out(single_device_mesh(), max(capacity, len(ids)), config.batch_size).all_rows
    if saved is not None:
        solution = _from_saved(checkpointer.restore(part, _to_save(solution, saved_rows)), settings)
        if watch is not None:
            watch.recall(saved["val_ranks"])

    def state() -> tuple[Facts, Solution]:
        facts = {"steps": int(solution.steps), "val_ranks": watch.ranks if watch else []}
        return facts, _to_save(solution, saved_rows)

    # Callbacks from inside the compiled loop would show progress too, but keep it out of JAX's
    # compilation cache; leaving the loop costs microseconds and changes no digit.
    pace = Pace()
    while int(solution.status) == Status.RUNNING:
        until = int(solution.steps) + pace.steps(checkpointer.seconds_left())
        if watch is not None:
            until = min(until, watch.next_check(int(solution.steps) + 1) - 1)
        with pace:
            if disk is None:
                solution = jax.block_until_ready(advance(solution, inputs, jnp.int32(until), settings))
            else:
                solution = phase1_disk.advance(solution, inputs, until, settings)
        if progress:
            progress(int(solution.steps), _trace(solution))
        broken = int(solution.status) == Status.NON_FINITE
        if watch is not None and not broken and (int(solution.steps) + 1) % config.val_frequency == 0:
            assert val_ids is not None
            solution = _check_rank(solution, watch, vectors_VxE, val_ids, val_capacity, settings)
        if int(solution.status) != Status.NON_FINITE:
            checkpointer.maybe_save(part, state, stage_end=int(solution.status) != Status.RUNNING)
    if int(solution.status) != Status.NON_FINITE:
        checkpointer.include(part, *state())
    return conclude(solution, inputs, settings, watch.ranks if watch else [])


def _to_save(solution: Solution, rows: int) -> Solution:
    """What is saved does not depend on the devices: contexts without the padding that these need."""
    contexts = solution.state.contexts_NxD
    if not isinstance(contexts, RowFile):
        contexts = FirstRows(contexts, rows)
    return with_contexts(solution, contexts)


def _from_saved(solution: Solution, settings: Settings) -> Solution:
    """What was saved, on the devices."""
    layout, contexts_NxD = settings.layout, solution.state.contexts_NxD
    if not isinstance(contexts_NxD, RowFile):
        contexts_NxD = resize_rows(as_kept(contexts_NxD), layout.all_rows, layout.mesh)
    rest = device_put(with_contexts(solution, None), layout.mesh)
    return with_contexts(rest, contexts_NxD)


def _check_rank(
    solution: Solution,
    watch: RankWatch,
    vectors_VxE: jax.Array,
    ids: np.ndarray,
    capacity: int,
    settings: Settings,
) -> Solution:
    """Stops the iteration if the effective rank of exact contexts no longer grows."""
    # A copy, because the next steps donate the state that the block would share its arrays with.
    block = nnx.merge(settings.block, to_local_device(jax.tree.map(jnp.copy, solution.state.params)))
    ids, room = ids[: settings.config.val_sample_size], min(capacity, settings.config.val_sample_size)
    contexts_MxD = sequential_contexts(block, vectors_VxE, ids[:-1], capacity=room)
    # Other hosts' last digits may differ, and all must stop at the same step.
    rank = processes.broadcast(effective_rank(contexts_MxD, len(ids) - 1))
    status = int(solution.status)
    if not math.isfinite(rank):
        status = Status.NON_FINITE
    elif watch.stops(rank) and status in (Status.RUNNING, Status.MAX_STEPS):
        status = Status.STALLED
    return solution._replace(status=device_put(jnp.int32(status), settings.layout.mesh))


def _trace(solution: Solution) -> dict[str, np.ndarray]:
    """The metrics of the steps made so far."""
    return {name: np.asarray(values)[: int(solution.steps)] for name, values in solution.trace.items()}


def conclude(
    solution: Solution, inputs: Inputs, settings: Settings, val_ranks: list[float] | None = None
) -> Phase1Result:
    """Returns what an iteration came to, with its residual at fixed parameters."""
    state, trace = solution.state, _trace(solution)
    residual = phase1_disk.residual if isinstance(state.contexts_NxD, RowFile) else phase1_step.residual
    residual_mean, residual_max = residual(state.params, state.contexts_NxD, inputs, settings)
    return Phase1Result(
        nnx.merge(settings.block, to_local_device(state.params)),
        state.contexts_NxD if isinstance(state.contexts_NxD, RowFile) else as_numbers(state.contexts_NxD),
        Status(int(solution.status)),
        int(solution.steps) + 1,
        trace,
        int(trace["converged_tokens"][-1]) / int(inputs.tokens.num_tokens),
        float(residual_mean),
        float(residual_max),
        val_ranks or [],
    )
