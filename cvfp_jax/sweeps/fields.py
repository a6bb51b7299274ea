"""What a cell's record and curves say of its stages."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from cvfp_jax.config.settings import RunConfig
from cvfp_jax.core.fixed_point import Status
from cvfp_jax.data.dataset import CellData
from cvfp_jax.phase1.multi_block import shares
from cvfp_jax.phase1.train import Phase1Result
from cvfp_jax.phase2.epochs import Course
from cvfp_jax.report.records import LEAKAGE, NGRAMS, OK, SETTLING, Record
from cvfp_jax.runtime.floats import exp
from cvfp_jax.runtime.stopwatch import Stopwatch

SECONDS = "seconds"  # the part of a cell's state that the stopwatches are


class Stopwatches:
    """A stopwatch a stage, which go on from where an earlier launch was saved."""

    def __init__(self, spent: dict[str, tuple[float, float]]) -> None:
        """Takes the seconds of work and of compiling that each stage has taken before."""

        def watch(stage: str) -> Stopwatch:
            return Stopwatch(*spent.get(stage, (0.0, 0.0)))

        self.phase1, self.contexts = watch("phase1"), watch("contexts")
        self.effective_rank, self.diagnostics = watch("effective_rank"), watch("diagnostics")
        self.phase2 = watch("phase2")

    def spent(self) -> dict[str, tuple[float, float]]:
        """The seconds of each stage up to now."""
        return {stage: watch.so_far for stage, watch in vars(self).items()}

    def fields(self) -> dict[str, float]:
        """The record's fields."""
        spent = self.spent()
        seconds = {f"{stage}_seconds": round(worked, 3) for stage, (worked, _) in spent.items()}
        return {**seconds, "compile_seconds": round(sum(compiled for _, compiled in spent.values()), 3)}


def device_name() -> str:
    """Returns platform and kind of the device that cells run on."""
    device = jax.local_devices()[0]
    return f"{device.platform}: {device.device_kind}"


def identity(config: RunConfig, data: CellData) -> Record:
    """What the cell is, before anything is computed."""
    return {
        "experiment": config.experiment,
        "preset": config.preset,
        "architecture": config.architecture,
        "tuned": None,  # a sweep with a search says so
        "config_name": config.config_name,
        **dataclasses.asdict(config.model),
        "vocab_size": len(data.table),
        "num_samples": config.num_samples,
        "train_tokens": len(data.train_ids),
        "val_tokens": len(data.val_ids),
        "corpus": config.data.corpus,
        "corpus_sha256": data.corpus_sha256,
        "embedding": config.data.embedding,
        "embedding_sha256": data.table_sha256,
        "vocabulary": config.data.vocabulary,
        "unigram_loss": data.unigram_loss,
        "unigram_ppl": exp(data.unigram_loss),
        **dict.fromkeys(NGRAMS),
        **{name: exp(loss) for name, loss in zip(NGRAMS, data.ngram_losses or (), strict=False)},
        **dict(zip(LEAKAGE, data.leakage, strict=True)),
        "val_corpus": config.data.val_corpus or None,
        "skipped_rows": None if data.skipped_rows is None else dict(data.skipped_rows),
    }


# Of several blocks' ways to end, the record names the one to worry about most.
_WORST_FIRST = (Status.NON_FINITE, Status.MAX_STEPS, Status.STALLED, Status.CONVERGED)


# Of a cell whose contexts are not made by phase 1.
WITHOUT_PHASE1: dict[str, Any] = {
    "phase1_iterations": 0,
    "phase1_block_iterations": [],
    "phase1_status": "not run",
    **dict.fromkeys(
        ("phase1_convergence_rate", "phase1_loss", "phase1_task_loss", "residual_mean", "residual_max")
    ),
    "phase1_val_ranks": [],
}


def phase1_fields(results: Sequence[Phase1Result]) -> Record:
    """The measures of phase 1: the worst status of any block with its most iterations, and means."""

    def mean(field: str) -> float:
        return sum(getattr(result, field) for result in results) / len(results)

    worst = min(results, key=lambda result: _WORST_FIRST.index(result.status))
    return {
        "phase1_iterations": max(result.iterations for result in results if result.status == worst.status),
        "phase1_block_iterations": [result.iterations for result in results],
        "phase1_status": worst.status.label,
        "phase1_convergence_rate": mean("convergence_rate"),
        "phase1_loss": sum(float(result.trace["loss"][-1]) for result in results) / len(results),
        "phase1_task_loss": float(worst.trace["task_loss"][-1]) if worst.token_block else None,
        "phase1_val_ranks": [rank for result in results for rank in result.val_ranks],
        "residual_mean": mean("residual_mean"),
        "residual_max": float(np.max([result.residual_max for result in results])),
    }


def phase1_curves(
    results: Sequence[Phase1Result], num_tokens: int, config: RunConfig
) -> dict[str, np.ndarray]:
    """The course of phase 1; see ``curves.GROUPS``."""
    of_blocks = []
    sizes = [share.stop - share.start for share in shares(num_tokens, config.model.num_blocks)]
    for number, (result, size) in enumerate(zip(results, sizes, strict=False), 1):
        trace, steps, checks = result.trace, len(result.trace["loss"]), len(result.val_ranks)
        of_blocks.append(
            {
                "phase1_block": np.full(steps, number, np.int32),
                "phase1_iteration": np.arange(2, steps + 2, dtype=np.int32),
                **{f"phase1_{name}": trace[name] for name in ("loss", "cvfp_loss", "diversity_loss")},
                "phase1_converged_share": (trace["converged_tokens"] / size).astype(np.float32),
                "phase1_grad_norm": trace["grad_norm"],
                "val_rank_block": np.full(checks, number, np.int32),
                "val_rank_iteration": np.arange(1, checks + 1, dtype=np.int32) * config.phase1.val_frequency,
                "val_rank": np.array(result.val_ranks, np.float32),
            }
        )
    return {name: np.concatenate([curves[name] for curves in of_blocks]) for name in of_blocks[0]}


def phase2_curves(result: Course, batches_per_epoch: int) -> dict[str, np.ndarray]:
    """The course of phase 2; see ``curves.GROUPS``."""
    epochs = {
        name: [getattr(epoch, name) for epoch in result.epochs]
        for name in ("train_loss", "val_loss", "val_acc")
    }
    return {
        **{f"phase2_{name}": np.array(values) for name, values in epochs.items()},
        "batch_epoch": np.arange(len(result.batch_losses), dtype=np.int32) // batches_per_epoch + np.int32(1),
        "batch_loss": result.batch_losses,
        "batch_grad_norm": result.grad_norms,
    }


# Of a cell whose contexts nothing is measured of.
WITHOUT_CONTEXTS: dict[str, Any] = dict.fromkeys(
    (
        "train_effective_rank", "val_effective_rank", "rank_verdict", "val_convergence_status",
        "val_convergence_slope", "is_identity", "is_zero_solution", "is_global_attractor",
        "context_norm_mean", "context_distance_mean", *SETTLING,
    )
)  # fmt: skip
# Of a cell that broke down before phase 2.
_BROKEN = ("train_effective_rank", "val_effective_rank", "train_loss", "val_loss", "train_ppl", "val_ppl")
WITHOUT_PHASE2: dict[str, Any] = {
    "phase2_epochs": 0,
    "phase2_status": "not run",
    "best_epoch": 0,
    "train_flops": None,
    **WITHOUT_CONTEXTS,
    **dict.fromkeys((*_BROKEN, "val_acc"), math.nan),
}


def phase2_fields(result: Course, what: str = "phase 2") -> Record:
    """The measures of training at the best epoch; at the last one if none was finite."""
    epoch = result.epochs[result.best_epoch - 1]
    broken, batch = result.status == Status.NON_FINITE, result.failed_batch
    where = "its validation" if batch is None else f"batch {batch}"
    return {
        "status": f"failed: {what} was not finite in epoch {len(result.epochs)}, {where}" if broken else OK,
        "phase2_epochs": len(result.epochs),
        "phase2_status": "early stop" if result.status == Status.CONVERGED else result.status.label,
        "best_epoch": result.best_epoch,
        "train_loss": epoch.train_loss,
        "val_loss": epoch.val_loss,
        "train_ppl": exp(epoch.train_loss),
        "val_ppl": exp(epoch.val_loss),
        # Where logits are not finite, no target got the largest one; that is no measure.
        "val_acc": epoch.val_acc if math.isfinite(epoch.val_loss) else math.nan,
    }
