"""A micro-batch in tiles: what is at work on a CPU fits in its caches.

Shapes: B rows of a micro-batch, C = B + 1, T rows of a tile, D context width, K input tokens, W places.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from cvfp_jax.micro_batches import Batch
from cvfp_jax.token_tables import window_places

# Rows of a tile on a CPU: a few arrays of so many contexts fit in its caches.
_CPU_ROWS = 512


class Tile(NamedTuple):
    """Some rows of a micro-batch."""

    old_TxD: jax.Array
    shifted_TxD: jax.Array
    places_KxT: jax.Array


def num_tiles(num_rows: int) -> tuple[int, int]:
    """The number of tiles of a micro-batch and the rows of each, the last perhaps not full.

    An accelerator works on a whole micro-batch.
    """
    tiles = -(-num_rows // _CPU_ROWS) if jax.default_backend() == "cpu" else 1
    return tiles, -(-num_rows // tiles)


def tile_reader(batch: Batch, noise_BxD: jax.Array | None) -> Callable[[jax.Array], Tile]:
    """Returns what reads a tile of a micro-batch by its number."""
    tiles, rows = num_tiles(len(batch.valid_B))
    missing = tiles * rows - len(batch.valid_B)
    old_CxD = jnp.pad(batch.old_CxD, ((0, missing), (0, 0)))
    places_W = jnp.pad(batch.places_W, (0, missing))
    around = len(batch.places_W) - len(batch.valid_B)
    if noise_BxD is not None:
        noise_BxD = jnp.pad(noise_BxD, ((0, missing), (0, 0)))

    def read(number: jax.Array) -> Tile:
        first = number * rows
        both = lax.dynamic_slice_in_dim(old_CxD, first, rows + 1)
        shifted_TxD = both[:-1]
        if noise_BxD is not None:
            shifted_TxD = shifted_TxD + lax.dynamic_slice_in_dim(noise_BxD, first, rows)
        of_T = first + jnp.arange(rows, dtype=jnp.int32)
        places_KxT = window_places(places_W, of_T, around + 1)
        return Tile(both[1:], lax.optimization_barrier(shifted_TxD), places_KxT)

    return read
