"""Which contexts the token layers read.

Shapes: N tokens of a stream, B rows, D context width (of all blocks together), E embedding width.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from cvfp_jax.config.settings import ModelConfig
from cvfp_jax.core.model import ContextBlock, layer_inputs
from cvfp_jax.distributed.mesh import rows_at


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
