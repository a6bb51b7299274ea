"""The value of a diversity loss with its gradient, in the form that costs least.

Shapes: B rows of a micro-batch, of which the n valid ones are X, T of them in a row, D context width.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cvfp_jax.core.diversity import DIVERSITY_LOSSES
from cvfp_jax.core.matmul import weighted_sum


class Gradient(NamedTuple):
    """``scale X + offset + rest``, in the rows that count."""

    scale: jax.Array
    offset_D: jax.Array
    rest_BxD: jax.Array | None = None

    def times(self, factor: jax.Array) -> "Gradient":
        """Returns a multiple."""
        rest_BxD = None if self.rest_BxD is None else factor * self.rest_BxD
        return Gradient(factor * self.scale, factor * self.offset_D, rest_BxD)

    def of_rows(self, contexts_TxD: jax.Array, rest_TxD: jax.Array | None) -> jax.Array:
        """Returns the gradient for some rows, given the rest of those rows."""
        gradient = self.scale * contexts_TxD + self.offset_D[None, :]
        return gradient if rest_TxD is None else gradient + rest_TxD


# The weight of the squared mean beside the dispersion, for the losses that are made of these two.
_MEAN_WEIGHTS = {"MCDL": 0.0, "OACD": 0.1}


def of_moments(name: str) -> bool:
    """Says whether a loss and its gradient follow from the moments of all rows."""
    return name in _MEAN_WEIGHTS


class Moments(NamedTuple):
    """What such a loss needs to know of some rows."""

    rows: jax.Array  # float, how many count
    mean_D: jax.Array
    squares: jax.Array  # sum over rows of their squared distance from the mean


def no_moments(width: int, dtype: jnp.dtype) -> Moments:
    """The moments of no rows."""
    return Moments(jnp.zeros((), dtype), jnp.zeros((width,), dtype), jnp.zeros((), dtype))


def accumulate(moments: Moments, contexts_TxD: jax.Array, valid_T: jax.Array, sum_D: jax.Array) -> Moments:
    """Returns the moments of more rows, exact whatever the mean is.

    About any m near the mean, with ``a = sum(x - m)``: ``mean = m + a / n`` and
    ``squares = sum |x - m|^2 - |a|^2 / n``. Of two sets ``n = n1 + n2``, ``mean = mean1 + d n2 / n`` and
    ``squares = squares1 + squares2 + |d|^2 n1 n2 / n``
    with ``d = mean2 - mean1``.

    Args:
      moments: of the rows before.
      contexts_TxD: float, the rows that are added.
      valid_T: bool, which of them count.
      sum_D: the sum of those that count, which may be had without reading them, roughly.

    Returns:
      The moments of all.

    References:
      Chan, Golub and LeVeque, Algorithms for Computing the Sample Variance, 1983.

    >>> rows, valid = jnp.array([[3.0], [5.0], [9.0]]), jnp.array([True, True, False])
    >>> first = accumulate(no_moments(1, jnp.float32), rows, valid, jnp.array([8.0]))
    >>> both = accumulate(first, rows + 4, valid, jnp.array([16.0]))
    >>> both.rows.tolist(), both.mean_D.tolist(), both.squares.tolist()
    (4.0, [6.0], 20.0)
    """
    count = valid_T.sum().astype(moments.rows.dtype)
    near_D = sum_D / jnp.maximum(count, 1)
    apart_TxD = jnp.where(valid_T[:, None], contexts_TxD - near_D[None, :], 0)
    off_D = weighted_sum(jnp.ones_like(apart_TxD[:, 0]), apart_TxD)
    mean_D = near_D + off_D / jnp.maximum(count, 1)
    squares = jnp.square(apart_TxD).sum() - jnp.square(off_D).sum() / jnp.maximum(count, 1)
    # Of one row exactly zero, whatever the rounding: the loss has no derivative there.
    squares = jnp.where(count > 1, jnp.maximum(squares, 0), 0)
    both = moments.rows + count
    share = count / jnp.maximum(both, 1)
    apart_D = mean_D - moments.mean_D
    squares += jnp.square(apart_D).sum() * moments.rows * share
    return Moments(both, moments.mean_D + apart_D * share, moments.squares + squares)


def of_all(own: Moments, total: Callable[[jax.Array], jax.Array]) -> Moments:
    """Returns the moments of what several devices have, given the sum over devices."""
    count = total(own.rows)
    mean_D = total(own.rows * own.mean_D) / jnp.maximum(count, 1)
    squares = total(own.squares + own.rows * jnp.square(own.mean_D - mean_D).sum())
    return Moments(count, mean_D, squares)


def from_moments(name: str, moments: Moments) -> tuple[jax.Array, Gradient]:
    """Returns a diversity loss that follows from moments, and its gradient.

    Of ``-||Xc||_F / n + w ||mu||^2`` (MCDL with w = 0, OACD) the gradient is
    ``-(X - mu) / (n ||Xc||_F) + 2 w mu / n``: a multiple of the contexts and a vector, so it is never
    written down.

    Args:
      name: one for which ``of_moments``.
      moments: of all rows.

    Returns:
      The loss, a scalar, and its gradient.

    >>> rows, valid = jnp.array([[3.0], [-3.0]]), jnp.array([True, True])
    >>> moments = accumulate(no_moments(1, jnp.float32), rows, valid, rows.sum(axis=0))
    >>> loss, gradient = from_moments("MCDL", moments)
    >>> round(float(loss), 4), gradient.of_rows(rows, None).round(4).tolist()
    (-2.1213, [[-0.35359999537467957], [0.35359999537467957]])
    """
    # A micro-batch without rows counts nothing; without this it would be not a number.
    n = jnp.maximum(moments.rows, 1)
    norm = jnp.sqrt(moments.squares)
    # Where all rows are equal the norm has no derivative; it counts as zero, as in ``diversity``.
    scale = jnp.where(norm > 0, -1 / (n * jnp.where(norm > 0, norm, 1)), 0)
    weight = _MEAN_WEIGHTS[name]
    loss = -norm / n + weight * jnp.square(moments.mean_D).sum()
    return loss, Gradient(scale, (2 * weight / n - scale) * moments.mean_D)


def from_rows(
    name: str, contexts_BxD: jax.Array, valid_B: jax.Array, key: jax.Array
) -> tuple[jax.Array, Gradient]:
    """Returns any diversity loss and its gradient by automatic differentiation, of a whole micro-batch.

    Args:
      name: one of ``DIVERSITY_LOSSES``.
      contexts_BxD: float.
      valid_B: bool, which rows count.
      key: what HSIC draws with.

    Returns:
      The loss, a scalar, and its gradient.
    """
    loss, rest_BxD = jax.value_and_grad(DIVERSITY_LOSSES[name])(contexts_BxD, valid_B, key)
    zero_D = jnp.zeros_like(contexts_BxD[0])
    return loss, Gradient(zero_D[0], zero_D, rest_BxD)
