"""Phase 1: the context block learned while all contexts are iterated towards their fixed point.

Shapes: N tokens, D context width, E embedding width, V tokens.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cvfp_jax import phase1_step
from cvfp_jax.config import Phase1Config
from cvfp_jax.effective_rank import effective_rank
from cvfp_jax.fixed_point import Solution, Status
from cvfp_jax.keeper import Facts, Keeper, Pace
from cvfp_jax.micro_batches import Tokens
from cvfp_jax.model import ContextBlock
from cvfp_jax.phase1_step import Inputs, Noise, Settings, State, advance
from cvfp_jax.recurrence import sequential_contexts
from cvfp_jax.stop_rules import Limits, RankWatch, Watch
from cvfp_jax.token_tables import distinct_tokens, windowed

INITIAL_STD = 0.01
_ROWS_DRAWN = 1024

# Receives the steps made and the trace so far.
Progress = Callable[[int, dict[str, np.ndarray]], None]


class Phase1Result(NamedTuple):
    """The trained block, the contexts and how they were reached."""

    block: ContextBlock
    contexts_NxD: jax.Array  # made with the parameters before the last step; zeros beyond the stream
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
    room: int,
    config: Phase1Config,
    key: jax.Array,
    dtype: Any,
) -> jax.Array:
    """Returns the contexts of iteration 1, zero beyond the stream."""
    if config.initial_contexts == "sequential":
        return sequential_contexts(block, vectors_VxE, ids, capacity=room).astype(dtype)
    return _random_contexts(key, jnp.int32(len(ids)), room, block.context_dim, dtype)


@functools.partial(jax.jit, static_argnames=("room", "dim", "dtype"))
def _random_contexts(key: jax.Array, num_tokens: jax.Array, room: int, dim: int, dtype: Any) -> jax.Array:
    """Draws some rows at a time, each by a key of its own: all at once would take four times the room."""
    rows = min(_ROWS_DRAWN, room)

    def draw(number: jax.Array, contexts_NxD: jax.Array) -> jax.Array:
        # The last rows overlap with those before.
        first = jnp.minimum(number * rows, room - rows)
        places = first + jnp.arange(rows, dtype=jnp.int32)
        keys = jax.vmap(functools.partial(jax.random.fold_in, key))(places)
        drawn = INITIAL_STD * jax.vmap(lambda own: jax.random.normal(own, (dim,)))(keys)
        drawn = jnp.where((places < num_tokens)[:, None], drawn, 0).astype(dtype)
        return jax.lax.dynamic_update_slice_in_dim(contexts_NxD, drawn, first, axis=0)

    return jax.lax.fori_loop(0, -(-room // rows), draw, jnp.zeros((room, dim), dtype))


def _blank(block: ContextBlock, vectors_VxE: jax.Array, ids: np.ndarray) -> np.ndarray:
    """Contexts whose place is taken by what was saved."""
    return np.zeros((len(ids), block.context_dim), vectors_VxE.dtype)


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
    initial_contexts: np.ndarray | None = None,
    noise: Noise | None = None,
) -> tuple[Solution, Inputs, Settings]:
    """Returns the iteration before its first step; the arguments are those of ``learn_contexts``."""
    num_tokens = len(ids)
    room = max(capacity, num_tokens)
    batch_size = min(config.batch_size, room) or room
    room += -room % batch_size
    graphdef, params = nnx.split(block)
    start_key, noise_key = jax.random.split(key)
    dtype = vectors_VxE.dtype if config.context_dtype == "float32" else config.context_dtype
    if initial_contexts is None:
        contexts_NxD = _initial_contexts(block, vectors_VxE, ids, room, config, start_key, dtype)
    else:
        contexts_NxD = jnp.pad(jnp.asarray(initial_contexts, dtype), ((0, room - num_tokens), (0, 0)))
    vectors_UxE, places_N = distinct_tokens(vectors_VxE, ids, distinct_capacity)
    places_M = windowed(np.pad(places_N, (0, room - num_tokens)), block.num_input_tokens, len(vectors_UxE))
    tokens = Tokens(vectors_UxE, jnp.asarray(places_M, jnp.int32), jnp.int32(num_tokens))
    inputs = Inputs(tokens, Limits.of(num_tokens, config), noise_key)
    settings = Settings(config, graphdef, batch_size, noise, stale_norm)
    # The state is donated, and the caller keeps the untrained block.
    state = State(
        jax.tree.map(jnp.copy, params), settings.optimizer().init(params), contexts_NxD, Watch.start()
    )
    return phase1_step.start(state, inputs, settings), inputs, settings


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
    keeper: Keeper | None = None,
    part: str = "phase 1",
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
      keeper: what the iteration is saved by on the way, and taken up again from.
      part: its name there.

    Returns:
      A ``Phase1Result``; its status is CONVERGED, STALLED, MAX_STEPS or NON_FINITE.

    Raises:
      ValueError: the stop rule needs validation tokens and there are none.

    References:
      rato-tokyo/new-llm, reports of 2025-11-27 to 2025-12-03.
    """
    keeper = keeper or Keeper()
    watch = RankWatch(config) if config.stop == "val_effective_rank" else None
    if watch is not None and val_ids is None:
        raise ValueError("stop=val_effective_rank needs validation tokens")
    saved = keeper.facts(part)
    solution, inputs, settings = prepare(
        block,
        vectors_VxE,
        ids,
        config,
        key,
        capacity=capacity,
        distinct_capacity=distinct_capacity,
        stale_norm=stale_norm,
        initial_contexts=None if saved is None else _blank(block, vectors_VxE, ids),
    )
    if saved is not None:
        solution = keeper.take(part, solution)
        if watch is not None:
            watch.recall(saved["val_ranks"])

    def state() -> tuple[Facts, Solution]:
        return {"steps": int(solution.steps), "val_ranks": watch.ranks if watch else []}, solution

    # Callbacks from inside the compiled loop would show progress too, but keep it out of JAX's
    # compilation cache; leaving the loop costs microseconds and changes no digit.
    pace = Pace()
    while int(solution.status) == Status.RUNNING:
        until = int(solution.steps) + pace.steps(keeper.seconds_left())
        if watch is not None:
            until = min(until, watch.next_check(int(solution.steps) + 1) - 1)
        with pace:
            solution = jax.block_until_ready(advance(solution, inputs, jnp.int32(until), settings))
        if progress:
            progress(int(solution.steps), _trace(solution))
        broken = int(solution.status) == Status.NON_FINITE
        if watch is not None and not broken and (int(solution.steps) + 1) % config.val_frequency == 0:
            assert val_ids is not None
            solution = _check_rank(solution, watch, vectors_VxE, val_ids, val_capacity, settings)
        if int(solution.status) != Status.NON_FINITE:
            keeper.offer(part, state, stage_end=int(solution.status) != Status.RUNNING)
    if int(solution.status) != Status.NON_FINITE:
        keeper.keep(part, *state())
    return conclude(solution, inputs, settings, watch.ranks if watch else [])


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
    block = nnx.merge(settings.block, jax.tree.map(jnp.copy, solution.state.params))
    ids, room = ids[: settings.config.val_sample_size], min(capacity, settings.config.val_sample_size)
    contexts_MxD = sequential_contexts(block, vectors_VxE, ids[:-1], capacity=room)
    rank = effective_rank(contexts_MxD, len(ids) - 1)
    if not math.isfinite(rank):
        return solution._replace(status=jnp.int32(Status.NON_FINITE))
    stops = watch.stops(rank)
    if stops and int(solution.status) in (Status.RUNNING, Status.MAX_STEPS):
        return solution._replace(status=jnp.int32(Status.STALLED))
    return solution


def _trace(solution: Solution) -> dict[str, np.ndarray]:
    """The metrics of the steps made so far."""
    return {name: np.asarray(values)[: int(solution.steps)] for name, values in solution.trace.items()}


def conclude(
    solution: Solution, inputs: Inputs, settings: Settings, val_ranks: list[float] | None = None
) -> Phase1Result:
    """Returns what an iteration came to, with its residual at fixed parameters."""
    state, trace = solution.state, _trace(solution)
    residual_mean, residual_max = phase1_step.residual(state.params, state.contexts_NxD, inputs, settings)
    return Phase1Result(
        nnx.merge(settings.block, state.params),
        state.contexts_NxD,
        Status(int(solution.status)),
        int(solution.steps) + 1,
        trace,
        int(trace["converged_tokens"][-1]) / int(inputs.tokens.num_tokens),
        float(residual_mean),
        float(residual_max),
        val_ranks or [],
    )
