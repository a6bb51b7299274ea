"""One cell: data -> phase 1 -> contexts -> effective rank -> phase 2 -> record."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cvfp_jax.config.settings import RunConfig
from cvfp_jax.contexts.diagnostics import block_diagnostics
from cvfp_jax.contexts.effective_rank import effective_rank
from cvfp_jax.contexts.parallel import parallel_contexts
from cvfp_jax.contexts.runtime import Runtime
from cvfp_jax.contexts.store import ContextStore, as_store
from cvfp_jax.core.fixed_point import Status
from cvfp_jax.core.matmul import as_numbers
from cvfp_jax.core.model import ContextBlock, LanguageModel
from cvfp_jax.core.token_stream import TokenStream
from cvfp_jax.core.widths import num_params
from cvfp_jax.data.dataset import CellData
from cvfp_jax.data.stream import Vocabulary
from cvfp_jax.generation.trained import TrainedModel
from cvfp_jax.phase1.multi_block import contexts_part, exact_contexts, learn_blocks, shares
from cvfp_jax.phase1.train import Phase1Result, part_name
from cvfp_jax.phase2.stream import Stream
from cvfp_jax.phase2.train import Phase2Result, learn_tokens, with_best_epoch
from cvfp_jax.report.curves import Curves
from cvfp_jax.report.records import LEAKAGE, NGRAMS, OK, SETTLING, Record
from cvfp_jax.reproduction.stale_clip import stale_clip
from cvfp_jax.runtime.floats import exp
from cvfp_jax.runtime.stopwatch import Stopwatch
from cvfp_jax.sweeps.result import CellResult, Contexts

# Random numbers are functions of the seed and of what they are for.
_USES = 6
_INIT, _PHASE1, _TRAIN_ROWS, _VAL_ROWS, _DIAGNOSTICS, _DROPOUT = range(_USES)
# What a model says of itself.
_OF_MODELS = ("train_tokens", "val_loss", "val_ppl", "unigram_ppl", "corpus_sha256")
# Parts of a cell's state, beside those that its stages name.
_SECONDS, _SIZES, _MEASURED, _VAL, _TRAIN = (
    "seconds", "room", "contexts", "validation contexts", "training contexts",
)  # fmt: skip


class _Stopwatches:
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


def run_cell(config: RunConfig, data: CellData, runtime: Runtime | None = None) -> CellResult:
    """Runs one cell from its data to its record, its model and its curves.

    Args:
      config: the cell.
      data: its tokens and table.
      runtime: where it runs and what watches it, on JAX's first device by default. No number depends on it,
        up to rounding.

    Returns:
      What the cell leaves. Where a phase broke down the record's status says so, and what could not be
      measured is NaN.
    """
    # Without this, accelerators multiply single-precision matrices with fewer digits.
    with jax.default_matmul_precision("highest"):
        return _Cell(config, data, runtime or Runtime()).run()


class _Contexts(NamedTuple):
    """What phase 2 needs of what came before."""

    blocks: list[ContextBlock]
    train: ContextStore | None  # None if phase 2 makes them itself
    val: ContextStore | None


class _Cell:
    """A cell, a method a stage."""

    def __init__(self, config: RunConfig, data: CellData, runtime: Runtime) -> None:
        checkpointer = runtime.checkpointer
        self.watches = _Stopwatches(checkpointer.facts(_SECONDS) or {})
        checkpointer.include(_SECONDS, self.watches.spent)
        # The arrays of a cell that goes on are as long as they were, whatever cells stand beside it now.
        sizes = {name: getattr(data, name) for name in ("capacity", "val_capacity", "distinct_capacity")}
        data = dataclasses.replace(data, **(checkpointer.facts(_SIZES) or sizes))
        checkpointer.include(_SIZES, {name: getattr(data, name) for name in sizes})
        self.config, self.data, self.runtime = config, data, runtime
        self.keys = [jax.random.fold_in(jax.random.key(config.seed), use) for use in range(_USES)]
        self.model = LanguageModel(
            config.model, jnp.asarray(data.table), config.precision, rngs=nnx.Rngs(self.keys[_INIT])
        )
        self.blocks = list(self.model.context_blocks)
        self.curves: dict[str, np.ndarray] = {}  # of phase 1, once it is over

    def run(self) -> CellResult:
        """Runs all stages."""
        config, data = self.config, self.data
        phase2 = config.phase2
        record: Record = {
            **_identity(config, data),
            **num_params(config.model, len(data.table), phase2.freeze_embedding, phase2.count_embed_norm),
            "seed": config.seed,
            "precision": config.precision,
            "device": device_name(),
        }
        measures, contexts = self._measured_contexts()
        if contexts is None:
            record = {**record, **_WITHOUT_PHASE2, **measures, **self.watches.fields()}
            return CellResult(record, None, None, Curves(self.curves))
        self.model.context_blocks = nnx.List(contexts.blocks)
        train = Stream.of(data.train_ids, contexts.train, data.capacity)
        with self.watches.phase2:
            result = learn_tokens(
                self.model,
                train,
                Stream.of(data.val_ids, contexts.val, data.val_capacity),
                phase2,
                self.keys[_DROPOUT],
                runtime=self.runtime,
            )
        record = {**record, **measures, **_phase2_fields(result), **self.watches.fields()}
        model = None
        if result.best_epoch > 0:
            facts = {name: record[name] for name in _OF_MODELS}
            vocabulary = data.vocabulary or Vocabulary(np.arange(len(data.table), dtype=np.int32))
            model = TrainedModel(with_best_epoch(self.model, result), config, vocabulary, facts)
        kept = None
        if contexts.train is not None and contexts.val is not None:
            kept = Contexts(contexts.train, contexts.val)
        per_epoch = len(train.batches(phase2.batch_size))
        return CellResult(record, model, kept, Curves({**self.curves, **_phase2_curves(result, per_epoch)}))

    def _measured_contexts(self) -> tuple[Record, _Contexts | None]:
        """Phase 1, contexts and their measures, made or saved; no contexts if any of them are not finite."""
        checkpointer = self.runtime.checkpointer
        if saved := checkpointer.facts(_MEASURED):
            measures, contexts = saved, self._restored(saved.pop("rows"), saved.pop("curves"))
        else:
            measures, made = self._make_contexts()
            if made is None:
                return measures, None
            contexts = made
        params, streams = _params(contexts.blocks), []
        if contexts.train is not None and contexts.val is not None:
            # Without the padding that the devices need.
            rows = max(self.data.capacity, len(self.data.train_ids))
            streams = [contexts.train.to_save(rows), contexts.val.array]
        facts = {
            **measures,
            "rows": [stream.shape[0] for stream in streams],
            "curves": {name: [len(curve), str(curve.dtype)] for name, curve in self.curves.items()},
        }
        arrays = params, streams, self.curves
        checkpointer.include(_MEASURED, facts, arrays)
        checkpointer.maybe_save(_MEASURED, lambda: (facts, arrays), stage_end=True)
        return measures, contexts

    def _restored(self, rows: list[int], curves: dict[str, list[Any]]) -> _Contexts:
        """The trained blocks, the contexts of so many rows, and phase 1's curves, that a checkpoint holds."""
        width, dtype = len(self.blocks) * self.config.model.context_dim, self.data.table.dtype
        templates: list[Any] = []
        if rows:
            templates = [self.runtime.saved_template((rows[0], width), dtype)]
            templates += [jax.ShapeDtypeStruct((count, width), dtype) for count in rows[1:]]
        shapes = {name: jax.ShapeDtypeStruct((size,), dtype) for name, (size, dtype) in curves.items()}
        checkpointer = self.runtime.checkpointer
        params, arrays, restored = checkpointer.restore(_MEASURED, (_params(self.blocks), templates, shapes))
        self.curves = {name: np.asarray(curve) for name, curve in restored.items()}
        for block, learned in zip(self.blocks, params, strict=True):
            nnx.update(block, learned)
        if not arrays:
            return _Contexts(self.blocks, None, None)
        devices = self.runtime.mesh.size
        train = self.runtime.new_store((rows[0] + -rows[0] % devices, width), dtype, 0).from_saved(arrays[0])
        return _Contexts(self.blocks, train, as_store(arrays[1]))

    def _make_contexts(self) -> tuple[Record, _Contexts | None]:
        config, data, runtime, watches = self.config, self.data, self.runtime, self.watches
        vectors_VxE = self.model.embedding.token_vectors()
        stream = TokenStream(vectors_VxE, data.train_ids, data.capacity, data.distinct_capacity)
        val_stream = TokenStream(vectors_VxE, data.val_ids, data.val_capacity)
        with watches.phase1:
            learned = self._learn_blocks(stream, val_stream)
        record = _phase1_fields(learned)
        self.curves = _phase1_curves(learned, len(stream), config)
        if record["phase1_status"] == Status.NON_FINITE.label:
            record["status"] = f"failed: phase 1 was not finite at iteration {record['phase1_iterations']}"
            return record, None
        blocks = [result.block for result in learned]
        with watches.contexts:
            # No token follows the last one, so nothing is predicted from its context.
            alone = runtime.on_one_device()
            val = exact_contexts(blocks, val_stream[:-1], runtime=alone, part=_VAL).block_until_ready()
            train = learned[0].contexts
            if config.phase2.train_contexts == "sequential":
                # As many rows as in phase 1, whose start may have been made by the same program.
                rows = dataclasses.replace(stream, capacity=max(data.capacity, len(train)))
                train = exact_contexts(blocks, rows, runtime=runtime, part=_TRAIN)
            train.block_until_ready()
            for name, contexts in (("validation", val), ("training", train)):
                if (index := _first_broken(contexts)) is not None:
                    record["status"] = f"failed: {name} contexts were not finite at token {index + 1}"
                    return record, None
        with watches.effective_rank:
            # Of what phase 1 ended with, as the reports have it; blocks have ended on different tokens.
            ended = train if len(blocks) > 1 else learned[0].contexts
            record["train_effective_rank"] = self._rank_share(ended, len(stream), _TRAIN_ROWS)
            record["val_effective_rank"] = self._rank_share(val, len(val_stream) - 1, _VAL_ROWS)
        with watches.diagnostics:
            record |= block_diagnostics(
                blocks[0],
                val_stream,
                val.array[:, : config.model.context_dim],
                record["val_effective_rank"],
                num_trials=config.val_convergence_trials,
                key=self.keys[_DIAGNOSTICS],
                rng=np.random.default_rng([config.seed, _DIAGNOSTICS]),
            )
        # What phase 1 ended with is not needed any more.
        del learned, ended
        for index in range(len(blocks)):
            parts = part_name(index), contexts_part(_VAL, index), contexts_part(_TRAIN, index)
            runtime.checkpointer.exclude(*parts)
        with watches.contexts:
            if config.phase2.train_contexts == "parallel" and not config.model.reads_every_layer:
                train = parallel_contexts(blocks[0], stream, train, runtime)
            # As they are saved; phase 1 may have kept them rounded.
            train = train.astype(vectors_VxE.dtype).block_until_ready()
        if config.phase2.train_contexts == "recomputed":
            return record, _Contexts(blocks, None, None)
        return record, _Contexts(blocks, train, val)

    def _learn_blocks(self, stream: TokenStream, val_stream: TokenStream) -> list[Phase1Result]:
        phase1 = self.config.phase1
        options: dict[str, Any] = {}
        if phase1.compat_stale_clip:
            options["next_clip"] = functools.partial(stale_clip, max_norm=phase1.gradient_clip)
        return learn_blocks(
            self.blocks,
            stream,
            phase1,
            self.keys[_PHASE1],
            val_stream=val_stream,
            runtime=self.runtime,
            **options,
        )

    def _rank_share(self, contexts: ContextStore, num_rows: int, use: int) -> float:
        """The effective rank of contexts, divided by their width."""
        rng = np.random.default_rng([self.config.seed, use])
        mesh = self.runtime.mesh if use == _TRAIN_ROWS else None
        return (
            effective_rank(contexts, num_rows, self.config.effective_rank_rows, rng, mesh) / contexts.shape[1]
        )


def _params(blocks: Sequence[ContextBlock]) -> list[nnx.State]:
    return [nnx.split(block)[1] for block in blocks]


@jax.jit
def _broken(kept_BxD: jax.Array) -> tuple[jax.Array, jax.Array]:
    broken_B = ~jnp.isfinite(as_numbers(kept_BxD)).all(axis=1)
    return broken_B.any(), broken_B.argmax()


def _first_broken(contexts: ContextStore) -> int | None:
    """The index of the first token whose context is not finite."""
    for first, contexts_BxD, _ in contexts.chunks():
        any_broken, index = _broken(contexts_BxD)
        if any_broken:
            return first + int(index)
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
        "val_corpus": config.data.val_corpus or None,
        "corpus_sha256": data.corpus_sha256,
        "embedding": config.data.embedding,
        "embedding_sha256": data.table_sha256,
        "vocabulary": config.data.vocabulary,
        "unigram_loss": data.unigram_loss,
        "unigram_ppl": exp(data.unigram_loss),
        **dict.fromkeys(NGRAMS),
        **{name: exp(loss) for name, loss in zip(NGRAMS, data.ngram_losses or (), strict=False)},
        **dict(zip(LEAKAGE, data.leakage, strict=True)),
        "skipped_rows": None if data.skipped_rows is None else dict(data.skipped_rows),
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


def _phase1_curves(
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


def _phase2_curves(result: Phase2Result, batches_per_epoch: int) -> dict[str, np.ndarray]:
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


_WITHOUT_PHASE2: dict[str, Any] = {
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
            *SETTLING,
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
        "train_ppl": exp(epoch.train_loss),
        "val_ppl": exp(epoch.val_loss),
        # Where logits are not finite, no target got the largest one; that is no measure.
        "val_acc": epoch.val_acc if math.isfinite(epoch.val_loss) else math.nan,
    }
