"""One more iteration of all contexts of a stream, all tokens in parallel.

Shapes: N tokens, B rows at a time, D context width, E embedding width, V tokens, U of them distinct.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.sharding import Mesh

from cvfp_jax.checkpointing.row_file import RowFile, read_ahead, write_behind
from cvfp_jax.contexts.recurrence import host_tokens, line_tokens, predecessors
from cvfp_jax.core.model import ContextBlock, token_windows
from cvfp_jax.distributed.mesh import (
    REPLICATED,
    ROWS,
    axis_index,
    device_put,
    from_previous,
    line_mesh,
    shard_map,
    single_device_mesh,
)

# Rows at a time, on a CPU and elsewhere.
_CPU_ROWS, _ROWS = 1024, 8192


def _rows_at_a_time(num_rows: int) -> int:
    return min(_CPU_ROWS if jax.default_backend() == "cpu" else _ROWS, num_rows)


@functools.partial(jax.jit, static_argnames=("graphdef", "mesh"))
def _apply(
    params: Any,
    vectors_UxE: jax.Array,
    places_N: jax.Array,
    contexts_NxD: jax.Array,
    start_D: jax.Array,
    graphdef: nnx.GraphDef,
    mesh: Mesh,
) -> jax.Array:
    """The block on all contexts, the one before the first being given."""

    def apply_own(
        params: Any,
        vectors_UxE: jax.Array,
        places_N: jax.Array,
        contexts_NxD: jax.Array,
        start_D: jax.Array,
    ) -> jax.Array:
        block = nnx.merge(graphdef, params)
        rows, dtype = len(contexts_NxD), vectors_UxE.dtype
        chunk, around = _rows_at_a_time(rows), block.num_input_tokens - 1
        before_D = jnp.where(axis_index() == 0, start_D, from_previous(contexts_NxD[-1], mesh.size))

        def visit(first: jax.Array) -> jax.Array:
            places_B = first + jnp.arange(chunk, dtype=jnp.int32)
            window_BxKE = token_windows(vectors_UxE, places_N, places_B + around, around + 1)
            earlier_BxD = predecessors(contexts_NxD, places_B)
            earlier_BxD = jnp.where((places_B == 0)[:, None], before_D[None, :], earlier_BxD)
            return block(earlier_BxD.astype(dtype), window_BxKE)

        contexts_MxBxD = lax.map(visit, jnp.arange(0, rows, chunk, dtype=jnp.int32))
        return contexts_MxBxD.reshape(-1, block.context_dim)[:rows]

    specs = (REPLICATED, REPLICATED, ROWS, ROWS, REPLICATED)
    each = shard_map(apply_own, mesh, specs, ROWS)
    return each(params, vectors_UxE, places_N, contexts_NxD, start_D)


def parallel_contexts(
    block: ContextBlock,
    vectors_VxE: jax.Array,
    ids: np.ndarray,
    contexts_NxD: jax.Array,
    mesh: Mesh | None = None,
) -> jax.Array:
    """Returns one more iteration of all contexts, all tokens in parallel.

    ``c_t = block(P_{t-1}, w_t)`` without noise, with P the given contexts and ``P_{-1} = 0``. Given those
    that phase 1 ends with, this is the original's parallel cache.

    Args:
      block: the trained block.
      vectors_VxE: float32, the token vectors.
      ids: int [N], the stream.
      contexts_NxD: float32, the contexts; more than N rows are padding. Of several devices each has a range.
      mesh: the devices; the first one if none are given.

    Returns:
      Float32, as many rows as contexts.

    References:
      rato-tokyo/new-llm, report of 2025-11-30.
    """
    graphdef, params = nnx.split(block)
    line = line_mesh(mesh or single_device_mesh())
    own_rows = len(contexts_NxD) // line.size
    vectors_UxE, places_N = line_tokens(block, vectors_VxE, ids, own_rows, line)
    start_D = device_put(jnp.zeros((block.context_dim,), contexts_NxD.dtype), line)
    return _apply(device_put(params, line), vectors_UxE, places_N, contexts_NxD, start_D, graphdef, line)


def write_parallel(
    block: ContextBlock, vectors_VxE: jax.Array, ids: np.ndarray, contexts: RowFile
) -> RowFile:
    """Returns the same of contexts on the disk as a file of float32, a stretch at a time on the device.

    Args:
      block: the trained block.
      vectors_VxE: float32, the token vectors.
      ids: int [N], the stream.
      contexts: the file of the contexts.

    Returns:
      A new file of as many rows, zero beyond the stream.
    """
    graphdef, params = nnx.split(block)
    line, made = (
        line_mesh(single_device_mesh()),
        contexts.files.make(contexts.shape, vectors_VxE.dtype, len(ids)),
    )
    places = made.stretches(_rows_at_a_time(len(contexts)))
    vectors_UxE, places_M = host_tokens(block, vectors_VxE, ids, sum(places[-1]))
    params, vectors_UxE = device_put((params, vectors_UxE), line)
    stretches = [(first, rows) for first, rows in places if first < len(ids)]
    with write_behind(made.write) as write:
        for (first, rows), old_CxD in read_ahead(stretches, lambda a, rows: contexts.read(a - 1, rows + 1)):
            places_W = places_M[first : first + rows + block.num_input_tokens - 1]
            new_BxD = _apply(params, vectors_UxE, places_W, old_CxD[1:], old_CxD[0], graphdef, line)
            write(first, new_BxD)
    return made
