"""Effective rank: how many dimensions a set of contexts really uses."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import entr

# Rows of a block: beyond this many, the singular values come from a blocked QR.
_BLOCK_ROWS = 8192
# Rows that a host turns into double precision at a time.
_HOST_ROWS = 2048


@jax.jit
def singular_values(matrix_NxD: jax.Array) -> jax.Array:
    """Returns all singular values, of the triangular factor if the rows are many.

    ``A = Q R`` has the singular values of R, and R of a tall matrix is made a block of rows at a time,
    ``R <- qr([R; block])``. Orthogonal transformations keep every digit that an SVD of A has; the
    product ``A^T A`` would lose half of them.

    Args:
      matrix_NxD: float; rows of zeros change nothing.

    Returns:
      [min(N, D)], largest first.

    References:
      Demmel, Grigori, Hoemmen and Langou, Communication-optimal Parallel and Sequential QR and LU
      Factorizations, 2012.

    >>> singular_values(jnp.diag(jnp.array([3.0, 4.0]))).tolist()
    [4.0, 3.0]
    """
    num_rows, dim = matrix_NxD.shape
    block_rows = max(_BLOCK_ROWS, dim)
    if num_rows > block_rows:

        def absorb(index: jax.Array, factor_DxD: jax.Array) -> jax.Array:
            block = lax.dynamic_slice_in_dim(matrix_NxD, index * block_rows, block_rows)
            return jnp.linalg.qr(jnp.concatenate([factor_DxD, block]), mode="r")

        whole_blocks = num_rows // block_rows
        rest = matrix_NxD[whole_blocks * block_rows :]
        square = jnp.zeros((dim, dim), matrix_NxD.dtype)
        start_DxD = jnp.linalg.qr(jnp.concatenate([square, rest]), mode="r")
        matrix_NxD = lax.fori_loop(0, whole_blocks, absorb, start_DxD)
    return jnp.linalg.svd(matrix_NxD, compute_uv=False)


def host_singular_values(matrix_NxD: np.ndarray) -> np.ndarray:
    """Returns all singular values, by a product in double precision.

    The square roots of the eigenvalues of ``A^T A``. In double precision the product keeps what single
    precision can say of A: values below 1e-8 of the largest are lost, where an SVD of A in single
    precision loses those below 1e-7. It takes two thirds of the SVD's time.

    Args:
      matrix_NxD: float.

    Returns:
      Float64 [D], largest first; NaN if any entry is not finite.

    >>> host_singular_values(np.diag([3.0, 4.0])).tolist()
    [4.0, 3.0]
    """
    gram_DxD = np.zeros((matrix_NxD.shape[1],) * 2)
    for first in range(0, len(matrix_NxD), _HOST_ROWS):
        block = matrix_NxD[first : first + _HOST_ROWS].astype(np.float64)
        gram_DxD += block.T @ block
    if not np.isfinite(gram_DxD).all():  # LAPACK would raise
        return np.full(len(gram_DxD), np.nan)
    return np.sqrt(np.maximum(np.linalg.eigvalsh(gram_DxD), 0))[::-1]


@jax.jit
def effective_rank_of_spectrum(values: jax.Array) -> jax.Array:
    """Returns the exponential of the entropy of singular values.

    ``exp(-sum p ln p)``, ``p = s / sum(s)``. The original adds 1e-10 inside the logarithm, which
    changes the result by less than 2e-7 of itself and can take it below 1.

    Args:
      values: float, not negative.

    Returns:
      A scalar from 1 to the number of values that are not zero; NaN if all are zero.

    References:
      Roy and Vetterli, The Effective Rank: A Measure of Effective Dimensionality, 2007.

    >>> float(effective_rank_of_spectrum(jnp.array([1.0, 1.0, 0.0]))).__round__(5)
    2.0
    """
    return jnp.exp(entr(values / values.sum()).sum())


def effective_rank(
    contexts_NxD: jax.Array, num_rows: int, max_rows: int = 0, rng: np.random.Generator | None = None
) -> float:
    """Returns the effective rank of contexts, which are not centred.

    Args:
      contexts_NxD: float; what stands beyond the contexts must be zero.
      num_rows: the number of contexts.
      max_rows: draw this many contexts without replacement if there are more; 0 takes all.
      rng: draws; needed if contexts may be drawn.

    Returns:
      A number from 1 to the smaller of rows and columns; NaN if all contexts are zero.

    Raises:
      ValueError: contexts must be drawn and there is no generator.

    References:
      Roy and Vetterli, The Effective Rank: A Measure of Effective Dimensionality, 2007.

    >>> round(effective_rank(jnp.eye(3), num_rows=3), 5)
    3.0
    """
    if 0 < max_rows < len(contexts_NxD):
        rows = np.arange(num_rows)
        if max_rows < num_rows:
            if rng is None:
                raise ValueError("drawing rows needs a generator")
            rows = rng.choice(num_rows, max_rows, replace=False)
        # As many rows for all streams, so that they share a program: those of no context are zero.
        rows = np.pad(rows, (0, max_rows - len(rows)), constant_values=len(contexts_NxD))
        contexts_NxD = contexts_NxD.at[jnp.asarray(rows)].get(mode="fill", fill_value=0)
    if jax.default_backend() == "cpu":
        values = jnp.asarray(host_singular_values(np.asarray(contexts_NxD)), jnp.float32)
    else:
        values = singular_values(contexts_NxD.astype(jnp.float32))
    return float(effective_rank_of_spectrum(values))
