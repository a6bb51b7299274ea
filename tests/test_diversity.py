import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvfp_jax.diversity import mcdl

VALUE_AND_GRADIENT = jax.jit(jax.value_and_grad(mcdl))


@pytest.mark.parametrize("name", ["r64x16", "r200x32", "r10x16", "small01", "onerow", "identical_rows"])
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
