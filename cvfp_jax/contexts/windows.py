"""The token windows of a stream as devices read them: its distinct tokens, and the places of all among them.

Shapes: N tokens, U of them distinct, E embedding width, K input tokens.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from cvfp_jax.core.token_stream import TokenStream
from cvfp_jax.distributed.layout import with_overlap
from cvfp_jax.distributed.mesh import ROWS, device_put
from cvfp_jax.kernels.token_tables import distinct_tokens, windowed


class StreamWindows:
    """A stream's distinct tokens on the devices of a line, and on the host the places of its windows.

    Args:
      stream: the tokens.
      num_input_tokens: K.
      line: the devices in a line.
      as_power_of_two: see ``distinct_tokens``.
    """

    def __init__(
        self, stream: TokenStream, num_input_tokens: int, line: Mesh, *, as_power_of_two: bool = False
    ) -> None:
        vectors_UxE, places_N = distinct_tokens(stream, as_power_of_two=as_power_of_two)
        self._line, self._before = line, num_input_tokens - 1
        self._places_M = windowed(places_N, num_input_tokens, len(vectors_UxE)).astype(np.int32)
        self.vectors_UxE: jax.Array = device_put(vectors_UxE, line)

    def places(self, first: int, rows: int) -> jax.Array:
        """Returns the places of some tokens, before each device's range those of the K - 1 tokens before it.

        Args:
          first: the index of the first token.
          rows: how many tokens, a multiple of the devices; what lies beyond the stream is padding.

        Returns:
          Int32, a range on each device of the line.
        """
        places_W = self._places_M[first : first + rows + self._before]
        # Tokens after the last cannot change what comes before them.
        places_W = np.pad(places_W, (0, rows + self._before - len(places_W)))
        places_W = with_overlap(places_W, self._before, rows // self._line.size, self._line.size)
        return device_put(jnp.asarray(places_W), self._line, ROWS)
