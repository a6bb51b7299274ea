import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvfp_jax.core.matmul import as_kept, as_numbers, operand, product, rounded_transpose


def matrices(seed=0):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in ((6, 40), (40, 5), (6, 5))]


def rounded(array):
    return np.asarray(array.astype(jnp.bfloat16), np.float64)


def test_single_precision_multiplies_what_it_is_given():
    a, b, _ = matrices()
    np.testing.assert_array_equal(product(a, b), a @ b)
    assert operand(a, "f32") is a


def test_bf16_rounds_operands_and_sums_in_single_precision():
    a, b, _ = matrices()
    found = product(a, b, "bf16")
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, rounded(a) @ rounded(b), rtol=0, atol=2e-6)
    # Sums of rounded products, not rounded sums.
    assert np.abs(np.asarray(found) - rounded(found)).max() > 1e-4


def test_bf16_gradients_are_products_of_rounded_operands():
    a, b, gradient = matrices()
    _, backward = jax.vjp(lambda a, b: product(a, b, "bf16"), a, b)
    of_a, of_b = backward(gradient)
    assert (of_a.dtype, of_b.dtype) == (jnp.float32, jnp.float32)
    np.testing.assert_allclose(of_a, rounded(gradient) @ rounded(b).T, rtol=0, atol=2e-6)
    np.testing.assert_allclose(of_b, rounded(a).T @ rounded(gradient), rtol=0, atol=2e-6)


@pytest.mark.parametrize("rows", [6, 7])
def test_a_rounded_transpose_is_the_transpose_of_what_is_rounded(rows):
    array = jnp.asarray(np.random.default_rng(1).standard_normal((rows, 5)), jnp.float32)
    found = rounded_transpose(array)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(found, np.float64), rounded(array).T)


def test_what_is_kept_of_an_operand_is_what_products_read():
    array = matrices()[2]
    assert as_kept(operand(array, "f32")) is array
    assert as_numbers(array) is array
    np.testing.assert_array_equal(as_numbers(as_kept(operand(array, "bf16"))), operand(array, "bf16"))


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_products_are_multiplied_in_the_type_of_their_operands(precision):
    # In bf16, XLA must be given operands in bf16: without the barrier it multiplies in f32 on a CPU.
    a, b, _ = matrices()
    text = jax.jit(lambda a, b: product(a, b, precision)).lower(a, b).as_text()
    (dot,) = [line for line in text.splitlines() if "dot_general" in line]
    assert dot.count("bf16>") == (2 if precision == "bf16" else 0)
