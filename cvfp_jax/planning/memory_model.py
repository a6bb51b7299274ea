"""The arrays of a cell and their bytes, on the host or on each of some devices.

On several devices contexts, token ids and the rows of batches are shared out, each device holding a range of
them; parameters, token tables and the embedding are on every device.
"""

import dataclasses

from cvfp_jax.checkpointing.row_file import CHUNK_BYTES
from cvfp_jax.config.settings import RunConfig
from cvfp_jax.contexts.recurrence import CHUNK, CPU_LANES, LANES
from cvfp_jax.core.effective_rank import BLOCK_ROWS
from cvfp_jax.core.widths import FFN_EXPANSION, context_widths, num_params, token_context_widths, token_widths
from cvfp_jax.distributed.layout import range_of_device
from cvfp_jax.kernels.cross_entropy import LOGITS

FLOAT_BYTES, INDEX_BYTES = 4, 4
# The stages of a cell, each with arrays of its own beside those that are always there.
ALWAYS, PHASE1, CONTEXTS, RANK, PHASE2 = "always", "phase 1", "contexts", "effective rank", "phase 2"
STAGES = (PHASE1, CONTEXTS, RANK, PHASE2)
# What a batch keeps for its backward pass: rows as wide as each layer, in phase 2 as its inputs (in phase 1
# they come from tables), and as the inner layer of two linear maps, as measured, and a third more.
_ROWS_OF_WIDTH, _ROWS_OF_INPUT, _ROWS_OF_INNER = 8, 2, 4
# Arrays of all pairs of rows.
_PAIRS_OF_ROWS = {"UNIF": 3, "InfoNCE": 3}
# Parameters, gradient, two moments and an update; in phase 2 also those of the start and of the best epoch.
_COPIES_PHASE1, _COPIES_PHASE2 = 5, 8
_COPIES_TABLES = 2
# Contexts of all lanes, those of one round and those put in order (``recurrence``).
_LANE_COPIES = 3
# How often LAPACK holds the effective rank's block of rows.
_QR_COPIES = 4
# Logits, exponentials and their like, a few of each: a CPU's fit into chunks of 32 MiB, an accelerator's are
# made for so many rows and tokens at a time (``cross_entropy``).
_HEAD_COPIES, _CPU_HEAD_BYTES = 4, 32 * 2**20
# Of contexts on the disk a chunk at a time is in memory, as read, as worked on and as written, and the
# next and the last of them, as measured.
_CHUNKS_IN_MEMORY = 12
# A token's places among the distinct ones, while they are made.
_PLACES_BYTES = 32


@dataclasses.dataclass(frozen=True)
class Share:
    """What one device holds and works on; a CPU with all of it is one, too."""

    tokens: int  # rows of contexts, and token ids
    distinct: int  # tokens, of the whole stream
    micro_batch: int  # rows of phase 1's, at work at a time
    batch: int  # rows of phase 2's
    devices: int = 1
    on_cpu: bool = False
    on_disk: bool = False  # whether contexts are

    @classmethod
    def whole(
        cls, config: RunConfig, vocab_size: int, num_tokens: int, on_cpu: bool, on_disk: bool = False
    ) -> "Share":
        """Returns all of a cell, on one device."""
        return cls(
            num_tokens,
            min(vocab_size, num_tokens),
            min(config.phase1.batch_size, num_tokens) or num_tokens,
            min(config.phase2.batch_size, num_tokens),
            on_cpu=on_cpu,
            on_disk=on_disk,
        )

    @classmethod
    def of_devices(cls, config: RunConfig, vocab_size: int, num_tokens: int, devices: int) -> "Share":
        """Returns what the busiest of some devices holds of a cell, as phase 1 shares it out.

        >>> Share.of_devices(RunConfig(), 50257, 1_000_000, devices=64).tokens  # 125 micro-batches of 8,000
        16000
        """
        blocks = config.model.num_blocks
        of_block = -(-num_tokens // blocks)
        rows, batches, _ = range_of_device(devices, of_block, config.phase1.batch_size)
        batch = -(-min(config.phase2.batch_size, num_tokens) // devices)
        return cls(blocks * batches * rows, min(vocab_size, num_tokens), rows, batch, devices)


def context_bytes(config: RunConfig, num_tokens: int, dtype: str = "float32") -> int:
    """Returns the bytes of the contexts of so many tokens, of all blocks.

    >>> context_bytes(RunConfig(), 1000)
    3072000
    """
    width = config.model.context_dim * config.model.num_blocks
    return num_tokens * width * (FLOAT_BYTES if dtype == "float32" else 2)


def cell_arrays(config: RunConfig, vocab_size: int, share: Share) -> dict[str, dict[str, int]]:
    """Returns the bytes of a cell's arrays by stage and name, from above.

    The stages come one after the other, so a device needs the most of any stage beside what is ``always``
    there. Validation's arrays are left out, and so is what a host holds beside its device.

    Args:
      config: the cell.
      vocab_size: V.
      share: what the device holds of it.

    Returns:
      The arrays of ``always`` and of each stage.

    >>> arrays = cell_arrays(RunConfig(), 50257, Share.whole(RunConfig(), 50257, 1000, on_cpu=False))
    >>> arrays["phase 1"]["contexts"]
    3072000
    """
    model = config.model
    counts = num_params(model, vocab_size, config.phase2.freeze_embedding, count_embed_norm=False)
    block, trained = counts["params_context_block"], counts["params_trainable_phase2"]
    table = vocab_size * model.embed_dim * FLOAT_BYTES
    always = {
        "embedding table": table,
        "token vectors": table,
        "parameters": FLOAT_BYTES * (counts["params_token_block"] + counts["params_head"] + block),
        "token ids": share.tokens * INDEX_BYTES,
    }
    if config.precision == "bf16":
        always["embedding table in bf16"] = table // 2
    contexts = context_bytes(config, share.tokens)
    held = context_bytes(config, share.tokens, config.phase1.context_dtype)
    rounded = held < contexts
    width = model.context_dim * model.num_blocks
    rank = {"contexts of phase 1": held}
    if rounded:
        rank["contexts of phase 1 in f32"] = contexts
    if config.phase2.train_contexts == "sequential":
        rank["exact contexts"] = contexts
    rank["block of rows"] = FLOAT_BYTES * _QR_COPIES * (max(BLOCK_ROWS, width) + width) * width
    if share.devices > 1:
        rank["triangular factors"] = FLOAT_BYTES * share.devices * width**2
    arrays = {
        ALWAYS: always,
        PHASE1: {
            "contexts": held,
            "vectors of distinct tokens": FLOAT_BYTES * share.distinct * model.embed_dim,
            "token tables, gradients": FLOAT_BYTES * share.distinct * _COPIES_TABLES * table_width(config),
            "block, gradient, Adam": FLOAT_BYTES * _COPIES_PHASE1 * block,
            "a micro-batch's rows": FLOAT_BYTES * _phase1_rows(config, share.micro_batch),
        },
        CONTEXTS: {"contexts of phase 1": held, **_new_contexts(config, share)},
        RANK: rank,
        PHASE2: {
            "contexts": contexts,
            "a batch's rows": FLOAT_BYTES * _phase2_rows(config, share.batch),
            "token block, gradient, Adam": FLOAT_BYTES * _COPIES_PHASE2 * trained,
            "logits at a time": _head_bytes(config, vocab_size, share),
        },
    }
    return _on_disk(arrays, config, share) if share.on_disk else arrays


def _on_disk(arrays: dict[str, dict[str, int]], config: RunConfig, share: Share) -> dict[str, dict[str, int]]:
    """The arrays of a cell whose contexts are on the disk, given those of one with them in memory."""
    chunks = _CHUNKS_IN_MEMORY * max(CHUNK_BYTES, context_bytes(config, share.micro_batch))
    chunk = min(share.tokens, (CPU_LANES if share.on_cpu else LANES) * CHUNK)
    # Those of a chunk that is made, and of the last one, which is written.
    lanes = (_LANE_COPIES + 2) * FLOAT_BYTES * chunk * config.model.context_dim
    phase1, phase2 = dict(arrays[PHASE1]), dict(arrays[PHASE2])
    del phase1["contexts"], phase2["contexts"]
    phase1["chunks of contexts"] = chunks
    phase1["places of tokens"] = _PLACES_BYTES * share.tokens
    phase2["batches of contexts"] = _CHUNKS_IN_MEMORY * context_bytes(config, share.batch)
    return {
        ALWAYS: arrays[ALWAYS],
        PHASE1: phase1,
        CONTEXTS: {"chunks of contexts, or lanes": max(chunks, lanes)},
        RANK: {"block of rows": arrays[RANK]["block of rows"]},
        PHASE2: phase2,
    }


def _new_contexts(config: RunConfig, share: Share) -> dict[str, int]:
    """The contexts that phase 2 reads: made in whole chunks, then cut to the stream, which copies them."""
    contexts = context_bytes(config, share.tokens)
    chunk = (CPU_LANES if share.on_cpu else LANES) * CHUNK
    lanes = FLOAT_BYTES * _LANE_COPIES * min(share.tokens, chunk) * config.model.context_dim
    if config.phase2.train_contexts != "sequential":
        # Validation's contexts are walked along before, and are not more.
        return {"new contexts and a copy, or lanes": max(2 * contexts, lanes)}
    padding = -share.tokens % chunk if share.tokens > chunk else 0
    return {
        "exact contexts, whole chunks": contexts + context_bytes(config, padding),
        "lanes, later a copy": max(contexts, lanes),
    }


def peak(arrays: dict[str, dict[str, int]]) -> int:
    """Returns the bytes of the stage that takes most, with those that are always there.

    >>> peak({"always": {"a": 1}, "phase 1": {"b": 2, "c": 3}, "phase 2": {"d": 4}})
    6
    """
    return sum(arrays[ALWAYS].values()) + max(
        sum(stage.values()) for name, stage in arrays.items() if name != ALWAYS
    )


def table_width(config: RunConfig) -> int:
    """Returns the numbers in the token terms of one distinct token."""
    model = config.model
    widths = context_widths(model)[1:]
    reading = widths if model.token_input_all_layers else widths[:1]
    window = model.num_input_tokens * model.embed_dim
    if model.ffn_num_layers == 2:
        reading = [FFN_EXPANSION * (width + window) for width in context_widths(model)[: len(reading)]]
    return model.num_input_tokens * sum(reading)


def _phase1_rows(config: RunConfig, rows: int) -> int:
    """Numbers that a micro-batch keeps for its backward pass."""
    model = config.model
    widths = context_widths(model)
    each = _ROWS_OF_WIDTH * sum(widths[1:])
    if model.ffn_num_layers == 2:
        window = model.num_input_tokens * model.embed_dim
        each += _ROWS_OF_INNER * FFN_EXPANSION * sum(width + window for width in widths[:-1])
    pairs = _PAIRS_OF_ROWS.get(config.phase1.diversity, 0)
    return rows * (each + pairs * rows)


def _phase2_rows(config: RunConfig, rows: int) -> int:
    """Numbers that a batch of phase 2 keeps for its backward pass."""
    model = config.model
    widths, contexts = token_widths(model), token_context_widths(model)
    each = _ROWS_OF_WIDTH * sum(widths[1:]) + _ROWS_OF_INPUT * (widths[0] + sum(contexts))
    if model.ffn_num_layers == 2:
        inputs = zip(widths[:-1], contexts, strict=True)
        each += _ROWS_OF_INNER * FFN_EXPANSION * sum(map(sum, inputs))
    if model.reads_every_layer:
        each += 2 * sum(context_widths(model))
    return rows * each


def _head_bytes(config: RunConfig, vocab_size: int, share: Share) -> int:
    """The logits that are there at a time; a trained head's are in chunks of a CPU's size everywhere."""
    frozen = config.phase2.freeze_embedding and config.model.use_weight_tying
    if share.on_cpu or not frozen:
        return _HEAD_COPIES * _CPU_HEAD_BYTES
    rows, tokens = LOGITS
    return _HEAD_COPIES * FLOAT_BYTES * min(share.batch, rows) * min(vocab_size, tokens)
