"""One more iteration of all contexts of a stream, all tokens in parallel.

Shapes: N tokens, B rows at a time, D context width, E embedding width, V tokens, U of them distinct.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.sharding import Mesh

from cvfp_jax.contexts.recurrence import predecessors
from cvfp_jax.contexts.runtime import Runtime
from cvfp_jax.contexts.store import ContextStore
from cvfp_jax.contexts.windows import StreamWindows
from cvfp_jax.core.matmul import as_numbers
from cvfp_jax.core.model import ContextBlock, token_windows
from cvfp_jax.core.token_stream import TokenStream
from cvfp_jax.distributed.mesh import REPLICATED, ROWS, axis_index, device_put, from_previous, shard_map

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
        contexts_NxD = as_numbers(contexts_NxD)
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
    block: ContextBlock, stream: TokenStream, contexts: ContextStore, runtime: Runtime | None = None
) -> ContextStore:
    """Returns one more iteration of all contexts, all tokens in parallel.

    ``c_t = block(P_{t-1}, w_t)`` without noise, with P the given contexts and ``P_{-1} = 0``. Given those
    that phase 1 ends with, this is the original's parallel cache.

    Args:
      block: the trained block.
      stream: the tokens.
      contexts: float, the contexts P, at least a row a token; more are padding.
      runtime: the devices.

    Returns:
      Float32, as many rows as contexts; in a file they are zero beyond the stream.

    References:
      rato-tokyo/new-llm, report of 2025-11-30.
    """
    line = (runtime or Runtime()).line
    graphdef, params = nnx.split(block)
    windows = StreamWindows(stream, block.num_input_tokens, line, as_power_of_two=True)
    params = device_put(params, line)
    renewed = contexts.empty(stream.vectors_VxE.dtype, len(stream))
    multiple = _rows_at_a_time(len(contexts))
    with renewed.writer() as write:
        for first, old_BxD, before_D in contexts.chunks(multiple, len(stream)):
            places_W, before_D = windows.places(first, len(old_BxD)), device_put(before_D, line)
            new_BxD = _apply(params, windows.vectors_UxE, places_W, old_BxD, before_D, graphdef, line)
            write(first, new_BxD)
    return renewed
