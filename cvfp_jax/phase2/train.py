"""Phase 2: the token block learned by next-token prediction, with the contexts frozen.

Shapes: D context width, V tokens, E embedding width.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from cvfp_jax.checkpointing.checkpointer import Checkpointer, Facts
from cvfp_jax.config.settings import Phase2Config
from cvfp_jax.contexts.recurrence import sequential_contexts
from cvfp_jax.contexts.runtime import Phase2Progress, Runtime
from cvfp_jax.core.fixed_point import Status
from cvfp_jax.core.matmul import as_kept, operand
from cvfp_jax.core.model import Head, LanguageModel, TokenBlock
from cvfp_jax.core.token_stream import TokenStream
from cvfp_jax.distributed import processes
from cvfp_jax.distributed.mesh import VOCABULARY, device_put, model_size, to_local_device
from cvfp_jax.phase2.step import FrozenInputs, Phase2Spec, TrainableParams, TrainState, compile_steps
from cvfp_jax.phase2.stream import Stream
from cvfp_jax.runtime.floats import exp

PART = "phase 2"  # the name under which training is saved
# The host waits for the device every so many batches, so that progress tells of work done.
_BATCHES_BETWEEN_REPORTS = 16


@dataclasses.dataclass(frozen=True)
class Epoch:
    """Measures of one epoch; losses are means in nats a token."""

    train_loss: float  # of each batch before its step: the weights change meanwhile
    val_loss: float
    val_acc: float  # share of the targets that got the largest logit


# The loss and the gradient norm of a batch.
Measure = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Phase2Result:
    """The weights of the best epoch, and the course of training."""

    token_block: TokenBlock
    best_params: TrainableParams
    last_params: TrainableParams  # of the last epoch, as the original leaves them
    epochs: list[Epoch]
    best_epoch: int  # from 1; 0 if no epoch ended with finite losses
    status: Status  # CONVERGED: stopped early; MAX_STEPS: all epochs ran; NON_FINITE
    batch_losses: np.ndarray  # before each step
    grad_norms: np.ndarray  # before clipping
    failed_batch: int | None  # of the last epoch, from 1: the first whose loss or gradient was not finite


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


class EarlyStopping:
    """Which epoch is the best, and whether training still gains.

    An epoch gains if its validation loss is lower than the best epoch's, and its perplexity by more
    than ``min_ppl_improvement``. Training stops after ``patience`` epochs in a row that did not. An
    epoch that is better by less is not the best (``small_gain=dropped``, as R5's scripts have it), or
    it is (``kept``, as the original's library has it).

    References:
      rato-tokyo/new-llm, report of 2025-12-03.

    >>> rule = EarlyStopping(Phase2Config(patience=1, min_ppl_improvement=0.5))
    >>> [rule.is_best(epoch, math.log(ppl)) for epoch, ppl in ((1, 9.0), (2, 8.0), (3, 7.9))]
    [True, True, False]
    >>> rule.best_epoch, rule.is_over
    (2, True)
    """

    def __init__(self, config: Phase2Config) -> None:
        """No epoch has been seen."""
        self._config = config
        self._best_loss = math.inf
        self._failures = 0
        self.best_epoch = 0

    @property
    def is_over(self) -> bool:
        """Whether patience has run out."""
        return self._failures >= self._config.patience

    def is_best(self, epoch: int, val_loss: float) -> bool:
        """Notes an epoch and says whether it is the best so far."""
        lower = val_loss < self._best_loss
        least = self._config.min_ppl_improvement
        gained = lower and (least == 0.0 or exp(self._best_loss) - exp(val_loss) > least)
        self._failures = 0 if gained else self._failures + 1
        best = gained or (lower and self._config.small_gain == "kept")
        if best:
            self._best_loss, self.best_epoch = val_loss, epoch
        return best


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
    mesh, checkpointer = runtime.mesh, runtime.checkpointer
    state, frozen, spec = begin_training(model, config, mesh, jax.random.key(0) if key is None else key)
    show = runtime.progress.phase2(train.num_rows + 1)
    train, val = train.on(mesh), val.on(mesh)
    best = jax.tree.map(jnp.copy, state.params)
    batches = train.batches(config.batch_size)
    per_epoch = len(batches)
    epochs: list[Epoch] = []
    steps: list[Measure] = []
    if saved := checkpointer.facts(PART):
        losses_T = jax.ShapeDtypeStruct((saved["batches"],), frozen.table_VxE.dtype)
        state, best, losses_T, norms_T = checkpointer.restore(PART, (state, best, losses_T, losses_T))
        state, best = device_put((state, best), mesh)
        steps = [
            (float(loss), float(norm))
            for loss, norm in zip(np.asarray(losses_T), np.asarray(norms_T), strict=True)
        ]
        epochs = [Epoch(*measures) for measures in saved["epochs"]]
    rule = EarlyStopping(config)
    for epoch, measures in enumerate(epochs, 1):
        rule.is_best(epoch, measures.val_loss)
    status, failed_batch = Status.MAX_STEPS, None
    before, done = steps[: len(epochs) * per_epoch], steps[len(epochs) * per_epoch :]
    for epoch in range(len(epochs) + 1, config.epochs + 1):
        maybe_save = functools.partial(_maybe_save, checkpointer, best, epochs, before)
        state, losses = train_epoch(
            state, frozen, train, spec, epoch, progress=show, done=done, after_batch=maybe_save
        )
        before, done = before + losses, []
        failed_batch = _first_broken(losses)
        if failed_batch is not None:
            epochs.append(Epoch(math.nan, math.nan, math.nan))
            status = Status.NON_FINITE
            break
        weighed = (loss * rows for (loss, _), (_, rows) in zip(losses, batches, strict=True))
        train_loss = math.fsum(weighed) / train.num_rows
        # Other hosts' last digits may differ, and all must stop at the same epoch.
        val_loss, val_acc = processes.broadcast(_evaluate(state.params, frozen, val, spec))
        epochs.append(Epoch(train_loss, val_loss, val_acc))
        runtime.progress.epoch(epoch, dataclasses.asdict(epochs[-1]))
        if not math.isfinite(val_loss):
            status = Status.NON_FINITE
            break
        if rule.is_best(epoch, val_loss):
            best = jax.tree.map(jnp.copy, state.params)
        if rule.is_over:
            status = Status.CONVERGED
            break
    return Phase2Result(
        nnx.merge(spec.token_block, to_local_device(best.token_block)),
        best,
        state.params,
        epochs,
        rule.best_epoch,
        status,
        np.array([loss for loss, _ in before]),
        np.array([norm for _, norm in before]),
        failed_batch,
    )


def _maybe_save(
    checkpointer: Checkpointer,
    best: TrainableParams,
    epochs: list[Epoch],
    before: list[Measure],
    state: TrainState,
    losses: list[tuple[jax.Array, jax.Array]],
) -> None:
    """Saves the state after a batch if it is time; one after a number that is not finite is not worth it."""

    def make() -> tuple[Facts, Any] | None:
        measures = before + _on_host(losses)
        if _first_broken(measures) is not None:
            return None
        dtype = state.context_D.dtype
        arrays = state, best, *(np.array([pair[index] for pair in measures], dtype) for index in (0, 1))
        facts = {"epochs": [dataclasses.astuple(epoch) for epoch in epochs], "batches": len(measures)}
        return facts, arrays

    checkpointer.maybe_save(PART, make)


def _on_host(losses: list[Any]) -> list[Measure]:
    return [(float(loss), float(norm)) for loss, norm in jax.device_get(losses)]


def _first_broken(losses: list[Measure]) -> int | None:
    """The first batch, from 1, whose loss or gradient is not finite."""
    for batch, pair in enumerate(losses, 1):
        if not all(map(math.isfinite, pair)):
            return batch
    return None


def train_epoch(
    state: TrainState,
    frozen: FrozenInputs,
    stream: Stream,
    spec: Phase2Spec,
    epoch: int,
    *,
    progress: Phase2Progress = lambda epoch, rows, loss: None,
    done: Sequence[Measure] = (),
    after_batch: Callable[[TrainState, list[Any]], None] = lambda state, measures: None,
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
    return state, _on_host(measures)
