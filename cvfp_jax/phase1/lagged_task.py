"""Learning to predict in phase 1: the next-token loss of a token block that reads contexts as they are made.

Shapes: S places drawn from a micro-batch, B rows of a device's piece of it, M places of the padded stream,
D context width, E embedding width, K input tokens, V vocabulary.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from cvfp_jax.config.settings import ModelConfig, Phase1Config
from cvfp_jax.core.matmul import as_kept, operand
from cvfp_jax.core.model import LanguageModel, TokenBlock, layer_inputs, token_windows
from cvfp_jax.core.optimizer import adam, clip_by_global_norm
from cvfp_jax.distributed.layout import Layout
from cvfp_jax.distributed.mesh import piece_index
from cvfp_jax.kernels.cross_entropy import frozen_head_losses

# A micro-batch's key, folded with this, draws its places.
FOR_PLACES = 2


class LaggedTask(NamedTuple):
    """What is learned beside the context block, and the head that it predicts through."""

    model: ModelConfig
    token_block: TokenBlock
    table_VxE: jax.Array
    precision: str

    @classmethod
    def of(cls, model: LanguageModel) -> "LaggedTask":
        """The untrained token block of a model, and its frozen head."""
        return cls(model.config, model.token_block, model.embedding.table[...], model.precision)


class TaskSpec(NamedTuple):
    """What compiled programs depend on beside the shapes of arrays."""

    model: ModelConfig
    token_block: nnx.GraphDef
    precision: str


class TaskInputs(NamedTuple):
    """What the task reads and does not change."""

    vectors_VxE: jax.Array
    head_VxE: jax.Array  # as ``matmul.as_kept`` has it
    ids_M: jax.Array  # int32, of the whole stream, padded


class TaskState(NamedTuple):
    """What an iteration changes."""

    params: Any  # of the token block
    optimizer: Any


class TaskSums(NamedTuple):
    """What is added up over micro-batches, with the parameters that all of them read."""

    params: Any
    gradient: Any
    loss: jax.Array  # each micro-batch's mean weighed by its tokens, a device's share of it


def optimizer(config: Phase1Config) -> optax.GradientTransformation:
    """The optimizer of the token block, which is clipped by its own norm."""
    return adam(config.learning_rate, clip_by_global_norm(config.gradient_clip))


def prepare(
    task: LaggedTask, vectors_VxE: jax.Array, ids_M: jax.Array, config: Phase1Config
) -> tuple[TaskSpec, TaskInputs, TaskState]:
    """Returns what compiled programs depend on, what they read and what they change."""
    graphdef, params = nnx.split(task.token_block)
    head_VxE = as_kept(operand(task.table_VxE, task.precision))
    params = jax.tree.map(jnp.copy, params)  # the state is donated, and the caller keeps the untrained block
    state = TaskState(params, optimizer(config).init(params))
    return TaskSpec(task.model, graphdef, task.precision), TaskInputs(vectors_VxE, head_VxE, ids_M), state


def no_sums(params: Any, dtype: Any) -> TaskSums:
    """Returns the sums before the first micro-batch."""
    return TaskSums(params, jax.tree.map(jnp.zeros_like, params), jnp.zeros((), dtype))


class Drawn(NamedTuple):
    """Places of a micro-batch whose next tokens are predicted."""

    rows_S: jax.Array  # int32, among the rows that this device has; some row where it has not
    places_S: jax.Array  # int32, in the stream
    counts_S: jax.Array  # bool, whether a token follows
    here_S: jax.Array  # bool, whether it also is one of this device's rows


def draw(
    key: jax.Array, batch_index: jax.Array, num_tokens: jax.Array, num_places: int, layout: Layout
) -> Drawn:
    """Draws places of a micro-batch with replacement, the same whatever devices share it."""
    first = batch_index * layout.batch_size
    # At least one: a device that shares no more micro-batches goes along with the others.
    rows = jnp.clip(num_tokens - first, 1, layout.batch_size)
    # Not fewer in a short stream: what is compiled for depends on the longest one, which must not matter.
    offsets_S = jax.random.randint(jax.random.fold_in(key, FOR_PLACES), (num_places,), 0, rows, jnp.int32)
    counts_S = first + offsets_S + 1 < num_tokens
    own_S = offsets_S - (piece_index() * layout.rows if layout.pieces > 1 else 0)
    here_S = (own_S >= 0) & (own_S < layout.rows) & counts_S
    return Drawn(jnp.clip(own_S, 0, layout.rows - 1), first + offsets_S, counts_S, here_S)


def add_task(
    sums: TaskSums,
    contexts_BxD: jax.Array,
    drawn: Drawn,
    scale: jax.Array,
    inputs: TaskInputs,
    spec: TaskSpec,
) -> tuple[TaskSums, jax.Array, jax.Array]:
    """Adds a micro-batch's gradient to the sums.

    ``loss = -mean_s ln softmax(head TokenBlock(C_s, w_s))[x_{s+1}]``, over the places drawn.

    Args:
      sums: those of the micro-batches before.
      contexts_BxD: float, the new contexts.
      drawn: the places.
      scale: what the loss is multiplied by before it is differentiated.
      inputs: the token vectors, the head and the stream.
      spec: the token block.

    Returns:
      The new sums, this device's share of the loss, and the gradient for the contexts [B, D].
    """
    places_S = jnp.minimum(drawn.places_S, len(inputs.ids_M) - 2)
    window_SxKE = token_windows(inputs.vectors_VxE, inputs.ids_M, places_S, spec.model.num_input_tokens)
    targets_S = inputs.ids_M[places_S + 1]
    context_SxD = contexts_BxD[drawn.rows_S]
    count = jnp.maximum(drawn.counts_S.sum(dtype=jnp.int32), 1).astype(contexts_BxD.dtype)

    def share_of_mean(params: Any, context_SxD: jax.Array) -> jax.Array:
        block = nnx.merge(spec.token_block, params)
        hidden_SxE = block(layer_inputs(spec.model, context_SxD, context_SxD), window_SxKE)
        losses = frozen_head_losses(hidden_SxE, inputs.head_VxE, targets_S, drawn.here_S, spec.precision)
        return losses.loss / count

    loss, (of_params, of_context_SxD) = jax.value_and_grad(share_of_mean, argnums=(0, 1))(
        sums.params, context_SxD
    )
    gradient = jax.tree.map(lambda total, new: total + scale * new, sums.gradient, of_params)
    of_rows_BxD = jnp.zeros_like(contexts_BxD).at[drawn.rows_S].add(scale * of_context_SxD)
    return sums._replace(gradient=gradient), loss, of_rows_BxD


def finish(state: TaskState, gradient: Any, config: Phase1Config) -> TaskState:
    """Returns the state after an optimizer step."""
    updates, moments = optimizer(config).update(gradient, state.optimizer, state.params)
    return TaskState(optax.apply_updates(state.params, updates), moments)
