"""Phase 1: the context block learned while all contexts are iterated towards their fixed point.

Shapes: N tokens, B rows of a micro-batch, M micro-batches, D context width, E embedding width, V tokens.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from cvfp_jax import diversity, fixed_point
from cvfp_jax.config import Phase1Config
from cvfp_jax.fixed_point import Solution, Status, StepResult
from cvfp_jax.micro_batches import Batch, Tokens, Visit, num_batches, renew_contexts
from cvfp_jax.model import ContextBlock
from cvfp_jax.optimizer import clipped_adam

INITIAL_STD = 0.01
_SECONDS_BETWEEN_REPORTS = 1.0

# Maps (steps made before, micro-batch) to what is added to a micro-batch's shifted contexts, [B, D].
Noise = Callable[[jax.Array, jax.Array], jax.Array]
# Receives the steps made and the trace so far.
Progress = Callable[[int, dict[str, np.ndarray]], None]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the compiled iteration depends on beside the shapes of arrays."""

    config: Phase1Config
    block: nnx.GraphDef
    batch_size: int
    num_input_tokens: int
    noise: Noise | None


class Inputs(NamedTuple):
    """What the iteration reads and does not change."""

    tokens: Tokens
    converged_tokens: jax.Array  # int32, the count at which the iteration has converged
    key: jax.Array


class State(NamedTuple):
    """What the iteration changes."""

    params: Any
    optimizer: Any
    contexts_NxD: jax.Array  # of the previous iteration; zeros where the ids are padded


class Phase1Result(NamedTuple):
    """The trained block, the contexts and how they were reached."""

    block: ContextBlock
    contexts_NxD: jax.Array  # made with the parameters before the last step; zeros beyond the stream
    status: Status
    iterations: int  # counts the random start as 1, so it is one more than the steps
    trace: dict[str, np.ndarray]  # loss, cvfp_loss, diversity_loss, converged_tokens, grad_norm; a step each
    convergence_rate: float  # share of the tokens that had converged at the last step
    residual_mean: float  # over tokens, of mean_j (F(P)_tj - P_tj)^2 with the final parameters
    residual_max: float


def _pass(
    contexts_NxD: jax.Array, inputs: Inputs, settings: Settings, visit: Visit, sums: Any
) -> tuple[jax.Array, Any]:
    return renew_contexts(
        contexts_NxD, inputs.tokens, settings.batch_size, settings.num_input_tokens, visit, sums
    )


def _squared_change(new_BxD: jax.Array, batch: Batch) -> jax.Array:
    """Each token's mean squared change, [B]; zero in rows that do not count."""
    return jnp.where(batch.valid_B, jnp.square(new_BxD - batch.previous_BxD).mean(axis=1), 0)


def _loss(params: Any, batch: Batch, settings: Settings) -> tuple[jax.Array, tuple[Any, jax.Array]]:
    """A micro-batch's loss; beside it what is logged, times the number of tokens, and the contexts."""
    weight = settings.config.dist_reg_weight
    contexts_BxD = nnx.merge(settings.block, params)(batch.shifted_BxD, batch.window_BxKE)
    change_B = _squared_change(contexts_BxD, batch)
    n = batch.valid_B.sum().astype(change_B.dtype)
    cvfp = change_B.sum() / n
    spread = diversity.mcdl(contexts_BxD, batch.valid_B)
    total = (1 - weight) * cvfp + weight * spread
    converged_B = batch.valid_B & (change_B < settings.config.convergence_threshold)
    sums = {
        "loss": total * n,
        "cvfp_loss": cvfp * n,
        "diversity_loss": spread * n,
        "converged_tokens": converged_B.sum(dtype=jnp.int32),
    }
    return total, (sums, contexts_BxD)


def _step(state: State, index: jax.Array, inputs: Inputs, settings: Settings) -> StepResult:
    """One iteration: every context anew from its predecessor's old one, then one optimizer step."""
    config = settings.config
    batches = num_batches(inputs.tokens, settings.batch_size).astype(state.contexts_NxD.dtype)
    step_key = jax.random.fold_in(inputs.key, index)

    def visit(batch: Batch) -> tuple[Any, jax.Array]:
        shifted_BxD = batch.shifted_BxD
        if settings.noise is not None:
            shifted_BxD += settings.noise(index, batch.number)
        elif config.context_noise > 0:
            key = jax.random.fold_in(step_key, batch.number)
            normal_BxD = jax.random.normal(key, shifted_BxD.shape, shifted_BxD.dtype)
            shifted_BxD += config.context_noise * normal_BxD
        gradient_of = jax.value_and_grad(_loss, has_aux=True)
        noisy = batch._replace(shifted_BxD=shifted_BxD)
        (_, (sums, contexts_BxD)), gradient = gradient_of(state.params, noisy, settings)
        # A short last micro-batch weighs as much as a full one: the original's convention.
        return (sums, jax.tree.map(lambda leaf: leaf / batches, gradient)), contexts_BxD

    zero = jnp.zeros((), state.contexts_NxD.dtype)
    sums = {"loss": zero, "cvfp_loss": zero, "diversity_loss": zero, "converged_tokens": jnp.int32(0)}
    no_gradient = jax.tree.map(jnp.zeros_like, state.params)
    contexts_NxD, (sums, gradient) = _pass(state.contexts_NxD, inputs, settings, visit, (sums, no_gradient))
    n = inputs.tokens.num_tokens.astype(zero.dtype)
    metrics = {name: sums[name] / n for name in ("loss", "cvfp_loss", "diversity_loss")}
    metrics["converged_tokens"] = sums["converged_tokens"]
    metrics["grad_norm"] = optax.tree.norm(gradient)
    optimizer = clipped_adam(config.learning_rate, config.gradient_clip)
    updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
    iteration = index + 2  # the random start was iteration 1
    enough = sums["converged_tokens"] >= inputs.converged_tokens
    return StepResult(
        State(optax.apply_updates(state.params, updates), optimizer_state, contexts_NxD),
        metrics,
        converged=enough & (iteration >= config.min_iterations),
        finite=jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"]),
    )


@functools.partial(jax.jit, static_argnames="settings", donate_argnames="state")
def _start(state: State, inputs: Inputs, settings: Settings) -> Solution:
    step = functools.partial(_step, inputs=inputs, settings=settings)
    return fixed_point.start(step, state, settings.config.max_iterations - 1)


@functools.partial(jax.jit, static_argnames="settings", donate_argnames="solution")
def advance(solution: Solution, inputs: Inputs, until: jax.Array, settings: Settings) -> Solution:
    """Goes on until so many steps have been made in all, or the iteration has ended; see ``prepare``."""
    step = functools.partial(_step, inputs=inputs, settings=settings)
    return fixed_point.iterate(step, solution, until)


@functools.partial(jax.jit, static_argnames="settings")
def _residual(
    params: Any, contexts_NxD: jax.Array, inputs: Inputs, settings: Settings
) -> tuple[jax.Array, jax.Array]:
    """Mean and maximum over tokens of the squared change that one more noise-free pass would make."""
    most_batches = len(inputs.tokens.ids_N) // settings.batch_size

    def visit(batch: Batch) -> tuple[Any, jax.Array]:
        new_BxD = nnx.merge(settings.block, params)(batch.shifted_BxD, batch.window_BxKE)
        change_B = _squared_change(new_BxD, batch)
        this_M = jnp.arange(most_batches, dtype=batch.number.dtype) == batch.number
        return (change_B.sum(), jnp.where(this_M, change_B.max(), 0)), new_BxD

    zero = jnp.zeros((), contexts_NxD.dtype)
    sums = (zero, jnp.zeros((most_batches,), zero.dtype))
    _, (total, largest_M) = _pass(contexts_NxD, inputs, settings, visit, sums)
    return total / inputs.tokens.num_tokens.astype(zero.dtype), largest_M.max()


def tokens_to_converge(num_tokens: int, ratio: float) -> int:
    """Returns the smallest count c with ``c / num_tokens >= ratio`` in double precision.

    >>> tokens_to_converge(700, 0.99), tokens_to_converge(3, 0.0)
    (693, 0)
    """
    count = math.floor(ratio * num_tokens)
    while count > 0 and (count - 1) / num_tokens >= ratio:
        count -= 1
    while count / num_tokens < ratio:
        count += 1
    return count


def prepare(
    block: ContextBlock,
    vectors_VxE: jax.Array,
    ids: np.ndarray,
    config: Phase1Config,
    key: jax.Array,
    *,
    capacity: int = 0,
    initial_contexts: np.ndarray | None = None,
    noise: Noise | None = None,
) -> tuple[Solution, Inputs, Settings]:
    """Returns the iteration before its first step; the arguments are those of ``learn_contexts``."""
    num_tokens = len(ids)
    most_tokens = max(capacity, num_tokens)
    batch_size = min(config.batch_size, most_tokens)
    most_tokens += -most_tokens % batch_size
    graphdef, params = nnx.split(block)
    start_key, noise_key = jax.random.split(key)
    if initial_contexts is None:
        shape = (most_tokens, block.context_dim)
        contexts_NxD = INITIAL_STD * jax.random.normal(start_key, shape, vectors_VxE.dtype)
        inside_N = jnp.arange(most_tokens) < num_tokens
        contexts_NxD = jnp.where(inside_N[:, None], contexts_NxD, 0)
    else:
        contexts_NxD = jnp.pad(jnp.asarray(initial_contexts), ((0, most_tokens - num_tokens), (0, 0)))
    ids_N = jnp.asarray(np.pad(ids, (0, most_tokens - num_tokens)), jnp.int32)
    inputs = Inputs(
        Tokens(vectors_VxE, ids_N, jnp.int32(num_tokens)),
        jnp.int32(tokens_to_converge(num_tokens, config.min_converged_ratio)),
        noise_key,
    )
    settings = Settings(config, graphdef, batch_size, block.num_input_tokens, noise)
    optimizer = clipped_adam(config.learning_rate, config.gradient_clip)
    # The state is donated, and the caller keeps the untrained block.
    state = State(jax.tree.map(jnp.copy, params), optimizer.init(params), contexts_NxD)
    return _start(state, inputs, settings), inputs, settings


def learn_contexts(
    block: ContextBlock,
    vectors_VxE: jax.Array,
    ids: np.ndarray,
    config: Phase1Config,
    key: jax.Array,
    *,
    capacity: int = 0,
    progress: Progress | None = None,
) -> Phase1Result:
    """Learns a context block by fixed-point iteration over a whole token stream.

    Each iteration computes ``C_t = block(P_{t-1}, w_t)`` for all tokens in parallel, with P the
    contexts of the iteration before and ``P_{-1} = P_{N-1}``; takes per micro-batch of n tokens the
    loss ``(1 - w) mean_tj (C_tj - P_tj)^2 + w MCDL(C)``; makes one step of clipped Adam on the mean
    of these losses; and replaces P by C. It stops when the share of the tokens with
    ``mean_j (C_tj - P_tj)^2 < convergence_threshold`` reaches ``min_converged_ratio``.

    Args:
      block: the untrained block; it is left as it is.
      vectors_VxE: float32, the token vectors.
      ids: int [N], the stream.
      config: the settings.
      key: the random key of the start, N(0, 0.01^2), and of the noise.
      capacity: the least number of tokens to compile for; streams of one capacity share their programs.
      progress: called about once a second.

    Returns:
      A ``Phase1Result``; its status is CONVERGED, MAX_STEPS or NON_FINITE.

    References:
      rato-tokyo/new-llm, report of 2025-11-30.
    """
    solution, inputs, settings = prepare(block, vectors_VxE, ids, config, key, capacity=capacity)
    # Callbacks from inside the compiled loop would show progress too, but keep it out of JAX's
    # compilation cache; leaving the loop costs microseconds and changes no digit.
    segment = 1
    while int(solution.status) == Status.RUNNING:
        until = int(solution.steps) + segment if progress else config.max_iterations
        began = time.perf_counter()
        solution = jax.block_until_ready(advance(solution, inputs, jnp.int32(until), settings))
        if progress:
            progress(int(solution.steps), _trace(solution))
            took = (time.perf_counter() - began) / segment
            segment = max(1, min(2 * segment, int(_SECONDS_BETWEEN_REPORTS / took)))
    return conclude(solution, inputs, settings)


def _trace(solution: Solution) -> dict[str, np.ndarray]:
    """The metrics of the steps made so far."""
    return {name: np.asarray(values)[: int(solution.steps)] for name, values in solution.trace.items()}


def conclude(solution: Solution, inputs: Inputs, settings: Settings) -> Phase1Result:
    """Returns what an iteration came to, with its residual at fixed parameters."""
    state, trace = solution.state, _trace(solution)
    residual_mean, residual_max = _residual(state.params, state.contexts_NxD, inputs, settings)
    return Phase1Result(
        nnx.merge(settings.block, state.params),
        state.contexts_NxD,
        Status(int(solution.status)),
        int(solution.steps) + 1,
        trace,
        int(trace["converged_tokens"][-1]) / int(inputs.tokens.num_tokens),
        float(residual_mean),
        float(residual_max),
    )
