import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvfp_jax import token_tables
from cvfp_jax.row_sums import add_rows

pytestmark = pytest.mark.usefixtures("quick_compilation")
ADD = jax.jit(add_rows)


def check(places, num_places, seed=0):
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((len(places), 3)).astype(np.float32)
    table = rng.standard_normal((num_places, 3)).astype(np.float32)
    expected = table.astype(np.float64)
    np.add.at(expected, places, rows)
    found = ADD(jnp.asarray(table), jnp.asarray(places, jnp.int32), jnp.asarray(rows))
    # As far as sums of so many numbers of size one can be apart.
    np.testing.assert_allclose(found, expected, atol=1e-6 * (1 + len(places)) ** 0.5 * 5)


@settings(deadline=None)
@given(
    st.sampled_from((1, 128, 700)),
    st.sampled_from((2, 200)),
    st.floats(0.2, 3),
    st.integers(0, 9),
)
def test_rows_are_added_at_their_places(num_rows, num_places, skew, seed):
    # From all rows at one place, through places that span several stretches, to each at its own.
    share = np.random.default_rng(seed).random(num_rows) ** skew
    check((share * num_places).astype(int), num_places, seed)


@pytest.mark.parametrize("num_rows", [128, 256, 640])
def test_places_that_begin_and_end_with_stretches(num_rows):
    check(np.repeat(np.arange(num_rows // 64), 64)[::-1], 11)
    check(np.repeat(np.arange(num_rows // 128), 128), 11)
    check(np.zeros(num_rows, int), 1)
    check(np.arange(num_rows), num_rows)


def test_the_order_of_rows_in_other_places_changes_no_bit():
    rng = np.random.default_rng(0)
    places = np.sort(rng.integers(0, 40, 1000))
    rows = rng.standard_normal((1000, 4)).astype(np.float32)
    table = jnp.zeros((40, 4))
    mixed = np.argsort(rng.permutation(40)[places], kind="stable")  # places moved, their rows in order
    one = ADD(table, jnp.asarray(places, jnp.int32), jnp.asarray(rows))
    other = ADD(table, jnp.asarray(places[mixed], jnp.int32), jnp.asarray(rows[mixed]))
    np.testing.assert_array_equal(one, other)


def test_token_terms_take_it_on_accelerators(monkeypatch):
    tables = [jnp.zeros((5, 2)), jnp.zeros((5, 2))]
    places, gradient = jnp.array([[4, 0, 4], [0, 4, 1]]), jnp.arange(6.0).reshape(3, 2)
    on_cpu = token_tables.add_terms(tables, places, gradient)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    elsewhere = token_tables.add_terms(tables, places, gradient)
    assert "argsort" in str(jax.make_jaxpr(token_tables.add_terms)(tables, places, gradient))
    for one, other in zip(on_cpu, elsewhere, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
