"""One cell: data -> phase 1 -> contexts -> effective rank -> phase 2 -> record."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cvfp_jax.checkpointing.checkpointer import Checkpointer
from cvfp_jax.config.baseline import CVFP
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
from cvfp_jax.phase1.lagged_task import LaggedTask
from cvfp_jax.phase1.multi_block import contexts_part, exact_contexts, learn_blocks
from cvfp_jax.phase1.train import Phase1Result, part_name
from cvfp_jax.phase2.stream import Stream
from cvfp_jax.phase2.train import learn_tokens, with_best_epoch
from cvfp_jax.planning.flops import cvfp_training, params_trained
from cvfp_jax.report.curves import Curves
from cvfp_jax.report.records import Record
from cvfp_jax.reproduction.stale_clip import stale_clip
from cvfp_jax.sweeps.baseline_cell import run_baseline
from cvfp_jax.sweeps.fields import (
    SECONDS,
    WITHOUT_CONTEXTS,
    WITHOUT_PHASE1,
    WITHOUT_PHASE2,
    Stopwatches,
    device_name,
    identity,
    phase1_curves,
    phase1_fields,
    phase2_curves,
    phase2_fields,
)
from cvfp_jax.sweeps.result import CellResult, Contexts

# Random numbers are functions of the seed and of what they are for.
_USES = 7
_INIT, _PHASE1, _TRAIN_ROWS, _VAL_ROWS, _DIAGNOSTICS, _DROPOUT, _SHUFFLED = range(_USES)
# What a model says of itself.
_OF_MODELS = ("train_tokens", "val_loss", "val_ppl", "unigram_ppl", "corpus_sha256")
# Parts of a cell's state, beside those that its stages name.
_SIZES, _MEASURED, _VAL, _TRAIN = "room", "contexts", "validation contexts", "training contexts"


def run_cell(config: RunConfig, data: CellData, runtime: Runtime | None = None) -> CellResult:
    """Runs one cell, of CVFP or of a baseline, from its data to its record, its model and its curves.

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
        if config.architecture != CVFP:
            return run_baseline(config, data, runtime or Runtime())
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
        self.watches = Stopwatches(checkpointer.facts(SECONDS) or {})
        checkpointer.include(SECONDS, self.watches.spent)
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
            **identity(config, data),
            **num_params(config.model, len(data.table), phase2.freeze_embedding, phase2.count_embed_norm),
            "params_trained": params_trained(config, len(data.table)),
            "seed": config.seed,
            "precision": config.precision,
            "device": device_name(),
        }
        measures, contexts = self._measured_contexts()
        if contexts is None:
            record = {**record, **WITHOUT_PHASE2, **measures, **self.watches.fields()}
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
        epochs = len(result.epochs)
        flops = cvfp_training(config, data.train_ids, len(data.table), measures["phase1_iterations"], epochs)
        record |= {**measures, **phase2_fields(result), "train_flops": flops, **self.watches.fields()}
        model = None
        # A model reads the contexts of its own block.
        if result.best_epoch > 0 and phase2.contexts in ("trained", "untrained"):
            facts = {name: record[name] for name in _OF_MODELS}
            vocabulary = data.vocabulary or Vocabulary(np.arange(len(data.table), dtype=np.int32))
            model = TrainedModel(with_best_epoch(self.model, result), config, vocabulary, facts)
        kept = None
        if contexts.train is not None and contexts.val is not None:
            kept = Contexts(contexts.train, contexts.val)
        per_epoch = len(train.batches(phase2.batch_size))
        return CellResult(record, model, kept, Curves({**self.curves, **phase2_curves(result, per_epoch)}))

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
        params, streams = _params([*contexts.blocks, self.model.token_block]), []
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
        modules = [*self.blocks, self.model.token_block]
        params, arrays, restored = checkpointer.restore(_MEASURED, (_params(modules), templates, shapes))
        self.curves = {name: np.asarray(curve) for name, curve in restored.items()}
        for module, learned in zip(modules, params, strict=True):
            nnx.update(module, learned)
        if not arrays:
            return _Contexts(self.blocks, None, None)
        devices = self.runtime.mesh.size
        train = self.runtime.new_store((rows[0] + -rows[0] % devices, width), dtype, 0).from_saved(arrays[0])
        return _Contexts(self.blocks, train, as_store(arrays[1]))

    def _make_contexts(self) -> tuple[Record, _Contexts | None]:
        config, data, runtime, watches = self.config, self.data, self.runtime, self.watches
        wanted = config.phase2.contexts
        if wanted == "zero":
            return {**WITHOUT_PHASE1, **WITHOUT_CONTEXTS}, self._zeros()
        vectors_VxE = self.model.embedding.token_vectors()
        stream = TokenStream(vectors_VxE, data.train_ids, data.capacity, data.distinct_capacity)
        val_stream = TokenStream(vectors_VxE, data.val_ids, data.val_capacity)
        record: Record = dict(WITHOUT_PHASE1)
        learned: list[Phase1Result] = []
        if wanted != "untrained":
            with watches.phase1:
                learned = self._learn_blocks(stream, val_stream)
            record = phase1_fields(learned)
            if config.phase2.token_block == "phase1" and learned[0].token_block is not None:
                self.model.token_block = learned[0].token_block
            self.curves = phase1_curves(learned, len(stream), config)
            if record["phase1_status"] == Status.NON_FINITE.label:
                record["status"] = (
                    f"failed: phase 1 was not finite at iteration {record['phase1_iterations']}"
                )
                return record, None
        blocks = [result.block for result in learned] or self.blocks
        with watches.contexts:
            val = self._exact_of_val(blocks, val_stream)
            if learned and config.phase2.train_contexts != "sequential":
                train = learned[0].contexts
            else:
                # As many rows as in phase 1, whose start may have been made by the same program.
                rows = max(data.capacity, *(len(result.contexts) for result in learned), len(stream))
                padded = dataclasses.replace(stream, capacity=rows)
                train = exact_contexts(blocks, padded, runtime=runtime, part=_TRAIN)
            train.block_until_ready()
            for name, contexts in (("validation", val), ("training", train)):
                if (index := _first_broken(contexts)) is not None:
                    record["status"] = f"failed: {name} contexts were not finite at token {index + 1}"
                    return record, None
        with watches.effective_rank:
            # Of what phase 1 ended with, as the reports have it; blocks have ended on different tokens.
            ended = learned[0].contexts if len(learned) == 1 else train
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
        was_parallel = bool(learned) and config.phase2.train_contexts == "parallel"
        del learned, ended
        for index in range(len(blocks)):
            parts = part_name(index), contexts_part(_VAL, index), contexts_part(_TRAIN, index)
            runtime.checkpointer.exclude(*parts)
        with watches.contexts:
            if wanted == "shuffled":
                train, val = self._shuffled(blocks, stream, val_stream)
            elif was_parallel and not config.model.reads_every_layer:
                train = parallel_contexts(blocks[0], stream, train, runtime)
            # As they are saved; phase 1 may have kept them rounded.
            train = train.astype(vectors_VxE.dtype).block_until_ready()
        if config.phase2.train_contexts == "recomputed":
            return record, _Contexts(blocks, None, None)
        return record, _Contexts(blocks, train, val)

    def _exact_of_val(self, blocks: Sequence[ContextBlock], val_stream: TokenStream) -> ContextStore:
        """The validation contexts; no token follows the last one, so its context predicts nothing."""
        alone = self.runtime.on_one_device()
        return exact_contexts(blocks, val_stream[:-1], runtime=alone, part=_VAL).block_until_ready()

    def _zeros(self) -> _Contexts:
        """Contexts that say nothing, and the untrained blocks."""
        data, devices, dtype = self.data, self.runtime.mesh.size, self.data.table.dtype
        width = len(self.blocks) * self.config.model.context_dim
        rows = max(data.capacity, len(data.train_ids))
        train = self.runtime.new_store((rows + -rows % devices, width), dtype, 0)
        val_rows = max(data.val_capacity, len(data.val_ids)) - 1
        return _Contexts(self.blocks, train, as_store(jnp.zeros((val_rows, width), dtype)))

    def _shuffled(
        self, blocks: Sequence[ContextBlock], stream: TokenStream, val_stream: TokenStream
    ) -> tuple[ContextStore, ContextStore]:
        """Exact contexts of both streams' tokens in another order: like the right ones, of the wrong text."""
        rng = np.random.default_rng([self.config.seed, _SHUFFLED])
        streams = [
            dataclasses.replace(tokens, ids_N=rng.permutation(np.asarray(tokens.ids_N)))
            for tokens in (stream, val_stream)
        ]
        # They are not saved for themselves: what phase 2 reads is.
        runtime = dataclasses.replace(self.runtime, checkpointer=Checkpointer())
        train = exact_contexts(blocks, streams[0], runtime=runtime)
        val = exact_contexts(blocks, streams[1][:-1], runtime=runtime.on_one_device())
        return train, val.block_until_ready()

    def _learn_blocks(self, stream: TokenStream, val_stream: TokenStream) -> list[Phase1Result]:
        phase1 = self.config.phase1
        options: dict[str, Any] = {}
        if phase1.lagged_task_weight > 0:
            options["task"] = LaggedTask.of(self.model)
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


def _params(blocks: Sequence[nnx.Module]) -> list[nnx.State]:
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
