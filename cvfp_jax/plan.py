"""What a sweep will take, told before it starts."""

import dataclasses
from typing import Any

from cvfp_jax.config import RunConfig
from cvfp_jax.data.tokenizer import VOCAB_SIZE
from cvfp_jax.widths import num_params

_FLOAT_BYTES = 4
# Python, JAX and its compiler, SciPy and the cell's programs, as measured on a CPU.
_PROCESS_BYTES = 800 * 2**20
# Logits, exponentials and their like: a few chunks of the vocabulary head's 32 MiB.
_HEAD_BYTES = 4 * 32 * 2**20
# Rows of width D that a micro-batch keeps for its backward pass, and of width K E.
_ROWS_OF_D, _ROWS_OF_KE = 12, 3


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


def expected_memory(config: RunConfig, vocab_size: int, train_tokens: int) -> int:
    """Estimates a cell's peak memory.

    The larger of phase 1 (two sets of contexts and a micro-batch's activations) and phase 2 (one set
    and a chunk of the head), with the tables, the parameters and the process itself.

    Args:
      config: the cell.
      vocab_size: V.
      train_tokens: N.

    Returns:
      Bytes.
    """
    model = config.model
    contexts = train_tokens * model.context_dim * model.num_blocks
    rows = min(config.phase1.batch_size, train_tokens) or train_tokens
    window = model.num_input_tokens * model.embed_dim
    activations = rows * (_ROWS_OF_D * model.context_dim * model.num_layers + _ROWS_OF_KE * window)
    # The table on the host and on the device, and the vectors made of it.
    tables = 3 * vocab_size * model.embed_dim
    counts = num_params(model, vocab_size)
    # Parameters, gradient, two moments and an update.
    blocks = counts["params_context_block"] + counts["params_token_block"]
    trained = 5 * (blocks + counts["params_head"])
    phase1 = _FLOAT_BYTES * (2 * contexts + activations)
    phase2 = _FLOAT_BYTES * contexts + _HEAD_BYTES
    return _PROCESS_BYTES + _FLOAT_BYTES * (tables + trained) + max(phase1, phase2)


def work(config: RunConfig, vocab_size: int, train_tokens: int, iterations: float, epochs: float) -> float:
    """Returns the products that a cell's two phases take, to foretell how long the cells to come will."""
    model = config.model
    inputs = model.context_dim + model.num_input_tokens * model.embed_dim
    phase1 = 3 * iterations * model.num_layers * model.context_dim * inputs
    phase2 = 2 * epochs * model.embed_dim * vocab_size
    return float(train_tokens) * (phase1 + phase2)


def remedy(config: RunConfig) -> str:
    """Returns the settings that make a cell smaller."""
    return "lower --config.phase1.batch_size"
