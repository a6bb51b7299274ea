"""Token terms from tables: a stream of N tokens has far fewer distinct ones, and each is multiplied once.

Shapes: N tokens of a stream, T tokens in a row of it, U distinct tokens, V vocabulary, E embedding width,
K input tokens, D layer width.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from cvfp_jax.core.matmul import operand, product
from cvfp_jax.core.model import ContextBlock
from cvfp_jax.core.token_stream import TokenStream

# Rows come in multiples, so that streams of nearly equal vocabularies share their programs.
_ROWS = 256
# A layer's products: one table an input token, oldest first, the last with the bias; a layer without
# token input has its bias only.
LayerTables = list[jax.Array]


class Distinct(NamedTuple):
    """A stream's distinct tokens and, in place of its token ids, their places among them."""

    vectors_UxE: jax.Array  # then rows of zeros, the last of which stands for no token
    places_N: np.ndarray  # int32


def distinct_tokens(stream: TokenStream, *, as_power_of_two: bool = False) -> Distinct:
    """Returns a stream's distinct tokens.

    Args:
      stream: the stream; its ``distinct_capacity`` is the least number of tokens to make room for.
      as_power_of_two: make as many rows as the next power of two, so that few programs serve all streams,
        whatever their capacity.

    Returns:
      Their vectors, and the stream in terms of them.

    >>> stream = TokenStream(jnp.array([[1.0], [2.0], [3.0]]), np.array([2, 0, 2]))
    >>> vectors_UxE, places_N = distinct_tokens(stream)
    >>> places_N.tolist(), vectors_UxE[:3, 0].tolist()
    ([1, 0, 1], [1.0, 3.0, 0.0])
    """
    tokens, places = np.unique(stream.ids_N, return_inverse=True)
    least = 0 if as_power_of_two else stream.distinct_capacity
    rows = max(least, len(tokens)) + 1
    rows = max(_ROWS, 1 << (rows - 1).bit_length()) if as_power_of_two else rows + -rows % _ROWS
    # Beyond the vocabulary there are zeros.
    tokens = np.pad(tokens, (0, rows - len(tokens)), constant_values=len(stream.vectors_VxE)).astype(np.int32)
    vectors_UxE = stream.vectors_VxE.at[jnp.asarray(tokens)].get(mode="fill", fill_value=0)
    return Distinct(vectors_UxE, places.astype(np.int32))


def windowed(places_N: np.ndarray, num_input_tokens: int, rows: int) -> np.ndarray:
    """Returns a stream with its first K - 1 windows filled up by the row that stands for no token."""
    return np.pad(places_N, (num_input_tokens - 1, 0), constant_values=rows - 1)


def token_tables(block: ContextBlock, vectors_UxE: jax.Array) -> list[LayerTables]:
    """Returns what each distinct token adds to each layer's first product, from each place of the window.

    ``tables[layer][k][u] = W_k e_u``, with W_k the rows of the layer's weight that read the window's
    token k; the bias is added for the newest token, which every window has.

    Args:
      block: the context block.
      vectors_UxE: float, the distinct tokens' vectors.

    Returns:
      Tables [U, D_i] a layer.
    """
    width = vectors_UxE.shape[1]
    every_layer = []
    for layer in block.layers:
        bias_1xD = layer.first_bias[None, :]
        first = range(layer.context_dim, layer.context_dim + layer.token_dim, width)
        kernels = [layer.linear.kernel[start : start + width] for start in first]
        tables = [product(vectors_UxE, kernel, layer.kind.precision) for kernel in kernels]
        every_layer.append([*tables[:-1], tables[-1] + bias_1xD] if tables else [bias_1xD])
    return every_layer


def without_token_rows(block: ContextBlock) -> ContextBlock:
    """Cuts a block's first weights down to the rows that read contexts, rounded as products read them.

    Once, before a loop: XLA would do so in each of its steps.
    """
    for layer in block.layers:
        kernel = operand(layer.linear.kernel[: layer.context_dim], layer.kind.precision)
        layer.linear.kernel = nnx.Param(lax.optimization_barrier(kernel))
    return block


def window_places(places_W: jax.Array, of_T: jax.Array, num_input_tokens: int) -> jax.Array:
    """Returns the places of the tokens in the windows of T tokens, [K, T], given those of all in a row.

    >>> window_places(jnp.array([9, 4, 7]), jnp.array([0, 1]), 2).tolist()
    [[9, 4], [4, 7]]
    """
    back_K = jnp.arange(num_input_tokens, dtype=of_T.dtype)
    return places_W[back_K[:, None] + of_T[None, :]]


def terms_of(tables: LayerTables, places_KxT: jax.Array) -> jax.Array:
    """Returns a layer's token terms, given the places of the tokens in their windows.

    >>> table, biased = jnp.array([[1.0], [0.0]]), jnp.array([[10.0], [20.0]])
    >>> terms_of([table, biased], jnp.array([[1, 0], [0, 0]])).tolist()
    [[10.0], [11.0]]
    """
    if len(tables[0]) == 1:
        return tables[0]
    pairs = zip(tables, places_KxT, strict=True)
    terms = [table.at[places_T].get(mode="promise_in_bounds") for table, places_T in pairs]
    return sum(terms[1:], terms[0])


def add_terms(tables: LayerTables, places_KxT: jax.Array, gradient_TxD: jax.Array) -> LayerTables:
    """Returns tables with the gradient of ``terms_of`` added."""
    if len(tables[0]) == 1:
        return [tables[0] + gradient_TxD.sum(axis=0, keepdims=True)]
    pairs = zip(tables, places_KxT, strict=True)
    if jax.default_backend() != "cpu":
        return [add_rows(table, places_T, gradient_TxD) for table, places_T in pairs]
    return [table.at[places_T].add(gradient_TxD, mode="promise_in_bounds") for table, places_T in pairs]


# A segment is one small product of matrices.
_SEGMENT = 128


def _joined(a: tuple[jax.Array, jax.Array], b: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Two neighbouring sums, of which the second may start afresh."""
    (afresh_a, sum_a), (afresh_b, sum_b) = a, b
    return afresh_a | afresh_b, jnp.where(afresh_b, sum_b, sum_a + sum_b)


def add_rows(table_UxD: jax.Array, places_T: jax.Array, rows_TxD: jax.Array) -> jax.Array:
    """Returns a table with rows added at places, ``table.at[places].add(rows)``.

    Accelerators add rows to a place in whatever order they come. Here rows are sorted by place and cut into
    segments; in a segment the rows of a place are summed by a product with zeros and ones, over
    segments by a scan, and each place is written once.

    Args:
      table_UxD: float.
      places_T: int.
      rows_TxD: float.

    Returns:
      [U, D].

    >>> add_rows(jnp.zeros((2, 1)), jnp.array([1, 0, 1]), jnp.array([[1.0], [2.0], [3.0]])).tolist()
    [[2.0], [4.0]]
    """
    num_rows, num_places = len(places_T), len(table_UxD)
    order_T = jnp.argsort(places_T)
    # The last segment is filled up with rows of zeros for a place beyond the table.
    filling = -num_rows % _SEGMENT
    places_CxS = jnp.pad(places_T[order_T], (0, filling), constant_values=num_places).reshape(-1, _SEGMENT)
    rows_TxD = jnp.pad(rows_TxD[order_T], ((0, filling), (0, 0)))
    rows_CxSxD = rows_TxD.reshape(*places_CxS.shape, -1)
    # The index of a row's place among those of its segment.
    own_CxS = jnp.cumsum(jnp.diff(places_CxS, axis=1, prepend=places_CxS[:, :1]) != 0, axis=1)
    is_own_CxSxS = own_CxS[:, None, :] == jnp.arange(_SEGMENT, dtype=own_CxS.dtype)[None, :, None]
    sums_CxSxD = jnp.einsum(
        "cps,csd->cpd", is_own_CxSxS.astype(rows_TxD.dtype), rows_CxSxD, precision=lax.Precision.HIGHEST
    )
    last_C = own_CxS[:, -1]
    # A place's rows may go on from one segment to the next, or through it.
    goes_on_C = jnp.concatenate([jnp.zeros((1,), bool), places_CxS[1:, 0] == places_CxS[:-1, -1]])
    ends_CxD = jnp.take_along_axis(sums_CxSxD, last_C[:, None, None], axis=1)[:, 0]
    afresh_Cx1 = ~(goes_on_C & (last_C == 0))[:, None]
    _, so_far_CxD = lax.associative_scan(_joined, (afresh_Cx1, ends_CxD))
    before_CxD = jnp.pad(so_far_CxD[:-1], ((1, 0), (0, 0)))
    sums_CxSxD = sums_CxSxD.at[:, 0].add(jnp.where(goes_on_C[:, None], before_CxD, 0))
    # What is written where: nothing where there is no such place, or its rows go on.
    place_CxS = jnp.where(is_own_CxSxS, places_CxS[:, None, :], -1).max(axis=2)
    unfinished_C = jnp.concatenate([goes_on_C[1:], jnp.zeros((1,), bool)])
    number_S = jnp.arange(_SEGMENT, dtype=last_C.dtype)
    skipped_CxS = (place_CxS < 0) | (unfinished_C[:, None] & (number_S[None, :] == last_C[:, None]))
    # Numbers beyond the table, all different, are not written.
    beyond_T = num_places + jnp.arange(len(rows_TxD), dtype=place_CxS.dtype)
    skipped_T, place_T = skipped_CxS.reshape(-1), place_CxS.reshape(-1)
    place_T = jnp.where(skipped_T | (place_T >= num_places), beyond_T, place_T)
    sums_TxD = sums_CxSxD.reshape(len(rows_TxD), -1)
    return table_UxD.at[place_T].add(sums_TxD, mode="drop", unique_indices=True)
