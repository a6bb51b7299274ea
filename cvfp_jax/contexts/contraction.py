"""Why the iteration converges: how fast a trained recurrence forgets, and its parallel evaluation settles.

Shapes: N tokens, R rows of arrays that hold them, D context width, E embedding width, K input tokens.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from cvfp_jax.contexts.recurrence import predecessors
from cvfp_jax.core.model import ContextBlock, token_windows
from cvfp_jax.core.token_stream import TokenStream
from cvfp_jax.runtime.floats import finite

# Tokens that are enough: the exponent of more of them differs in the third digit.
MAX_TOKENS = 1024
TOLERANCE = 1e-6
# An iteration that has not settled by then does not contract, and may never get there.
MAX_ITERATIONS = 512


class Contraction(NamedTuple):
    """How a recurrence forgets where it started."""

    lyapunov_exponent: float | None  # per token; None if it is not finite
    rate: float | None  # factor per iteration; None if there are fewer than two, or it is not finite
    iterations: int | None  # None if as many as ``MAX_ITERATIONS`` are not enough


class _Iterations(NamedTuple):
    """A parallel iteration on its way."""

    contexts_RxD: jax.Array
    made: jax.Array  # int32
    error: jax.Array
    first_change: jax.Array
    last_change: jax.Array


@functools.partial(jax.jit, static_argnames="graphdef")
def _measure(
    params: Any,
    exact_RxD: jax.Array,
    vectors_VxE: jax.Array,
    ids_R: jax.Array,
    num_tokens: jax.Array,
    graphdef: nnx.GraphDef,
) -> tuple[jax.Array, _Iterations]:
    """The growth of a tangent vector, in nats, and the end of a parallel iteration from zero."""
    block = nnx.merge(graphdef, params)
    block.to_single_precision()
    rows = len(exact_RxD)
    places_R = jnp.arange(rows, dtype=jnp.int32)
    valid_R = places_R < num_tokens
    count = (num_tokens * exact_RxD.shape[1]).astype(exact_RxD.dtype)
    terms = block.token_terms(token_windows(vectors_VxE, ids_R, places_R, block.num_input_tokens))

    def grow(tangent_D: jax.Array, token: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        before_D, *terms_of_token = token
        rows_of_one = [term[None, :] for term in terms_of_token]
        _, moved_D = jax.jvp(
            lambda context_D: block.step(context_D[None, :], rows_of_one)[-1][0], (before_D,), (tangent_D,)
        )
        norm = jnp.linalg.norm(moved_D)
        return moved_D / norm, jnp.log(norm)

    start_D = jax.random.normal(jax.random.key(0), exact_RxD.shape[1:], exact_RxD.dtype)
    before_RxD = predecessors(exact_RxD, places_R)
    _, growth_R = lax.scan(grow, start_D / jnp.linalg.norm(start_D), (before_RxD, *terms))

    def distance(a_RxD: jax.Array, b_RxD: jax.Array) -> jax.Array:
        """The root mean square over the tokens."""
        return jnp.sqrt(jnp.where(valid_R[:, None], jnp.square(a_RxD - b_RxD), 0).sum() / count)

    def goes_on(now: _Iterations) -> jax.Array:
        return (now.error > TOLERANCE) & (now.made < MAX_ITERATIONS)

    def iterate(now: _Iterations) -> _Iterations:
        new_RxD = block.step(predecessors(now.contexts_RxD, places_R), terms)[-1]
        change = distance(new_RxD, now.contexts_RxD)
        first_change = jnp.where(now.made == 0, change, now.first_change)
        return _Iterations(new_RxD, now.made + 1, distance(new_RxD, exact_RxD), first_change, change)

    zero = jnp.zeros((), exact_RxD.dtype)
    zeros_RxD = jnp.zeros_like(exact_RxD)
    start = _Iterations(zeros_RxD, jnp.int32(0), distance(zeros_RxD, exact_RxD), zero, zero)
    return jnp.where(valid_R, growth_R, 0).sum(), lax.while_loop(goes_on, iterate, start)


def contraction(block: ContextBlock, stream: TokenStream, contexts_NxD: jax.Array) -> Contraction:
    """Measures how fast a trained recurrence forgets, and what that gives a parallel evaluation.

    The largest Lyapunov exponent is ``1/N sum_t ln |J_t v_{t-1}|``, with ``J_t`` the derivative of
    ``c_t = block(c_{t-1}, w_t)`` by ``c_{t-1}`` along the exact contexts, ``v_t`` the direction of
    ``J_t v_{t-1}`` and ``v_{-1}`` random. Where it is negative, contexts forget where they started, and the
    iteration ``C <- block(P, w)`` of all tokens at once settles in a number of passes that hardly depends on
    N.

    That iteration is made from zeros with the parameters as they are, up to a root mean square of 1e-6 from
    the exact contexts. Its rate is the geometric mean of what a pass multiplies the change by,
    ``(|C^k - C^{k-1}| / |C^1 - C^0|)^{1/(k-1)}``.

    Args:
      block: the trained block.
      stream: the tokens, of which the first 1,024 are read.
      contexts_NxD: float32, their exact contexts; more rows are not read.

    Returns:
      A ``Contraction``. The exponent is minus infinity, and so None, where a tangent vector vanishes.

    References:
      Gonzalez, Kozachkov, Zoltowski, Clarkson and Linderman, Predictability Enables Parallelization of
      Nonlinear State Space Models, 2025.

    >>> from cvfp_jax.config.settings import ModelConfig
    >>> from cvfp_jax.contexts.recurrence import sequential_contexts
    >>> block = ContextBlock(ModelConfig(context_dim=8, embed_dim=2), rngs=nnx.Rngs(0))
    >>> stream = TokenStream(jnp.eye(2), np.array([0, 1, 0] * 9))
    >>> measured = contraction(block, stream, sequential_contexts(block, stream).array)
    >>> measured.lyapunov_exponent < 0 < measured.rate < 1, measured.iterations <= 27
    (True, True)
    """
    rows = min(len(contexts_NxD), MAX_TOKENS)
    num_tokens = min(len(stream), rows)
    ids_R = np.pad(stream.ids_N[:num_tokens], (0, rows - num_tokens)).astype(np.int32)
    graphdef, params = nnx.split(block)
    growth, end = _measure(
        params, contexts_NxD[:rows], stream.vectors_VxE, jnp.asarray(ids_R), jnp.int32(num_tokens), graphdef
    )
    made, first, last = int(end.made), float(end.first_change), float(end.last_change)
    settled = float(end.error) <= TOLERANCE
    rate = (last / first) ** (1 / (made - 1)) if made > 1 and first > 0 else None
    return Contraction(
        finite(float(growth) / num_tokens), None if rate is None else finite(rate), made if settled else None
    )
