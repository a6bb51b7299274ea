"""One iteration of phase 1, and the compiled loop of them.

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

from cvfp_jax import fixed_point, stop_rules
from cvfp_jax.config import Phase1Config
from cvfp_jax.diversity import DIVERSITY_LOSSES
from cvfp_jax.fixed_point import Solution, StepResult
from cvfp_jax.micro_batches import Batch, Tokens, Visit, num_batches, renew_contexts
from cvfp_jax.optimizer import adam
from cvfp_jax.stop_rules import Limits, Watch

# Maps (steps made before, micro-batch) to what is added to a micro-batch's shifted contexts, [B, D].
Noise = Callable[[jax.Array, jax.Array], jax.Array]
# A micro-batch's key draws its noise; folded with this it draws what its diversity loss needs.
_FOR_DIVERSITY = 1


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the compiled iteration depends on beside the shapes of arrays."""

    config: Phase1Config
    block: nnx.GraphDef
    batch_size: int
    num_input_tokens: int
    noise: Noise | None
    stale_norm: float | None = None  # of the original's left-over gradients

    def optimizer(self) -> optax.GradientTransformation:
        """The optimizer of the block."""
        return adam(self.config.learning_rate, self.config.gradient_clip, stale_norm=self.stale_norm)


class Inputs(NamedTuple):
    """What the iteration reads and does not change."""

    tokens: Tokens
    limits: Limits
    key: jax.Array


class State(NamedTuple):
    """What the iteration changes."""

    params: Any
    optimizer: Any
    contexts_NxD: jax.Array  # of the previous iteration; zeros where the ids are padded
    watch: Watch


def _pass(
    contexts_NxD: jax.Array, inputs: Inputs, settings: Settings, visit: Visit, sums: Any
) -> tuple[jax.Array, Any]:
    wrap = settings.config.first_context == "last"
    return renew_contexts(
        contexts_NxD, inputs.tokens, settings.batch_size, settings.num_input_tokens, wrap, visit, sums
    )


def _squared_change(new_BxD: jax.Array, batch: Batch) -> jax.Array:
    """Each token's mean squared change, [B]; zero in rows that do not count."""
    return jnp.where(batch.valid_B, jnp.square(new_BxD - batch.previous_BxD).mean(axis=1), 0)


def has_converged(change_B: jax.Array, config: Phase1Config) -> jax.Array:
    """Says of each token whether its mean squared change is below the threshold, strictly."""
    return change_B < config.convergence_threshold


def _loss(
    params: Any, batch: Batch, key: jax.Array, settings: Settings
) -> tuple[jax.Array, tuple[Any, jax.Array]]:
    """A micro-batch's loss; beside it what is logged, times the number of tokens, and the contexts."""
    weight = settings.config.dist_reg_weight
    contexts_BxD = nnx.merge(settings.block, params)(batch.shifted_BxD, batch.window_BxKE)
    change_B = _squared_change(contexts_BxD, batch)
    n = batch.valid_B.sum().astype(change_B.dtype)
    cvfp = change_B.sum() / n
    spread = DIVERSITY_LOSSES[settings.config.diversity](contexts_BxD, batch.valid_B, key)
    total = (1 - weight) * cvfp + weight * spread
    converged_B = batch.valid_B & has_converged(change_B, settings.config)
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
        key = jax.random.fold_in(step_key, batch.number)
        if settings.noise is not None:
            shifted_BxD += settings.noise(index, batch.number)
        elif config.context_noise > 0:
            normal_BxD = jax.random.normal(key, shifted_BxD.shape, shifted_BxD.dtype)
            shifted_BxD += config.context_noise * normal_BxD
        gradient_of = jax.value_and_grad(_loss, has_aux=True)
        noisy = batch._replace(shifted_BxD=shifted_BxD)
        diversity_key = jax.random.fold_in(key, _FOR_DIVERSITY)
        (_, (sums, contexts_BxD)), gradient = gradient_of(state.params, noisy, diversity_key, settings)
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
    updates, optimizer_state = settings.optimizer().update(gradient, state.optimizer, state.params)
    iteration = index + 2  # the start was iteration 1
    status, watch = stop_rules.judge(sums["converged_tokens"], iteration, state.watch, inputs.limits, config)
    return StepResult(
        State(optax.apply_updates(state.params, updates), optimizer_state, contexts_NxD, watch),
        metrics,
        status,
        finite=jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"]),
    )


@functools.partial(jax.jit, static_argnames="settings", donate_argnames="state")
def start(state: State, inputs: Inputs, settings: Settings) -> Solution:
    """Returns the iteration before its first step."""
    step = functools.partial(_step, inputs=inputs, settings=settings)
    return fixed_point.start(step, state, settings.config.max_iterations - 1)


@functools.partial(jax.jit, static_argnames="settings", donate_argnames="solution")
def advance(solution: Solution, inputs: Inputs, until: jax.Array, settings: Settings) -> Solution:
    """Goes on until so many steps have been made in all, or the iteration has ended; see ``prepare``."""
    step = functools.partial(_step, inputs=inputs, settings=settings)
    return fixed_point.iterate(step, solution, until)


@functools.partial(jax.jit, static_argnames="settings")
def residual(
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
