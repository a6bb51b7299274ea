"""The original's names for parameters, and its layout: weights [out, in], ``y = x @ W.T + b``."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from cvfp_jax.config import ModelConfig
from cvfp_jax.model import ContextBlock, ContextLayer, LanguageModel, Layer


def _norm_name(layer: Layer) -> str:
    return "context_norm" if isinstance(layer, ContextLayer) else "token_norm"


def layer_parameters(layer: Layer) -> dict[str, tuple[nnx.Module, str]]:
    """Maps each of the original's names to the module and the attribute that hold the parameter."""
    places = {
        "fnn.0.weight": (layer.linear, "kernel"),
        "fnn.0.bias": (layer.linear, "bias"),
        f"{_norm_name(layer)}.weight": (layer.norm, "scale"),
        f"{_norm_name(layer)}.bias": (layer.norm, "bias"),
    }
    if layer.residual is not None:
        places |= {
            "residual_proj.weight": (layer.residual, "kernel"),
            "residual_proj.bias": (layer.residual, "bias"),
        }
    return places


def load_layer(layer, arrays, prefix="", dtype=np.float32):
    """Gives a layer the original's parameters."""
    for name, (module, attribute) in layer_parameters(layer).items():
        array = arrays[prefix + name].astype(dtype)
        setattr(module, attribute, nnx.Param(jnp.asarray(array.T if attribute == "kernel" else array)))


def load_block(block, arrays, prefix="", dtype=np.float32):
    """Gives a block the original's parameters."""
    for number, layer in enumerate(block.layers):
        load_layer(layer, arrays, f"{prefix}layers.{number}.", dtype)


def named(block, prefix=""):
    """Returns a block's parameters, or gradients merged into one, by the original's names."""
    found = {}
    for number, layer in enumerate(block.layers):
        for name, (module, attribute) in layer_parameters(layer).items():
            array = np.asarray(getattr(module, attribute)[...])
            found[f"{prefix}layers.{number}.{name}"] = array.T if attribute == "kernel" else array
    return found


def block_name(block) -> str:
    return "context_block" if isinstance(block, ContextBlock) else "token_block"


def make_model(config: ModelConfig, table, seed=0) -> LanguageModel:
    return LanguageModel(config, jnp.asarray(table), rngs=nnx.Rngs(seed))


def load_model(config: ModelConfig, table, arrays, prefix) -> LanguageModel:
    """Returns a model with the original's parameters."""
    model = make_model(config, table)
    for block in (model.context_block, model.token_block):
        load_block(block, arrays, f"{prefix}{block_name(block)}.")
    return model
