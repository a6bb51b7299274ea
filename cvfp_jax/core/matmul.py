"""Matrix products, of single-precision numbers or of their bf16 roundings, always summed in single precision.

Shapes: M x K and K x N, or whatever dimension numbers say.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

# The dimensions of both operands that are summed over.
Contracted = tuple[tuple[int, ...], tuple[int, ...]]
_INNER: Contracted = ((1,), (0,))


def operand(array: jax.Array, precision: str) -> jax.Array:
    """Returns an array as products read it.

    The barrier keeps XLA from folding the rounding into a product, which its CPU backend would then
    compute in single precision, several times slower.
    """
    return array if precision == "f32" else lax.optimization_barrier(array.astype(jnp.bfloat16))


def as_kept(array: jax.Array) -> jax.Array:
    """Returns an array as it is kept, to be read or changed in part: of bf16 numbers the bits, as uint16.

    XLA's CPU backend cannot slice, gather or change rounded numbers in place: it would make the whole array
    f32 first, or write all of it again.
    """
    return lax.bitcast_convert_type(array, jnp.uint16) if array.dtype == jnp.bfloat16 else array


def numbers_type(dtype: Any) -> jnp.dtype:
    """Returns the type of the numbers that are kept in one."""
    return jnp.dtype(jnp.bfloat16 if dtype == jnp.uint16 else dtype)


def as_numbers(kept: jax.Array) -> jax.Array:
    """Returns the numbers of what ``as_kept`` made, or of a part of it.

    >>> as_numbers(as_kept(jnp.array([1.0], jnp.bfloat16))).tolist()
    [1.0]
    """
    return lax.bitcast_convert_type(kept, jnp.bfloat16) if kept.dtype == jnp.uint16 else kept


def rounded_transpose(array_MxK: jax.Array) -> jax.Array:
    """Returns the transpose in bf16, [K, M].

    XLA's CPU backend multiplies rounded numbers fast only where a left operand's last dimension is summed,
    and transposes numbers of four bytes several times as fast as those of two: rows go in pairs.
    """
    rounded_MxK = operand(array_MxK, "bf16")
    rows, columns = rounded_MxK.shape
    if rows % 2:
        return lax.optimization_barrier(rounded_MxK.T)
    pairs = lax.bitcast_convert_type(rounded_MxK.reshape(rows // 2, 2, columns).swapaxes(1, 2), jnp.uint32)
    turned = lax.optimization_barrier(lax.optimization_barrier(pairs).T)
    return lax.bitcast_convert_type(turned, jnp.bfloat16).reshape(columns, rows)


def contract(a: jax.Array, b: jax.Array, contracted: Contracted, precision: str) -> jax.Array:
    """Returns the product of two matrices over some of their dimensions; not differentiable in bf16."""
    a, b = operand(a, precision), operand(b, precision)
    sums = jnp.float32 if precision == "bf16" else None
    return lax.dot_general(a, b, (contracted, ((), ())), preferred_element_type=sums)


def weighted_sum(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns the product of a vector and a matrix, or of a matrix and a vector, in their own type.

    The matrix is read once, where XLA's CPU backend would write down what a sum adds up.
    """
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def transposed_product(a_MxK: jax.Array, b_MxN: jax.Array, precision: str) -> jax.Array:
    """Returns ``a.T @ b``, the gradient of a kernel; not differentiable in bf16."""
    if precision == "bf16" and jax.default_backend() == "cpu":
        return contract(rounded_transpose(a_MxK), b_MxN, _INNER, precision)
    return contract(a_MxK, b_MxN, ((0,), (0,)), precision)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _rounded_product(a_MxK: jax.Array, b_KxN: jax.Array, precision: str) -> jax.Array:
    return contract(a_MxK, b_KxN, _INNER, precision)


def _forward(
    a_MxK: jax.Array, b_KxN: jax.Array, precision: str
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return contract(a_MxK, b_KxN, _INNER, precision), (a_MxK, b_KxN)


def _backward(
    precision: str, operands: tuple[jax.Array, jax.Array], gradient_MxN: jax.Array
) -> tuple[jax.Array, jax.Array]:
    a_MxK, b_KxN = operands
    return (
        contract(gradient_MxN, b_KxN, ((1,), (1,)), precision),
        transposed_product(a_MxK, gradient_MxN, precision),
    )


_rounded_product.defvjp(_forward, _backward)


def product(a_MxK: jax.Array, b_KxN: jax.Array, precision: str = "f32") -> jax.Array:
    """Returns ``a @ b``, summed in the type of its operands or, where they are rounded, in single precision.

    Args:
      a_MxK: float.
      b_KxN: float.
      precision: f32 multiplies the operands as they are; bf16 rounds them to 8 significant bits first,
        and in the backward pass the gradient too. Accelerators and CPUs with matrix units multiply
        those several times faster.

    Returns:
      [M, N].

    References:
      Kalamkar et al., A Study of BFLOAT16 for Deep Learning Training, 2019.

    >>> product(jnp.array([[1.001]]), jnp.array([[1.0]]), "bf16").tolist()
    [[1.0]]
    """
    return a_MxK @ b_KxN if precision == "f32" else _rounded_product(a_MxK, b_KxN, precision)
