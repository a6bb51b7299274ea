"""Exact contexts of a trained block: each from its predecessor's, from a zero context.

Shapes: N tokens, B tokens of a chunk, M lanes, W places of its windows, D context width, E embedding width,
V tokens, U of them distinct.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.sharding import Mesh, NamedSharding

from cvfp_jax.checkpointing.checkpointer import Facts, FirstRows, Pace
from cvfp_jax.contexts.runtime import Runtime
from cvfp_jax.contexts.store import ContextStore
from cvfp_jax.contexts.windows import StreamWindows
from cvfp_jax.core.model import ContextBlock
from cvfp_jax.core.token_stream import TokenStream
from cvfp_jax.distributed.mesh import (
    REPLICATED,
    ROWS,
    axis_index,
    device_put,
    from_previous,
    pmax,
    resize_rows,
    shard_map,
)
from cvfp_jax.kernels import parallel_scan
from cvfp_jax.kernels.token_tables import (
    LayerTables,
    terms_of,
    token_tables,
    window_places,
    without_token_rows,
)

# A lane's tokens at a time.
CHUNK = 1024
# Rows that a device walks along, from where the one before it ends, before it looks for changes.
_CORRECTED = 64
# Shorter lanes would be walked along twice: contexts forget where they started in 50 to 300 tokens.
LEAST_LANE = 256
# A step costs hardly more for so many lanes than for one: it is spent on reading the weights.
CPU_LANES, LANES = 64, 1024


def _in_single_precision(params: Any, graphdef: nnx.GraphDef) -> ContextBlock:
    block = nnx.merge(graphdef, params)
    block.to_single_precision()
    return block


@functools.partial(jax.jit, static_argnames="graphdef")
def _tables(params: Any, vectors_UxE: jax.Array, graphdef: nnx.GraphDef) -> list[LayerTables]:
    return token_tables(_in_single_precision(params, graphdef), vectors_UxE)


class _ScanInputs(NamedTuple):
    """What walking along a stream reads, whole on every device but for the places."""

    params: Any
    tables: list[LayerTables]
    places_N: jax.Array  # of each device's range, and of the K - 1 tokens before it
    start_D: jax.Array  # the context before the stream
    num_tokens: jax.Array  # int32, of the stream


_SHARED = _ScanInputs(REPLICATED, REPLICATED, ROWS, REPLICATED, REPLICATED)


def _make_step(
    walked: _ScanInputs, graphdef: nnx.GraphDef
) -> Callable[[jax.Array, int], parallel_scan.LaneStep]:
    """Returns a function of a first row and a number of rows that makes their recurrence step."""
    block, tables = without_token_rows(_in_single_precision(walked.params, graphdef)), walked.tables
    K = block.num_input_tokens

    def at(first: jax.Array, rows: int) -> parallel_scan.LaneStep:
        places_W = lax.dynamic_slice_in_dim(walked.places_N, first, rows + K - 1)

        def step(before_MxD: jax.Array, of_M: jax.Array) -> jax.Array:
            places_KxM = window_places(places_W, of_M, K)
            return block.step(before_MxD, [terms_of(table, places_KxM) for table in tables])[-1]

        return step

    return at


def _write(contexts_NxD: jax.Array, new_BxD: jax.Array, first: jax.Array, walked: _ScanInputs) -> jax.Array:
    """Writes contexts of a device's range, zeros beyond the stream."""
    places_B = axis_index() * len(contexts_NxD) + first + jnp.arange(len(new_BxD), dtype=jnp.int32)
    kept_BxD = jnp.where((places_B < walked.num_tokens)[:, None], new_BxD, 0)
    return lax.dynamic_update_slice_in_dim(contexts_NxD, kept_BxD, first, axis=0)


@functools.partial(
    jax.jit, static_argnames=("graphdef", "num_lanes", "chunk", "mesh"), donate_argnames="contexts_NxD"
)
def _scan(
    walked: _ScanInputs,
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

    def scan_own(
        walked: _ScanInputs, contexts_NxD: jax.Array, first: jax.Array, until: jax.Array
    ) -> jax.Array:
        at = _make_step(walked, graphdef)

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
def _join(walked: _ScanInputs, contexts_NxD: jax.Array, graphdef: nnx.GraphDef, mesh: Mesh) -> jax.Array:
    """Corrects each device's contexts until they follow from those of the device before.

    Round by round each device is told the last context of the device before and walks along its own range
    from there, until its contexts are what they were. A round in which no device's last context changes is
    the last one; after as many rounds as devices there is nothing left to change.
    """

    def join_own(walked: _ScanInputs, contexts_NxD: jax.Array) -> jax.Array:
        at, own_rows = _make_step(walked, graphdef), len(contexts_NxD)
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
    most = CPU_LANES if jax.default_backend() == "cpu" else LANES
    count = min(most, max(1, rows // LEAST_LANE))
    return count, count * min(CHUNK, -(-rows // count))


class _StreamInputs:
    """What a block walks along, on the devices."""

    def __init__(self, block: ContextBlock, stream: TokenStream, line: Mesh) -> None:
        self.graphdef, params = nnx.split(block)
        self._windows = StreamWindows(stream, block.num_input_tokens, line, as_power_of_two=True)
        self._params = device_put(params, line)
        self._tables = _tables(self._params, self._windows.vectors_UxE, self.graphdef)
        self._num_tokens, self._line = len(stream), line

    def segment(self, first: int, rows: int, start_D: jax.Array) -> _ScanInputs:
        """Returns some tokens, a range of them on each device, to be walked along from a context."""
        start_D, num_tokens = device_put((start_D, jnp.int32(self._num_tokens - first)), self._line)
        places_W = self._windows.places(first, rows)
        return _ScanInputs(self._params, self._tables, places_W, start_D, num_tokens)


def sequential_contexts(
    block: ContextBlock,
    stream: TokenStream,
    start_D: jax.Array | None = None,
    *,
    runtime: Runtime | None = None,
    part: str = "contexts",
) -> ContextStore:
    """Returns the contexts of a stream, each computed from its predecessor's.

    ``c_t = block(c_{t-1}, w_t)``, with ``c_{-1} = 0``, in single precision. Long streams are computed in
    lanes (``parallel_scan``), and on several devices each computes a range; both agree with one walk from end
    to end up to rounding.

    Args:
      block: the trained block.
      stream: the tokens.
      start_D: float32, the context before the first token; zero if none is given.
      runtime: where to walk, and where to keep the contexts. In memory they are saved on the way; in a file
        they are not: taken up again, they are made from the start.
      part: the name under which they are saved.

    Returns:
      Float32, as many rows as the stream has, zero beyond its tokens. Of several devices each holds a range
      of rows, and there may be a few more.

    References:
      rato-tokyo/new-llm, report of 2025-11-30.
    """
    runtime = runtime or Runtime()
    line, checkpointer, devices = runtime.line, runtime.checkpointer, runtime.mesh.size
    dim, dtype, num_rows = block.context_dim, stream.vectors_VxE.dtype, stream.num_rows
    store = runtime.new_store((num_rows + -num_rows % devices, dim), dtype, len(stream))
    num_lanes, chunk = _lanes(-(-num_rows // devices))
    # What is on the devices at a time: all of the stream, or a chunk of it where contexts go to a file.
    rows = devices * (-(-num_rows // (devices * chunk)) * chunk if store.is_resident else chunk)
    saved = checkpointer.facts(part) if store.is_resident else None
    if saved and saved["finished"]:
        store = store.from_saved(
            checkpointer.restore(part, jax.ShapeDtypeStruct((saved["rows"], dim), dtype))
        )
        checkpointer.include(part, saved, store.to_save(num_rows))
        return store
    contexts_MxD, done, finished = jnp.zeros((rows, dim), dtype, device=NamedSharding(line, ROWS)), 0, False
    # Other numbers of devices had made the first contexts of other ranges.
    if saved and saved["devices"] == devices:
        done, contexts_MxD = saved["chunks"], checkpointer.restore(part, contexts_MxD)
        contexts_MxD = resize_rows(contexts_MxD, rows, line)

    def state() -> tuple[Facts, Any]:
        if not store.is_resident:
            return {}, ()
        first_rows = store.to_save(num_rows) if finished else FirstRows(contexts_MxD, rows)
        facts = {"chunks": done, "finished": finished, "devices": devices, "rows": first_rows.shape[0]}
        return facts, first_rows

    path, pace = _StreamInputs(block, stream, line), Pace()
    before_D = jnp.zeros((dim,), dtype) if start_D is None else start_D
    with store.writer() as write:
        for first in range(0, len(stream), rows):
            if first > 0:
                before_D, contexts_MxD, done = contexts_MxD[-1], jnp.zeros_like(contexts_MxD), 0
            walked = path.segment(first, rows, before_D)
            chunks = -(-min(len(stream) - first, rows // devices) // chunk)
            while done < chunks:
                until = min(chunks, done + pace.steps(checkpointer.seconds_left()))
                span = jnp.int32(done), jnp.int32(until)
                with pace:
                    contexts_MxD = _scan(walked, contexts_MxD, *span, path.graphdef, num_lanes, chunk, line)
                    jax.block_until_ready(contexts_MxD)
                done = until
                if done < chunks:
                    checkpointer.maybe_save(part, state)
            if devices > 1:
                contexts_MxD = _join(walked, contexts_MxD, path.graphdef, line)
            write(first, contexts_MxD)
            finished = store.is_resident
            checkpointer.maybe_save(part, state)
    if store.is_resident:
        checkpointer.include(part, *state())
    return store


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
