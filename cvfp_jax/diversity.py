"""Diversity losses: what keeps contexts from falling together."""

import jax
import jax.numpy as jnp


def mcdl(contexts_BxD: jax.Array, valid_B: jax.Array) -> jax.Array:
    """Mean-centred dispersion loss: minus the spread of the contexts about their mean.

    ``-||C - 1 mu^T||_F / n``, with mu the mean of the n rows. LayerNorm keeps ``||c||`` near
    ``sqrt(D)``, so the loss is at least ``-sqrt(D / n)``: its weight falls with the batch. Where all
    rows are equal, and the norm has no derivative, the gradient is zero. Costs O(n D).

    Args:
      contexts_BxD: float.
      valid_B: bool, which rows count; n is their number.

    Returns:
      A scalar, at most zero.

    References:
      rato-tokyo/new-llm, report of 2025-11-30.

    >>> float(mcdl(jnp.array([[3.0], [-3.0], [9.0]]), jnp.array([True, True, False]))).__round__(4)
    -2.1213
    """
    n = valid_B.sum().astype(contexts_BxD.dtype)
    mean_D = jnp.where(valid_B[:, None], contexts_BxD, 0).sum(axis=0) / n
    centred_BxD = jnp.where(valid_B[:, None], contexts_BxD - mean_D[None, :], 0)
    squares = jnp.square(centred_BxD).sum()
    # sqrt of a safe number on the branch that is not taken, so that its gradient is finite.
    norm = jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)
    return -norm / n
