"""Cross-entropy through a vocabulary head, some of the logits at a time: no [B, V] array is kept.

Shapes: B rows, C rows of a chunk, E embedding width, V vocabulary, T tokens of it in a row.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh

from cvfp_jax.core.matmul import as_numbers, contract, operand, product
from cvfp_jax.distributed.mesh import (
    BATCH,
    REPLICATED,
    VOCABULARY,
    model_index,
    model_size,
    pmax_model,
    psum_data,
    psum_model,
    shard_map,
)

# Larger temporaries cost page faults on a CPU each time they are made.
_CHUNK_BYTES = 16 * 2**20
# A frozen head's logits at a time, rows and tokens: on a CPU as many as stay in its caches, while products
# stay large; without the gradient, for which each chunk of tokens is added to a sum, fewer tokens.
_CPU_LOGITS, _CPU_LOSS_LOGITS, LOGITS = (1024, 2048), (1024, 1024), (8192, 8192)
# Tokens of a group whose largest logit is taken together.
_GROUP = 128
# Products of rounded numbers that add up more than so many at a time are a fifth slower on some CPUs.
_CPU_ROUNDED = 1024


class Shares(NamedTuple):
    """How a head is shared: rows over some devices, tokens over others; hashable."""

    mesh: Mesh
    vocab_size: int  # the table may have more rows, of zeros, so that each device has as many


class Losses(NamedTuple):
    """Sums over the rows that count."""

    loss: jax.Array  # float, of -ln p(target)
    hits: jax.Array  # int32, rows whose largest logit is the target's


Rows = tuple[jax.Array, jax.Array, jax.Array]  # hidden [B, E], targets [B], valid [B]


def _chunks(rows: Rows, limit: int) -> Rows:
    """Cuts rows into equal chunks of at most so many, the last one filled up with rows that do not count."""
    num_rows = len(rows[0])
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
    bias_V: jax.Array | None,
    precision: str,
) -> Losses:
    """Returns a chunk's sums."""
    logits_CxV = product(hidden_CxE, table_VxE.T, precision)
    if bias_V is not None:
        logits_CxV += bias_V[None, :]
    target_C = jnp.take_along_axis(logits_CxV, targets_C[:, None], axis=1)[:, 0]
    largest_C = logits_CxV.max(axis=1)
    total_C = jnp.exp(logits_CxV - largest_C[:, None]).sum(axis=1)
    loss_C = jnp.log(total_C) + largest_C - target_C
    # The first of equal logits counts, as argmax has it: tokens without a vector of their own are equal.
    before_CxV = jnp.arange(len(table_VxE), dtype=targets_C.dtype)[None, :] < targets_C[:, None]
    beaten_C = ((logits_CxV == largest_C[:, None]) & before_CxV).any(axis=1)
    hits_C = (target_C == largest_C) & ~beaten_C & valid_C
    return Losses(jnp.where(valid_C, loss_C, 0).sum(), hits_C.sum(dtype=jnp.int32))


def trained_head_losses(
    hidden_BxE: jax.Array,
    table_VxE: jax.Array,
    targets_B: jax.Array,
    valid_B: jax.Array,
    bias_V: jax.Array | None = None,
    precision: str = "f32",
) -> Losses:
    """Returns the summed cross-entropy of ``softmax(hidden @ table.T + bias)``, differentiable in all three.

    The backward pass makes each chunk's logits again, so they are never kept.

    Args:
      hidden_BxE: float.
      table_VxE: float, the tied table or the head's own.
      targets_B: int, the right tokens.
      valid_B: bool, which rows count.
      bias_V: float, the head's bias, if it has one.
      precision: of the products; see ``products``.

    Returns:
      The sums over the rows that count; divide by their number for means.
    """

    @jax.checkpoint
    def visit(rows: Rows) -> Losses:
        hidden, targets, valid = rows
        return _chunk(hidden, table_VxE, targets, valid, bias_V, precision)

    limit = max(1, _CHUNK_BYTES // (4 * len(table_VxE)))
    sums = lax.map(visit, _chunks((hidden_BxE, targets_B, valid_B), limit))
    return Losses(sums.loss.sum(), sums.hits.sum(dtype=jnp.int32))


class _Seen(NamedTuple):
    """What is known of a chunk's logits, of the tokens seen so far."""

    largest_C: jax.Array
    total_C: jax.Array  # of the exponentials, relative to the largest
    target_C: jax.Array  # the target's logit
    before_C: jax.Array  # the largest of the tokens before the target
    pull_CxE: jax.Array | None  # the sum of the tokens' vectors, weighed by their exponentials


def _weighed(weights_CxT: jax.Array, tokens_TxE: jax.Array, precision: str) -> jax.Array:
    """The sums of the tokens' vectors by weight."""
    at_once = _CPU_ROUNDED if precision == "bf16" and jax.default_backend() == "cpu" else len(tokens_TxE)
    pieces = [slice(first, first + at_once) for first in range(0, len(tokens_TxE), at_once)]
    sums = [contract(weights_CxT[:, some], tokens_TxE[some], ((1,), (0,)), precision) for some in pieces]
    return sum(sums[1:], sums[0])


def _around_target(logits_CxT: jax.Array, index_C: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The largest logit, the target's (some other if that is elsewhere), and the largest before it."""
    rows, tokens = logits_CxT.shape
    # The logits are read once: what comes before the target is whole groups, and some of its own.
    width = _GROUP if tokens % _GROUP == 0 else tokens
    logits_CxGxW = logits_CxT.reshape(rows, -1, width)
    largest_CxG = logits_CxGxW.max(axis=2)
    nearest_C = jnp.clip(index_C, 0, tokens - 1)
    group_CxW = jnp.take_along_axis(logits_CxGxW, (nearest_C // width)[:, None, None], axis=1)[:, 0]
    own_C = jnp.take_along_axis(group_CxW, (nearest_C % width)[:, None], axis=1)[:, 0]
    indices_W = jnp.arange(width, dtype=index_C.dtype)
    begins_C = nearest_C - nearest_C % width
    among_CxW = indices_W[None, :] < (index_C - begins_C)[:, None]
    indices_G = jnp.arange(tokens // width, dtype=index_C.dtype)
    whole_CxG = indices_G[None, :] * width < begins_C[:, None]
    before_C = jnp.maximum(
        jnp.where(whole_CxG, largest_CxG, -jnp.inf).max(axis=1),
        jnp.where(among_CxW, group_CxW, -jnp.inf).max(axis=1),
    )
    return largest_CxG.max(axis=1), own_C, before_C


def _see(
    seen: _Seen,
    tokens_TxE: jax.Array,
    first: jax.Array | int,
    hidden: jax.Array,
    targets_C: jax.Array,
    precision: str,
    count: jax.Array | None,
) -> _Seen:
    """Takes in the logits of some tokens in a row; from index ``count`` on there are none."""
    logits_CxT = lax.optimization_barrier(contract(hidden, tokens_TxE, ((1,), (1,)), precision))
    if count is not None:
        is_token_T = first + jnp.arange(len(tokens_TxE), dtype=count.dtype) < count
        # A number, since a device may have no token at all.
        logits_CxT = jnp.where(is_token_T[None, :], logits_CxT, jnp.finfo(logits_CxT.dtype).min)
    largest_C, own_C, before_C = _around_target(logits_CxT, targets_C - first)
    inside_C = (targets_C >= first) & (targets_C < first + len(tokens_TxE))
    largest_C = lax.optimization_barrier(jnp.maximum(seen.largest_C, largest_C))
    fades_C = jnp.exp(seen.largest_C - largest_C)
    exponentials_CxT = jnp.exp(logits_CxT - largest_C[:, None])
    pull_CxE = seen.pull_CxE
    if pull_CxE is not None:
        pull_CxE = pull_CxE * fades_C[:, None] + _weighed(exponentials_CxT, tokens_TxE, precision)
    return _Seen(
        largest_C,
        seen.total_C * fades_C + exponentials_CxT.sum(axis=1),
        jnp.where(inside_C, own_C, seen.target_C),
        jnp.maximum(seen.before_C, before_C),
        pull_CxE,
    )


def _frozen(
    hidden_BxE: jax.Array,
    table_VxE: jax.Array,
    targets_B: jax.Array,
    valid_B: jax.Array,
    precision: str,
    shares: Shares | None,
    with_gradient: bool,
) -> tuple[Losses, jax.Array | None]:
    """Returns the sums and, if it is asked for, the gradient of the loss for the hidden vectors."""
    if shares is None or shares.mesh.size == 1:
        return _own(hidden_BxE, table_VxE, targets_B, valid_B, precision, None, with_gradient)
    own = functools.partial(_own, precision=precision, shares=shares, with_gradient=with_gradient)
    gradient_spec = BATCH if with_gradient else None
    each = shard_map(
        own, shares.mesh, (BATCH, VOCABULARY, BATCH, BATCH), (Losses(REPLICATED, REPLICATED), gradient_spec)
    )
    sums, gradient_BxE = each(hidden_BxE, table_VxE, targets_B, valid_B)
    return sums, gradient_BxE


def _own(
    hidden_BxE: jax.Array,
    table_VxE: jax.Array,
    targets_B: jax.Array,
    valid_B: jax.Array,
    precision: str,
    shares: Shares | None,
    with_gradient: bool,
) -> tuple[Losses, jax.Array | None]:
    """What ``_frozen`` returns, of a device's own rows and tokens."""
    count = None
    if shares is not None:
        first = model_index() * len(table_VxE)
        targets_B = targets_B - first
        if shares.vocab_size < len(table_VxE) * model_size(shares.mesh):
            count = shares.vocab_size - first
    on_cpu = _CPU_LOGITS if with_gradient else _CPU_LOSS_LOGITS
    limit, most_tokens = on_cpu if jax.default_backend() == "cpu" else LOGITS
    num_tokens = min(most_tokens, len(table_VxE))
    whole = len(table_VxE) // num_tokens
    dtype = hidden_BxE.dtype

    def visit(rows: Rows) -> tuple[Losses, jax.Array | None]:
        hidden_CxE, targets_C, valid_C = rows
        hidden = operand(hidden_CxE, precision)
        lowest_C, zero_C = jnp.full(len(targets_C), -jnp.inf, dtype), jnp.zeros(len(targets_C), dtype)
        pull_CxE = jnp.zeros_like(hidden_CxE) if with_gradient else None
        seen = _Seen(lowest_C, zero_C, zero_C, lowest_C, pull_CxE)
        see = functools.partial(_see, hidden=hidden, targets_C=targets_C, precision=precision, count=count)

        def see_chunk(index: jax.Array, seen: _Seen) -> _Seen:
            first = index * num_tokens
            tokens_TxE = as_numbers(lax.dynamic_slice_in_dim(table_VxE, first, num_tokens))
            return see(seen, lax.optimization_barrier(tokens_TxE), first)

        seen = lax.fori_loop(0, whole, see_chunk, seen)
        if whole * num_tokens < len(table_VxE):
            seen = see(seen, as_numbers(table_VxE[whole * num_tokens :]), whole * num_tokens)
        if shares is not None:
            seen = _joined(seen)
        loss_C = jnp.log(seen.total_C) + seen.largest_C - seen.target_C
        # The first of equal logits counts, as argmax has it: tokens without a vector of their own are equal.
        hits_C = (seen.target_C == seen.largest_C) & (seen.before_C < seen.target_C) & valid_C
        sums = Losses(jnp.where(valid_C, loss_C, 0).sum(), hits_C.sum(dtype=jnp.int32))
        if seen.pull_CxE is None:
            return sums, None
        gradient_CxE = seen.pull_CxE / seen.total_C[:, None]
        if shares is None:
            gradient_CxE -= as_numbers(table_VxE[targets_C]).astype(dtype)
        else:
            is_here_C = (targets_C >= 0) & (targets_C < len(table_VxE))
            target_CxE = as_numbers(table_VxE[jnp.where(is_here_C, targets_C, 0)]).astype(dtype)
            gradient_CxE -= jnp.where(is_here_C[:, None], target_CxE, 0)
            gradient_CxE = psum_model(gradient_CxE)
        return sums, jnp.where(valid_C[:, None], gradient_CxE, 0)

    sums, gradient = lax.map(visit, _chunks((hidden_BxE, targets_B, valid_B), limit))
    if gradient is not None:
        gradient = gradient.reshape(-1, hidden_BxE.shape[1])[: len(hidden_BxE)]
    sums = Losses(sums.loss.sum(), sums.hits.sum(dtype=jnp.int32))
    return (sums if shares is None else psum_data(sums)), gradient


def _joined(seen: _Seen) -> _Seen:
    """What is known once all devices have told what they have seen; each keeps its own pull."""
    largest_C = pmax_model(seen.largest_C)
    fades_C = jnp.exp(seen.largest_C - largest_C)
    return _Seen(
        largest_C,
        psum_model(seen.total_C * fades_C),
        # Zero everywhere but on the device that has the target.
        psum_model(seen.target_C),
        pmax_model(seen.before_C),
        None if seen.pull_CxE is None else seen.pull_CxE * fades_C[:, None],
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def frozen_head_losses(
    hidden_BxE: jax.Array,
    table_VxE: jax.Array,
    targets_B: jax.Array,
    valid_B: jax.Array,
    precision: str = "f32",
    shares: Shares | None = None,
) -> Losses:
    """Returns what ``trained_head_losses`` does, differentiable in the hidden vectors only.

    Their gradient, ``E_p[table] - table_target``, is summed up in the forward pass, over the vocabulary
    with a running maximum, and nothing is computed twice.

    Args:
      hidden_BxE: float.
      table_VxE: float, the tied table, or that as ``matmul.as_kept`` has it in bf16; its gradient is zero.
      targets_B: int, the right tokens.
      valid_B: bool, which rows count.
      precision: of the products; see ``products``.
      shares: the devices that share rows and vocabulary; None if one has all.

    Returns:
      The sums over the rows that count; divide by their number for means.

    References:
      Milakov and Gimelshein, Online normalizer calculation for softmax, 2018.

    >>> hidden, table = jnp.array([[1.0, 0.0]]), jnp.zeros((4, 2))
    >>> losses = frozen_head_losses(hidden, table, jnp.array([2]), jnp.array([True]))
    >>> round(float(jnp.exp(losses.loss)), 5)
    4.0
    """
    return _frozen(hidden_BxE, table_VxE, targets_B, valid_B, precision, shares, with_gradient=False)[0]


def _forward(
    hidden_BxE: jax.Array,
    table_VxE: jax.Array,
    targets_B: jax.Array,
    valid_B: jax.Array,
    precision: str,
    shares: Shares | None,
) -> tuple[Losses, jax.Array]:
    losses, gradient_BxE = _frozen(
        hidden_BxE, table_VxE, targets_B, valid_B, precision, shares, with_gradient=True
    )
    assert gradient_BxE is not None
    return losses, gradient_BxE


def _backward(
    precision: str, shares: Shares | None, gradient_BxE: jax.Array, cotangents: Losses
) -> tuple[jax.Array, None, None, None]:
    del precision, shares
    return gradient_BxE * cotangents.loss, None, None, None


frozen_head_losses.defvjp(_forward, _backward)
