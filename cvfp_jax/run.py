"""One cell: data -> phase 1 -> contexts -> effective rank -> phase 2 -> record."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cvfp_jax.config import RunConfig
from cvfp_jax.data.dataset import CellData
from cvfp_jax.effective_rank import effective_rank
from cvfp_jax.fixed_point import Status
from cvfp_jax.mesh import make_mesh
from cvfp_jax.model import LanguageModel, num_params
from cvfp_jax.phase1 import Phase1Result, learn_contexts
from cvfp_jax.phase2 import Phase2Result, Stream, learn_tokens
from cvfp_jax.progress import CellProgress
from cvfp_jax.records import OK, Record, perplexity
from cvfp_jax.recurrence import sequential_contexts
from cvfp_jax.stopwatch import Stopwatch

# Random numbers are functions of the seed and of what they are for.
_INIT, _PHASE1, _TRAIN_ROWS, _VAL_ROWS = range(4)


@dataclasses.dataclass
class _Watches:
    """A stopwatch a stage."""

    phase1: Stopwatch = dataclasses.field(default_factory=Stopwatch)
    contexts: Stopwatch = dataclasses.field(default_factory=Stopwatch)
    effective_rank: Stopwatch = dataclasses.field(default_factory=Stopwatch)
    phase2: Stopwatch = dataclasses.field(default_factory=Stopwatch)

    def fields(self) -> dict[str, float]:
        """The record's fields."""
        watches = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        seconds = {f"{name}_seconds": round(watch.seconds, 3) for name, watch in watches.items()}
        compiled = sum(watch.compile_seconds for watch in watches.values())
        return {**seconds, "compile_seconds": round(compiled, 3)}


def device_name() -> str:
    """Returns platform and kind of the device that cells run on."""
    device = jax.devices()[0]
    return f"{device.platform}: {device.device_kind}"


def run_cell(config: RunConfig, data: CellData, progress: CellProgress) -> Record:
    """Runs one cell from its data to its record.

    Args:
      config: the cell.
      data: its tokens and table.
      progress: is told how the phases go.

    Returns:
      The record. Where a phase broke down its status says so, and what could not be measured is NaN.
    """
    # Without this, accelerators multiply single-precision matrices with fewer digits.
    with jax.default_matmul_precision("highest"):
        return _run_cell(config, data, progress)


def _run_cell(config: RunConfig, data: CellData, progress: CellProgress) -> Record:
    keys = [jax.random.fold_in(jax.random.key(config.seed), use) for use in (_INIT, _PHASE1)]
    table_VxE = jnp.asarray(data.table)
    model = LanguageModel(config.model, table_VxE, rngs=nnx.Rngs(keys[_INIT]))
    vectors_VxE = model.embedding.token_vectors()
    watches = _Watches()
    record: Record = {
        **_identity(config, data),
        **num_params(config.model, len(data.table), config.phase2.freeze_embedding),
        "seed": config.seed,
        "device": device_name(),
    }

    with watches.phase1:
        first = learn_contexts(
            model.context_block,
            vectors_VxE,
            data.train_ids,
            config.phase1,
            keys[_PHASE1],
            capacity=data.capacity,
            progress=progress.phase1(config, len(data.train_ids)),
        )
    record |= _phase1_fields(first)
    if first.status == Status.NON_FINITE:
        status = f"failed: phase 1 was not finite at iteration {first.iterations}"
        return {**record, **_NOTHING_AFTER_PHASE1, **watches.fields(), "status": status}

    with watches.contexts:

        def exact(ids: np.ndarray) -> jax.Array:
            # No token follows the last one, so nothing is predicted from its context.
            return sequential_contexts(first.block, vectors_VxE, ids[:-1])

        val_contexts_MxD = exact(data.val_ids)
        parallel = config.phase2.train_contexts == "parallel"
        train_contexts_NxD = first.contexts_NxD if parallel else exact(data.train_ids)
        jax.block_until_ready((val_contexts_MxD, train_contexts_NxD))
    with watches.effective_rank:

        def rank_share(contexts_NxD: jax.Array, num_rows: int, use: int) -> float:
            rng = np.random.default_rng([config.seed, use])
            rank = effective_rank(contexts_NxD, num_rows, config.effective_rank_rows, rng)
            return rank / config.model.context_dim

        record["train_effective_rank"] = rank_share(first.contexts_NxD, len(data.train_ids), _TRAIN_ROWS)
        record["val_effective_rank"] = rank_share(val_contexts_MxD, len(data.val_ids) - 1, _VAL_ROWS)

    with watches.phase2:
        second = learn_tokens(
            first.block,
            model.token_block,
            vectors_VxE,
            table_VxE,
            Stream.of(data.train_ids, train_contexts_NxD, data.capacity),
            Stream.of(data.val_ids, val_contexts_MxD),
            config.phase2,
            make_mesh(),
            progress=progress.phase2(config, len(data.train_ids)),
        )
    return {**record, **_phase2_fields(second), **watches.fields()}


def _identity(config: RunConfig, data: CellData) -> Record:
    """What the cell is, before anything is computed."""
    return {
        "experiment": config.experiment,
        "preset": config.preset,
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
        "unigram_ppl": perplexity(data.unigram_loss),
    }


def _phase1_fields(result: Phase1Result) -> Record:
    return {
        "phase1_iterations": result.iterations,
        "phase1_status": result.status.label,
        "phase1_convergence_rate": result.convergence_rate,
        "phase1_loss": float(result.trace["loss"][-1]),
        "residual_mean": result.residual_mean,
        "residual_max": result.residual_max,
    }


_NOTHING_AFTER_PHASE1: dict[str, Any] = {
    "phase2_epochs": 0,
    "phase2_status": "not run",
    "best_epoch": 0,
    **dict.fromkeys(
        (
            "train_effective_rank", "val_effective_rank", "train_loss", "val_loss", "train_ppl", "val_ppl",
            "val_acc",
        ),
        math.nan,
    ),
}  # fmt: skip


def _phase2_fields(result: Phase2Result) -> Record:
    """The measures at the best epoch; at the last one if none was finite."""
    epoch = result.epochs[result.best_epoch - 1]
    broken = result.status == Status.NON_FINITE
    return {
        "status": f"failed: phase 2 was not finite in epoch {len(result.epochs)}" if broken else OK,
        "phase2_epochs": len(result.epochs),
        "phase2_status": "early stop" if result.status == Status.CONVERGED else result.status.label,
        "best_epoch": result.best_epoch,
        "train_loss": epoch.train_loss,
        "val_loss": epoch.val_loss,
        "train_ppl": perplexity(epoch.train_loss),
        "val_ppl": perplexity(epoch.val_loss),
        # Where logits are not finite, no target got the largest one; that is no measure.
        "val_acc": epoch.val_acc if math.isfinite(epoch.val_loss) else math.nan,
    }
