import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvfp_jax.config.settings import DIVERSITIES
from cvfp_jax.core import diversity
from cvfp_jax.core.diversity import DIVERSITY_LOSSES, drawn_hsic, hsic, mcdl

pytestmark = pytest.mark.usefixtures("quick_compilation")

VALUE_AND_GRADIENT = jax.jit(jax.value_and_grad(mcdl))


@pytest.mark.parametrize("name", ["small01", "onerow", "identical_rows"])
def test_mcdl_and_its_gradient_equal_the_original(golden, name):
    facts, arrays = golden("unit_diversity")
    rows = jnp.asarray(arrays[f"{name}/x"])
    value, gradient = VALUE_AND_GRADIENT(rows, jnp.ones(len(rows), bool))
    assert float(value) == pytest.approx(facts["cases"][name]["value"], abs=1e-7, rel=1e-6)
    np.testing.assert_allclose(gradient, arrays[f"{name}/grad"], rtol=0, atol=1e-8)


@settings(max_examples=50, deadline=None)
@given(n=st.integers(1, 12), seed=st.integers(0, 99))
def test_rows_that_do_not_count_change_nothing(n, seed):
    rows = np.random.default_rng(seed).normal(size=(12, 4)).astype(np.float32)
    valid = np.arange(12) < n
    value, gradient = VALUE_AND_GRADIENT(jnp.asarray(rows), jnp.asarray(valid))
    inside = rows[:n].astype(np.float64)
    assert float(value) == pytest.approx(-np.linalg.norm(inside - inside.mean(axis=0)) / n, abs=1e-6)
    assert np.isfinite(gradient).all()
    assert not np.asarray(gradient[n:]).any()
    # No spread is larger than that of rows of norm sqrt(D).
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True) * 2
    assert float(VALUE_AND_GRADIENT(jnp.asarray(unit), jnp.asarray(valid))[0]) >= -np.sqrt(4 / n) - 1e-6


MATRICES = ["r64x16", "r200x32", "r10x16"]


@functools.cache
def compiled(name):
    """Value and gradient of a loss of rows, valid rows and, for HSIC, pairs of dimensions."""
    if name == "HSIC":
        return jax.jit(jax.value_and_grad(hsic))
    return jax.jit(
        jax.value_and_grad(lambda rows, valid, _: DIVERSITY_LOSSES[name](rows, valid, jax.random.key(0)))
    )


@jax.jit
def drawn_value_and_gradient(rows, valid, _):
    return jax.value_and_grad(DIVERSITY_LOSSES["HSIC"])(rows, valid, jax.random.key(0))


def test_every_name_has_a_loss():
    assert tuple(DIVERSITY_LOSSES) == DIVERSITIES


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("name", DIVERSITIES)
def test_values_and_gradients_equal_the_original(golden, name, matrix):
    facts, arrays = golden("diversity_losses")
    case = facts["losses"][name.upper()]["cases"][matrix]
    n = len(arrays[f"x/{matrix}"])
    room = 71 if n < 71 else 207  # rows that do not count fill up what two matrices share
    rows = np.pad(arrays[f"x/{matrix}"], ((0, room - n), (0, 0)), constant_values=3.0)
    pairs = jnp.asarray(arrays[f"HSIC/{matrix}/pairs"])
    value, gradient = compiled(name)(jnp.asarray(rows), jnp.arange(room) < n, pairs)
    # InfoNCE is a small difference of numbers of about ten.
    assert float(value) == pytest.approx(case["value_f64"], rel=1e-6, abs=1e-6 if name == "InfoNCE" else 1e-8)
    kept = np.asarray(gradient)[:n][:: 8 if matrix == "r200x32" else 1]
    # Ten times the original's own error in single precision; compiled, InfoNCE's softmax of ten times a
    # cosine adds up in another order.
    atol = (50 if name == "InfoNCE" else 10) * case["grad_max_abs_f32_minus_f64"]
    np.testing.assert_allclose(kept, arrays[f"{name.upper()}/{matrix}/grad"], rtol=0, atol=atol)
    assert not np.asarray(gradient)[n:].any()


@pytest.mark.parametrize("name", DIVERSITIES)
def test_few_rows_padded_rows_and_equal_rows_give_finite_gradients(golden, name):
    rng, pairs = np.random.default_rng(0), jnp.asarray(golden("diversity_losses")[1]["HSIC/r64x16/pairs"])
    # Of the shapes that another test has compiled for; HSIC draws its own pairs here.
    loss = drawn_value_and_gradient if name == "HSIC" else compiled(name)
    for n in (1, 2, 5):
        valid = np.arange(71) < n
        for rows in (rng.normal(size=(71, 16)), np.tile(rng.normal(size=16), (71, 1)), np.zeros((71, 16))):
            value, gradient = loss(jnp.asarray(rows, jnp.float32), jnp.asarray(valid), pairs)
            assert np.isfinite(float(value))
            assert np.isfinite(gradient).all()
            assert not np.asarray(gradient)[n:].any()


def test_hsic_draws_pairs_and_rows_anew_with_each_key(monkeypatch):
    rows = jnp.asarray(np.random.default_rng(0).standard_normal((240, 6)), jnp.float32)
    valid = jnp.ones(240, bool)
    monkeypatch.setattr(diversity, "_HSIC_ROWS", 200)
    loss = jax.jit(lambda rows, seed: drawn_hsic(rows, valid, jax.random.key(seed)))
    values = [float(loss(rows, seed)) for seed in (1, 1, 2)]
    assert values[0] == values[1] != values[2]
    # Independent normal columns: far below that of a column with itself.
    assert 0 < values[0] < 0.01
    same = jnp.tile(rows[:, :1], (1, 6))
    assert float(loss(same, 1)) > 0.02
