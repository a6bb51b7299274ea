"""Times three ways to make exact contexts: lanes, the plain parallel iteration, and Newton's with a diagonal.

python -m benchmarks.evaluation --json=FILE

A context block is trained by phase 1 on tokens of Zipf's law, and its contexts of longer and longer streams
are made: by walking in lanes (``contexts/recurrence.py``, what this project does); by ``C <- block(P, w)`` of
all tokens at once (Jacobi); and by Newton's iteration with the diagonal of each step's Jacobian (quasi-DEER),
whose linear recurrence an associative scan solves. The two iterations end when their contexts are within a
root mean square of 1e-6 of those of a walk from end to end; one that does not in 300 passes is given up,
and not tried on longer streams. Ways take turns, round after round.

References:
  Gonzalez, Warrington, Smith and Linderman, Towards Scalable and Stable Parallelization of Nonlinear RNNs,
  2024.
"""

import argparse
import dataclasses
import functools
import json
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from benchmarks import flags
from benchmarks.timing import Run, alternate
from benchmarks.workload import Workload
from cvfp_jax.config.settings import ModelConfig, Phase1Config
from cvfp_jax.contexts.contraction import TOLERANCE
from cvfp_jax.contexts.recurrence import predecessors, sequential_contexts
from cvfp_jax.core.model import ContextBlock, LanguageModel, array_of
from cvfp_jax.core.token_stream import TokenStream
from cvfp_jax.phase1.train import learn_contexts
from cvfp_jax.report.page import Table

LENGTHS = (1024, 4096, 16_384, 65_536, 131_072)
QUICK_LENGTHS = (1024, 4096)
_TRAINING_TOKENS = 16_384
_MOST_ITERATIONS = 300


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = flags.Parser(__doc__)
    parser.add_argument("--json", type=flags.output, metavar="FILE", help="where all numbers are written")
    parser.add_argument("--repeats", type=flags.positive, metavar="N", default=3, help="rounds (3)")
    parser.add_argument("--context_dim", type=flags.positive, metavar="D", default=256, help="width (256)")
    parser.add_argument("--quick", action="store_true", help="streams of up to 4,096 tokens only")
    return parser.parse_args(argv)


def diagonals(block: ContextBlock, before_NxD: jax.Array, term_NxD: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns one step of a block of one layer from each context, and the diagonal of its Jacobian.

    With ``h = c + relu(a)``, ``a = W c + term`` and ``x`` the normalised h, ``LN(h) = g x + b``, and the
    diagonal is ``g_i / sigma (A_ii - mean_j A_ji - x_i mean_j x_j A_ji)`` with ``A_ji = dh_j / dc_i``.

    Args:
      block: one layer with one linear map and as wide a context as its output.
      before_NxD: float, the contexts before.
      term_NxD: float, the layer's token terms.
    """
    (layer,) = block.layers
    kernel_DxD = layer.linear.kernel[: layer.context_dim]
    first_NxD = before_NxD @ kernel_DxD + term_NxD
    hidden_NxD = before_NxD + layer.kind.activate(first_NxD)
    slope_NxD = layer.kind.slope(first_NxD).astype(before_NxD.dtype)
    centred_NxD = hidden_NxD - hidden_NxD.mean(axis=1, keepdims=True)
    sigma_Nx1 = jnp.sqrt(jnp.square(centred_NxD).mean(axis=1, keepdims=True) + layer.norm.epsilon)
    unit_NxD = centred_NxD / sigma_Nx1
    dim = before_NxD.shape[1]
    own_NxD = 1 + slope_NxD * jnp.diagonal(kernel_DxD)[None, :]
    mean_NxD = (1 + slope_NxD @ kernel_DxD.T) / dim
    weighed_NxD = (unit_NxD + (unit_NxD * slope_NxD) @ kernel_DxD.T) / dim
    gain_D, bias_D = array_of(layer.norm.scale), array_of(layer.norm.bias)
    diagonal_NxD = gain_D[None, :] / sigma_Nx1 * (own_NxD - mean_NxD - unit_NxD * weighed_NxD)
    return gain_D[None, :] * unit_NxD + bias_D[None, :], diagonal_NxD


def _jacobi(block: ContextBlock, contexts_NxD: jax.Array, term_NxD: jax.Array) -> jax.Array:
    places_N = jnp.arange(len(contexts_NxD), dtype=jnp.int32)
    return block.step(predecessors(contexts_NxD, places_N), [term_NxD])[-1]


def _newton(block: ContextBlock, contexts_NxD: jax.Array, term_NxD: jax.Array) -> jax.Array:
    """The solution of ``c_t = F(p_t) + J_t (c_{t-1} - p_t)``, J_t the diagonal and p_t the old c_{t-1}."""
    places_N = jnp.arange(len(contexts_NxD), dtype=jnp.int32)
    before_NxD = predecessors(contexts_NxD, places_N)
    new_NxD, slope_NxD = diagonals(block, before_NxD, term_NxD)

    def compose(
        first: tuple[jax.Array, jax.Array], then: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        return first[0] * then[0], then[0] * first[1] + then[1]

    return lax.associative_scan(compose, (slope_NxD, new_NxD - slope_NxD * before_NxD))[1]


_PASSES = {"Jacobi": _jacobi, "quasi-DEER": _newton}


@functools.partial(jax.jit, static_argnames=("graphdef", "way"))
def _iterate(
    params: Any,
    term_UxD: jax.Array,
    ids_N: jax.Array,
    exact_NxD: jax.Array,
    graphdef: nnx.GraphDef,
    way: str,
) -> tuple[jax.Array, jax.Array]:
    """The number of passes to within the tolerance, and the contexts."""
    block, term_NxD = nnx.merge(graphdef, params), term_UxD[ids_N]

    def goes_on(carry: tuple[jax.Array, jax.Array]) -> jax.Array:
        made, contexts_NxD = carry
        error = jnp.sqrt(jnp.square(contexts_NxD - exact_NxD).mean())
        return (made < _MOST_ITERATIONS) & (error > TOLERANCE)  # which no number that is none is

    def renew(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        made, contexts_NxD = carry
        return made + 1, _PASSES[way](block, contexts_NxD, term_NxD)

    return lax.while_loop(goes_on, renew, (jnp.int32(0), jnp.zeros_like(exact_NxD)))


@functools.partial(jax.jit, static_argnames="graphdef")
def _walk(params: Any, term_UxD: jax.Array, ids_N: jax.Array, graphdef: nnx.GraphDef) -> jax.Array:
    """The contexts one after the other."""
    block = nnx.merge(graphdef, params)

    def step(context_D: jax.Array, id_: jax.Array) -> tuple[jax.Array, jax.Array]:
        new_D = block.step(context_D[None, :], [term_UxD[id_][None, :]])[-1][0]
        return new_D, new_D

    return lax.scan(step, jnp.zeros(block.context_dim, term_UxD.dtype), ids_N)[1]


@dataclasses.dataclass(frozen=True)
class Row:
    """What was measured of a way and a length."""

    way: str
    tokens: int
    iterations: int | None  # None where there are none
    error: float  # root mean square against the walk from end to end
    seconds: float  # the median

    def cells(self) -> list[str]:
        """Returns the row of a table."""
        made = "-" if self.iterations is None else str(self.iterations)
        per_token = f"{1e6 * self.seconds / self.tokens:.2f}"
        return [self.way, f"{self.tokens:,}", made, f"{self.error:.0e}", f"{self.seconds:.3f}", per_token]


def trained_block(work: Workload, iterations: int = 30) -> tuple[ContextBlock, jax.Array]:
    """Returns a block after some iterations of phase 1, and the token vectors that it read."""
    config = ModelConfig(context_dim=work.context_dim, embed_dim=work.embed_dim)
    model = LanguageModel(config, jnp.asarray(work.table()), rngs=nnx.Rngs(work.seed))
    vectors_VxE = model.embedding.token_vectors()
    ids_N = dataclasses.replace(work, tokens=min(work.tokens, _TRAINING_TOKENS)).ids()
    phase1 = Phase1Config(max_iterations=iterations, min_iterations=iterations)
    stream = TokenStream(vectors_VxE, ids_N)
    learned = learn_contexts(model.context_blocks[0], stream, phase1, jax.random.key(work.seed))
    return learned.block, vectors_VxE


def measure(
    block: ContextBlock, stream: TokenStream, repeats: int, ways: Sequence[str] = tuple(_PASSES)
) -> list[Row]:
    """Returns a row for lanes and for each of the ways that iterate."""
    graphdef, params = nnx.split(block)
    term_UxD, ids_N = block.token_terms(stream.vectors_VxE)[0], jnp.asarray(stream.ids_N)
    exact_NxD = _walk(params, term_UxD, ids_N, graphdef)
    found: dict[str, tuple[int | None, jax.Array]] = {}

    def lanes() -> None:
        contexts = sequential_contexts(block, stream).block_until_ready()
        found["lanes"] = None, contexts.array[: len(stream)]

    def iterate(way: str) -> None:
        made, contexts_NxD = _iterate(params, term_UxD, ids_N, exact_NxD, graphdef, way)
        found[way] = int(made), contexts_NxD

    runs: dict[str, Run] = {"lanes": lanes}
    runs |= {way: functools.partial(iterate, way) for way in ways}
    timings = alternate(runs, repeats)
    return [
        Row(
            way,
            len(stream),
            found[way][0],
            float(jnp.sqrt(jnp.square(found[way][1] - exact_NxD).mean())),
            timing.median,
        )
        for way, timing in timings.items()
    ]


def main(argv: Sequence[str]) -> None:
    """Measures, prints the table and writes the JSON."""
    options = _options(argv)
    lengths = QUICK_LENGTHS if options.quick else LENGTHS
    dim = options.context_dim
    work = Workload(tokens=max(lengths), context_dim=dim, embed_dim=dim, vocab=6000)
    rows: list[Row] = []
    ways = list(_PASSES)
    with jax.default_matmul_precision("highest"):
        block, vectors_VxE = trained_block(work)
        for length in lengths:
            stream = TokenStream(vectors_VxE, np.asarray(work.ids()[:length]))
            rows += measure(block, stream, options.repeats, ways)
            failed = {row.way for row in rows if row.iterations and not row.error <= TOLERANCE}
            ways = [way for way in ways if way not in failed]
    print(f"D = E = {dim}, {jax.devices()[0].device_kind}\n")
    columns = ["way", "tokens", "iterations", "error", "seconds", "us a token"]
    print(Table(columns, [row.cells() for row in rows]).text())
    if options.json:
        flags.write(options.json, json.dumps([dataclasses.asdict(row) for row in rows], indent=1) + "\n")
        print(f"wrote {options.json}")


if __name__ == "__main__":
    sys.exit(flags.run(main))
