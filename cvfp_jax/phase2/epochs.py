"""Epochs of next-token training with early stopping, saved on their way: phase 2's and the baselines'."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from cvfp_jax.checkpointing.checkpointer import Facts
from cvfp_jax.config.settings import Phase2Config
from cvfp_jax.contexts.runtime import Runtime
from cvfp_jax.core.fixed_point import Status
from cvfp_jax.distributed import processes
from cvfp_jax.runtime.floats import exp

# The loss and the gradient norm of a batch.
Measure = tuple[float, float]
# Takes the state after a batch, and the measures of the epoch's batches up to it, on the device or the host.
AfterBatch = Callable[[Any, list[Any]], None]


@dataclasses.dataclass(frozen=True)
class Epoch:
    """Measures of one epoch; losses are means in nats a token."""

    train_loss: float  # of each batch before its step: the weights change meanwhile
    val_loss: float
    val_acc: float  # share of the targets that got the largest logit


@dataclasses.dataclass(frozen=True)
class Course:
    """The course of training, and the weights of its best epoch."""

    best_params: Any
    last_params: Any  # of the last epoch, as the original leaves them
    epochs: list[Epoch]
    best_epoch: int  # from 1; 0 if no epoch ended with finite losses
    status: Status  # CONVERGED: stopped early; MAX_STEPS: all epochs ran; NON_FINITE
    batch_losses: np.ndarray  # before each step
    grad_norms: np.ndarray  # before clipping
    failed_batch: int | None  # of the last epoch, from 1: the first whose loss or gradient was not finite


class Trainer(Protocol):
    """What is trained: a state that holds parameters, batch by batch."""

    part: str  # the name under which training is saved
    dtype: Any  # of losses

    @property
    def rows(self) -> Sequence[int]:
        """The predictions of each batch of an epoch."""
        ...

    def params(self, state: Any) -> Any:
        """Returns what the best epoch keeps of a state."""
        ...

    def place(self, tree: Any) -> Any:
        """Returns what a checkpoint held, on the devices."""
        ...

    def train(
        self, state: Any, epoch: int, done: Sequence[Measure], after_batch: AfterBatch
    ) -> tuple[Any, list[Measure]]:
        """Trains on the batches of an epoch that are not done; returns the measures of all."""
        ...

    def evaluate(self, params: Any) -> tuple[float, float]:
        """Returns the mean loss and the accuracy over the validation tokens."""
        ...


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


def run_epochs(trainer: Trainer, state: Any, config: Phase2Config, runtime: Runtime) -> Course:
    """Trains until ``EarlyStopping`` says that it is over, from where a checkpoint left it.

    Args:
      trainer: what is trained.
      state: the state before the first batch.
      config: how many epochs there are, and what ends them early.
      runtime: what saves and watches.

    Returns:
      The course.
    """
    checkpointer, part = runtime.checkpointer, trainer.part
    best = jax.tree.map(jnp.copy, trainer.params(state))
    per_epoch, num_rows = len(trainer.rows), sum(trainer.rows)
    epochs: list[Epoch] = []
    steps: list[Measure] = []
    if saved := checkpointer.facts(part):
        losses_T = jax.ShapeDtypeStruct((saved["batches"],), trainer.dtype)
        state, best, losses_T, norms_T = checkpointer.restore(part, (state, best, losses_T, losses_T))
        state, best = trainer.place((state, best))
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
        maybe_save = functools.partial(_maybe_save, trainer, runtime, best, epochs, before)
        state, losses = trainer.train(state, epoch, done, maybe_save)
        before, done = before + losses, []
        failed_batch = first_broken(losses)
        if failed_batch is not None:
            epochs.append(Epoch(math.nan, math.nan, math.nan))
            status = Status.NON_FINITE
            break
        weighed = (loss * rows for (loss, _), rows in zip(losses, trainer.rows, strict=True))
        train_loss = math.fsum(weighed) / num_rows
        # Other hosts' last digits may differ, and all must stop at the same epoch.
        val_loss, val_acc = processes.broadcast(trainer.evaluate(trainer.params(state)))
        epochs.append(Epoch(train_loss, val_loss, val_acc))
        runtime.progress.epoch(epoch, dataclasses.asdict(epochs[-1]))
        if not math.isfinite(val_loss):
            status = Status.NON_FINITE
            break
        if rule.is_best(epoch, val_loss):
            best = jax.tree.map(jnp.copy, trainer.params(state))
        if rule.is_over:
            status = Status.CONVERGED
            break
    return Course(
        best,
        trainer.params(state),
        epochs,
        rule.best_epoch,
        status,
        np.array([loss for loss, _ in before]),
        np.array([norm for _, norm in before]),
        failed_batch,
    )


def _maybe_save(
    trainer: Trainer,
    runtime: Runtime,
    best: Any,
    epochs: list[Epoch],
    before: list[Measure],
    state: Any,
    losses: list[Any],
) -> None:
    """Saves the state after a batch if it is time; one after a number that is not finite is not worth it."""

    def make() -> tuple[Facts, Any] | None:
        measures = before + on_host(losses)
        if first_broken(measures) is not None:
            return None
        arrays = (
            state,
            best,
            *(np.array([pair[index] for pair in measures], trainer.dtype) for index in (0, 1)),
        )
        facts = {"epochs": [dataclasses.astuple(epoch) for epoch in epochs], "batches": len(measures)}
        return facts, arrays

    runtime.checkpointer.maybe_save(trainer.part, make)


def on_host(measures: list[Any]) -> list[Measure]:
    """Returns measures as numbers."""
    return [(float(loss), float(norm)) for loss, norm in jax.device_get(measures)]


def first_broken(measures: Sequence[Measure]) -> int | None:
    """Returns the first batch, from 1, whose loss or gradient is not finite."""
    for batch, pair in enumerate(measures, 1):
        if not all(map(math.isfinite, pair)):
            return batch
    return None
