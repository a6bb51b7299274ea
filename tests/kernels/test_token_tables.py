import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvfp_jax.config.settings import ModelConfig
from cvfp_jax.core import reference
from cvfp_jax.core.model import ContextBlock
from cvfp_jax.core.token_stream import TokenStream
from cvfp_jax.kernels.token_tables import (
    add_rows,
    add_terms,
    distinct_tokens,
    terms_of,
    token_tables,
    window_places,
    windowed,
)
from tests.plain import drawn, module

pytestmark = pytest.mark.usefixtures("quick_compilation")
CONFIGS = [
    ModelConfig(6, 5, 1, 1),
    ModelConfig(6, 5, 2, 3),
    ModelConfig(6, 5, 3, 2, token_input_all_layers=False),
    ModelConfig(6, 5, 1, 2, ffn_num_layers=2),
]


def make_stream(tokens=17, seed=0):
    rng = np.random.default_rng(seed)
    vectors = jnp.asarray(rng.normal(size=(11, 5)), jnp.float32)
    return TokenStream(vectors, rng.integers(0, 11, tokens))


@settings(deadline=None)  # the first example compiles
@given(st.lists(st.integers(0, 8), min_size=1, max_size=40), st.integers(0, 300))
def test_places_stand_for_the_tokens(ids, capacity):
    vectors = jnp.arange(1.0, 10.0)[:, None]
    found, places = distinct_tokens(TokenStream(vectors, np.array(ids), distinct_capacity=capacity))
    assert np.asarray(found)[places, 0].tolist() == [float(i + 1) for i in ids]
    assert len(found) > max(capacity, len(set(ids)))
    assert not np.asarray(found[len(set(ids)) :]).any()


@functools.partial(jax.jit, static_argnames=("tokens", "model"))
def layer_terms(params, found, in_row, tokens, model):
    """What each layer adds for each token, taken from the tables of the distinct ones."""
    places = window_places(in_row, jnp.arange(tokens), model.num_input_tokens)
    return [terms_of(tables, places) for tables in token_tables(module(ContextBlock, model, params), found)]


@pytest.mark.parametrize("model", CONFIGS, ids=str)
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**31 - 1))
def test_terms_are_what_windows_add_to_the_equations_first_products(model, seed):
    rng, K = np.random.default_rng(seed), model.num_input_tokens
    with jax.enable_x64(True):
        params = drawn(rng, reference.init_context_block, model)
        vectors, ids = jnp.asarray(rng.normal(size=(11, model.embed_dim))), rng.integers(0, 11, 17)
        found, places = distinct_tokens(TokenStream(vectors, ids))
        in_row = jnp.asarray(windowed(places, K, len(found)))
        terms = layer_terms(params, found, in_row, len(ids), model)
        window = np.asarray(reference.token_windows(vectors[ids], K))
        for number, (layer, term) in enumerate(zip(params, terms, strict=True)):
            read = window if number == 0 or model.token_input_all_layers else window[:, :0]
            rows = np.asarray(layer.first.kernel)[len(layer.first.kernel) - read.shape[1] :]
            expected = read @ rows + np.asarray(layer.first.bias)
            np.testing.assert_allclose(np.broadcast_to(term, expected.shape), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_added_terms_are_the_gradient_of_terms(config):
    K = config.num_input_tokens
    stream = make_stream()
    found, places = distinct_tokens(stream)
    in_row = jnp.asarray(windowed(places, K, len(found)))
    rng = np.random.default_rng(1)
    block = module(ContextBlock, config, drawn(rng, reference.init_context_block, config, np.float32))

    def of_layer(tables, places):
        shape = len(stream), tables[0].shape[1]
        gradient = jnp.asarray(rng.standard_normal(shape), jnp.float32)
        zeros = jax.tree.map(jnp.zeros_like, tables)
        _, of_tables = jax.vjp(lambda tables: jnp.broadcast_to(terms_of(tables, places), shape), tables)
        return add_terms(zeros, places, gradient), of_tables(gradient)[0]

    @jax.jit
    def by_hand_and_by_differentiation(found, in_row):
        places = window_places(in_row, jnp.arange(len(stream)), K)
        return [of_layer(tables, places) for tables in token_tables(block, found)]

    for by_hand, expected in by_hand_and_by_differentiation(found, in_row):
        for a, b in zip(by_hand, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=2e-6)


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
    # From all rows at one place, through places that span several chunks, to each at its own.
    share = np.random.default_rng(seed).random(num_rows) ** skew
    check((share * num_places).astype(int), num_places, seed)


@pytest.mark.parametrize("num_rows", [128, 256, 640])
def test_places_that_begin_and_end_with_segments(num_rows):
    check(np.repeat(np.arange(num_rows // 64), 64)[::-1], num_rows)
    check(np.repeat(np.arange(num_rows // 128), 128), num_rows)
    check(np.zeros(num_rows, int), num_rows)
    check(np.arange(num_rows), num_rows)


def test_a_table_of_one_place_gets_all_rows():
    check(np.zeros(256, int), 1)


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
    on_cpu = jax.jit(lambda *arrays: add_terms(*arrays))(tables, places, gradient)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    elsewhere = jax.jit(lambda *arrays: add_terms(*arrays))(tables, places, gradient)
    assert "argsort" in str(jax.make_jaxpr(add_terms)(tables, places, gradient))
    for one, other in zip(on_cpu, elsewhere, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
