"""A token stream with its contexts, a batch at a time.

Shapes: N tokens of a stream, D context width.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from cvfp_jax.contexts.store import ContextStore, as_store
from cvfp_jax.distributed.mesh import device_put, line_mesh

# The first row of a batch, and the number of its rows.
BatchRange = tuple[np.int32, int]


class StreamArrays(NamedTuple):
    """What a step reads of a stream; row t predicts token t + 1.

    The contexts are what ``context_modes.cached_inputs`` reads: those after each token, except where
    every layer's are read; then those from which one more application of the block makes these.
    """

    ids_N: jax.Array  # int32; what stands beyond the stream's tokens is padding
    contexts_NxD: jax.Array  # all of them, or those that a batch reads
    num_tokens: np.int32
    first_row: np.int32  # of the contexts, in the stream


@dataclasses.dataclass(frozen=True, eq=False)
class Stream:
    """A token stream with its contexts.

    Args:
      ids_N: int32, the tokens and padding.
      contexts: float32 [N, D]; they may end one row early, because nothing is predicted from the last token.
      num_tokens: without the padding.
    """

    ids_N: jax.Array
    contexts: ContextStore
    num_tokens: np.int32

    @classmethod
    def of(cls, ids: np.ndarray, contexts: ContextStore | jax.Array | None, capacity: int = 0) -> "Stream":
        """Pads a stream to at least so many tokens; streams of one capacity share their programs.

        A stream whose contexts are recomputed has none.
        """
        ids_N = np.pad(ids, (0, max(capacity - len(ids), 0)))
        store = as_store(jnp.zeros((0, 0)) if contexts is None else contexts)
        if contexts is not None:
            store = store.resized(max(capacity - 1, len(store)))
        return cls(jnp.asarray(ids_N, jnp.int32), store, np.int32(len(ids)))

    @property
    def num_rows(self) -> int:
        """The number of predictions."""
        return int(self.num_tokens) - 1

    def on(self, mesh: Mesh) -> "Stream":
        """Returns the stream on the devices of a mesh, each of which has a range of the contexts."""
        rows = len(self.contexts)
        contexts = self.contexts.resized(rows + -rows % mesh.size, line_mesh(mesh))
        return dataclasses.replace(self, ids_N=device_put(self.ids_N, mesh), contexts=contexts)

    def batches(self, batch_size: int) -> list[BatchRange]:
        """Returns consecutive batches, the last perhaps not full."""
        starts = range(0, self.num_rows, batch_size)
        return [(np.int32(first), min(batch_size, self.num_rows - first)) for first in starts]

    def for_batches(self, batches: Sequence[BatchRange], rows: int, before: int) -> Iterator[StreamArrays]:
        """Yields what each batch reads, while a batch is worked on that of the next.

        Args:
          batches: the batches.
          rows: of a batch, the last one's too.
          before: how many contexts a batch reads of tokens before its first.
        """
        starts = [int(first) - before for first, _ in batches]
        for contexts_NxD, first_row in self.contexts.windows(starts, rows + before):
            yield StreamArrays(self.ids_N, contexts_NxD, self.num_tokens, first_row)
