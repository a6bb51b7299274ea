"""What is timed: the parts by name, the operations that each needs, and what a cell is made of.

Operations are counted as ``planning/flops`` has it, those of exact contexts a token; those of a whole
cell are the sum over what it is made of, ``cell``.
"""

import dataclasses
from collections.abc import Mapping

from benchmarks.workload import Workload
from cvfp_jax.config.settings import ModelConfig, Phase2Config
from cvfp_jax.planning import flops
from experiments.systems import R3_V2

PHASE1, RECURRENCE, PARALLEL = "phase1", "recurrence", "parallel"
TRAIN, EVALUATE, RANK = "phase2_train", "phase2_eval", "effective_rank"
UNITS = {
    PHASE1: "an iteration",
    RECURRENCE: "a token",
    PARALLEL: "a pass",
    TRAIN: "a batch",
    EVALUATE: "a batch",
    RANK: "a matrix",
}
WHOLE_CELL = "whole_cell"
NAMES = (
    "phase1_k1",
    "phase1_k2",
    "recurrence_768",
    "recurrence_256",
    "phase2_train_512",
    "phase2_train_2048",
    "phase2_eval",
    "effective_rank",
    WHOLE_CELL,
)
# R3 v2 at 50 samples (reports.json; its validation tokens are those of data/example_val.txt).
CELL_ITERATIONS = 22  # 23 are reported, the start among them
CELL_VAL_TOKENS = 31_024
# The most is held by one of these: the other parts hold no more than one of them does.
CELL_MEMORY = ("cell_phase1", "cell_phase2_train")
CELL_EPOCHS = R3_V2.phase2.epochs


@dataclasses.dataclass(frozen=True)
class Part:
    """One thing to time, at its sizes."""

    kind: str
    work: Workload
    rows: int  # tokens of a run, rows of a batch or of a matrix

    @property
    def runs_per_unit(self) -> float:
        """What a run's seconds are divided by: exact contexts are timed many at a time, and told a token."""
        return self.rows if self.kind == RECURRENCE else 1

    def operations(self, distinct: int) -> float:
        """Returns the operations that a unit of work needs, given U of the whole stream."""
        work, rows = self.work, self.rows
        model = ModelConfig(
            context_dim=work.context_dim, embed_dim=work.embed_dim, num_input_tokens=work.input_tokens
        )
        match self.kind:
            case "phase1":
                return flops.phase1_iteration(model, rows, distinct)
            case "recurrence":
                return flops.exact_contexts(model, 1)
            case "parallel":
                return flops.parallel_pass(model, rows, distinct)
            case "effective_rank":
                return flops.effective_rank(rows, work.context_dim)
            case "phase2_eval":
                return flops.phase2_forward(model, work.vocab, rows)
        return flops.phase2_training(model, Phase2Config(), work.vocab, rows)

    def product_shape(self) -> tuple[int, int, int]:
        """Returns the rows, the inner width and the columns of the product that most operations are in."""
        D, E, V = self.work.context_dim, self.work.embed_dim, self.work.vocab
        match self.kind:
            case "phase1" | "parallel":
                return min(self.rows, R3_V2.phase1.batch_size), D, D
            case "recurrence":
                return 1, D, D
            case "effective_rank":
                return self.rows, D, D
        # More rows change nothing but the time that it takes to measure.
        return min(self.rows, 512), E, V


@dataclasses.dataclass(frozen=True)
class Scale:
    """Sizes that the workload does not say."""

    eval_batch: int = 2048
    recurrence_tokens: int = CELL_VAL_TOKENS - 1  # as many as a cell walks along
    rank_rows: int = R3_V2.effective_rank_rows
    # The original took what its GPU's free memory held; with so many the cell is a sum of parts timed anyway.
    cell_batch: int = 2048
    cell_val_tokens: int = CELL_VAL_TOKENS


def parts(work: Workload, scale: Scale) -> dict[str, Part]:
    """Returns every part that can be timed by name, those of the cell among them."""
    with_k = {K: dataclasses.replace(work, input_tokens=K) for K in (1, 2)}

    def sequential(dim: int) -> Part:
        tokens = min(work.tokens, scale.recurrence_tokens)
        return Part(RECURRENCE, dataclasses.replace(work, context_dim=dim, tokens=tokens), tokens)

    def batch(kind: str, rows: int) -> Part:
        return Part(kind, work, min(rows, work.tokens - 1))

    return {
        "phase1_k1": Part(PHASE1, with_k[1], work.tokens),
        "phase1_k2": Part(PHASE1, with_k[2], work.tokens),
        "recurrence_768": sequential(768),
        "recurrence_256": sequential(256),
        "phase2_train_512": batch(TRAIN, 512),
        "phase2_train_2048": batch(TRAIN, 2048),
        "phase2_eval": batch(EVALUATE, scale.eval_batch),
        "effective_rank": Part(RANK, work, scale.rank_rows),
        "cell_phase1": Part(PHASE1, work, work.tokens),
        "cell_recurrence": sequential(work.context_dim),
        "cell_parallel": Part(PARALLEL, work, work.tokens),
        "cell_phase2_train": batch(TRAIN, scale.cell_batch),
        "cell_phase2_eval": batch(EVALUATE, scale.cell_batch),
    }


def cell(work: Workload, scale: Scale) -> dict[str, float]:
    """Returns how often a whole cell does each part.

    22 iterations of phase 1; exact contexts of the validation tokens but the last; one parallel pass over
    the training tokens; two effective ranks; and 20 epochs of phase 2, each over the training tokens but the
    last and, to evaluate, over the validation tokens but the last. Batches count in fractions.
    """
    made = parts(work, scale)
    predictions, validations = work.tokens - 1, scale.cell_val_tokens - 1
    return {
        "cell_phase1": CELL_ITERATIONS,
        "cell_recurrence": validations,
        "cell_parallel": 1,
        "effective_rank": 2,
        "cell_phase2_train": CELL_EPOCHS * predictions / made["cell_phase2_train"].rows,
        "cell_phase2_eval": CELL_EPOCHS * validations / made["cell_phase2_eval"].rows,
    }


def cell_formula(counts: Mapping[str, float]) -> str:
    """Returns the sum in one line."""
    return "whole_cell = " + " + ".join(f"{count:,.5g} {name}" for name, count in counts.items())


def needed(names: tuple[str, ...], work: Workload, scale: Scale) -> list[str]:
    """Returns the parts to time for these names: themselves, and what a whole cell is made of."""
    chosen = [name for name in names if name != WHOLE_CELL]
    if WHOLE_CELL in names:
        chosen += [name for name in cell(work, scale) if name not in chosen]
    return chosen
