"""What a trained context block does: whether its contexts settle, copy their input or fall together.

Shapes: N contexts, M of them compared pair by pair, B draws, D context width, E embedding width, V tokens.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from cvfp_jax.contexts.contraction import contraction
from cvfp_jax.contexts.recurrence import sequential_contexts
from cvfp_jax.core.model import ContextBlock
from cvfp_jax.core.token_stream import TokenStream
from cvfp_jax.runtime.floats import finite

# Rows compared with all others at a time: this bounds the memory that pairs take.
_CHUNK_ROWS = 250
_LEAST_NORM = 1e-8  # of a cosine's vectors, as in the original: a zero vector has cosine 0 with all others


class Trend(NamedTuple):
    """Where a list of losses goes."""

    status: str  # CONVERGING, CONVERGED, DIVERGING, UNSTABLE or INSUFFICIENT_DATA
    slope: float | None  # None if a loss is not finite
    std: float | None  # None if a loss is not finite, or there is none


class Trials(NamedTuple):
    """What repeated passes over one stream came to."""

    losses: list[float]  # between successive passes
    trend: Trend


class Identity(NamedTuple):
    """Cosines of a block's output and the context it was given."""

    mean: float
    max: float
    min: float
    is_identity: bool  # mean > 0.95


class Geometry(NamedTuple):
    """How contexts lie; None where there is no pair, or numbers are not finite."""

    norm_mean: float | None
    deviation_mean: float | None
    distance_mean: float | None
    distance_min: float | None
    distance_max: float | None
    cosine_mean: float | None
    cosine_min: float | None
    cosine_max: float | None
    sparsity: float | None  # share of the entries with |x| < 0.01
    is_zero_solution: bool | None  # norm_mean < 0.1
    is_global_attractor: bool | None  # distance_mean < 0.1 and cosine_mean > 0.99


def trend(losses: Sequence[float]) -> Trend:
    """Returns the original's verdict on how successive losses change.

    With the least-squares slope and the population standard deviation: CONVERGING if ``slope < -1e-3``,
    CONVERGED if ``|slope| < 1e-3`` and ``std < 0.01``, DIVERGING if ``slope > 1e-3``, else UNSTABLE.

    Args:
      losses: the losses, oldest first.

    Returns:
      A ``Trend``; of fewer than two losses INSUFFICIENT_DATA with slope 0.

    References:
      rato-tokyo/new-llm, report of 2025-11-27.

    >>> trend([0.5, 0.3, 0.1]).status, trend([0.02, 0.02]).status, trend([0.02]).status
    ('CONVERGING', 'CONVERGED', 'INSUFFICIENT_DATA')
    """
    std = float(np.std(losses)) if len(losses) and np.isfinite(losses).all() else None
    if len(losses) < 2:
        return Trend("INSUFFICIENT_DATA", 0.0, std)
    if std is None:
        return Trend("UNSTABLE", None, None)
    slope = float(np.polyfit(np.arange(len(losses)), losses, 1)[0])
    if slope < -1e-3:
        return Trend("CONVERGING", slope, std)
    if abs(slope) < 1e-3 and std < 0.01:
        return Trend("CONVERGED", slope, std)
    return Trend("DIVERGING" if slope > 1e-3 else "UNSTABLE", slope, std)


def _mean(values: jax.Array | np.ndarray) -> float:
    """The mean in double precision; single would lose digits where tokens are many."""
    return float(np.asarray(values, np.float64).mean())


@jax.jit
def _squared_changes(new_NxD: jax.Array, old_NxD: jax.Array) -> jax.Array:
    return jnp.square(new_NxD - old_NxD).mean(axis=1)


def convergence_trials(block: ContextBlock, stream: TokenStream, num_trials: int) -> Trials:
    """Passes over a stream again and again, and measures how much the contexts change.

    ``loss_r = mean_tj (C^r_tj - C^{r-1}_tj)^2``: pass 1 starts from a zero context, pass r from the last
    context of pass r - 1. If contexts soon forget where they came from, only the first few tokens can
    differ: then a falling loss says little.

    Args:
      block: the trained block.
      stream: the tokens.
      num_trials: the number of passes; no more than two are in memory at a time.

    Returns:
      ``num_trials - 1`` losses and their trend.

    References:
      rato-tokyo/new-llm, report of 2025-11-27.

    >>> from cvfp_jax.config.settings import ModelConfig
    >>> block = ContextBlock(ModelConfig(context_dim=4, embed_dim=2), rngs=nnx.Rngs(0))
    >>> trials = convergence_trials(block, TokenStream(jnp.eye(2), np.array([0, 1, 0])), num_trials=4)
    >>> len(trials.losses), trials.trend.status
    (3, 'CONVERGING')
    """
    losses: list[float] = []
    last = len(stream) - 1
    if num_trials > 1:
        start_D = jnp.zeros((block.context_dim,), stream.vectors_VxE.dtype)
        old_NxD = sequential_contexts(block, stream, start_D).array
    while len(losses) < num_trials - 1:
        if bool((old_NxD[last] == start_D).all()):
            losses.append(0.0)  # from the same start the same pass would follow
            continue
        start_D = old_NxD[last]
        new_NxD = sequential_contexts(block, stream, start_D).array
        losses.append(_mean(np.asarray(_squared_changes(new_NxD, old_NxD))[: len(stream)]))
        old_NxD = new_NxD
    return Trials(losses, trend(losses))


def _unit(rows_NxD: jax.Array) -> jax.Array:
    return rows_NxD / jnp.maximum(jnp.linalg.norm(rows_NxD, axis=1, keepdims=True), _LEAST_NORM)


@functools.partial(jax.jit, static_argnames=("graphdef", "embed_dim", "draws"))
def _cosines_of_random(
    params: Any, key: jax.Array, graphdef: nnx.GraphDef, embed_dim: int, draws: int
) -> jax.Array:
    block = nnx.merge(graphdef, params)
    context_key, window_key = jax.random.split(key)
    context_BxD = jax.random.normal(context_key, (draws, block.context_dim))
    window_BxKE = jax.random.normal(window_key, (draws, block.num_input_tokens * embed_dim))
    return (_unit(context_BxD) * _unit(block(context_BxD, window_BxKE))).sum(axis=1)


def identity_of_random(block: ContextBlock, embed_dim: int, key: jax.Array, draws: int = 100) -> Identity:
    """Returns how much the block's output looks like its input context, for random inputs.

    ``cos(c, block(c, w))``, with c and w drawn from N(0, I).

    Args:
      block: the block.
      embed_dim: E, the width of a token vector.
      key: the random key of the draws.
      draws: the number of contexts and windows, at least 1.

    Returns:
      The cosines' mean and extremes, NaN if numbers are not finite.

    References:
      rato-tokyo/new-llm, report of 2025-11-27.

    >>> from cvfp_jax.config.settings import ModelConfig
    >>> block = ContextBlock(ModelConfig(context_dim=64, embed_dim=64), rngs=nnx.Rngs(0))
    >>> identity_of_random(block, 64, jax.random.key(0)).is_identity
    False
    """
    graphdef, params = nnx.split(block)
    cosines_B = np.asarray(_cosines_of_random(params, key, graphdef, embed_dim, draws))
    mean = _mean(cosines_B)
    return Identity(mean, float(cosines_B.max()), float(cosines_B.min()), mean > 0.95)


@jax.jit
def _row_measures(contexts_NxD: jax.Array, rows_M: jax.Array, num_rows: jax.Array) -> dict[str, jax.Array]:
    """Each row's own measures, and its mean and extremes over the other rows, [M] each.

    Rows from a number on only fill up: they are compared with none, and what stands for them says nothing.
    """
    rows_MxD, places_M = contexts_NxD[rows_M], jnp.arange(len(rows_M), dtype=jnp.int32)
    counts_M, others = places_M < num_rows, jnp.maximum(num_rows - 1, 1).astype(contexts_NxD.dtype)
    # The mean of rows that are nearly alike has errors of their differences' size; theirs from one has not.
    shifted_MxD = jnp.where(counts_M[:, None], rows_MxD - rows_MxD[:1], 0)
    centred_MxD = shifted_MxD - shifted_MxD.sum(axis=0, keepdims=True) / num_rows.astype(contexts_NxD.dtype)
    squares_M, unit_MxD = jnp.square(centred_MxD).sum(axis=1), _unit(rows_MxD)

    def among_others(place: jax.Array) -> dict[str, jax.Array]:
        other_M = counts_M & (places_M != place)
        squared_M = squares_M + squares_M[place] - 2 * (centred_MxD @ centred_MxD[place])
        distance_M = jnp.where(other_M, jnp.sqrt(jnp.maximum(squared_M, 0)), 0)
        nearest = jnp.where(other_M, squared_M, jnp.inf).argmin()
        cosine_M = jnp.clip(unit_MxD @ unit_MxD[place], -1, 1)
        return {
            "distance_mean": distance_M.sum() / others,
            "distance_min": jnp.linalg.norm(rows_MxD[nearest] - rows_MxD[place]),
            "distance_max": distance_M.max(),
            "cosine_mean": jnp.where(other_M, cosine_M, 0).sum() / others,
            "cosine_min": jnp.where(other_M, cosine_M, 1).min(),
            "cosine_max": jnp.where(other_M, cosine_M, -1).max(),
        }

    return {
        "norm_mean": jnp.linalg.norm(rows_MxD, axis=1),
        "deviation_mean": jnp.sqrt(squares_M),
        "sparsity": (jnp.abs(rows_MxD) < 0.01).mean(axis=1),
        **lax.map(among_others, places_M, batch_size=_CHUNK_ROWS),
    }


def geometry(
    contexts_NxD: jax.Array, num_rows: int, rng: np.random.Generator, max_rows: int = 5000
) -> Geometry:
    """Returns how contexts lie, by norms, deviations, and distances and cosines of pairs.

    Means of ``|C_t|`` and ``|C_t - mean C|``; mean, least and greatest ``|C_t - C_s|`` and
    ``cos(C_t, C_s)`` over t != s. Distances are the roots of ``|a|^2 + |b|^2 - 2 a b`` of centred rows,
    clamped at 0: a pair closer than 1e-3 of the deviation may be wrong by that much. The least one is
    taken anew from the difference of rows that so seem nearest.

    Args:
      contexts_NxD: float32; what stands beyond the contexts is not read.
      num_rows: the number of contexts, at least 1.
      rng: draws.
      max_rows: draw this many contexts without replacement if there are more.

    Returns:
      A ``Geometry``.

    References:
      rato-tokyo/new-llm, report of 2025-11-27.

    >>> measures = geometry(jnp.array([[3.0, 0.0], [0.0, 4.0]]), 2, np.random.default_rng(0))
    >>> measures.norm_mean, measures.distance_min, measures.cosine_max, measures.sparsity
    (3.5, 5.0, 0.0, 0.5)
    """
    rows = rng.choice(num_rows, max_rows, replace=False) if num_rows > max_rows else np.arange(num_rows)
    reductions = {"min": np.min, "max": np.max}
    fields: dict[str, Any] = dict.fromkeys(Geometry._fields)
    # As many rows for all streams in arrays of one length, so that they share a program.
    filled = np.pad(rows, (0, min(max_rows, len(contexts_NxD)) - len(rows)))
    measures = _row_measures(contexts_NxD, jnp.asarray(filled, jnp.int32), jnp.int32(len(rows)))
    for name, values_M in measures.items():
        if len(rows) > 1 or not name.startswith(("distance", "cosine")):
            fields[name] = finite(float(reductions.get(name[-3:], _mean)(np.asarray(values_M)[: len(rows)])))
    norm, distance, cosine = (fields[f"{name}_mean"] for name in ("norm", "distance", "cosine"))
    if norm is not None:
        fields["is_zero_solution"] = norm < 0.1
    if distance is not None and cosine is not None:
        fields["is_global_attractor"] = distance < 0.1 and cosine > 0.99
    return Geometry(**fields)


@jax.jit
def _cosines_to_tokens(contexts_NxD: jax.Array, vectors_VxE: jax.Array, ids_N: jax.Array) -> jax.Array:
    return (_unit(contexts_NxD) * _unit(vectors_VxE)[ids_N]).sum(axis=1)


def embedding_similarity(contexts_NxD: jax.Array, stream: TokenStream) -> float | None:
    """Returns the mean cosine of a context and its own token's vector, ``mean_t cos(C_t, e_t)``.

    Args:
      contexts_NxD: float32; what stands beyond the stream is not read.
      stream: the tokens.

    Returns:
      A number from -1 to 1; None if D is not E, or numbers are not finite.

    References:
      rato-tokyo/new-llm, report of 2025-11-27.

    >>> stream = TokenStream(jnp.eye(2), np.array([0, 0]))
    >>> embedding_similarity(jnp.array([[2.0, 0.0], [0.0, 1.0]]), stream)
    0.5
    """
    if contexts_NxD.shape[1] != stream.vectors_VxE.shape[1]:
        return None
    filled = np.pad(stream.ids_N, (0, len(contexts_NxD) - len(stream)))
    cosines_N = _cosines_to_tokens(contexts_NxD, stream.vectors_VxE, jnp.asarray(filled, jnp.int32))
    return finite(_mean(np.asarray(cosines_N)[: len(stream)]))


def rank_verdict(share: float) -> str:
    """Returns the original's word for an effective rank: good above 80 % of D, review below 75 %, else fair.

    Args:
      share: the effective rank divided by D.

    Returns:
      ``good``, ``fair`` or ``review``.

    Raises:
      ValueError: the share is NaN.

    References:
      rato-tokyo/new-llm, report of 2025-11-27.

    >>> rank_verdict(0.81), rank_verdict(0.8), rank_verdict(0.74)
    ('good', 'fair', 'review')
    """
    if math.isnan(share):
        raise ValueError("an effective rank that is not a number has no verdict")
    return "good" if share > 0.8 else "review" if share < 0.75 else "fair"


def block_diagnostics(
    block: ContextBlock,
    val_stream: TokenStream,
    val_contexts_MxD: jax.Array,
    val_rank_share: float,
    *,
    num_trials: int,
    key: jax.Array,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Returns all diagnostics of a trained block as a record's fields.

    Args:
      block: the trained block.
      val_stream: the validation tokens.
      val_contexts_MxD: float32, the exact contexts of all of them but the last; more rows are not read.
      val_rank_share: their effective rank divided by D.
      num_trials: passes over the validation stream, for ``convergence_trials``.
      key: the random key of ``identity_of_random``.
      rng: draws the rows of ``geometry``.

    Returns:
      Numbers, words, truth values and one list of numbers, all of which JSON can hold; None where a
      value is undefined or not finite.

    References:
      rato-tokyo/new-llm, report of 2025-11-27.

    >>> from cvfp_jax.config.settings import ModelConfig
    >>> block = ContextBlock(ModelConfig(context_dim=4, embed_dim=2), rngs=nnx.Rngs(0))
    >>> stream, key = TokenStream(jnp.eye(2), np.array([0, 1, 0])), jax.random.key(0)
    >>> contexts_MxD, rng = sequential_contexts(block, stream[:-1]).array, np.random.default_rng(0)
    >>> fields = block_diagnostics(block, stream, contexts_MxD, 0.5, num_trials=4, key=key, rng=rng)
    >>> round(fields["context_norm_mean"], 1), fields["embedding_cosine"], fields["rank_verdict"]
    (2.0, None, 'review')
    """
    # Its passes share the program that made these contexts.
    trials = convergence_trials(
        block, dataclasses.replace(val_stream, capacity=len(val_contexts_MxD)), num_trials
    )
    identity = identity_of_random(block, val_stream.vectors_VxE.shape[1], key)
    contexts = geometry(val_contexts_MxD, len(val_stream) - 1, rng)
    settling = contraction(block, val_stream[:-1], val_contexts_MxD)
    return {
        "val_convergence_status": trials.trend.status,
        "val_convergence_slope": trials.trend.slope,
        "val_convergence_losses": [finite(loss) for loss in trials.losses],
        "identity_cosine": finite(identity.mean),
        "is_identity": identity.is_identity,
        **{
            name if name.startswith("is_") else f"context_{name}": value
            for name, value in contexts._asdict().items()
        },
        "embedding_cosine": embedding_similarity(val_contexts_MxD, val_stream[:-1]),
        "val_lyapunov_exponent": settling.lyapunov_exponent,
        "val_contraction_rate": settling.rate,
        "val_parallel_iterations": settling.iterations,
        "rank_verdict": None if math.isnan(val_rank_share) else rank_verdict(val_rank_share),
    }
