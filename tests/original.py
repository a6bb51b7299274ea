"""The original's names for parameters, and its layout: weights [out, in], ``y = x @ W.T + b``.

The names changed with time: a layer stands at ``layers.N.``, at ``layer.`` or at the block itself, and its
linear maps at ``fnn.N`` or ``fnn.fnn.N``.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cvfp_jax.config.settings import ModelConfig
from cvfp_jax.core.model import ContextBlock, ContextLayer, LanguageModel, Layer


def layer_parameters(layer: Layer, network: str = "fnn.") -> dict[str, tuple[nnx.Module, str]]:
    """Maps each of the original's names to the module and the attribute that hold the parameter."""
    norm = "context_norm" if isinstance(layer, ContextLayer) else "token_norm"
    linears = {f"{network}0": layer.linear, f"{network}2": layer.second, "residual_proj": layer.residual}
    places = {f"{norm}.weight": (layer.norm, "scale"), f"{norm}.bias": (layer.norm, "bias")}
    for name, linear in linears.items():
        if linear is not None:
            places |= {f"{name}.weight": (linear, "kernel"), f"{name}.bias": (linear, "bias")}
    return places


def parameters(block, names, prefix="") -> dict[str, tuple[nnx.Module, str]]:
    """Maps the names that a block's parameters have among these to where they are held."""
    places = {}
    for number, layer in enumerate(block.layers):
        starts = [prefix + start for start in (f"layers.{number}.", "layer.", "")]
        networks = ("fnn.fnn.", "fnn.")
        found = [(a, b) for a in starts for b in networks if f"{a}{b}0.weight" in names]
        start, network = found[0] if found else (starts[0], networks[1])
        places |= {start + name: place for name, place in layer_parameters(layer, network).items()}
    return places


def _get(place) -> np.ndarray:
    module, attribute = place
    array = np.asarray(getattr(module, attribute)[...])
    return array.T if attribute == "kernel" else array


def load_layer(layer, arrays, prefix="", dtype=np.float32):
    """Gives a layer the original's parameters."""
    load_block(type("Block", (), {"layers": [layer]}), arrays, prefix, dtype)


def load_block(block, arrays, prefix="", dtype=np.float32):
    """Gives a block the original's parameters."""
    for name, (module, attribute) in parameters(block, arrays, prefix).items():
        array = arrays[name].astype(dtype)
        setattr(module, attribute, nnx.Param(jnp.asarray(array.T if attribute == "kernel" else array)))


def named(block, prefix="", names=()):
    """Returns a block's parameters, or gradients merged into one, by the original's names."""
    return {name: _get(place) for name, place in parameters(block, names, prefix).items()}


def block_name(block) -> str:
    return "context_block" if isinstance(block, ContextBlock) else "token_block"


def make_model(config: ModelConfig, table, seed=0) -> LanguageModel:
    """Returns a model as a launch makes it, compiled as one program instead of dozens."""
    return nnx.jit(lambda table: LanguageModel(config, table, rngs=nnx.Rngs(seed)))(jnp.asarray(table))


def without_values(make):
    """Returns a module to be given parameters: gains are one, biases zero, and all others not a number."""
    module = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
    values = {"scale": 1.0, "bias": 0.0}
    graphdef, shapes = nnx.split(module)

    def value(path, leaf):
        name = next((name for name in values if name in jax.tree_util.keystr(path)), None)
        return jnp.asarray(np.full(leaf.shape, values.get(name, np.nan), leaf.dtype))

    return nnx.merge(graphdef, jax.tree.map_with_path(value, shapes))


def load_model(config: ModelConfig, table, arrays, prefix, dtype=np.float32) -> LanguageModel:
    """Returns a model with the original's parameters."""
    model = without_values(lambda rngs: LanguageModel(config, jnp.asarray(table.astype(dtype)), rngs=rngs))
    model.embedding.table = nnx.Param(jnp.asarray(table.astype(dtype)))
    if model.head is not None:
        model.head.table = nnx.Param(jnp.zeros(table.shape, dtype))
    blocks = list(model.context_blocks)
    for number, block in enumerate(blocks):
        name = "context_block" if len(blocks) == 1 else f"context_blocks.{number}"
        load_block(block, arrays, f"{prefix}{name}.", dtype)
    load_block(model.token_block, arrays, f"{prefix}token_block.", dtype)
    if f"{prefix}embed_norm.weight" in arrays:
        for ours, theirs in (("scale", "weight"), ("bias", "bias")):
            array = arrays[f"{prefix}embed_norm.{theirs}"].astype(dtype)
            setattr(model.embedding.norm, ours, nnx.Param(jnp.asarray(array)))
    return model
