"""Modules whose parameters are drawn by NumPy: to draw one by JAX takes a third of a second to compile."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


def random_parameters(make, seed=0):
    """Returns the graph and the parameters of ``make(rngs)``, with no gain one and no bias zero."""
    rng = np.random.default_rng(seed)
    graphdef, shapes = nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))))

    def value(path, leaf):
        mean = 1 if "scale" in jax.tree_util.keystr(path) else 0
        return jnp.asarray(mean + 0.3 * rng.standard_normal(leaf.shape), leaf.dtype)

    return graphdef, jax.tree.map_with_path(value, shapes)
