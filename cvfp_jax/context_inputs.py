"""Which contexts the token layers read.

Shapes: N tokens of a stream, B rows, D context width (of all blocks together), E embedding width.
"""

import jax
import jax.numpy as jnp

from cvfp_jax.config import ModelConfig
from cvfp_jax.model import ContextBlock
from cvfp_jax.recurrence import predecessors


def layer_inputs(config: ModelConfig, final_BxD: jax.Array, before_BxD: jax.Array) -> list[jax.Array]:
    """Returns what each token layer reads, of final contexts only.

    Args:
      config: gives the mode and the number of token layers.
      final_BxD: float, the contexts after each token, with those of earlier tokens beside them if they
        are asked for.
      before_BxD: float, the contexts after the token before.

    Returns:
      An array a token layer, of width zero where it reads none.

    >>> now, before = jnp.ones((1, 2)), jnp.zeros((1, 2))
    >>> [a.tolist() for a in layer_inputs(ModelConfig(num_layers=3, context_mode="G"), now, before)]
    [[[0.0, 0.0]], [[]], [[1.0, 1.0]]]
    """
    none = final_BxD[:, :0]
    inside = config.token_depth - 1
    match config.context_mode:
        case "F":
            return [final_BxD] + [none] * inside
        case "G":
            return [before_BxD] + [none] * (inside - 1) + [final_BxD]
        case _:  # A, and E with a single layer
            return [final_BxD] * (inside + 1)


def cached_inputs(
    config: ModelConfig,
    block: ContextBlock,
    contexts_NxD: jax.Array,
    places_B: jax.Array,
    window_BxKE: jax.Array,
) -> list[jax.Array]:
    """Returns what each token layer reads at places of a stream.

    Args:
      config: the architecture.
      block: the trained block, for token layers that read contexts between its layers: only the last
        layer's are kept in memory, and the others are made again.
      contexts_NxD: float. If every layer is read, the contexts whose predecessors the block is given;
        else the contexts after each token.
      places_B: int.
      window_BxKE: float, the token windows at these places.

    Returns:
      An array a token layer.
    """
    if config.reads_every_layer:
        return block.every_layer(predecessors(contexts_NxD, places_B), window_BxKE)
    steps = [contexts_NxD[places_B]]
    for _ in range(config.prev_context_steps):
        places_B = places_B - 1
        # Where the place itself lies before the stream, so does its predecessor.
        steps.append(predecessors(contexts_NxD, places_B + 1))
    before_BxD = predecessors(contexts_NxD, places_B) if config.context_mode == "G" else steps[0]
    return layer_inputs(config, jnp.concatenate(steps, axis=1), before_BxD)
