"""One cell: data -> phase 1 -> contexts -> effective rank -> phase 2 -> record."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from cvfp_jax.checkpointing.checkpointer import Checkpointer, FirstRows
from cvfp_jax.checkpointing.row_file import RowFile, RowFiles, read_ahead
from cvfp_jax.config.settings import RunConfig
from cvfp_jax.contexts.diagnostics import block_diagnostics
from cvfp_jax.contexts.effective_rank import effective_rank
from cvfp_jax.contexts.parallel import parallel_contexts, write_parallel
from cvfp_jax.core.fixed_point import Status
from cvfp_jax.core.model import ContextBlock, LanguageModel
from cvfp_jax.core.widths import num_params
from cvfp_jax.data.dataset import CellData
from cvfp_jax.distributed.mesh import line_mesh, resize_rows, single_device_mesh
from cvfp_jax.phase1.multi_block import (
    contexts_part,
    exact_contexts,
    learn_blocks,
    phase1_part,
    write_exact_contexts,
)
from cvfp_jax.phase1.train import Phase1Result
from cvfp_jax.phase2.step import Stream
from cvfp_jax.phase2.train import Phase2Result, learn_tokens
from cvfp_jax.results.records import OK, Record, perplexity
from cvfp_jax.runtime.stopwatch import Stopwatch
from cvfp_jax.sweep.progress import CellProgress

# Random numbers are functions of the seed and of what they are for.
_USES = 6
_INIT, _PHASE1, _TRAIN_ROWS, _VAL_ROWS, _DIAGNOSTICS, _DROPOUT = range(_USES)
# Parts of a cell's state, beside those that its stages name.
_SECONDS, _ROOM, _MEASURED, _VAL, _TRAIN = (
    "seconds", "room", "contexts", "validation contexts", "training contexts",
)  # fmt: skip


class _Watches:
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


def run_cell(
    config: RunConfig,
    data: CellData,
    progress: CellProgress,
    checkpointer: Checkpointer | None = None,
    mesh: Mesh | None = None,
    disk: Path | None = None,
) -> Record:
    """Runs one cell from its data to its record.

    Args:
      config: the cell.
      data: its tokens and table.
      progress: is told how the phases go.
      checkpointer: what the cell is saved by on the way, and taken up again from.
      mesh: the devices; JAX's first one if none are given. No number depends on them, up to rounding.
      disk: a folder, made and removed, that training's contexts are kept in, of one device; in memory if
        none is given. No number depends on it.

    Returns:
      The record. Where a phase broke down its status says so, and what could not be measured is NaN.
    """
    # Without this, accelerators multiply single-precision matrices with fewer digits.
    with (
        jax.default_matmul_precision("highest"),
        contextlib.nullcontext() if disk is None else RowFiles(disk) as files,
    ):
        return _run_cell(
            config, data, progress, checkpointer or Checkpointer(), mesh or single_device_mesh(), files
        )


class _Contexts(NamedTuple):
    """What phase 2 needs of what came before."""

    blocks: list[ContextBlock]
    train_NxD: jax.Array | RowFile | None  # None if phase 2 makes them itself
    val_MxD: jax.Array | None


class _Cell(NamedTuple):
    """What every stage of a cell is given."""

    config: RunConfig
    data: CellData
    model: LanguageModel
    keys: list[jax.Array]
    watches: _Watches
    progress: CellProgress
    checkpointer: Checkpointer
    mesh: Mesh
    disk: RowFiles | None


def _run_cell(
    config: RunConfig,
    data: CellData,
    progress: CellProgress,
    checkpointer: Checkpointer,
    mesh: Mesh,
    disk: RowFiles | None,
) -> Record:
    watches = _Watches(checkpointer.facts(_SECONDS) or {})
    checkpointer.include(_SECONDS, watches.spent)
    # The arrays of a cell that goes on are as long as they were, whatever cells stand beside it now.
    room = {name: getattr(data, name) for name in ("capacity", "val_capacity", "distinct_capacity")}
    data = dataclasses.replace(data, **(checkpointer.facts(_ROOM) or room))
    checkpointer.include(_ROOM, {name: getattr(data, name) for name in room})
    keys = [jax.random.fold_in(jax.random.key(config.seed), use) for use in range(_USES)]
    model = LanguageModel(config.model, jnp.asarray(data.table), config.precision, rngs=nnx.Rngs(keys[_INIT]))
    cell = _Cell(config, data, model, keys, watches, progress, checkpointer, mesh, disk)
    phase2 = config.phase2
    record: Record = {
        **_identity(config, data),
        **num_params(config.model, len(data.table), phase2.freeze_embedding, phase2.count_embed_norm),
        "seed": config.seed,
        "precision": config.precision,
        "device": device_name(),
    }
    measured, contexts = _measure_contexts(cell)
    if contexts is None:
        return {**record, **_NOTHING_BEFORE_PHASE2, **measured, **watches.fields()}
    model.context_blocks = nnx.List(contexts.blocks)
    with watches.phase2:
        second = learn_tokens(
            model,
            Stream.of(data.train_ids, contexts.train_NxD, data.capacity),
            Stream.of(data.val_ids, contexts.val_MxD, data.val_capacity),
            phase2,
            mesh,
            key=keys[_DROPOUT],
            progress=progress.phase2(config, len(data.train_ids)),
            checkpointer=checkpointer,
        )
    return {**record, **measured, **_phase2_fields(second), **watches.fields()}


def _measure_contexts(cell: _Cell) -> tuple[Record, _Contexts | None]:
    """Phase 1, contexts and their measures; no contexts if any of them are not finite."""
    checkpointer = cell.checkpointer
    blocks = list(cell.model.context_blocks)
    dtype, width = cell.data.table.dtype, len(blocks) * cell.config.model.context_dim
    if measured := checkpointer.facts(_MEASURED):
        rows = measured.pop("rows")
        shapes: list[Any] = [jax.ShapeDtypeStruct((count, width), dtype) for count in rows]
        if cell.disk is not None and shapes:
            shapes[0] = cell.disk.make((rows[0], width), dtype)
        params, found = checkpointer.restore(_MEASURED, (_params(blocks), shapes))
        for block, learned in zip(blocks, params, strict=True):
            nnx.update(block, learned)
        contexts = _Contexts(blocks, *(found or (None, None)))
        if contexts.train_NxD is not None and not isinstance(contexts.train_NxD, RowFile):
            rows = len(contexts.train_NxD) + -len(contexts.train_NxD) % cell.mesh.size
            on_devices = resize_rows(contexts.train_NxD, rows, line_mesh(cell.mesh))
            contexts = contexts._replace(train_NxD=on_devices)
    else:
        measured, made = _make_contexts(cell)
        if made is None:
            return measured, None
        contexts = made
        params = _params(contexts.blocks)
    streams: list[Any] = []
    if contexts.train_NxD is not None and contexts.val_MxD is not None:
        # Without the padding that the devices need.
        rows = max(cell.data.capacity, len(cell.data.train_ids))
        train, count = contexts.train_NxD, min(rows, len(contexts.train_NxD))
        kept = train.cut(count) if isinstance(train, RowFile) else FirstRows(train, count)
        streams = [kept, contexts.val_MxD]
    facts = {**measured, "rows": [stream.shape[0] for stream in streams]}
    checkpointer.include(_MEASURED, facts, (params, streams))
    checkpointer.maybe_save(_MEASURED, lambda: (facts, (params, streams)), stage_end=True)
    return measured, contexts


def _params(blocks: Sequence[ContextBlock]) -> list[nnx.State]:
    return [nnx.split(block)[1] for block in blocks]


def _make_contexts(cell: _Cell) -> tuple[Record, _Contexts | None]:
    config, data, checkpointer, watches = cell.config, cell.data, cell.checkpointer, cell.watches
    vectors_VxE = cell.model.embedding.token_vectors()
    with watches.phase1:
        learned = learn_blocks(
            list(cell.model.context_blocks),
            vectors_VxE,
            data.train_ids,
            config.phase1,
            cell.keys[_PHASE1],
            val_ids=data.val_ids,
            capacity=data.capacity,
            val_capacity=data.val_capacity,
            distinct_capacity=data.distinct_capacity,
            progress=functools.partial(cell.progress.phase1, config),
            checkpointer=checkpointer,
            mesh=cell.mesh,
            disk=cell.disk,
        )
    record = _phase1_fields(learned)
    if record["phase1_status"] == Status.NON_FINITE.label:
        record["status"] = f"failed: phase 1 was not finite at iteration {record['phase1_iterations']}"
        return record, None
    blocks = [result.block for result in learned]

    def rank_share(
        contexts_NxD: jax.Array | RowFile, num_rows: int, use: int, mesh: Mesh | None = None
    ) -> float:
        rng = np.random.default_rng([config.seed, use])
        rank = effective_rank(contexts_NxD, num_rows, config.effective_rank_rows, rng, mesh)
        return rank / contexts_NxD.shape[1]

    with watches.contexts:
        # No token follows the last one, so nothing is predicted from its context.
        val_ids = data.val_ids[:-1]
        val_contexts_MxD = exact_contexts(
            blocks, vectors_VxE, val_ids, capacity=data.val_capacity, checkpointer=checkpointer, part=_VAL
        )
        jax.block_until_ready(val_contexts_MxD)
        train_contexts_NxD = learned[0].contexts_NxD
        if config.phase2.train_contexts == "sequential":
            # As many rows as in phase 1, whose start may have been made by the same program.
            room = max(data.capacity, len(train_contexts_NxD))
            make: Callable[..., Any] = functools.partial(exact_contexts, mesh=cell.mesh)
            if cell.disk is not None:
                make = functools.partial(write_exact_contexts, cell.disk)
            train_contexts_NxD = make(
                blocks, vectors_VxE, data.train_ids, capacity=room, checkpointer=checkpointer, part=_TRAIN
            )
        jax.block_until_ready(train_contexts_NxD)
        for name, contexts_NxD in (("validation", val_contexts_MxD), ("training", train_contexts_NxD)):
            if (place := _first_broken(contexts_NxD)) is not None:
                record["status"] = f"failed: {name} contexts were not finite at token {place + 1}"
                return record, None
    with watches.effective_rank:
        # Of what phase 1 ended with, as the reports have it; blocks have ended on different tokens.
        ended = train_contexts_NxD if len(blocks) > 1 else learned[0].contexts_NxD
        record["train_effective_rank"] = rank_share(ended, len(data.train_ids), _TRAIN_ROWS, cell.mesh)
        record["val_effective_rank"] = rank_share(val_contexts_MxD, len(data.val_ids) - 1, _VAL_ROWS)
    with watches.diagnostics:
        record |= block_diagnostics(
            blocks[0],
            vectors_VxE,
            data.val_ids,
            val_contexts_MxD[:, : config.model.context_dim],
            record["val_effective_rank"],
            num_trials=config.val_convergence_trials,
            key=cell.keys[_DIAGNOSTICS],
            rng=np.random.default_rng([config.seed, _DIAGNOSTICS]),
        )
    # What phase 1 ended with is not needed any more.
    del learned, ended
    for number in range(len(blocks)):
        checkpointer.exclude(phase1_part(number), contexts_part(_VAL, number), contexts_part(_TRAIN, number))
    with watches.contexts:
        if config.phase2.train_contexts == "parallel" and not config.model.reads_every_layer:
            given = blocks[0], vectors_VxE, data.train_ids
            if isinstance(train_contexts_NxD, RowFile):
                train_contexts_NxD = write_parallel(*given, train_contexts_NxD)
            else:
                train_contexts_NxD = parallel_contexts(*given, train_contexts_NxD, cell.mesh)
        # As they are saved; phase 1 may have kept them rounded.
        train_contexts_NxD = jax.block_until_ready(train_contexts_NxD.astype(vectors_VxE.dtype))
    if config.phase2.train_contexts == "recomputed":
        return record, _Contexts(blocks, None, None)
    return record, _Contexts(blocks, train_contexts_NxD, val_contexts_MxD)


@jax.jit
def _broken(contexts_NxD: jax.Array) -> tuple[jax.Array, jax.Array]:
    broken_N = ~jnp.isfinite(contexts_NxD).all(axis=1)
    return broken_N.any(), broken_N.argmax()


def _first_broken(contexts_NxD: jax.Array | RowFile) -> int | None:
    """The first token whose context is not finite."""
    parts: Any = [((0, 0), contexts_NxD)]
    if isinstance(contexts_NxD, RowFile):
        parts = read_ahead(contexts_NxD.stretches(), contexts_NxD.read)
    for (first, _), contexts_BxD in parts:
        any_broken, place = _broken(contexts_BxD)
        if any_broken:
            return first + int(place)
    return None


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


# Of several blocks' ways to end, the record names the one to worry about most.
_WORST_FIRST = (Status.NON_FINITE, Status.MAX_STEPS, Status.STALLED, Status.CONVERGED)


def _phase1_fields(results: Sequence[Phase1Result]) -> Record:
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
        "phase1_val_ranks": [rank for result in results for rank in result.val_ranks],
        "residual_mean": mean("residual_mean"),
        "residual_max": float(np.max([result.residual_max for result in results])),
    }


_NOTHING_BEFORE_PHASE2: dict[str, Any] = {
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
    **dict.fromkeys(
        (
            "rank_verdict", "val_convergence_status", "val_convergence_slope", "is_identity",
            "is_zero_solution", "is_global_attractor", "context_norm_mean", "context_distance_mean",
        )
    ),
}  # fmt: skip


def _phase2_fields(result: Phase2Result) -> Record:
    """The measures at the best epoch; at the last one if none was finite."""
    epoch = result.epochs[result.best_epoch - 1]
    broken, batch = result.status == Status.NON_FINITE, result.failed_batch
    where = "its validation" if batch is None else f"batch {batch}"
    return {
        "status": f"failed: phase 2 was not finite in epoch {len(result.epochs)}, {where}" if broken else OK,
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
