"""The devices and what they tell each other; the only file that names axes.

Phase 2 shares the rows of a batch over ``data`` and the vocabulary over ``model``. Elsewhere all devices
stand in a line, each with a range of the tokens; several in a row may share a micro-batch, a piece each.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cvfp_jax.distributed import processes
from cvfp_jax.errors import UserError

DATA, MODEL = "data", "model"
AXES = (DATA, MODEL)
_BATCHES, _PIECES = "batches", "pieces"
_LINE = (_BATCHES, _PIECES)
# Held whole by every device, and sharded by rows: a range of them on each.
REPLICATED: Any = PartitionSpec()
ROWS: Any = PartitionSpec(_LINE)

# In phase 2: a range of a batch's rows on each device along ``data``, of the vocabulary along ``model``.
BATCH: Any = PartitionSpec(DATA)
VOCABULARY: Any = PartitionSpec(MODEL)

# What processes tell each other at a time, to have an array on the host.
_CHUNK_BYTES = 2**24

Tree = TypeVar("Tree")


def parse_mesh(text: str) -> dict[str, int]:
    """Reads the shape of a mesh.

    Args:
      text: sizes of axes, such as ``data:4,model:2``; an axis that is not named has size 1.

    Returns:
      The size of each axis.

    Raises:
      UserError: an axis is unknown or named twice, or a size is not a whole number above zero.

    >>> parse_mesh("data:4")
    {'data': 4, 'model': 1}
    """
    shape = dict.fromkeys(AXES, 1)
    named = [part.partition(":") for part in text.split(",")]
    for name, _, size in named:
        if name not in AXES or not size.isdecimal() or not 0 < int(size) < 10**6:
            raise UserError(
                f"--mesh={text} is not a mesh: write for example --mesh=data:8 or data:4,model:2."
            )
        shape[name] = int(size)
    if len(named) > len({name for name, _, _ in named}):
        raise UserError(f"--mesh={text} names an axis twice: write for example --mesh=data:4,model:2.")
    return shape


def make_mesh(shape: Mapping[str, int] | None = None, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a mesh of all devices.

    Args:
      shape: the size of each axis, whose product is the number of devices; all on ``data`` if none is given.
      devices: the devices; JAX's if none are given.

    Returns:
      A mesh with the axes ``data`` and ``model``.

    Raises:
      UserError: the shape does not use all devices.

    >>> dict(make_mesh(devices=jax.devices()[:1]).shape)
    {'data': 1, 'model': 1}
    """
    chosen = list(devices) if devices is not None else jax.devices()
    sizes = {DATA: len(chosen), MODEL: 1} | dict(shape or {})
    if math.prod(sizes.values()) != len(chosen):
        given = ",".join(f"{name}:{size}" for name, size in sizes.items())
        model = max(
            size for size in range(1, len(chosen) + 1) if len(chosen) % size == 0 and size <= sizes[MODEL]
        )
        raise UserError(
            f"--mesh={given} has {math.prod(sizes.values())} devices, and there are {len(chosen)}: use"
            f" --mesh={DATA}:{len(chosen) // model},{MODEL}:{model}."
        )
    return jax.make_mesh((sizes[DATA], sizes[MODEL]), AXES, axis_types=(AxisType.Auto,) * 2, devices=chosen)


def single_device_mesh() -> Mesh:
    """Returns a mesh of this process's first device alone."""
    return make_mesh(devices=jax.local_devices()[:1])


def line_mesh(mesh: Mesh, pieces: int = 1) -> Mesh:
    """Returns the same devices in a line, so many of them in a row sharing a micro-batch."""
    shape = (mesh.size // pieces, pieces)
    return jax.make_mesh(shape, _LINE, axis_types=(AxisType.Auto,) * 2, devices=list(mesh.devices.flat))


def num_pieces(line: Mesh) -> int:
    """Returns how many devices of a line share a micro-batch."""
    return line.shape[_PIECES]


def shard_map(
    function: Callable[..., Any], mesh: Mesh, in_specs: Any, out_specs: Any = REPLICATED
) -> Callable[..., Any]:
    """Returns a function that each device runs on what it holds."""
    return jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def axis_index() -> jax.Array:
    """The place in the line of the device that runs this, int32 from 0."""
    return lax.axis_index(_LINE).astype(jnp.int32)


def psum(tree: Tree) -> Tree:
    """Sums over all devices of a line."""
    return lax.psum(tree, _LINE)


def pmax(tree: Tree) -> Tree:
    """Maxima over all devices of a line."""
    return lax.pmax(tree, _LINE)


def psum_pieces(tree: Tree) -> Tree:
    """Sums over the devices that share a micro-batch."""
    return lax.psum(tree, _PIECES)


def piece_index() -> jax.Array:
    """Which piece of a micro-batch is here, int32 from 0."""
    return lax.axis_index(_PIECES).astype(jnp.int32)


def all_gather_pieces(array: jax.Array) -> jax.Array:
    """The rows of all pieces of a micro-batch."""
    return lax.all_gather(array, _PIECES, tiled=True)


def all_gather(array: jax.Array) -> jax.Array:
    """The rows of all devices of a line; for what does not grow with the tokens."""
    return lax.all_gather(array, _LINE, tiled=True)


def from_previous(array: jax.Array, devices: int) -> jax.Array:
    """What the device before has; zero on the first."""
    return lax.ppermute(array, _LINE, [(place, place + 1) for place in range(devices - 1)])


def psum_data(tree: Tree) -> Tree:
    """Sums over the devices that share a batch."""
    return lax.psum(tree, DATA)


def psum_model(tree: Tree) -> Tree:
    """Sums over the devices that share the vocabulary."""
    return lax.psum(tree, MODEL)


def pmax_model(tree: Tree) -> Tree:
    """Maxima over the devices that share the vocabulary."""
    return lax.pmax(tree, MODEL)


def model_index() -> jax.Array:
    """Which range of the vocabulary is here, int32 from 0."""
    return lax.axis_index(MODEL).astype(jnp.int32)


def model_size(mesh: Mesh) -> int:
    """Returns in how many ranges the vocabulary is shared out."""
    return mesh.shape[MODEL]


def over_model(mesh: Mesh) -> NamedSharding:
    """The sharding of the vocabulary's table."""
    return NamedSharding(mesh, VOCABULARY)


def over_all(mesh: Mesh) -> NamedSharding:
    """The sharding of what all devices have a range of the rows of."""
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of what every device holds whole."""
    return NamedSharding(mesh, REPLICATED)


def over_rows(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: the devices along ``data`` hold a range of its rows each."""
    return NamedSharding(mesh, BATCH)


def device_put(tree: Tree, mesh: Mesh, spec: PartitionSpec = REPLICATED) -> Tree:
    """Returns arrays on the devices of a mesh, whole on each or a range of rows on each.

    Args:
      tree: arrays of the host, or of one device, the same in all processes.
      mesh: the devices.
      spec: how they are shared.

    Returns:
      The same arrays there.
    """
    sharding = NamedSharding(mesh, spec)

    def place(leaf: Any) -> jax.Array:
        if isinstance(leaf, jax.core.Tracer):
            return leaf
        if isinstance(leaf, jax.Array) and (leaf.is_fully_addressable and sharding.is_fully_addressable):
            return jax.device_put(leaf, sharding)
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return _moved(sharding)(leaf)
        if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(place(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(place, tree)


def to_local_device(tree: Tree) -> Tree:
    """Returns arrays that every device has whole as this process's first device has them."""
    device = jax.local_devices()[0]

    def own(leaf: jax.Array) -> jax.Array:
        if leaf.devices() == {device}:
            return leaf
        return next(shard.data for shard in leaf.addressable_shards if shard.device == device)

    return jax.tree.map(own, tree)


def resize_rows(array: jax.Array, rows: int, mesh: Mesh) -> jax.Array:
    """Returns an array of so many rows, zeros beyond its own, a range of them on each device of a line.

    Args:
      array: [N, ...], on the line's devices or on one; what is cut off should be padding.
      rows: their number, a multiple of the devices.
      mesh: the line.

    Returns:
      [rows, ...].
    """
    if len(array) == rows:
        return device_put(array, mesh, ROWS)
    if set(array.devices()) == set(mesh.devices.flat):
        return _fitting(rows, NamedSharding(mesh, ROWS))(array)
    return device_put(_fit(array, rows), mesh, ROWS)


def _fit(array: jax.Array, rows: int) -> jax.Array:
    kept = array[:rows]
    return jnp.pad(kept, [(0, rows - len(kept))] + [(0, 0)] * (array.ndim - 1))


@functools.cache
def _moved(sharding: NamedSharding) -> Callable[[jax.Array], jax.Array]:
    """What shares arrays in another way; one function for each, so that it is compiled once."""
    return jax.jit(lambda array: array, out_shardings=sharding)


@functools.cache
def _fitting(rows: int, sharding: NamedSharding) -> Callable[[jax.Array], jax.Array]:
    """What makes arrays of so many rows and shares them in a way."""
    return jax.jit(functools.partial(_fit, rows=rows), out_shardings=sharding)


def rows_at(array: jax.Array, places_B: jax.Array, mesh: Mesh) -> jax.Array:
    """Returns rows of an array whose rows are shared over all devices; the array stays where it is.

    Args:
      array: [N, ...], sharded by rows over all devices of the mesh.
      places_B: int32, from 0 to N - 1.
      mesh: with the axes ``data`` and ``model``, or a line.

    Returns:
      [B, ...], whole on every device.
    """
    axes = mesh.axis_names

    def visit(own: jax.Array, places_B: jax.Array) -> jax.Array:
        # Each row is on one device, and zero is added to it.
        place_B = places_B - lax.axis_index(axes).astype(jnp.int32) * len(own)
        here_B = (place_B >= 0) & (place_B < len(own))
        found = own[jnp.where(here_B, place_B, 0)]
        return lax.psum(jnp.where(jnp.expand_dims(here_B, tuple(range(1, own.ndim))), found, 0), axes)

    if mesh.size == 1:
        return array[places_B]
    return shard_map(visit, mesh, (PartitionSpec(axes), REPLICATED))(array, places_B)


def warm_up_collectives(mesh: Mesh) -> None:
    """Has all devices tell each other a number, along each axis and all together.

    Gloo waits half a minute for a process at its first word with others and long afterwards, and processes
    do not compile equally fast.
    """

    def visit() -> list[jax.Array]:
        own = lax.axis_index(AXES).astype(jnp.float32)
        return [lax.psum(own, axes) for axes in (AXES, DATA, MODEL)]

    jax.block_until_ready(jax.jit(shard_map(visit, mesh, ()))())


def rows_on_host(array: jax.Array, rows: int) -> np.ndarray:
    """Returns the first rows of an array on the host.

    Of what several processes have ranges of, process 0 alone gets them, some at a time; all processes must
    ask. Others get an array that says nothing, and whose memory is never touched.

    Args:
      array: [N, ...], on any devices.
      rows: their number.

    Returns:
      [rows, ...].
    """
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)[:rows]
    assert isinstance(array.sharding, NamedSharding)
    found = np.empty((rows, *array.shape[1:]), array.dtype)
    row_bytes = array.dtype.itemsize * max(1, math.prod(array.shape[1:]))
    chunk = min(rows, max(1, _CHUNK_BYTES // row_bytes))
    for first in range(0, rows, chunk):
        places_B = np.minimum(first + np.arange(chunk), rows - 1).astype(np.int32)
        part = _rows_at(array, places_B, array.sharding.mesh)
        if processes.is_process_0():
            found[first : first + chunk] = np.asarray(part)[: rows - first]
        jax.block_until_ready(part)
    return found


_rows_at = jax.jit(rows_at, static_argnames="mesh")
