"""What a sweep will take, told before it starts."""

import dataclasses
from typing import Any

from cvfp_jax.config import RunConfig
from cvfp_jax.data.tokenizer import VOCAB_SIZE
from cvfp_jax.errors import UserError
from cvfp_jax.fields import replace
from cvfp_jax.widths import context_widths, num_params, token_context_widths, token_widths

_FLOAT_BYTES = 4
# Python, JAX and its compiler, SciPy and the cell's programs, as measured on a CPU.
_PROCESS_BYTES = 800 * 2**20
# Logits, exponentials and their like: a few chunks of the vocabulary head's 32 MiB.
_HEAD_BYTES = 4 * 32 * 2**20
# What a micro-batch keeps for its backward pass: rows as wide as each layer, as its tokens, and as the
# inner layer of two linear maps, as measured, and a third more.
_ROWS_OF_WIDTH, _ROWS_OF_WINDOW, _ROWS_OF_INNER = 8, 2, 4
# Arrays of all pairs of rows.
_PAIRS_OF_ROWS = {"UNIF": 3, "InfoNCE": 3}
# Parameters, gradient, two moments and an update; in phase 2 also those of the start and of the best epoch.
_COPIES_PHASE1, _COPIES_PHASE2 = 5, 8
_COPIES_TABLES = 2
# Contexts of all lanes, those of one round and those put in order.
_LANE_ROWS, _LANE_COPIES = 64 * 1024, 3
# The effective rank's blocks of rows, and how often LAPACK holds one.
_QR_ROWS, _QR_COPIES = 8192, 4


@dataclasses.dataclass(frozen=True)
class CellPlan:
    """One cell's parameters and, where its data are known, its tokens, memory and work."""

    config: RunConfig
    series: str
    params: dict[str, int | None]
    vocab_size: int | None
    train_tokens: int | None
    memory_bytes: int | None

    def to_json(self) -> dict[str, Any]:
        """Returns the plan as JSON; what only the data can tell is null."""
        return {
            "config_name": self.config.config_name,
            "series": self.series,
            "seed": self.config.seed,
            "context_dim": self.config.model.context_dim,
            "num_samples": self.config.num_samples,
            "vocab_size": self.vocab_size,
            "train_tokens": self.train_tokens,
            **self.params,
            "memory_bytes": self.memory_bytes,
        }


def plan_cell(
    config: RunConfig,
    vocab_size: int | None = None,
    train_tokens: int | None = None,
    capacity: int = 0,
    series: str | None = None,
) -> CellPlan:
    """Plans one cell.

    Args:
      config: the cell.
      vocab_size: V, if the data are known; GPT-2's is, unless the corpus decides.
      train_tokens: N, if the data are known.
      capacity: the most tokens of any cell of the sweep, for which the arrays of all are made.
      series: the cell's name; that of its config if none is given.

    Returns:
      Its plan.

    >>> plan_cell(RunConfig()).params["params_total"]
    40962816
    """
    if config.data.vocabulary == "full":
        vocab_size = VOCAB_SIZE
    params: dict[str, int | None] = {}
    phase2 = config.phase2
    params |= num_params(config.model, vocab_size or 1, phase2.freeze_embedding, phase2.count_embed_norm)
    if vocab_size is None:
        unknown = ["params_total"]
        if not (config.model.use_weight_tying and phase2.freeze_embedding):
            unknown += ["params_head", "params_trainable_phase2"]
        params |= dict.fromkeys(unknown)
    memory = None
    if vocab_size is not None and train_tokens is not None:
        memory = expected_memory(config, vocab_size, max(train_tokens, capacity))
    return CellPlan(config, series or config.config_name, params, vocab_size, train_tokens, memory)


def expected_memory(config: RunConfig, vocab_size: int, train_tokens: int, host: bool = True) -> int:
    """Estimates a cell's peak memory, from above.

    The largest of phase 1 (one set of contexts, the tables of distinct tokens, a micro-batch's
    activations), the measures (two sets, the lanes of exact contexts or the blocks of a QR) and phase 2
    (one set, a batch's activations, the head), with the tables and the parameters; on the host also the
    process and a checkpoint on its way to the disk. Measured peaks are between half of it and all of it
    (``tests/test_plan.py``).

    Args:
      config: the cell.
      vocab_size: V.
      train_tokens: N.
      host: whether arrays live in the process's own memory, as on a CPU.

    Returns:
      Bytes.
    """
    model = config.model
    contexts = train_tokens * model.context_dim * model.num_blocks
    counts = num_params(model, vocab_size, config.phase2.freeze_embedding, count_embed_norm=False)
    block, trained = counts["params_context_block"], counts["params_trainable_phase2"]
    # What an iteration reads and writes; rounded, half of it.
    held = contexts if config.phase1.context_dtype == "float32" else contexts // 2
    phase1 = held + _tables(config, min(vocab_size, train_tokens)) + _COPIES_PHASE1 * block
    phase1 += _phase1_rows(config, train_tokens)
    width = model.context_dim * model.num_blocks
    lanes = _LANE_COPIES * min(train_tokens, _LANE_ROWS) * model.context_dim
    measures = 2 * contexts + max(lanes, _QR_COPIES * (max(_QR_ROWS, width) + width) * width)
    phase2 = (
        contexts + _phase2_rows(config, train_tokens) + _COPIES_PHASE2 * trained + _HEAD_BYTES // _FLOAT_BYTES
    )
    # The table on the host and on the device, and the vectors made of it.
    always = 3 * vocab_size * model.embed_dim + counts["params_token_block"] + counts["params_head"] + block
    if config.precision == "bf16":
        always += vocab_size * model.embed_dim // 2
    if host:
        # What phase 1 saves is copied, what phase 2 saves of contexts is not; both are packed.
        phase1 += 3 * (held + 3 * block) // 2
        phase2 += contexts + 5 * trained
    total = _FLOAT_BYTES * (always + max(phase1, measures, phase2))
    return total + _PROCESS_BYTES if host else total


def _tables(config: RunConfig, distinct: int) -> int:
    """Numbers in the distinct tokens' vectors, and in their token terms with a gradient each."""
    model = config.model
    widths = context_widths(model)[1:]
    reading = widths if model.token_input_all_layers else widths[:1]
    window = model.num_input_tokens * model.embed_dim
    if model.ffn_num_layers == 2:
        reading = [4 * (width + window) for width in context_widths(model)[: len(reading)]]
    return distinct * (model.embed_dim + _COPIES_TABLES * model.num_input_tokens * sum(reading))


def _phase1_rows(config: RunConfig, train_tokens: int) -> int:
    """Numbers that a micro-batch keeps for its backward pass."""
    model = config.model
    rows = min(config.phase1.batch_size, train_tokens) or train_tokens
    widths = context_widths(model)
    window = model.num_input_tokens * model.embed_dim
    each = _ROWS_OF_WIDTH * sum(widths[1:]) + _ROWS_OF_WINDOW * window
    if model.ffn_num_layers == 2:
        each += _ROWS_OF_INNER * sum(4 * (width + window) for width in widths[:-1])
    pairs = _PAIRS_OF_ROWS.get(config.phase1.diversity, 0)
    return rows * (each + pairs * rows)


def _phase2_rows(config: RunConfig, train_tokens: int) -> int:
    """Numbers that a batch of phase 2 keeps for its backward pass."""
    model = config.model
    rows = min(config.phase2.batch_size, train_tokens)
    widths, contexts = token_widths(model), token_context_widths(model)
    each = _ROWS_OF_WIDTH * sum(widths[1:]) + _ROWS_OF_WINDOW * (widths[0] + sum(contexts))
    if model.ffn_num_layers == 2:
        each += _ROWS_OF_INNER * sum(4 * (a + b) for a, b in zip(widths[:-1], contexts, strict=True))
    if model.reads_every_layer:
        each += 2 * sum(context_widths(model))
    return rows * each


SMALLER = "use a smaller --config.phase1.batch_size, --config.phase2.batch_size, --context_dims or --samples"
_LEAST_BATCH, _LEAST_WIDTH = 256, 16


def check_fits(plan: CellPlan, capacity: int, available: int, host: bool) -> None:
    """Refuses a cell that is not expected to fit in memory, and names a setting with which it is.

    Args:
      plan: a cell's, its data known.
      capacity: the most tokens of any cell of the sweep.
      available: bytes.
      host: see ``expected_memory``.

    Raises:
      UserError: it does not fit.
    """
    config, vocab_size = plan.config, plan.vocab_size
    assert vocab_size is not None
    assert plan.train_tokens is not None
    tokens = max(plan.train_tokens, capacity)
    needed = expected_memory(config, vocab_size, tokens, host)
    if needed <= available:
        return

    def fits(field: str, value: int) -> bool:
        return expected_memory(replace(config, {field: value}), vocab_size, tokens, host) <= available

    rows1, rows2 = config.phase1.batch_size or tokens, min(config.phase2.batch_size, tokens)
    ways = (
        ("--config.phase1.batch_size", "phase1.batch_size", rows1, _LEAST_BATCH),
        ("--config.phase2.batch_size", "phase2.batch_size", rows2, _LEAST_BATCH),
        ("--context_dims", "model.context_dim", config.model.context_dim, _LEAST_WIDTH),
    )
    advice = SMALLER
    for flag, field, value, least in ways:
        while (value := value // 2) >= least and not fits(field, value):
            pass
        if value >= least:
            advice = f"use {flag}={value}"
            break
    raise UserError(
        f"{plan.series}, {config.num_samples} samples, needs about {gib(needed)} of memory, and"
        f" {gib(available)} are free: {advice}, or add --force."
    )


def gib(count: int) -> str:
    """Returns a number of bytes for people.

    >>> gib(3 * 2**29)
    '1.5 GiB'
    """
    return f"{count / 2**30:.1f} GiB"


def work(config: RunConfig, vocab_size: int, train_tokens: int, iterations: float, epochs: float) -> float:
    """Returns the products that a cell's two phases take, to foretell how long the cells to come will."""
    model = config.model
    inputs = model.context_dim + model.num_input_tokens * model.embed_dim
    phase1 = 3 * iterations * model.num_layers * model.context_dim * inputs
    phase2 = 2 * epochs * model.embed_dim * vocab_size
    return float(train_tokens) * (phase1 + phase2)
