"""How fast this machine multiplies matrices, in JAX: the limit that a part is measured against."""

import functools

import jax
import jax.numpy as jnp

from benchmarks.timing import Run

SQUARE = (2048, 2048, 2048)
_TYPES = {"f32": jnp.float32, "bf16": jnp.bfloat16}


@jax.jit
def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision="highest", preferred_element_type=jnp.float32)


def product_runs(shapes: dict[str, tuple[int, int, int]]) -> dict[tuple[str, str], Run]:
    """Returns products to time, by operand type and name of the shape; both accumulate in f32."""
    runs: dict[tuple[str, str], Run] = {}
    for precision, dtype in _TYPES.items():
        for name, (rows, inner, columns) in shapes.items():
            left = jax.random.normal(jax.random.key(0), (rows, inner), dtype)
            right = jax.random.normal(jax.random.key(1), (inner, columns), dtype)
            runs[precision, name] = functools.partial(_wait, left, right)
    return runs


def _wait(left: jax.Array, right: jax.Array) -> None:
    _product(left, right).block_until_ready()


def gflops(shape: tuple[int, int, int], seconds: float) -> float:
    """Returns the rate of a product, in 10^9 operations a second."""
    rows, inner, columns = shape
    return 2e-9 * rows * inner * columns / seconds
