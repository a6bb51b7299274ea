"""Phase 2: the token block learned by next-token prediction, with the contexts frozen.

Shapes: D context width, V tokens, E embedding width.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from cvfp_jax.config.settings import Phase2Config
from cvfp_jax.contexts.recurrence import sequential_contexts
from cvfp_jax.contexts.runtime import Phase2Progress, Runtime
from cvfp_jax.core.matmul import as_kept, operand
from cvfp_jax.core.model import Head, LanguageModel, TokenBlock
from cvfp_jax.core.token_stream import TokenStream
from cvfp_jax.distributed.mesh import VOCABULARY, device_put, model_size, to_local_device
from cvfp_jax.phase2.epochs import AfterBatch, Course, Measure, on_host, run_epochs
from cvfp_jax.phase2.step import FrozenInputs, Phase2Spec, TrainableParams, TrainState, compile_steps
from cvfp_jax.phase2.stream import Stream

PART = "phase 2"  # the name under which training is saved
# The host waits for the device every so many batches, so that progress tells of work done.
_BATCHES_BETWEEN_REPORTS = 16


@dataclasses.dataclass(frozen=True)
class Phase2Result(Course):
    """The course of training, and the token block of its best epoch."""

    token_block: TokenBlock


def with_best_epoch(model: LanguageModel, result: Phase2Result) -> LanguageModel:
    """Returns a model with what its best epoch has learned.

    Args:
      model: what ``learn_tokens`` was given; it is left as it is.
      result: what that returned.
    """
    best = to_local_device(result.best_params)
    trained = nnx.merge(*nnx.split(model))  # shares its arrays
    trained.token_block = result.token_block
    if best.embed_norm is not None:
        nnx.update(trained.embedding.norm, best.embed_norm)
    if best.table_VxE is not None:
        trained.head = Head(*best.table_VxE.shape)
        trained.head.table[...] = best.table_VxE
        if best.bias_V is not None:
            trained.head.bias[...] = best.bias_V
    return trained


def _evaluate(
    params: TrainableParams, frozen: FrozenInputs, stream: Stream, spec: Phase2Spec
) -> tuple[float, float]:
    """Returns the mean loss and the accuracy over a stream."""
    if spec.recomputed:
        frozen, stream = _renewed(params, frozen, stream, spec)
    _, step = compile_steps(spec)
    batches = stream.batches(spec.config.batch_size)
    pairs = zip(batches, spec.arrays(stream, batches), strict=True)
    results = jax.device_get([step(params, frozen, arrays, first) for (first, _), arrays in pairs])
    # Summed in double precision: a stream holds millions of losses.
    loss = math.fsum(float(result.loss) for result in results)
    return loss / stream.num_rows, sum(int(result.hits) for result in results) / stream.num_rows


def _renewed(
    params: TrainableParams, frozen: FrozenInputs, stream: Stream, spec: Phase2Spec
) -> tuple[FrozenInputs, Stream]:
    """The token vectors and exact contexts of the embedding's LayerNorm as it is now."""
    vectors_VxE = nnx.merge(spec.embed_norm, params.embed_norm)(frozen.table_VxE)
    block = nnx.merge(spec.context_block, to_local_device(frozen.context_block))
    tokens = TokenStream(
        to_local_device(vectors_VxE), np.asarray(stream.ids_N)[: stream.num_rows], len(stream.ids_N)
    )
    contexts = sequential_contexts(block, tokens, runtime=Runtime(spec.mesh))
    return frozen._replace(vectors_VxE=vectors_VxE), dataclasses.replace(stream, contexts=contexts)


def begin_training(
    model: LanguageModel, config: Phase2Config, mesh: Mesh, key: jax.Array
) -> tuple[TrainState, FrozenInputs, Phase2Spec]:
    """Returns the state before the first step, what does not change, and the spec of the steps."""
    context_graph, context_params = nnx.split(model.context_blocks[0])
    token_graph, token_params = nnx.split(model.token_block)
    norm_graph, norm_params = nnx.split(model.embedding.norm)
    spec = Phase2Spec(config, model.config, context_graph, token_graph, norm_graph, mesh, model.precision)
    table_VxE = model.embedding.table[...]
    missing = -len(table_VxE) % model_size(mesh)
    padded_VxE = jnp.pad(table_VxE, ((0, missing), (0, 0))) if missing else table_VxE
    head_VxE = as_kept(operand(padded_VxE, model.precision))
    frozen = FrozenInputs(context_params, model.embedding.token_vectors(), table_VxE, jnp.zeros(()), key)
    trained = TrainableParams(token_params)
    if model.head is not None:
        trained = trained._replace(table_VxE=model.head.table[...], bias_V=model.head.bias[...])
    elif not config.freeze_embedding:
        trained = trained._replace(table_VxE=table_VxE)
    if spec.recomputed:
        trained = trained._replace(embed_norm=norm_params)
    place = functools.partial(device_put, mesh=mesh)
    # Each step donates its state, which must not share arrays with the caller's model.
    trained = jax.tree.map(jnp.copy, trained)
    context_D = jnp.zeros((model.config.context_dim,), table_VxE.dtype)
    state = TrainState(trained, spec.optimizer().init(trained), context_D)
    frozen = place(frozen)._replace(head_VxE=place(head_VxE, spec=VOCABULARY))
    return place(state), frozen, spec


def learn_tokens(
    model: LanguageModel,
    train: Stream,
    val: Stream,
    config: Phase2Config,
    key: jax.Array | None = None,
    *,
    runtime: Runtime | None = None,
) -> Phase2Result:
    """Learns a token block that predicts the next token from frozen contexts.

    ``loss = -mean_t ln softmax(head(TokenBlock(C_t, w_t)))[x_{t+1}]``, one step of clipped Adam for each
    batch of consecutive rows, in order; ``EarlyStopping`` says which epoch is the best and which the
    last. With ``train_contexts=recomputed`` the contexts of a batch are made token by token from the
    context before it, with the embedding's LayerNorm as it has been trained so far.

    Args:
      model: the trained context blocks and the untrained rest; it is left as it is.
      train: the training stream.
      val: the validation stream.
      config: the spec.
      key: draws what dropout leaves out.
      runtime: the devices, which share each batch by rows, and what watches training.

    Returns:
      A ``Phase2Result``.

    References:
      rato-tokyo/new-llm, reports of 2025-11-27 to 2025-12-03.
    """
    runtime = runtime or Runtime()
    mesh = runtime.mesh
    state, frozen, spec = begin_training(model, config, mesh, jax.random.key(0) if key is None else key)
    show = runtime.progress.phase2(train.num_rows + 1)
    trainer = _Trainer(frozen, spec, train.on(mesh), val.on(mesh), show)
    course = run_epochs(trainer, state, config, runtime)
    token_block = nnx.merge(spec.token_block, to_local_device(course.best_params.token_block))
    return Phase2Result(**vars(course), token_block=token_block)


class _Trainer:
    """The token block, batch by batch."""

    part = PART

    def __init__(
        self, frozen: FrozenInputs, spec: Phase2Spec, train: Stream, val: Stream, show: Phase2Progress
    ) -> None:
        self._frozen, self._spec, self._train, self._val, self._show = frozen, spec, train, val, show
        self.rows = [rows for _, rows in train.batches(spec.config.batch_size)]
        self.dtype = frozen.table_VxE.dtype

    def params(self, state: TrainState) -> TrainableParams:
        return state.params

    def place(self, tree: Any) -> Any:
        return device_put(tree, self._spec.mesh)

    def train(
        self, state: TrainState, epoch: int, done: Sequence[Measure], after_batch: AfterBatch
    ) -> tuple[TrainState, list[Measure]]:
        return train_epoch(
            state,
            self._frozen,
            self._train,
            self._spec,
            epoch,
            progress=self._show,
            done=done,
            after_batch=after_batch,
        )

    def evaluate(self, params: TrainableParams) -> tuple[float, float]:
        return _evaluate(params, self._frozen, self._val, self._spec)


def train_epoch(
    state: TrainState,
    frozen: FrozenInputs,
    stream: Stream,
    spec: Phase2Spec,
    epoch: int,
    *,
    progress: Phase2Progress = lambda epoch, rows, loss: None,
    done: Sequence[Measure] = (),
    after_batch: AfterBatch = lambda state, measures: None,
) -> tuple[TrainState, list[Measure]]:
    """Trains on the batches of an epoch that are not done, or up to a loss that is seen not to be finite.

    Returns the new state, and the loss and gradient norm of each batch.
    """
    step, _ = compile_steps(spec)
    measures: list[Any] = list(done)
    batches = stream.batches(spec.config.batch_size)[len(done) :]
    for (first, rows), arrays in zip(batches, spec.arrays(stream, batches), strict=False):
        state, loss, norm = step(state, frozen, arrays, first, np.int32(epoch))
        measures.append((loss, norm))
        if len(measures) % _BATCHES_BETWEEN_REPORTS == 0:
            if not math.isfinite(float(loss)):
                break
            progress(epoch, int(first) + rows, float(loss))
        after_batch(state, measures)
    return state, on_host(measures)
