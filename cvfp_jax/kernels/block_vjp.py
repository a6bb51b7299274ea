"""A context block's pass forward, with what the pass backward needs of it, and its gradient in closed form.

Automatic differentiation would do, but keeps more and reads it more often: on a CPU half of phase 1
would go to memory traffic. Shapes: T rows, D layer widths in and out.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from cvfp_jax.core.matmul import (
    as_kept,
    as_numbers,
    contract,
    operand,
    product,
    transposed_product,
    weighted_sum,
)
from cvfp_jax.core.model import LAYER_NORM_EPSILON, ContextBlock, Layer, affine, array_of


class Residuals(NamedTuple):
    """What a layer's pass backward needs."""

    centred: jax.Array  # [T, D], what the LayerNorm reads less its mean
    inverse_std: jax.Array  # [T, 1]
    slopes: list[jax.Array]  # of the activation, a linear map each
    second_input: jax.Array | None  # of the second linear map, if there is one, as products read it

    @property
    def normal(self) -> jax.Array:
        """The LayerNorm's output before gain and bias."""
        return self.centred * self.inverse_std


class LayerGradient(NamedTuple):
    """Gradients of a layer's parameters, but for those of its token terms."""

    context_kernel: jax.Array
    scale: jax.Array
    bias: jax.Array
    second: tuple[jax.Array, jax.Array] | None
    residual: tuple[jax.Array, jax.Array] | None


def forward(
    block: ContextBlock, context_TxD: jax.Array, terms: list[jax.Array]
) -> tuple[jax.Array, list[Residuals]]:
    """Returns the contexts after the last layer, and what ``backward`` needs.

    Args:
      block: the context block.
      context_TxD: float, the contexts before.
      terms: each layer's token terms, [T, D_i].

    Returns:
      [T, D], and a ``Residuals`` a layer.
    """
    residuals = []
    for layer, term in zip(block.layers, terms, strict=True):
        context_TxD, of_layer = _layer_forward(layer, context_TxD, term)
        residuals.append(of_layer)
    return context_TxD, residuals


def _layer_forward(layer: Layer, context: jax.Array, term: jax.Array) -> tuple[jax.Array, Residuals]:
    kind = layer.kind
    first = lax.optimization_barrier(
        product(context, layer.linear.kernel[: layer.context_dim], kind.precision) + term
    )
    slopes, delta = [kind.slope(first)], kind.activate(first)
    second_input = None
    if layer.second is not None:
        second_input = as_kept(operand(delta, kind.precision))
        second = affine(layer.second, delta, kind.precision)
        slopes, delta = [*slopes, kind.slope(second)], kind.activate(second)
    start = context if layer.residual is None else affine(layer.residual, context, kind.precision)
    # Without barriers XLA's CPU backend makes these sums again for each of their uses.
    total = lax.optimization_barrier(start + delta)
    centred = lax.optimization_barrier(total - total.mean(axis=1, keepdims=True))
    inverse_std = lax.rsqrt(jnp.square(centred).mean(axis=1, keepdims=True) + LAYER_NORM_EPSILON)
    residuals = Residuals(centred, inverse_std, slopes, second_input)
    return output(layer, residuals), residuals


def output(layer: Layer, residuals: Residuals) -> jax.Array:
    """Returns a layer's output, given what is kept of it."""
    return residuals.normal * array_of(layer.norm.scale)[None, :] + array_of(layer.norm.bias)[None, :]


def output_sum(layer: Layer, residuals: Residuals, weights_T: jax.Array) -> jax.Array:
    """Returns the sum of a layer's output over rows by weight, [D], of which no row is written down."""
    normal_D = weighted_sum(weights_T * residuals.inverse_std[:, 0], residuals.centred)
    return normal_D * array_of(layer.norm.scale) + array_of(layer.norm.bias) * weights_T.sum()


def row_means(rows_TxD: jax.Array, weights_D: jax.Array | None = None) -> jax.Array:
    """Returns each row's mean, [T], with a weight for each column if weights are given."""
    # Divided last, so that equal numbers have that number for their mean.
    weights_D = jnp.ones_like(rows_TxD[0]) if weights_D is None else weights_D
    return weighted_sum(rows_TxD, weights_D) / rows_TxD.shape[1]


def no_gradient(block: ContextBlock) -> list[LayerGradient]:
    """Returns zeros for the gradient of a block."""

    def zeros(linear: nnx.Linear | None) -> Any:
        return (
            None
            if linear is None
            else (jnp.zeros_like(linear.kernel[...]), jnp.zeros_like(array_of(linear.bias)))
        )

    return [
        LayerGradient(
            jnp.zeros_like(layer.linear.kernel[: layer.context_dim]),
            jnp.zeros_like(array_of(layer.norm.scale)),
            jnp.zeros_like(array_of(layer.norm.bias)),
            zeros(layer.second),
            zeros(layer.residual),
        )
        for layer in block.layers
    ]


def backward(
    block: ContextBlock, context_TxD: jax.Array, residuals: list[Residuals], gradient_TxD: jax.Array
) -> tuple[list[LayerGradient], list[jax.Array]]:
    """Returns the gradients of a block's parameters and of its token terms.

    With ``n`` the LayerNorm's output before gain g and bias, ``s`` its inverse standard deviation and
    ``y = g dL/dout``: ``du = s (y - mean(y) - n mean(y n))``, and the rest is the chain rule.

    Args:
      block: the context block.
      context_TxD: float, as ``forward`` was given it.
      residuals: of ``forward``.
      gradient_TxD: float, the gradient of the contexts after the last layer.

    Returns:
      A ``LayerGradient`` a layer, and the gradients of the terms, [T, D_i].

    References:
      Ba, Kiros and Hinton, Layer Normalization, 2016.
    """
    # Made again from what is kept, which takes less memory traffic than to keep them too.
    before = zip(block.layers, residuals[:-1], strict=False)
    inputs = [context_TxD, *(output(layer, of_layer) for layer, of_layer in before)]
    gradients, terms = [], []
    for index in reversed(range(len(block.layers))):
        layer = block.layers[index]
        of_layer, term, total = _layer_backward(layer, inputs[index], residuals[index], gradient_TxD)
        gradients.append(of_layer)
        terms.append(term)
        if index:
            precision = layer.kind.precision
            kernel = layer.linear.kernel[: layer.context_dim]
            gradient_TxD = contract(term, kernel, ((1,), (1,)), precision)
            if layer.residual is None:
                gradient_TxD += total
            else:
                gradient_TxD += contract(total, layer.residual.kernel[...], ((1,), (1,)), precision)
    return gradients[::-1], terms[::-1]


def _layer_backward(
    layer: Layer, context: jax.Array, residuals: Residuals, gradient: jax.Array
) -> tuple[LayerGradient, jax.Array, jax.Array]:
    """The gradients of a layer's parameters, of its token term and of the sum that its LayerNorm reads."""
    precision = layer.kind.precision
    gradient = lax.optimization_barrier(gradient)
    of_scale = gradient * residuals.normal
    gain_D = array_of(layer.norm.scale)
    mean, along = (row_means(rows, gain_D)[:, None] for rows in (gradient, of_scale))
    total = residuals.inverse_std * (gradient * gain_D[None, :] - mean - residuals.normal * along)
    delta = total
    second = None
    if layer.second is not None:
        delta = lax.optimization_barrier(_times(delta, residuals.slopes[1]))
        assert residuals.second_input is not None
        second_input = as_numbers(residuals.second_input)
        second = transposed_product(second_input, delta, precision), delta.sum(axis=0)
        delta = contract(delta, layer.second.kernel[...], ((1,), (1,)), precision)
    term = lax.optimization_barrier(_times(delta, residuals.slopes[0]))
    residual = None
    if layer.residual is not None:
        residual = transposed_product(context, total, precision), total.sum(axis=0)
    of_layer = LayerGradient(
        transposed_product(context, term, precision),
        of_scale.sum(axis=0),
        gradient.sum(axis=0),
        second,
        residual,
    )
    return of_layer, term, total


def _times(gradient: jax.Array, slope: jax.Array) -> jax.Array:
    return jnp.where(slope, gradient, 0) if slope.dtype == bool else gradient * slope


def into_params(graphdef: nnx.GraphDef, of_terms: Any, gradients: list[LayerGradient]) -> Any:
    """Returns a gradient as the block's parameters are kept.

    Args:
      graphdef: of the block.
      of_terms: the gradient that came by way of the token terms, as the parameters are kept.
      gradients: all others.

    Returns:
      Their sum.
    """
    block = nnx.merge(graphdef, of_terms)
    for layer, gradient in zip(block.layers, gradients, strict=True):
        kernel = layer.linear.kernel
        kernel[...] = kernel[...].at[: layer.context_dim].add(gradient.context_kernel)
        norm = layer.norm
        pairs = [(norm.scale, gradient.scale), (norm.bias, gradient.bias)]
        for linear, both in ((layer.second, gradient.second), (layer.residual, gradient.residual)):
            if linear is not None and both is not None:
                pairs += [(linear.kernel, both[0]), (linear.bias, both[1])]
        for param, leaf in pairs:
            assert param is not None
            param[...] = leaf
    return nnx.split(block)[1]
