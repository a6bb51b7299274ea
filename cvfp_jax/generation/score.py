"""How well a model predicts a text: the surprisal of each of its tokens.

Shapes: N tokens, P predictions, C rows of a chunk, D context width, E embedding width, V vocabulary.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from cvfp_jax.core.model import LanguageModel, token_windows
from cvfp_jax.core.token_stream import TokenStream
from cvfp_jax.distributed.mesh import single_device_mesh
from cvfp_jax.phase1.multi_block import exact_contexts
from cvfp_jax.phase2.context_modes import cached_inputs
from cvfp_jax.runtime.floats import exp

# Rows at a time, and fewer where their logits would take more than this: a CPU pays for large temporaries.
_ROWS, _LOGITS_BYTES = 1024, 16 * 2**20


@dataclasses.dataclass(frozen=True)
class Score:
    """How well a text was predicted; its first token is not, since nothing stands before it."""

    loss: float  # mean of the surprisals, in nats a token
    accuracy: float  # share of the tokens that had the largest logit
    surprisals_P: np.ndarray = dataclasses.field(repr=False)  # float32 [N - 1], -ln p of each token, in nats
    ids_N: np.ndarray = dataclasses.field(repr=False)  # int32, the model's ids of the text

    @property
    def perplexity(self) -> float:
        """The exponential of the loss."""
        return exp(self.loss)

    def __str__(self) -> str:
        """A line for people."""
        return (
            f"perplexity {self.perplexity:.4g} ({self.loss:.4f} nats a token), accuracy"
            f" {100 * self.accuracy:.1f}%, {len(self.surprisals_P):,} tokens predicted"
        )


def contexts_of(model: LanguageModel, ids_N: np.ndarray, vectors_VxE: jax.Array | None = None) -> jax.Array:
    """Returns the exact contexts after each token of a text, [N or more, D], zero beyond its end."""
    vectors_VxE = model.embedding.token_vectors() if vectors_VxE is None else vectors_VxE
    # Padded to a power of two, so that few programs are compiled.
    capacity = 1 << max(len(ids_N) - 1, 0).bit_length()
    return exact_contexts(list(model.context_blocks), TokenStream(vectors_VxE, ids_N, capacity)).array


def score(model: LanguageModel, ids_N: np.ndarray) -> Score:
    """Returns how well a model predicts each token of a text from those before it.

    ``-ln softmax(head(h_t))[x_{t+1}]`` with exact contexts, as a sweep evaluates its validation tokens.

    Args:
      model: a trained model.
      ids_N: int, the model's ids of the text, two tokens or more.

    Returns:
      The score.
    """
    num_rows, vectors_VxE = len(ids_N) - 1, model.embedding.token_vectors()
    contexts_NxD = contexts_of(model, ids_N[:-1], vectors_VxE)
    graph, state = nnx.split(model)
    padded_N = jnp.asarray(np.pad(ids_N, (0, len(contexts_NxD) - num_rows)), jnp.int32)
    rows = min(_ROWS, len(contexts_NxD))
    measured = [
        _predict(padded_N, contexts_NxD, vectors_VxE, np.int32(first), state, graph, rows)
        for first in range(0, num_rows, rows)
    ]
    losses, hits = (np.concatenate(parts)[:num_rows] for parts in zip(*jax.device_get(measured), strict=True))
    loss = math.fsum(losses.tolist()) / num_rows
    return Score(loss, int(hits.sum()) / num_rows, losses, np.asarray(ids_N, np.int32))


def _inputs(
    model: LanguageModel,
    ids_N: jax.Array,
    contexts_NxD: jax.Array,
    vectors_VxE: jax.Array,
    places_C: jax.Array,
) -> tuple[list[jax.Array], jax.Array]:
    """What the token block reads at some places: contexts, and token windows."""
    window_CxKE = token_windows(vectors_VxE, ids_N, places_C, model.config.num_input_tokens)
    block, mesh = model.context_blocks[0], single_device_mesh()
    return cached_inputs(model.config, block, contexts_NxD, places_C, window_CxKE, mesh), window_CxKE


@functools.partial(jax.jit, static_argnames=("graph", "rows"))
def _predict(
    ids_N: jax.Array,
    contexts_NxD: jax.Array,
    vectors_VxE: jax.Array,
    first: jax.Array,
    state: nnx.State,
    graph: nnx.GraphDef,
    rows: int,
) -> tuple[jax.Array, jax.Array]:
    """The surprisal of the tokens after some places, and whether each had the largest logit."""
    model = nnx.merge(graph, state)
    vocab_size = len(model.embedding.table[...])
    at_once = max(1, min(rows, _LOGITS_BYTES // (4 * vocab_size)))
    places_R = first + jnp.arange(-(-rows // at_once) * at_once, dtype=jnp.int32)
    places_R = jnp.minimum(places_R, len(contexts_NxD) - 1)
    inputs, window_RxKE = _inputs(model, ids_N, contexts_NxD, vectors_VxE, places_R)
    hidden_RxE = model.token_block(inputs, window_RxKE)

    def predict(row: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        hidden_CxE, targets_C = row
        logits_CxV = model.logits(hidden_CxE)
        log_p_CxV = jax.nn.log_softmax(logits_CxV)
        surprisal_C = -jnp.take_along_axis(log_p_CxV, targets_C[:, None], axis=1)[:, 0]
        return surprisal_C, logits_CxV.argmax(axis=1).astype(jnp.int32) == targets_C

    chunks = hidden_RxE.reshape(-1, at_once, hidden_RxE.shape[1]), ids_N[places_R + 1].reshape(-1, at_once)
    surprisal, hits = lax.map(predict, chunks)
    return surprisal.reshape(-1)[:rows], hits.reshape(-1)[:rows]


@functools.partial(jax.jit, static_argnames="graph")
def _logits(
    ids_N: jax.Array,
    contexts_NxD: jax.Array,
    vectors_VxE: jax.Array,
    state: nnx.State,
    graph: nnx.GraphDef,
) -> jax.Array:
    model = nnx.merge(graph, state)
    places_N = jnp.arange(len(contexts_NxD), dtype=jnp.int32)
    inputs, window_NxKE = _inputs(model, ids_N, contexts_NxD, vectors_VxE, places_N)
    return model.logits(model.token_block(inputs, window_NxKE))


def logits_of(model: LanguageModel, ids_N: np.ndarray) -> jax.Array:
    """Returns the logits of the token after each one of a text, [N, V], all of which are kept in memory."""
    vectors_VxE = model.embedding.token_vectors()
    contexts_NxD = contexts_of(model, ids_N, vectors_VxE)
    padded_N = jnp.asarray(np.pad(ids_N, (0, len(contexts_NxD) - len(ids_N))), jnp.int32)
    graph, state = nnx.split(model)
    return _logits(padded_N, contexts_NxD, vectors_VxE, state, graph)[: len(ids_N)]
