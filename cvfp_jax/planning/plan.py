"""What a sweep will take, told before it starts."""

import dataclasses
from typing import Any

from cvfp_jax.config.overrides import replace
from cvfp_jax.config.settings import RunConfig
from cvfp_jax.core.widths import num_params
from cvfp_jax.data.tokenizer import VOCAB_SIZE
from cvfp_jax.errors import UserError
from cvfp_jax.planning import memory_model
from cvfp_jax.planning.memory_model import FLOAT_BYTES, Share

# Counts and places of tokens are int32.
MOST_COUNTED = 2**31 - 1
# Python, JAX and its compiler, SciPy and the cell's programs, as measured on a CPU.
_PROCESS_BYTES = 800 * 2**20


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


def expected_memory(
    config: RunConfig,
    vocab_size: int,
    train_tokens: int,
    host: bool = True,
    devices: int = 1,
    on_disk: bool = False,
) -> int:
    """Estimates a cell's peak memory, from above.

    What ``memory_model`` says of the stage that takes most; on the host also the process, the table once more
    and a checkpoint on its way to the disk. Measured peaks are between half of it and all of it
    (``tests/planning/test_plan.py``).

    Args:
      config: the cell.
      vocab_size: V.
      train_tokens: N.
      host: whether arrays live in the process's own memory, as on a CPU.
      devices: how many share the cell; a host holds all of it.
      on_disk: whether training's contexts are on the disk, of one device.

    Returns:
      Bytes, of a device if it has a memory of its own.
    """
    if not host:
        share = Share.of_devices(config, vocab_size, train_tokens, devices)
        share = dataclasses.replace(share, on_disk=on_disk)
        return memory_model.peak(memory_model.cell_arrays(config, vocab_size, share))
    share = Share.whole(config, vocab_size, train_tokens, True, on_disk)
    arrays = memory_model.cell_arrays(config, vocab_size, share)
    counts = num_params(config.model, vocab_size, config.phase2.freeze_embedding, count_embed_norm=False)
    arrays[memory_model.ALWAYS]["the host's table"] = FLOAT_BYTES * vocab_size * config.model.embed_dim
    # What phase 1 saves is copied, what phase 2 saves of contexts is not; both are packed. Files are linked.
    saved = arrays[memory_model.PHASE1].get("contexts", 0) + 3 * FLOAT_BYTES * counts["params_context_block"]
    arrays[memory_model.PHASE1]["checkpoint"] = 3 * saved // 2
    trained = FLOAT_BYTES * 5 * counts["params_trainable_phase2"]
    arrays[memory_model.PHASE2]["checkpoint"] = arrays[memory_model.PHASE2].get("contexts", 0) + trained
    return memory_model.peak(arrays) + _PROCESS_BYTES


SMALLER = "use a smaller --config.phase1.batch_size, --config.phase2.batch_size, --context_dims or --samples"
_LEAST_BATCH, _LEAST_WIDTH = 256, 16


def check_counted(num_tokens: int) -> None:
    """Refuses a sweep of more tokens than are counted.

    Args:
      num_tokens: of its largest cell.

    Raises:
      UserError: they are too many.
    """
    if num_tokens > MOST_COUNTED:
        raise UserError(
            f"the training samples have {num_tokens:,} tokens, and no more than {MOST_COUNTED:,} are counted:"
            " use fewer --samples."
        )


def contexts_go_to_disk(
    contexts_in: str, plan: CellPlan, capacity: int, available: int, host: bool, devices: int = 1
) -> bool:
    """Says where a cell's training contexts are to be, and refuses a cell that does not fit either way.

    Args:
      contexts_in: ``memory``, ``disk`` or ``auto``: on the disk if the cell fits in memory only so.
      plan: a cell's, its data known.
      capacity: the most tokens of any cell of the sweep.
      available: bytes.
      host: see ``expected_memory``.
      devices: how many share the cell; contexts on the disk are one device's.

    Returns:
      Whether on the disk.

    Raises:
      UserError: it does not fit.
    """
    if contexts_in == "auto":
        assert plan.vocab_size is not None
        assert plan.train_tokens is not None
        size = plan.config, plan.vocab_size, max(plan.train_tokens, capacity), host, devices
        in_memory, on_disk = (expected_memory(*size, on_disk=place) for place in (False, True))
        contexts_in = "disk" if devices == 1 and on_disk <= available < in_memory else "memory"
    check_fits(plan, capacity, available, host, devices, contexts_in == "disk")
    return contexts_in == "disk"


def check_fits(
    plan: CellPlan, capacity: int, available: int, host: bool, devices: int = 1, on_disk: bool = False
) -> None:
    """Refuses a cell that is not expected to fit in memory, and names a setting with which it is.

    Args:
      plan: a cell's, its data known.
      capacity: the most tokens of any cell of the sweep.
      available: bytes.
      host: see ``expected_memory``.
      devices: how many share the cell.
      on_disk: whether training's contexts are on the disk.

    Raises:
      UserError: it does not fit.
    """
    config, vocab_size = plan.config, plan.vocab_size
    assert vocab_size is not None
    assert plan.train_tokens is not None
    tokens = max(plan.train_tokens, capacity)
    needed = expected_memory(config, vocab_size, tokens, host, devices, on_disk)
    if needed <= available:
        return

    def fits(field: str, value: int) -> bool:
        changed = replace(config, {field: value})
        return expected_memory(changed, vocab_size, tokens, host, devices, on_disk) <= available

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
