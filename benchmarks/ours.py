"""This project's side of the benchmark: the only file of it that calls ``cvfp_jax``'s compiled steps."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks import parts
from benchmarks.parts import Part
from benchmarks.timing import Run
from benchmarks.workload import Workload
from cvfp_jax.config.settings import ModelConfig, Phase1Config, Phase2Config
from cvfp_jax.contexts.effective_rank import effective_rank
from cvfp_jax.contexts.parallel import parallel_contexts
from cvfp_jax.contexts.recurrence import sequential_contexts
from cvfp_jax.contexts.store import as_store
from cvfp_jax.core.fixed_point import Status
from cvfp_jax.core.model import LanguageModel
from cvfp_jax.core.token_stream import TokenStream
from cvfp_jax.distributed.mesh import single_device_mesh
from cvfp_jax.generation.continuation import Continuation
from cvfp_jax.generation.sampling import Sampling
from cvfp_jax.phase1.train import begin_iteration
from cvfp_jax.phase2.step import compile_steps
from cvfp_jax.phase2.stream import Stream
from cvfp_jax.phase2.train import begin_training


def _model(work: Workload, precision: str) -> LanguageModel:
    """The untrained model."""
    config = ModelConfig(
        context_dim=work.context_dim, embed_dim=work.embed_dim, num_input_tokens=work.input_tokens
    )
    return LanguageModel(config, jnp.asarray(work.table()), precision, rngs=nnx.Rngs(work.seed))


def continued(work: Workload, precision: str, num_samples: int) -> Iterator[np.ndarray]:
    """Yields the tokens of texts that never end, one of each at a time."""
    tokens = Continuation(_model(work, precision))
    return tokens.tokens(np.zeros(1, np.int32), Sampling(), work.seed, num_samples)


def _stream(model: LanguageModel, part: Part) -> TokenStream:
    return TokenStream(model.embedding.token_vectors(), part.work.ids())


def prepare(part: Part, precision: str) -> Run:
    """Returns one run of a part, which waits for its results."""
    run = _prepare(part, precision)

    def as_in_a_cell() -> None:
        with jax.default_matmul_precision("highest"):
            run()

    return as_in_a_cell


def _prepare(part: Part, precision: str) -> Run:
    if part.kind == parts.RANK:
        contexts_RxD = jnp.asarray(part.work.contexts(part.rows))
        return lambda: effective_rank(contexts_RxD, part.rows)
    model = _model(part.work, precision)
    if part.kind == parts.PHASE1:
        return _phase1(model, part)
    if part.kind in (parts.TRAIN, parts.EVALUATE):
        return _phase2(model, part)
    block, stream = model.context_blocks[0], _stream(model, part)
    if part.kind == parts.RECURRENCE:
        return lambda: sequential_contexts(block, stream).block_until_ready()
    contexts = as_store(jnp.asarray(part.work.contexts(part.rows)))
    return lambda: parallel_contexts(block, stream, contexts).block_until_ready()


def _phase1(model: LanguageModel, part: Part) -> Run:
    """One iteration, from where the one before ended; it never counts as the last."""
    iteration = begin_iteration(
        model.context_blocks[0], _stream(model, part), Phase1Config(), jax.random.key(part.work.seed)
    )

    def run() -> None:
        running = {"status": jnp.int32(Status.RUNNING), "steps": jnp.int32(0)}
        iteration.solution = iteration.solution._replace(**running)
        iteration.advance(1)

    return run


def _phase2(model: LanguageModel, part: Part) -> Run:
    """One batch, the first of the stream."""
    config = Phase2Config(batch_size=part.rows)
    key = jax.random.key(part.work.seed)
    state, frozen, spec = begin_training(model, config, single_device_mesh(), key)
    stream = Stream.of(part.work.ids(), jnp.asarray(part.work.contexts(part.work.tokens)))
    batches = stream.batches(part.rows)[:1]
    arrays = next(spec.arrays(stream, batches))
    train, evaluate = compile_steps(spec)

    def run_train() -> None:
        nonlocal state
        state, loss, _ = train(state, frozen, arrays, np.int32(0), np.int32(1))
        jax.block_until_ready((state, loss))

    def run_evaluate() -> None:
        jax.block_until_ready(evaluate(state.params, frozen, arrays, np.int32(0)))

    return run_train if part.kind == parts.TRAIN else run_evaluate
