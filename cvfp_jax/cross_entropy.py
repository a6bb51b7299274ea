"""Cross-entropy through a tied vocabulary head, a few rows at a time: no [B, V] array is kept.

Shapes: B rows, C rows of a chunk, E embedding width, V vocabulary.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

# Larger temporaries cost page faults on a CPU each time they are made.
_CHUNK_BYTES = 16 * 2**20


class Losses(NamedTuple):
    """Sums over the rows that count."""

    loss: jax.Array  # float, of -ln p(target)
    hits: jax.Array  # int32, rows whose largest logit is the target's


Rows = tuple[jax.Array, jax.Array, jax.Array]  # hidden [B, E], targets [B], valid [B]


def _chunks(rows: Rows, vocab_size: int) -> Rows:
    """Cuts rows into equal chunks whose logits fit, the last one filled up with rows that do not count."""
    num_rows = len(rows[0])
    limit = max(1, _CHUNK_BYTES // (4 * vocab_size))
    chunk = -(-num_rows // -(-num_rows // limit))
    padding = -num_rows % chunk

    def cut(array: jax.Array) -> jax.Array:
        padded = jnp.pad(array, [(0, padding)] + [(0, 0)] * (array.ndim - 1))
        return padded.reshape(-1, chunk, *array.shape[1:])

    return cut(rows[0]), cut(rows[1]), cut(rows[2])


def _chunk(
    hidden_CxE: jax.Array,
    table_VxE: jax.Array,
    targets_C: jax.Array,
    valid_C: jax.Array,
    bias_V: jax.Array | None = None,
) -> tuple[Losses, jax.Array, jax.Array]:
    """Returns a chunk's sums, its exponentials and their row sums."""
    logits_CxV = hidden_CxE @ table_VxE.T
    if bias_V is not None:
        logits_CxV += bias_V[None, :]
    target_C = jnp.take_along_axis(logits_CxV, targets_C[:, None], axis=1)[:, 0]
    largest_C = logits_CxV.max(axis=1)
    exponentials_CxV = jnp.exp(logits_CxV - largest_C[:, None])
    total_C = exponentials_CxV.sum(axis=1)
    loss_C = jnp.log(total_C) + largest_C - target_C
    # The first of equal logits counts, as argmax has it: tokens without a vector of their own are equal.
    before_CxV = jnp.arange(len(table_VxE), dtype=targets_C.dtype)[None, :] < targets_C[:, None]
    beaten_C = ((logits_CxV == largest_C[:, None]) & before_CxV).any(axis=1)
    hits_C = (target_C == largest_C) & ~beaten_C & valid_C
    sums = Losses(jnp.where(valid_C, loss_C, 0).sum(), hits_C.sum(dtype=jnp.int32))
    return sums, exponentials_CxV, total_C


def trained_head_losses(
    hidden_BxE: jax.Array,
    table_VxE: jax.Array,
    targets_B: jax.Array,
    valid_B: jax.Array,
    bias_V: jax.Array | None = None,
) -> Losses:
    """Returns the summed cross-entropy of ``softmax(hidden @ table.T + bias)``, differentiable in all three.

    The backward pass makes each chunk's logits again, so they are never kept.

    Args:
      hidden_BxE: float.
      table_VxE: float, the tied table or the head's own.
      targets_B: int, the right tokens.
      valid_B: bool, which rows count.
      bias_V: float, the head's bias, if it has one.

    Returns:
      The sums over the rows that count; divide by their number for means.
    """

    @jax.checkpoint
    def visit(rows: Rows) -> Losses:
        hidden, targets, valid = rows
        return _chunk(hidden, table_VxE, targets, valid, bias_V)[0]

    sums = lax.map(visit, _chunks((hidden_BxE, targets_B, valid_B), len(table_VxE)))
    return Losses(sums.loss.sum(), sums.hits.sum(dtype=jnp.int32))


@jax.custom_vjp
def frozen_head_losses(
    hidden_BxE: jax.Array, table_VxE: jax.Array, targets_B: jax.Array, valid_B: jax.Array
) -> Losses:
    """Returns what ``trained_head_losses`` does, differentiable in the hidden vectors only.

    Their gradient, ``E_p[table] - table_target``, needs the probabilities that the forward pass has
    at hand: it is made there, and nothing is computed twice.

    Args:
      hidden_BxE: float.
      table_VxE: float, the tied table; its gradient is zero.
      targets_B: int, the right tokens.
      valid_B: bool, which rows count.

    Returns:
      The sums over the rows that count; divide by their number for means.

    >>> hidden, table = jnp.array([[1.0, 0.0]]), jnp.zeros((4, 2))
    >>> losses = frozen_head_losses(hidden, table, jnp.array([2]), jnp.array([True]))
    >>> round(float(jnp.exp(losses.loss)), 5)
    4.0
    """
    return trained_head_losses(hidden_BxE, table_VxE, targets_B, valid_B)


def _forward(
    hidden_BxE: jax.Array, table_VxE: jax.Array, targets_B: jax.Array, valid_B: jax.Array
) -> tuple[Losses, jax.Array]:
    def visit(rows: Rows) -> tuple[Losses, jax.Array]:
        hidden, targets, valid = rows
        sums, exponentials_CxV, total_C = _chunk(hidden, table_VxE, targets, valid)
        gradient_CxE = exponentials_CxV @ table_VxE / total_C[:, None] - table_VxE[targets]
        return sums, jnp.where(valid[:, None], gradient_CxE, 0)

    sums, gradient = lax.map(visit, _chunks((hidden_BxE, targets_B, valid_B), len(table_VxE)))
    losses = Losses(sums.loss.sum(), sums.hits.sum(dtype=jnp.int32))
    return losses, gradient.reshape(-1, hidden_BxE.shape[1])[: len(hidden_BxE)]


def _backward(gradient_BxE: jax.Array, cotangents: Losses) -> tuple[jax.Array, None, None, None]:
    return gradient_BxE * cotangents.loss, None, None, None


frozen_head_losses.defvjp(_forward, _backward)
