"""Parameters as ``core/reference.py`` has them: drawn, the original's, and those of the package's modules."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cvfp_jax.core.reference import Layer, Linear, Norm


def drawn(rng, make, model, dtype=np.float64):
    """Draws the parameters that an ``init_*_block`` would make, with no gain of one and no bias of zero."""
    shapes = jax.eval_shape(functools.partial(make, model=model), jax.random.key(0))
    params = jax.tree.map(lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape), dtype), shapes)
    return [layer._replace(norm=Norm(1 + layer.norm.scale, layer.norm.bias)) for layer in params]


def of_block(block):
    """Returns the parameters of a context or token block, or its gradients merged into one."""

    def linear(module):
        return None if module is None else Linear(module.kernel[...], module.bias[...])

    return [
        Layer(
            linear(layer.linear),
            linear(layer.second),
            linear(layer.residual),
            Norm(layer.norm.scale[...], layer.norm.bias[...]),
        )
        for layer in block.layers
    ]


def module(kind, model, params):
    """Returns a context or token block of the package with such parameters."""
    block = nnx.eval_shape(lambda: kind(model, rngs=nnx.Rngs(0)))  # nothing is drawn
    for layer, of_layer in zip(block.layers, params, strict=True):
        for linear, values in zip((layer.linear, layer.second, layer.residual), of_layer[:3], strict=True):
            if values is not None:
                linear.kernel, linear.bias = nnx.Param(values.kernel), nnx.Param(values.bias)
        layer.norm.scale, layer.norm.bias = nnx.Param(of_layer.norm.scale), nnx.Param(of_layer.norm.bias)
    return block


def of_arrays(arrays, prefix=""):
    """Returns the parameters of a block by the original's names, whose weights are [out, in]."""

    def linear(*names):
        for name in names:
            if f"{name}.weight" in arrays:
                return Linear(jnp.asarray(arrays[f"{name}.weight"].T), jnp.asarray(arrays[f"{name}.bias"]))
        return None

    def layer(start):
        (norm,) = {kind for kind in ("context_norm", "token_norm") if f"{start}{kind}.weight" in arrays}
        return Layer(
            linear(f"{start}fnn.0", f"{start}fnn.fnn.0"),
            linear(f"{start}fnn.2", f"{start}fnn.fnn.2"),
            linear(f"{start}residual_proj"),
            Norm(*(jnp.asarray(arrays[f"{start}{norm}.{name}"]) for name in ("weight", "bias"))),
        )

    stands_alone = not any(name.startswith(f"{prefix}layers.") for name in arrays)
    if stands_alone:
        return [layer(prefix)]
    count = 1 + max(
        int(name.removeprefix(f"{prefix}layers.").split(".")[0])
        for name in arrays
        if name.startswith(f"{prefix}layers.")
    )
    return [layer(f"{prefix}layers.{number}.") for number in range(count)]


def close(found, expected, rtol=0.0, atol=0.0):
    """Asserts that two trees of arrays are of one shape and nearly equal, and names the leaf that is not."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    leaves = zip(jax.tree.leaves_with_path(found), jax.tree.leaves(expected), strict=True)
    for (path, ours), theirs in leaves:
        where = jax.tree_util.keystr(path)
        np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=atol, err_msg=where)
