"""Which contexts the token layers read.

Shapes: N tokens of a stream, B rows, D context width (of all blocks together), E embedding width.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from cvfp_jax.config.settings import ModelConfig
from cvfp_jax.core.model import ContextBlock
from cvfp_jax.distributed.mesh import rows_at


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
    mesh: Mesh,
    first_row: jax.Array | np.int32 | int = 0,
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
      mesh: the devices that have a range of the contexts each.
      first_row: the place in the stream of the first of these contexts.

    Returns:
      An array a token layer.
    """

    def at(places_B: jax.Array) -> jax.Array:
        """The contexts after some tokens, zero before the first."""
        found_BxD = rows_at(contexts_NxD, jnp.maximum(places_B, 0) - first_row, mesh)
        return jnp.where((places_B >= 0)[:, None], found_BxD, 0)

    if config.reads_every_layer:
        return block.every_layer(at(places_B - 1), window_BxKE)
    steps = [at(places_B - back) for back in range(config.prev_context_steps + 1)]
    before_BxD = at(places_B - config.prev_context_steps - 1) if config.context_mode == "G" else steps[0]
    return layer_inputs(config, jnp.concatenate(steps, axis=1), before_BxD)
