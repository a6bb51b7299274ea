"""Exact contexts of a trained block: each from its predecessor's, from a zero context.

Shapes: N tokens, B tokens of a chunk, M lanes, W places of its windows, D context width, E embedding width,
V tokens, U of them distinct.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.sharding import Mesh, NamedSharding

from cvfp_jax.checkpointing.checkpointer import Checkpointer, Facts, FirstRows, Pace
from cvfp_jax.checkpointing.row_file import RowFile, write_behind
from cvfp_jax.core.model import ContextBlock
from cvfp_jax.distributed.layout import with_overlap
from cvfp_jax.distributed.mesh import (
    REPLICATED,
    ROWS,
    axis_index,
    device_put,
    from_previous,
    line_mesh,
    pmax,
    resize_rows,
    shard_map,
    single_device_mesh,
)
from cvfp_jax.kernels import parallel_scan
from cvfp_jax.kernels.token_tables import (
    LayerTables,
    distinct_tokens,
    terms_of,
    token_tables,
    window_places,
    windowed,
    without_token_rows,
)

# A lane's tokens at a time.
CHUNK = 1024
# Rows that a device walks along, from where the one before it ends, before it looks for changes.
_CORRECTED = 64
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


class _Walked(NamedTuple):
    """What walking along a stream reads, whole on every device but for the places."""

    params: Any
    tables: list[LayerTables]
    places_N: jax.Array  # of each device's range, and of the K - 1 tokens before it
    start_D: jax.Array  # the context before the stream
    num_tokens: jax.Array  # int32, of the stream


_SHARED = _Walked(REPLICATED, REPLICATED, ROWS, REPLICATED, REPLICATED)


def _stepper(walked: _Walked, graphdef: nnx.GraphDef) -> Callable[[jax.Array, int], parallel_scan.LaneStep]:
    """Returns what makes the step of some rows from the first one's place in the device's range."""
    block, tables = without_token_rows(_in_single_precision(walked.params, graphdef)), walked.tables
    K = block.num_input_tokens

    def at(first: jax.Array, rows: int) -> parallel_scan.LaneStep:
        places_W = lax.dynamic_slice_in_dim(walked.places_N, first, rows + K - 1)

        def step(before_MxD: jax.Array, of_M: jax.Array) -> jax.Array:
            places_KxM = window_places(places_W, of_M, K)
            return block.step(before_MxD, [terms_of(table, places_KxM) for table in tables])[-1]

        return step

    return at


def _write(contexts_NxD: jax.Array, new_BxD: jax.Array, first: jax.Array, walked: _Walked) -> jax.Array:
    """Writes contexts of a device's range, zeros beyond the stream."""
    places_B = axis_index() * len(contexts_NxD) + first + jnp.arange(len(new_BxD), dtype=jnp.int32)
    kept_BxD = jnp.where((places_B < walked.num_tokens)[:, None], new_BxD, 0)
    return lax.dynamic_update_slice_in_dim(contexts_NxD, kept_BxD, first, axis=0)


@functools.partial(
    jax.jit, static_argnames=("graphdef", "num_lanes", "chunk", "mesh"), donate_argnames="contexts_NxD"
)
def _scan(
    walked: _Walked,
    contexts_NxD: jax.Array,
    first: jax.Array,
    until: jax.Array,
    graphdef: nnx.GraphDef,
    num_lanes: int,
    chunk: int,
    mesh: Mesh,
) -> jax.Array:
    """Makes the contexts of some chunks of each device's range, from those of the chunks before.

    All devices but the first start from zero; ``_join`` makes that good.
    """

    def scan_own(walked: _Walked, contexts_NxD: jax.Array, first: jax.Array, until: jax.Array) -> jax.Array:
        at = _stepper(walked, graphdef)

        def chunk_step(place: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            contexts_NxD, context_D = carry
            new_BxD = parallel_scan.run(at(place * chunk, chunk), context_D, num_lanes, chunk // num_lanes)
            return _write(contexts_NxD, new_BxD, place * chunk, walked), new_BxD[-1]

        before_D = predecessors(contexts_NxD, jnp.reshape(first * chunk, (1,)))[0]
        start_D = jnp.where(axis_index() == 0, walked.start_D, 0)
        before_D = jnp.where(first == 0, start_D, before_D)
        return lax.fori_loop(first, until, chunk_step, (contexts_NxD, before_D))[0]

    return shard_map(scan_own, mesh, (_SHARED, ROWS, REPLICATED, REPLICATED), ROWS)(
        walked, contexts_NxD, first, until
    )


@functools.partial(jax.jit, static_argnames=("graphdef", "mesh"), donate_argnames="contexts_NxD")
def _join(walked: _Walked, contexts_NxD: jax.Array, graphdef: nnx.GraphDef, mesh: Mesh) -> jax.Array:
    """Corrects each device's contexts until they follow from those of the device before.

    Round by round each device is told the last context of the device before and walks along its own range
    from there, until its contexts are what they were. A round in which no device's last context changes is
    the last one; after as many rounds as devices there is nothing left to change.
    """

    def join_own(walked: _Walked, contexts_NxD: jax.Array) -> jax.Array:
        at, own_rows = _stepper(walked, graphdef), len(contexts_NxD)
        rows = min(_CORRECTED, own_rows)

        def unmet(carry: tuple[jax.Array, jax.Array, jax.Array, jax.Array]) -> jax.Array:
            _, first, _, met = carry
            return (first < own_rows) & ~met

        def walk(
            carry: tuple[jax.Array, jax.Array, jax.Array, jax.Array],
        ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
            contexts_NxD, first, before_D, _ = carry
            # The last rows overlap with those before, and are made again from there.
            at_D = jnp.where(first > own_rows - rows, contexts_NxD[own_rows - rows - 1], before_D)
            first = jnp.minimum(first, own_rows - rows)
            new_BxD = parallel_scan.run(at(first, rows), at_D, 1, rows)
            old_D = contexts_NxD[first + rows - 1]
            met = parallel_scan.same(new_BxD[-1:], old_D[None, :])[0]
            return _write(contexts_NxD, new_BxD, first, walked), first + rows, new_BxD[-1], met

        def goes_on(carry: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
            _, rounds, changed = carry
            return changed & (rounds < mesh.size)

        def improve(carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
            contexts_NxD, rounds, _ = carry
            last_D, device = contexts_NxD[-1], axis_index()
            before_D = from_previous(last_D, mesh.size)
            # Beyond the stream's end there is nothing to walk along, and the first device's are right.
            settled = (device == 0) | (device * own_rows >= walked.num_tokens)
            contexts_NxD = lax.while_loop(unmet, walk, (contexts_NxD, jnp.int32(0), before_D, settled))[0]
            is_same = parallel_scan.same(contexts_NxD[-1:], last_D[None, :])[0]
            return contexts_NxD, rounds + 1, pmax(~is_same)

        start = contexts_NxD, jnp.int32(0), jnp.ones((), bool)
        return lax.while_loop(goes_on, improve, start)[0]

    return shard_map(join_own, mesh, (_SHARED, ROWS), ROWS)(walked, contexts_NxD)


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
    checkpointer: Checkpointer | None = None,
    part: str = "contexts",
    mesh: Mesh | None = None,
) -> jax.Array:
    """Returns the contexts of a stream, each computed from its predecessor's.

    ``c_t = block(c_{t-1}, w_t)``, with ``c_{-1} = 0``, in single precision. Long streams are computed in
    ``lanes``, and on several devices each computes a range; both agree with one walk from end to end up
    to rounding.

    Args:
      block: the trained block.
      vectors_VxE: float32, the token vectors.
      ids: int [N], the stream.
      start_D: the context before the first token; zero if none is given.
      capacity: the least number of rows to compile for; streams of one capacity share their program.
      checkpointer: what they are saved by on the way, and taken up again from.
      part: their name there.
      mesh: the devices; the first one if none are given.

    Returns:
      Float32 [N, D], or with a larger capacity as many rows, zero beyond the stream. Of several devices
      each holds a range of rows, and there may be a few more.

    References:
      rato-tokyo/new-llm, report of 2025-11-30.
    """
    checkpointer = checkpointer or Checkpointer()
    graphdef, _ = nnx.split(block)
    num_tokens, dtype = len(ids), vectors_VxE.dtype
    if start_D is None:
        start_D = jnp.zeros((block.context_dim,), dtype)
    room, line = max(capacity, num_tokens), line_mesh(mesh or single_device_mesh())
    devices = line.size
    num_lanes, chunk = _lanes(-(-room // devices))
    own_rows = -(-room // (devices * chunk)) * chunk
    rows = own_rows * devices
    # What is finished has no padding but what makes equal ranges.
    kept_rows = room + -room % devices
    chunks = -(-min(num_tokens, own_rows) // chunk)
    done, finished, contexts_NxD = 0, False, None
    if facts := checkpointer.facts(part):
        done, finished = facts["chunks"], facts["finished"]
        saved = jax.ShapeDtypeStruct((facts["rows"], block.context_dim), dtype)
        contexts_NxD = checkpointer.restore(part, saved)
        if finished:
            contexts_NxD = resize_rows(contexts_NxD, kept_rows, line)
        elif facts["devices"] == devices:
            contexts_NxD = resize_rows(contexts_NxD, rows, line)
        else:  # each of those had made the first contexts of its own range
            done, contexts_NxD = 0, None
    if contexts_NxD is None:
        contexts_NxD = jnp.zeros((rows, block.context_dim), dtype, device=NamedSharding(line, ROWS))

    def state() -> tuple[Facts, FirstRows]:
        assert contexts_NxD is not None
        saved_rows = room if finished else rows
        facts = {"chunks": done, "finished": finished, "devices": devices, "rows": saved_rows}
        return facts, FirstRows(contexts_NxD, saved_rows)

    walked = _walked(block, vectors_VxE, ids, start_D, own_rows, line) if not finished else None
    pace = Pace()
    while walked is not None and not finished:
        until = min(chunks, done + pace.steps(checkpointer.seconds_left()))
        with pace:
            contexts_NxD = _scan(
                walked, contexts_NxD, jnp.int32(done), jnp.int32(until), graphdef, num_lanes, chunk, line
            )
            jax.block_until_ready(contexts_NxD)
        done = until
        if done == chunks:
            if devices > 1:
                contexts_NxD = _join(walked, contexts_NxD, graphdef, line)
            contexts_NxD, finished = resize_rows(contexts_NxD, kept_rows, line), True
        checkpointer.maybe_save(part, state)
    checkpointer.include(part, *state())
    return contexts_NxD


def _walked(
    block: ContextBlock,
    vectors_VxE: jax.Array,
    ids: np.ndarray,
    start_D: jax.Array,
    own_rows: int,
    line: Mesh,
) -> _Walked:
    """Returns what walking along a stream reads, on the devices."""
    graphdef, params = nnx.split(block)
    vectors_UxE, places_N = line_tokens(block, vectors_VxE, ids, own_rows, line)
    params, start_D, num_tokens = device_put((params, start_D, jnp.int32(len(ids))), line)
    return _Walked(params, _tables(params, vectors_UxE, graphdef), places_N, start_D, num_tokens)


def host_tokens(
    block: ContextBlock, vectors_VxE: jax.Array, ids: np.ndarray, rows: int
) -> tuple[jax.Array, np.ndarray]:
    """A stream's distinct tokens, and the places among them of its windows, padded to so many rows."""
    vectors_UxE, places = distinct_tokens(vectors_VxE, ids, as_power_of_two=True)
    # Tokens after the last cannot change what comes before them.
    places = np.pad(places, (0, rows - len(ids)))
    return vectors_UxE, windowed(places, block.num_input_tokens, len(vectors_UxE)).astype(np.int32)


def line_tokens(
    block: ContextBlock, vectors_VxE: jax.Array, ids: np.ndarray, own_rows: int, line: Mesh
) -> tuple[jax.Array, jax.Array]:
    """The same on the devices: distinct tokens whole on each, and each range's places."""
    vectors_UxE, places = host_tokens(block, vectors_VxE, ids, own_rows * line.size)
    places = with_overlap(places, block.num_input_tokens - 1, own_rows, line.size)
    return device_put(vectors_UxE, line), device_put(jnp.asarray(places), line, ROWS)


def write_sequential(
    contexts: RowFile,
    block: ContextBlock,
    vectors_VxE: jax.Array,
    ids: np.ndarray,
    *,
    capacity: int = 0,
    column: int = 0,
    checkpointer: Checkpointer | None = None,
    part: str = "contexts",
) -> None:
    """Writes the contexts that ``sequential_contexts`` returns to a file, a chunk at a time on the device.

    Args:
      contexts: the file, of at least D columns, from the given one on.
      block: the trained block.
      vectors_VxE: float32, the token vectors.
      ids: int [N], the stream.
      capacity: as for ``sequential_contexts``.
      column: the first column.
      checkpointer: is told between chunks. They are not saved: taken up again, they are made from the start.
      part: their name there.
    """
    checkpointer, line = checkpointer or Checkpointer(), line_mesh(single_device_mesh())
    graphdef, params = nnx.split(block)
    num_lanes, chunk = _lanes(max(capacity, len(ids)))
    vectors_UxE, places = host_tokens(block, vectors_VxE, ids, -(-len(ids) // chunk) * chunk)
    tables = _tables(params, vectors_UxE, graphdef)
    zero, one = jnp.int32(0), jnp.int32(1)
    before_D = jnp.zeros((block.context_dim,), vectors_VxE.dtype)
    with write_behind(functools.partial(contexts.write, column=column)) as write:
        for first in range(0, len(ids), chunk):
            places_W = places[first : first + chunk + block.num_input_tokens - 1]
            left = jnp.int32(len(ids) - first)
            walked = device_put(_Walked(params, tables, jnp.asarray(places_W), before_D, left), line)
            blank = jnp.zeros((chunk, block.context_dim), before_D.dtype)
            made = _scan(walked, blank, zero, one, graphdef, num_lanes, chunk, line)
            before_D = made[-1]
            write(first, made)
            checkpointer.maybe_save(f"{part}, on disk", lambda: ({}, ()))


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
