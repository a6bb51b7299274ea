"""Exact contexts of a trained block: each from its predecessor's, from a zero context.

Shapes: N tokens, B tokens of a chunk, M lanes, W places of its windows, D context width, E embedding width,
V tokens, U of them distinct.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from cvfp_jax import lanes
from cvfp_jax.keeper import Facts, Keeper, Pace
from cvfp_jax.model import ContextBlock, token_windows
from cvfp_jax.token_tables import (
    LayerTables,
    distinct_tokens,
    terms_of,
    token_tables,
    window_places,
    windowed,
)

# A lane's tokens, and on a CPU those of a parallel pass, at a time.
CHUNK = 1024
_PARALLEL_ROWS = 8192
# Shorter lanes would be walked along twice: contexts forget where they started in 50 to 300 tokens.
LEAST_LANE = 256
# A step costs hardly more for so many lanes than for one: it is spent on reading the weights.
_CPU_LANES, _LANES = 64, 1024


def _in_single_precision(params: Any, graphdef: nnx.GraphDef) -> ContextBlock:
    """The block. Contexts rounded on their way would not forget where they started to the last digits."""
    block = nnx.merge(graphdef, params)
    for layer in block.layers:
        layer.kind = layer.kind._replace(precision="f32")
    return block


@functools.partial(jax.jit, static_argnames="graphdef")
def _tables(params: Any, vectors_UxE: jax.Array, graphdef: nnx.GraphDef) -> list[LayerTables]:
    return token_tables(_in_single_precision(params, graphdef), vectors_UxE)


@functools.partial(
    jax.jit, static_argnames=("graphdef", "num_lanes", "chunk"), donate_argnames="contexts_NxD"
)
def _scan(
    params: Any,
    tables: list[LayerTables],
    places_N: jax.Array,
    contexts_NxD: jax.Array,
    start_D: jax.Array,
    first: jax.Array,
    until: jax.Array,
    num_tokens: jax.Array,
    graphdef: nnx.GraphDef,
    num_lanes: int,
    chunk: int,
) -> jax.Array:
    """Makes the contexts of some chunks, from those of the chunks before."""
    block = _in_single_precision(params, graphdef)
    for layer in block.layers:
        # What the tables leave of the weights is cut out once, and not in each step.
        kernel = layer.linear.kernel
        layer.linear.kernel = nnx.Param(lax.optimization_barrier(kernel[: layer.context_dim]))
    windows = chunk + block.num_input_tokens - 1

    def chunk_step(number: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        contexts_NxD, context_D = carry
        places_W = lax.dynamic_slice_in_dim(places_N, number * chunk, windows)

        def step(before_MxD: jax.Array, of_M: jax.Array) -> jax.Array:
            places_KxM = window_places(places_W, of_M, block.num_input_tokens)
            return block.step(before_MxD, [terms_of(table, places_KxM) for table in tables])[-1]

        new_BxD = lanes.run(step, context_D, num_lanes, chunk // num_lanes)
        counts_B = number * chunk + jnp.arange(chunk, dtype=jnp.int32) < num_tokens
        kept_BxD = jnp.where(counts_B[:, None], new_BxD, 0)
        return lax.dynamic_update_slice_in_dim(contexts_NxD, kept_BxD, number * chunk, axis=0), new_BxD[-1]

    before_D = predecessors(contexts_NxD, jnp.reshape(first * chunk, (1,)))[0]
    before_D = jnp.where(first == 0, start_D, before_D)
    return lax.fori_loop(first, until, chunk_step, (contexts_NxD, before_D))[0]


def _lanes(rows: int) -> tuple[int, int]:
    """The number of lanes of a chunk, and its rows: as many lanes as are worth it, none too short."""
    most = _CPU_LANES if jax.default_backend() == "cpu" else _LANES
    count = min(most, max(1, rows // LEAST_LANE))
    return count, count * min(CHUNK, -(-rows // count))


def sequential_contexts(
    block: ContextBlock,
    vectors_VxE: jax.Array,
    ids: np.ndarray,
    start_D: jax.Array | None = None,
    *,
    capacity: int = 0,
    keeper: Keeper | None = None,
    part: str = "contexts",
) -> jax.Array:
    """Returns the contexts of a stream, each computed from its predecessor's.

    ``c_t = block(c_{t-1}, w_t)``, with ``c_{-1} = 0``, in single precision. Long streams are computed in
    ``lanes``, which agree with one walk from end to end up to rounding.

    Args:
      block: the trained block.
      vectors_VxE: float32, the token vectors.
      ids: int [N], the stream.
      start_D: the context before the first token; zero if none is given.
      capacity: the least number of rows to compile for; streams of one capacity share their program.
      keeper: what they are saved by on the way, and taken up again from.
      part: their name there.

    Returns:
      Float32 [N, D], or with a larger capacity as many rows, zero beyond the stream.

    References:
      rato-tokyo/new-llm, report of 2025-11-30.
    """
    keeper = keeper or Keeper()
    graphdef, params = nnx.split(block)
    num_tokens, dtype = len(ids), vectors_VxE.dtype
    if start_D is None:
        start_D = jnp.zeros((block.context_dim,), dtype)
    room = max(capacity, num_tokens)
    num_lanes, chunk = _lanes(room)
    rows = room + -room % chunk
    vectors_UxE, places = distinct_tokens(vectors_VxE, ids, as_power_of_two=True)
    # Tokens after the last cannot change what comes before them.
    places = windowed(np.pad(places, (0, rows - num_tokens)), block.num_input_tokens, len(vectors_UxE))
    places_N, chunks, done = jnp.asarray(places, jnp.int32), -(-num_tokens // chunk), 0
    if facts := keeper.facts(part):
        done = facts["chunks"]
        saved = room if done == chunks else rows
        contexts_NxD = keeper.take(part, jax.ShapeDtypeStruct((saved, block.context_dim), dtype))
    else:
        contexts_NxD = jnp.zeros((rows, block.context_dim), dtype)

    def state() -> tuple[Facts, jax.Array]:
        return {"chunks": done}, contexts_NxD

    tables = _tables(params, vectors_UxE, graphdef) if done < chunks else []
    pace = Pace()
    while done < chunks:
        until = min(chunks, done + pace.steps(keeper.seconds_left()))
        with pace:
            contexts_NxD = _scan(
                params, tables, places_N, contexts_NxD, start_D, jnp.int32(done), jnp.int32(until),
                jnp.int32(num_tokens), graphdef, num_lanes, chunk,
            )  # fmt: skip
            jax.block_until_ready(contexts_NxD)
        done = until
        if done == chunks:
            contexts_NxD = contexts_NxD[:room]
        keeper.offer(part, state)
    keeper.keep(part, *state())
    return contexts_NxD


def _parallel_rows(num_rows: int) -> int:
    """Rows of a parallel pass at a time."""
    return min(CHUNK if jax.default_backend() == "cpu" else _PARALLEL_ROWS, num_rows)


@functools.partial(jax.jit, static_argnames="graphdef")
def _apply(
    params: Any, vectors_VxE: jax.Array, ids_N: jax.Array, contexts_NxD: jax.Array, graphdef: nnx.GraphDef
) -> jax.Array:
    block = nnx.merge(graphdef, params)
    chunk = _parallel_rows(len(ids_N))

    def visit(first: jax.Array) -> jax.Array:
        places_B = first + jnp.arange(chunk, dtype=jnp.int32)
        window_BxKE = token_windows(vectors_VxE, ids_N, places_B, block.num_input_tokens)
        return block(predecessors(contexts_NxD, places_B).astype(vectors_VxE.dtype), window_BxKE)

    contexts_MxBxD = lax.map(visit, jnp.arange(0, len(ids_N), chunk, dtype=jnp.int32))
    return contexts_MxBxD.reshape(-1, block.context_dim)


def parallel_contexts(
    block: ContextBlock, vectors_VxE: jax.Array, ids: np.ndarray, contexts_NxD: jax.Array
) -> jax.Array:
    """Returns one more iteration of all contexts, all tokens in parallel.

    ``c_t = block(P_{t-1}, w_t)`` without noise, with P the given contexts and ``P_{-1} = 0``. Given those
    that phase 1 ends with, this is the original's parallel cache.

    Args:
      block: the trained block.
      vectors_VxE: float32, the token vectors.
      ids: int [N], the stream.
      contexts_NxD: float32, the contexts; more than N rows are kept as they are, padding.

    Returns:
      Float32, as many rows as contexts.

    References:
      rato-tokyo/new-llm, report of 2025-11-30.
    """
    graphdef, params = nnx.split(block)
    rows = len(contexts_NxD)
    padding = -rows % _parallel_rows(rows)
    ids_N = jnp.asarray(np.pad(ids, (0, rows + padding - len(ids))), jnp.int32)
    return _apply(params, vectors_VxE, ids_N, contexts_NxD, graphdef)[:rows]


def predecessors(contexts_NxD: jax.Array, places_B: jax.Array) -> jax.Array:
    """Returns the context before each place of a stream; zero before the first.

    Given to a block with the tokens at these places, the final contexts of phase 1 make the
    original's parallel cache, and exact contexts make themselves again, with every layer between.

    Args:
      contexts_NxD: float, the context after each token.
      places_B: int.

    Returns:
      [B, D].

    >>> predecessors(jnp.array([[1.0], [2.0]]), jnp.array([0, 1])).tolist()
    [[0.0], [1.0]]
    """
    return jnp.where((places_B > 0)[:, None], contexts_NxD[jnp.maximum(places_B - 1, 0)], 0)
