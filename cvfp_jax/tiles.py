"""A micro-batch in tiles: what is at work on a CPU fits in its caches.

Shapes: B rows of a micro-batch filled up to whole tiles, C = B + 1, T rows of a tile, D context width,
K input tokens, W places.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from cvfp_jax.micro_batches import Batch
from cvfp_jax.token_tables import window_places

# The most rows of a tile on a CPU: a few arrays of so many contexts fit in its caches.
_CPU_ROWS = 1024
# Matrix units of CPUs sum over rows in steps of so many.
_STEP = 32


class Tile(NamedTuple):
    """Some rows of a micro-batch."""

    old_TxD: jax.Array
    shifted_TxD: jax.Array
    places_KxT: jax.Array


def num_tiles(num_rows: int) -> tuple[int, int]:
    """The number of tiles of a micro-batch and the rows of each, the last filled up as little as can be.

    An accelerator works on a whole micro-batch.

    >>> num_tiles(8000), num_tiles(5000), num_tiles(700)
    ((10, 800), (5, 1024), (1, 700))
    """
    if num_rows <= _CPU_ROWS or jax.default_backend() != "cpu":
        return 1, num_rows
    rows = min(range(_CPU_ROWS, _CPU_ROWS // 2, -_STEP), key=lambda rows: -num_rows % rows)
    return -(-num_rows // rows), rows


def filling(num_rows: int) -> int:
    """The rows that the last tile of a micro-batch lacks."""
    tiles, rows = num_tiles(num_rows)
    return tiles * rows - num_rows


def tile_reader(batch: Batch, noise_BxD: jax.Array | None, rows: int) -> Callable[[jax.Array], Tile]:
    """Returns what reads a tile of a micro-batch by its number."""
    around = len(batch.places_W) - len(batch.valid_B)
    if noise_BxD is not None:
        noise_BxD = jnp.pad(noise_BxD, ((0, len(batch.valid_B) - len(noise_BxD)), (0, 0)))

    def read(number: jax.Array) -> Tile:
        first = number * rows
        both = lax.dynamic_slice_in_dim(batch.old_CxD, first, rows + 1)
        shifted_TxD = both[:-1]
        if noise_BxD is not None:
            shifted_TxD = shifted_TxD + lax.dynamic_slice_in_dim(noise_BxD, first, rows)
        of_T = first + jnp.arange(rows, dtype=jnp.int32)
        places_KxT = window_places(batch.places_W, of_T, around + 1)
        return Tile(both[1:], lax.optimization_barrier(shifted_TxD), places_KxT)

    return read
