"""Context blocks on disjoint data: each learned on its own share of the tokens.

Shapes: N tokens, D context width of a block, E embedding width, V tokens.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from cvfp_jax.checkpointing.checkpointer import Checkpointer
from cvfp_jax.checkpointing.row_file import RowFile, RowFiles
from cvfp_jax.config.settings import Phase1Config
from cvfp_jax.contexts.recurrence import sequential_contexts, write_sequential
from cvfp_jax.core.fixed_point import Status
from cvfp_jax.core.model import ContextBlock
from cvfp_jax.core.optimizer import stale_norm_after
from cvfp_jax.phase1.train import Phase1Result, Progress, learn_contexts


def shares(num_tokens: int, num_blocks: int) -> list[slice]:
    """Returns the tokens of each block: equal shares, the last one longer by what is left.

    A share reaches one token into the next, whose first token its last context predicts.

    >>> [(share.start, share.stop) for share in shares(10, 3)]
    [(0, 4), (3, 7), (6, 10)]
    """
    size = num_tokens // num_blocks
    starts = [number * size for number in range(num_blocks)]
    return [slice(a, b + 1) for a, b in zip(starts, [*starts[1:], num_tokens - 1], strict=True)]


def phase1_part(number: int) -> str:
    """Returns the name under which a block's phase 1 is saved."""
    return f"phase 1, block {number + 1}"


def contexts_part(part: str, number: int) -> str:
    """Returns the name under which a block's exact contexts are saved."""
    return f"{part}, block {number + 1}"


def learn_blocks(
    blocks: Sequence[ContextBlock],
    vectors_VxE: jax.Array,
    ids: np.ndarray,
    config: Phase1Config,
    key: jax.Array,
    *,
    val_ids: np.ndarray | None = None,
    capacity: int = 0,
    val_capacity: int = 0,
    distinct_capacity: int = 0,
    progress: Callable[[int, int], Progress] | None = None,
    checkpointer: Checkpointer | None = None,
    mesh: Mesh | None = None,
    disk: RowFiles | None = None,
) -> list[Phase1Result]:
    """Learns each block on its share of a stream, one after the other.

    Args:
      blocks: the untrained blocks; they are left as they are.
      vectors_VxE: float32, the token vectors.
      ids: int [N], the stream.
      config: the settings. Each block is clipped by its own gradients; ``compat_stale_clip`` counts
        those of the blocks before it in the norm, as the original does.
      key: the random key.
      val_ids: int, the validation stream, for ``stop=val_effective_rank``.
      capacity: the least number of tokens of the whole stream to compile for.
      val_capacity: that of the validation stream.
      distinct_capacity: the least number of distinct tokens.
      progress: makes the progress of a block, given its number from 0 and its number of tokens.
      checkpointer: what the blocks are saved by on the way, and taken up again from.
      mesh: the devices; the first one if none are given.
      disk: where their contexts are kept in files; in memory if it is not said.

    Returns:
      A result a block; none after a block that was not finite.

    References:
      rato-tokyo/new-llm, experiment of 2025-12-02 (two blocks on halves of the data).
    """
    parts = shares(len(ids), len(blocks))
    # A share of the largest stream, with what a last share has left over.
    room = capacity // len(blocks) + len(blocks) if len(blocks) > 1 else capacity
    stale_norm = 0.0 if config.compat_stale_clip else None
    results = []
    for number, (block, part) in enumerate(zip(blocks, parts, strict=True)):
        result = learn_contexts(
            block,
            vectors_VxE,
            ids[part],
            config,
            jax.random.fold_in(key, number) if number else key,
            val_ids=val_ids,
            capacity=room,
            val_capacity=val_capacity,
            distinct_capacity=distinct_capacity,
            stale_norm=stale_norm,
            progress=progress(number, len(ids[part])) if progress else None,
            checkpointer=checkpointer,
            part=phase1_part(number),
            mesh=mesh,
            disk=disk,
        )
        results.append(result)
        if result.status == Status.NON_FINITE:
            break
        if stale_norm is not None:
            stale_norm = stale_norm_after(result.trace["grad_norm"], config.gradient_clip, stale_norm)
    return results


def exact_contexts(
    blocks: Sequence[ContextBlock],
    vectors_VxE: jax.Array,
    ids: np.ndarray,
    *,
    capacity: int = 0,
    checkpointer: Checkpointer | None = None,
    part: str = "contexts",
    mesh: Mesh | None = None,
) -> jax.Array:
    """Returns the left-to-right contexts of all blocks side by side, float32 [N, blocks D].

    With a capacity of more than N there are as many rows, zero beyond the stream; of several devices each
    has a range of them.
    """
    contexts = [
        sequential_contexts(
            block,
            vectors_VxE,
            ids,
            capacity=capacity,
            checkpointer=checkpointer,
            part=contexts_part(part, number),
            mesh=mesh,
        )
        for number, block in enumerate(blocks)
    ]
    return contexts[0] if len(contexts) == 1 else jnp.concatenate(contexts, axis=1)


def write_exact_contexts(
    disk: RowFiles,
    blocks: Sequence[ContextBlock],
    vectors_VxE: jax.Array,
    ids: np.ndarray,
    *,
    capacity: int = 0,
    checkpointer: Checkpointer | None = None,
    part: str = "contexts",
) -> RowFile:
    """Returns the same in a file, which has no part in what is saved."""
    width = blocks[0].context_dim
    made = disk.make((max(capacity, len(ids)), len(blocks) * width), vectors_VxE.dtype, len(ids))
    for number, block in enumerate(blocks):
        write_sequential(
            made,
            block,
            vectors_VxE,
            ids,
            capacity=capacity,
            column=number * width,
            checkpointer=checkpointer,
            part=contexts_part(part, number),
        )
    return made
