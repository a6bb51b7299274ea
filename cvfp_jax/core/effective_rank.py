"""Effective rank: how many dimensions a set of contexts really uses."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import entr

# Rows of a block: beyond this many, the singular values come from a blocked QR.
BLOCK_ROWS = 8192


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
    return jnp.linalg.svd(triangular_factor(matrix_NxD), compute_uv=False)


@jax.jit
def absorb(factor_DxD: jax.Array, block_BxD: jax.Array) -> jax.Array:
    """The triangular factor of two matrices, one above the other."""
    return jnp.linalg.qr(jnp.concatenate([factor_DxD, block_BxD.astype(factor_DxD.dtype)]), mode="r")


def triangular_factor(matrix_NxD: jax.Array) -> jax.Array:
    """A matrix of the same singular values, square if the rows are many."""
    num_rows, dim = matrix_NxD.shape
    block_rows = max(BLOCK_ROWS, dim)
    if num_rows > block_rows:

        def absorb_block(index: jax.Array, factor_DxD: jax.Array) -> jax.Array:
            block = lax.dynamic_slice_in_dim(matrix_NxD, index * block_rows, block_rows)
            return absorb(factor_DxD, block)

        whole_blocks = num_rows // block_rows
        rest = matrix_NxD[whole_blocks * block_rows :]
        square = jnp.zeros((dim, dim), matrix_NxD.dtype)
        matrix_NxD = lax.fori_loop(0, whole_blocks, absorb_block, absorb(square, rest))
    return matrix_NxD
