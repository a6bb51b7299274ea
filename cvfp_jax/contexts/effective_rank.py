"""The effective rank of many contexts, in memory, over devices or on the disk."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from cvfp_jax.contexts.store import ContextStore, as_store
from cvfp_jax.core.effective_rank import (
    BLOCK_ROWS,
    absorb,
    effective_rank_of_spectrum,
    singular_values,
    triangular_factor,
)
from cvfp_jax.distributed.mesh import ROWS, all_gather, line_mesh, shard_map

# Rows that a host turns into double precision at a time.
_HOST_ROWS = 2048


@functools.partial(jax.jit, static_argnames="mesh")
def sharded_singular_values(matrix_NxD: jax.Array, mesh: Mesh) -> jax.Array:
    """Returns all singular values of a matrix whose rows are shared over devices.

    Each device makes the triangular factor of its own rows; those factors, one above the other, have the
    singular values of the whole. Nothing that grows with N leaves a device.

    Args:
      matrix_NxD: float, a range of rows on each device; rows of zeros change nothing.
      mesh: the devices.

    Returns:
      [min(rows, D)], largest first.

    References:
      Demmel, Grigori, Hoemmen and Langou, Communication-optimal Parallel and Sequential QR and LU
      Factorizations, 2012.
    """

    def own(matrix_NxD: jax.Array) -> jax.Array:
        factor = triangular_factor(matrix_NxD)
        if len(factor) > factor.shape[1]:
            factor = jnp.linalg.qr(factor, mode="r")
        return jnp.linalg.svd(all_gather(factor), compute_uv=False)

    return shard_map(own, line_mesh(mesh), (ROWS,))(matrix_NxD)


def streamed_singular_values(contexts: ContextStore) -> jax.Array:
    """Returns all singular values of contexts in a file, a block of rows at a time on the device."""
    dim = contexts.shape[1]
    block_rows = max(BLOCK_ROWS, dim)
    factor_DxD = jnp.zeros((dim, dim), jnp.float32)
    for block_BxD, _ in contexts.windows(range(0, len(contexts), block_rows), block_rows):
        factor_DxD = absorb(factor_DxD, block_BxD)
    return singular_values(factor_DxD)


def host_singular_values(contexts: ContextStore) -> np.ndarray:
    """Returns all singular values, by a product in double precision.

    The square roots of the eigenvalues of ``A^T A``. In double precision the product keeps what single
    precision can say of A: values below 1e-8 of the largest are lost, where an SVD of A in single
    precision loses those below 1e-7. It takes two thirds of the SVD's time.

    Args:
      contexts: float, of one device; rows of zeros change nothing.

    Returns:
      Float64 [D], largest first; NaN if any entry is not finite.

    >>> host_singular_values(as_store(np.diag([3.0, 4.0]))).tolist()
    [4.0, 3.0]
    """
    gram_DxD = np.zeros((contexts.shape[1],) * 2)
    for first in range(0, len(contexts), _HOST_ROWS):
        block_BxD = contexts.host_rows(first, _HOST_ROWS).astype(np.float64)
        gram_DxD += block_BxD.T @ block_BxD
    if not np.isfinite(gram_DxD).all():  # LAPACK would raise
        return np.full(len(gram_DxD), np.nan)
    return np.sqrt(np.maximum(np.linalg.eigvalsh(gram_DxD), 0))[::-1]


def effective_rank(
    contexts: ContextStore | jax.Array,
    num_rows: int,
    max_rows: int = 0,
    rng: np.random.Generator | None = None,
    mesh: Mesh | None = None,
) -> float:
    """Returns the effective rank of contexts, which are not centred.

    Args:
      contexts: float [N, D]; what stands beyond the contexts must be zero.
      num_rows: the number of contexts.
      max_rows: draw this many contexts without replacement if there are more; 0 takes all.
      rng: draws; needed if contexts may be drawn.
      mesh: the devices that have a range of the contexts each; None if one device has them all.

    Returns:
      A number from 1 to the smaller of rows and columns; NaN if all contexts are zero.

    Raises:
      ValueError: contexts must be drawn and there is no generator.

    References:
      Roy and Vetterli, The Effective Rank: A Measure of Effective Dimensionality, 2007.

    >>> round(effective_rank(jnp.eye(3), num_rows=3), 5)
    3.0
    """
    contexts = as_store(contexts, mesh)
    if 0 < max_rows < len(contexts):
        rows = np.arange(num_rows)
        if max_rows < num_rows:
            if rng is None:
                raise ValueError("drawing rows needs a generator")
            rows = rng.choice(num_rows, max_rows, replace=False)
        # As many rows for all streams, so that they share a program: those of no context are zero.
        rows = np.pad(rows, (0, max_rows - len(rows)), constant_values=len(contexts))
        contexts, mesh = as_store(contexts.take(rows)), None
    if mesh is not None and mesh.size > 1:
        values = sharded_singular_values(contexts.array.astype(jnp.float32), mesh)
    elif jax.default_backend() == "cpu":
        values = jnp.asarray(host_singular_values(contexts), jnp.float32)
    elif contexts.is_resident:
        values = singular_values(contexts.array.astype(jnp.float32))
    else:
        values = streamed_singular_values(contexts)
    return float(effective_rank_of_spectrum(values))
