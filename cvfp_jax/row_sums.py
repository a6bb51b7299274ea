"""Rows added up by place, in an order of their own: the same bits each time, and fast on an accelerator.

Shapes: T rows, D their width, U places, S rows of a stretch, C stretches.
"""

import jax
import jax.numpy as jnp
from jax import lax

# A stretch is one small product of matrices.
_STRETCH = 128


def _joined(a: tuple[jax.Array, jax.Array], b: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Two neighbouring sums, of which the second may start afresh."""
    (afresh_a, sum_a), (afresh_b, sum_b) = a, b
    return afresh_a | afresh_b, jnp.where(afresh_b, sum_b, sum_a + sum_b)


def add_rows(table_UxD: jax.Array, places_T: jax.Array, rows_TxD: jax.Array) -> jax.Array:
    """Returns a table with rows added at places, ``table.at[places].add(rows)``.

    Accelerators add rows to a place in whatever order they come. Here rows are sorted by place and cut into
    stretches; in a stretch the rows of a place are summed by a product with zeros and ones, over
    stretches by a scan, and each place is written once.

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
    # The last stretch is filled up with rows of zeros for a place beyond the table.
    filling = -num_rows % _STRETCH
    places_CxS = jnp.pad(places_T[order_T], (0, filling), constant_values=num_places).reshape(-1, _STRETCH)
    rows_TxD = jnp.pad(rows_TxD[order_T], ((0, filling), (0, 0)))
    rows_CxSxD = rows_TxD.reshape(*places_CxS.shape, -1)
    # The number of a row's place among those of its stretch.
    own_CxS = jnp.cumsum(jnp.diff(places_CxS, axis=1, prepend=places_CxS[:, :1]) != 0, axis=1)
    is_own_CxSxS = own_CxS[:, None, :] == jnp.arange(_STRETCH, dtype=own_CxS.dtype)[None, :, None]
    sums_CxSxD = jnp.einsum(
        "cps,csd->cpd", is_own_CxSxS.astype(rows_TxD.dtype), rows_CxSxD, precision=lax.Precision.HIGHEST
    )
    last_C = own_CxS[:, -1]
    # A place's rows may go on from one stretch to the next, or through it.
    goes_on_C = jnp.concatenate([jnp.zeros((1,), bool), places_CxS[1:, 0] == places_CxS[:-1, -1]])
    ends_CxD = jnp.take_along_axis(sums_CxSxD, last_C[:, None, None], axis=1)[:, 0]
    afresh_Cx1 = ~(goes_on_C & (last_C == 0))[:, None]
    _, so_far_CxD = lax.associative_scan(_joined, (afresh_Cx1, ends_CxD))
    before_CxD = jnp.pad(so_far_CxD[:-1], ((1, 0), (0, 0)))
    sums_CxSxD = sums_CxSxD.at[:, 0].add(jnp.where(goes_on_C[:, None], before_CxD, 0))
    # What is written where: nothing where there is no such place, or its rows go on.
    place_CxS = jnp.where(is_own_CxSxS, places_CxS[:, None, :], -1).max(axis=2)
    unfinished_C = jnp.concatenate([goes_on_C[1:], jnp.zeros((1,), bool)])
    number_S = jnp.arange(_STRETCH, dtype=last_C.dtype)
    skipped_CxS = (place_CxS < 0) | (unfinished_C[:, None] & (number_S[None, :] == last_C[:, None]))
    # Numbers beyond the table, all different, are not written.
    beyond_T = num_places + jnp.arange(len(rows_TxD), dtype=place_CxS.dtype)
    skipped_T, place_T = skipped_CxS.reshape(-1), place_CxS.reshape(-1)
    place_T = jnp.where(skipped_T | (place_T >= num_places), beyond_T, place_T)
    sums_TxD = sums_CxSxD.reshape(len(rows_TxD), -1)
    return table_UxD.at[place_T].add(sums_TxD, mode="drop", unique_indices=True)
