"""Exact contexts of a trained block: one token after the other, from a zero context.

Shapes: N tokens, B tokens of a chunk, D context width, E embedding width, V tokens.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from cvfp_jax.model import ContextBlock, token_windows

# Token terms are computed for so many tokens at a time: one large product, outside the recurrence.
CHUNK = 1024


@functools.partial(jax.jit, static_argnames="graphdef")
def _scan(
    params: Any, vectors_VxE: jax.Array, ids_N: jax.Array, start_D: jax.Array, graphdef: nnx.GraphDef
) -> jax.Array:
    block = nnx.merge(graphdef, params)

    def token_step(context_D: jax.Array, terms_LxD: Any) -> tuple[jax.Array, jax.Array]:
        context_1xD = block.step(context_D[None, :], [term[None, :] for term in terms_LxD])[-1]
        return context_1xD[0], context_1xD[0]

    def chunk_step(context_D: jax.Array, first: jax.Array) -> tuple[jax.Array, jax.Array]:
        places_B = first + jnp.arange(chunk, dtype=jnp.int32)
        window_BxKE = token_windows(vectors_VxE, ids_N, places_B, block.num_input_tokens)
        return lax.scan(token_step, context_D, block.token_terms(window_BxKE))

    chunk = min(CHUNK, len(ids_N))
    firsts = jnp.arange(0, len(ids_N), chunk, dtype=jnp.int32)
    _, contexts_MxBxD = lax.scan(chunk_step, start_D, firsts)
    return contexts_MxBxD.reshape(-1, len(start_D))


def sequential_contexts(
    block: ContextBlock,
    vectors_VxE: jax.Array,
    ids: np.ndarray,
    start_D: jax.Array | None = None,
) -> jax.Array:
    """Returns the contexts of a stream, each computed from its predecessor's.

    ``c_t = block(c_{t-1}, w_t)``, with ``c_{-1} = 0``.

    Args:
      block: the trained block.
      vectors_VxE: float32, the token vectors.
      ids: int [N], the stream.
      start_D: the context before the first token; zero if none is given.

    Returns:
      Float32 [N, D].

    References:
      rato-tokyo/new-llm, report of 2025-11-30.
    """
    graphdef, params = nnx.split(block)
    if start_D is None:
        start_D = jnp.zeros((block.context_dim,), vectors_VxE.dtype)
    # Tokens after the last cannot change what comes before them.
    padded = np.pad(ids, (0, -len(ids) % min(CHUNK, len(ids))))
    contexts_NxD = _scan(params, vectors_VxE, jnp.asarray(padded, jnp.int32), start_D, graphdef)
    return contexts_NxD[: len(ids)]


@functools.partial(jax.jit, static_argnames="graphdef")
def _apply(
    params: Any, vectors_VxE: jax.Array, ids_N: jax.Array, contexts_NxD: jax.Array, graphdef: nnx.GraphDef
) -> jax.Array:
    block = nnx.merge(graphdef, params)
    chunk = min(CHUNK, len(ids_N))

    def visit(first: jax.Array) -> jax.Array:
        places_B = first + jnp.arange(chunk, dtype=jnp.int32)
        window_BxKE = token_windows(vectors_VxE, ids_N, places_B, block.num_input_tokens)
        return block(predecessors(contexts_NxD, places_B), window_BxKE)

    contexts_MxBxD = lax.map(visit, jnp.arange(0, len(ids_N), chunk, dtype=jnp.int32))
    return contexts_MxBxD.reshape(-1, block.context_dim)


def parallel_contexts(
    block: ContextBlock, vectors_VxE: jax.Array, ids: np.ndarray, contexts_NxD: jax.Array
) -> jax.Array:
    """Returns one more iteration of all contexts, all tokens in parallel.

    ``c_t = block(P_{t-1}, w_t)`` without noise, with P the given contexts and ``P_{-1} = 0``. Given those
    that phase 1 ends with, this is the original's parallel cache.

    Args:
      block: the trained block.
      vectors_VxE: float32, the token vectors.
      ids: int [N], the stream.
      contexts_NxD: float32, the contexts; more than N rows are kept as they are, padding.

    Returns:
      Float32, as many rows as contexts.

    References:
      rato-tokyo/new-llm, report of 2025-11-30.
    """
    graphdef, params = nnx.split(block)
    rows = len(contexts_NxD)
    padding = -rows % min(CHUNK, rows)
    ids_N = jnp.asarray(np.pad(ids, (0, rows + padding - len(ids))), jnp.int32)
    return _apply(params, vectors_VxE, ids_N, contexts_NxD, graphdef)[:rows]


def predecessors(contexts_NxD: jax.Array, places_B: jax.Array) -> jax.Array:
    """Returns the context before each place of a stream; zero before the first.

    Given to a block with the tokens at these places, the final contexts of phase 1 make the
    original's parallel cache, and exact contexts make themselves again, with every layer between.

    Args:
      contexts_NxD: float, the context after each token.
      places_B: int.

    Returns:
      [B, D].

    >>> predecessors(jnp.array([[1.0], [2.0]]), jnp.array([0, 1])).tolist()
    [[0.0], [1.0]]
    """
    return jnp.where((places_B > 0)[:, None], contexts_NxD[jnp.maximum(places_B - 1, 0)], 0)
