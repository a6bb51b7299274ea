"""A text continued token by token. What is remembered of it is one context, however long it grows.

Shapes: B texts, C tokens of a chunk, E embedding width, V vocabulary.
"""

import functools
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from cvfp_jax.core.matmul import operand
from cvfp_jax.core.model import LanguageModel, TextState
from cvfp_jax.generation.sampling import Sampling, draw

# A prompt is read so many tokens at a time, whatever its length.
_CHUNK = 256
_LEAST_ROUNDED = 4


class _Weights(NamedTuple):
    """A model's arrays as the compiled functions are given them."""

    model: Any
    head_VxE: jax.Array  # as products read it: rounded to bf16 once, and not at each token
    bias_V: jax.Array | None


@functools.partial(jax.jit, static_argnames="graph")
def _read_chunk(
    state: TextState, ids_C: jax.Array, count: jax.Array, weights: _Weights, graph: nnx.GraphDef
) -> TextState:
    """The state after the first ``count`` of some tokens."""
    model = nnx.merge(graph, weights.model)

    def step(index: jax.Array, state: TextState) -> TextState:
        return model.read(state, ids_C[index][None])[0]

    return lax.fori_loop(0, count, step, state)


@functools.partial(jax.jit, static_argnames="graph")
def _logits_after(
    state: TextState, ids_B: jax.Array, weights: _Weights, graph: nnx.GraphDef
) -> tuple[TextState, jax.Array]:
    """Reads a token of each text; returns the logits of the next one too."""
    model = nnx.merge(graph, weights.model)
    state, inputs = model.read(state, ids_B)
    return state, _logits(model.hidden(state, inputs), weights, model.precision)


@functools.partial(jax.jit, static_argnames=("graph", "sampling"), donate_argnames="state")
def _continue(
    state: TextState,
    ids_B: jax.Array,
    keys_B: jax.Array,
    index: jax.Array,
    weights: _Weights,
    graph: nnx.GraphDef,
    sampling: Sampling,
) -> tuple[TextState, jax.Array]:
    """Reads a token of each text and draws the next one."""
    state, logits_BxV = _logits_after(state, ids_B, weights, graph)
    keys_B = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys_B, index)
    return state, draw(logits_BxV, keys_B, sampling)


def _logits(hidden_BxE: jax.Array, weights: _Weights, precision: str) -> jax.Array:
    """The logits. What takes the time is reading the table, once for all texts.

    XLA's CPU backend reads a table of rounded numbers as fast as memory allows if it stands on the left and
    there are four columns or more.
    """
    hidden_BxE, batch = operand(hidden_BxE, precision), len(hidden_BxE)
    dot = functools.partial(
        lax.dot_general, dimension_numbers=(((1,), (1,)), ((), ())), preferred_element_type=jnp.float32
    )
    if precision == "f32":
        logits_BxV = dot(hidden_BxE, weights.head_VxE) if batch > 1 else dot(weights.head_VxE, hidden_BxE).T
    else:
        columns_BxE = jnp.pad(hidden_BxE, ((0, max(_LEAST_ROUNDED - batch, 0)), (0, 0)))
        # The barrier keeps XLA from changing the operands' places.
        logits_BxV = lax.optimization_barrier(dot(weights.head_VxE, columns_BxE)).T[:batch]
    return logits_BxV if weights.bias_V is None else logits_BxV + weights.bias_V[None, :]


class Continuation:
    """A model ready to continue texts.

    Args:
      model: a trained model.
    """

    def __init__(self, model: LanguageModel) -> None:
        head_VxE = model.embedding.table[...] if model.head is None else model.head.table[...]
        bias_V = None if model.head is None else model.head.bias[...]
        self._start = model.start()
        self._graph, state = nnx.split(model)
        self._weights = _Weights(state, operand(head_VxE, model.precision), bias_V)

    def read(self, ids: np.ndarray, state: TextState | None = None) -> TextState:
        """Returns the state after some tokens, from the start of a text or from a state of one."""
        state = self._start if state is None else state
        for first in range(0, len(ids), _CHUNK):
            chunk = ids[first : first + _CHUNK]
            padded_C = np.pad(chunk, (0, _CHUNK - len(chunk))).astype(np.int32)
            state = _read_chunk(state, padded_C, np.int32(len(chunk)), self._weights, self._graph)
        return state

    def logits(self, ids: np.ndarray) -> np.ndarray:
        """Returns the logits of the token after a text of one token or more, float32 [V]."""
        _, logits_BxV = _logits_after(self.read(ids[:-1]), ids[-1:], self._weights, self._graph)
        return np.asarray(logits_BxV[0])

    def tokens(
        self, ids: np.ndarray, sampling: Sampling, seed: int, num_samples: int = 1
    ) -> Iterator[np.ndarray]:
        """Yields the tokens that continue a text, one of each sample at a time, without an end.

        Sample i draws by a key of its own, so it does not depend on how many there are.

        Args:
          ids: int, the model's ids of the text, one token or more.
          sampling: how tokens are drawn.
          seed: of the random numbers.
          num_samples: B.

        Yields:
          Int32 [B].
        """
        state = self.read(ids[:-1])
        # Copies, because each step writes over the state that it is given.
        state = TextState(
            jnp.tile(state.contexts_HxBxD, (1, num_samples, 1)).copy(),
            jnp.tile(state.window_BxKE, (num_samples, 1)).copy(),
        )
        fold = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
        keys_B = fold(jax.random.key(seed), jnp.arange(num_samples))
        ids_B = jnp.full(num_samples, ids[-1], jnp.int32)
        for index in itertools.count():
            before_B = ids_B
            state, ids_B = _continue(
                state, ids_B, keys_B, np.uint32(index), self._weights, self._graph, sampling
            )
            # Now that the next step is under way on the device.
            if index > 0:
                yield np.asarray(before_B)
