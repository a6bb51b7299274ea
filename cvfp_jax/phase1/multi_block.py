"""Context blocks on disjoint data: each learned on its own share of the tokens.

Shapes: N tokens, D context width of a block.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax

from cvfp_jax.config.settings import Phase1Config
from cvfp_jax.contexts.recurrence import sequential_contexts
from cvfp_jax.contexts.runtime import Runtime
from cvfp_jax.contexts.store import ContextStore
from cvfp_jax.core.fixed_point import Status
from cvfp_jax.core.model import ContextBlock
from cvfp_jax.core.optimizer import GradientClip, clip_by_global_norm
from cvfp_jax.core.token_stream import TokenStream
from cvfp_jax.phase1.lagged_task import LaggedTask
from cvfp_jax.phase1.step import Variant
from cvfp_jax.phase1.train import Phase1Result, learn_contexts

# Makes what clips the next block's gradients, given the results of the blocks before it.
NextClip = Callable[[Sequence[Phase1Result]], GradientClip]


def shares(num_tokens: int, num_blocks: int) -> list[slice]:
    """Returns the tokens of each block: equal shares, the last one longer by what is left.

    A share reaches one token into the next, whose first token its last context predicts.

    >>> [(share.start, share.stop) for share in shares(10, 3)]
    [(0, 4), (3, 7), (6, 10)]
    """
    size = num_tokens // num_blocks
    starts = [index * size for index in range(num_blocks)]
    return [slice(a, b + 1) for a, b in zip(starts, [*starts[1:], num_tokens - 1], strict=True)]


def contexts_part(part: str, block_index: int) -> str:
    """Returns the name under which a block's exact contexts are saved."""
    return f"{part}, block {block_index + 1}"


def learn_blocks(
    blocks: Sequence[ContextBlock],
    stream: TokenStream,
    config: Phase1Config,
    key: jax.Array,
    *,
    val_stream: TokenStream | None = None,
    runtime: Runtime | None = None,
    next_clip: NextClip = lambda results: clip_by_global_norm,
    task: LaggedTask | None = None,
) -> list[Phase1Result]:
    """Learns each block on its share of a stream, one after the other.

    Args:
      blocks: the untrained blocks; they are left as they are.
      stream: the tokens.
      config: the settings.
      key: the random key.
      val_stream: the validation tokens, for ``stop=val_effective_rank``.
      runtime: where the blocks are learned, and what watches it.
      next_clip: makes what clips a block's gradients; by default each is clipped by its own norm.
      task: what ``config.lagged_task_weight`` has learned along, with one block.

    Returns:
      A result a block; none after a block that was not finite.

    References:
      rato-tokyo/new-llm, experiment of 2025-12-02 (two blocks on halves of the data).
    """
    num_blocks, capacity = len(blocks), stream.capacity
    if num_blocks > 1:  # a share of the largest stream, with what a last share has left over
        capacity = capacity // num_blocks + num_blocks
    results: list[Phase1Result] = []
    for index, (block, share) in enumerate(zip(blocks, shares(len(stream), num_blocks), strict=True)):
        result = learn_contexts(
            block,
            dataclasses.replace(stream[share], capacity=capacity),
            config,
            jax.random.fold_in(key, index) if index else key,
            val_stream=val_stream,
            runtime=runtime,
            block_index=index,
            variant=Variant(next_clip(results), task=task),
        )
        results.append(result)
        if result.status == Status.NON_FINITE:
            break
    return results


def exact_contexts(
    blocks: Sequence[ContextBlock],
    stream: TokenStream,
    *,
    runtime: Runtime | None = None,
    part: str = "contexts",
) -> ContextStore:
    """Returns the left-to-right contexts of all blocks side by side; see ``sequential_contexts``.

    Args:
      blocks: the trained blocks.
      stream: the tokens.
      runtime: where they are computed and kept, and what saves them.
      part: the name under which they are saved, a block's number behind it.

    Returns:
      Float32 [N, blocks D].
    """
    contexts = [
        sequential_contexts(block, stream, runtime=runtime, part=contexts_part(part, index))
        for index, block in enumerate(blocks)
    ]
    return contexts[0].beside(contexts[1:])
