"""The value of a diversity loss with its gradient, in the form that costs least.

Shapes: B rows of a micro-batch, or of a device's piece of it, of all of which the n valid ones are X, T of
them in a row, D context width.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cvfp_jax.diversity import DIVERSITY_LOSSES


class Gradient(NamedTuple):
    """``scale X + offset + rest``, in the rows that count."""

    scale: jax.Array
    offset_D: jax.Array
    rest_BxD: jax.Array | None = None

    def of_rows(self, contexts_TxD: jax.Array, rest_TxD: jax.Array | None) -> jax.Array:
        """Returns the gradient for some rows, given the rest of those rows."""
        gradient = self.scale * contexts_TxD + self.offset_D[None, :]
        return gradient if rest_TxD is None else gradient + rest_TxD


# The weight of the squared mean beside the dispersion, for the losses that are made of these two.
_MEAN_WEIGHTS = {"MCDL": 0.0, "OACD": 0.1}


def of_sums(name: str) -> bool:
    """Says whether a loss and its gradient follow from sums over rows."""
    return name in _MEAN_WEIGHTS


def _alone(total: jax.Array) -> jax.Array:
    """The sum over all pieces, where there is one."""
    return total


def value_and_gradient(
    name: str,
    contexts_BxD: jax.Array,
    valid_B: jax.Array,
    key: jax.Array,
    total: Callable[[jax.Array], jax.Array] = _alone,
) -> tuple[jax.Array, Gradient]:
    """Returns a diversity loss and its gradient.

    Of ``-||Xc||_F / n + w ||mu||^2`` (MCDL with w = 0, OACD) the gradient is
    ``-(X - mu) / (n ||Xc||_F) + 2 w mu / n``: a multiple of the contexts and a vector, so it is never
    written down, and pieces of a micro-batch need each other's sums only. The other losses are
    differentiated automatically, of a whole micro-batch.

    Args:
      name: one of ``DIVERSITY_LOSSES``.
      contexts_BxD: float.
      valid_B: bool, which rows count.
      key: what HSIC draws with.
      total: sums over all pieces of the micro-batch; for MCDL and OACD only.

    Returns:
      The loss, a scalar, and its gradient.

    >>> rows, valid = jnp.array([[3.0], [-3.0]]), jnp.array([True, True])
    >>> loss, gradient = value_and_gradient("MCDL", rows, valid, jax.random.key(0))
    >>> round(float(loss), 4), gradient.of_rows(rows, None).round(4).tolist()
    (-2.1213, [[-0.35359999537467957], [0.35359999537467957]])
    """
    dtype = contexts_BxD.dtype
    if not of_sums(name):
        loss, rest_BxD = jax.value_and_grad(DIVERSITY_LOSSES[name])(contexts_BxD, valid_B, key)
        return loss, Gradient(jnp.zeros((), dtype), jnp.zeros_like(contexts_BxD[0]), rest_BxD)
    # A micro-batch without rows counts nothing; without this it would count as no number.
    n = jnp.maximum(total(valid_B.sum()), 1).astype(dtype)
    mean_D = total(jnp.where(valid_B[:, None], contexts_BxD, 0).sum(axis=0)) / n
    squares = total(jnp.square(jnp.where(valid_B[:, None], contexts_BxD - mean_D[None, :], 0)).sum())
    norm = jnp.sqrt(squares)
    # Where all rows are equal the norm has no derivative; it counts as zero, as in ``diversity``.
    scale = jnp.where(norm > 0, -1 / (n * jnp.where(norm > 0, norm, 1)), 0)
    weight = _MEAN_WEIGHTS[name]
    loss = -norm / n + weight * jnp.square(mean_D).sum()
    return loss, Gradient(scale, (2 * weight / n - scale) * mean_D)
