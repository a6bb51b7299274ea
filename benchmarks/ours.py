"""This project's side of the benchmark: the only file of it that calls ``cvfp_jax``'s compiled steps."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks import parts
from benchmarks.parts import Part
from benchmarks.timing import Run
from cvfp_jax.config.settings import ModelConfig, Phase1Config, Phase2Config
from cvfp_jax.contexts import parallel, recurrence
from cvfp_jax.contexts.effective_rank import effective_rank
from cvfp_jax.core.fixed_point import Status
from cvfp_jax.core.model import LanguageModel
from cvfp_jax.distributed.mesh import single_device_mesh
from cvfp_jax.phase1 import step as phase1_step
from cvfp_jax.phase1 import train as phase1
from cvfp_jax.phase2 import step as phase2_step
from cvfp_jax.phase2 import train as phase2
from cvfp_jax.phase2.step import Stream


def _model(part: Part, precision: str) -> LanguageModel:
    """The untrained model."""
    work = part.work
    config = ModelConfig(
        context_dim=work.context_dim, embed_dim=work.embed_dim, num_input_tokens=work.input_tokens
    )
    return LanguageModel(config, jnp.asarray(work.table()), precision, rngs=nnx.Rngs(work.seed))


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
    model = _model(part, precision)
    if part.kind == parts.PHASE1:
        return _phase1(model, part)
    if part.kind in (parts.TRAIN, parts.EVALUATE):
        return _phase2(model, part)
    block, vectors_VxE, ids = model.context_blocks[0], model.embedding.token_vectors(), part.work.ids()
    if part.kind == parts.RECURRENCE:
        return lambda: recurrence.sequential_contexts(block, vectors_VxE, ids).block_until_ready()
    contexts_NxD = jnp.asarray(part.work.contexts(part.rows))
    return lambda: parallel.parallel_contexts(block, vectors_VxE, ids, contexts_NxD).block_until_ready()


def _phase1(model: LanguageModel, part: Part) -> Run:
    """One iteration, from where the one before ended; it never counts as the last."""
    solution, inputs, settings = phase1.prepare(
        model.context_blocks[0],
        model.embedding.token_vectors(),
        part.work.ids(),
        Phase1Config(),
        jax.random.key(part.work.seed),
    )

    def run() -> None:
        nonlocal solution
        start = solution._replace(status=jnp.int32(Status.RUNNING), steps=jnp.int32(0))
        solution = jax.block_until_ready(phase1_step.advance(start, inputs, jnp.int32(1), settings))

    return run


def _phase2(model: LanguageModel, part: Part) -> Run:
    """One batch, the first of the stream."""
    config = Phase2Config(batch_size=part.rows)
    state, frozen, settings = phase2.prepare(
        model, config, single_device_mesh(), jax.random.key(part.work.seed)
    )
    stream = Stream.of(part.work.ids(), jnp.asarray(part.work.contexts(part.work.tokens)))
    train, evaluate = phase2_step.compiled(settings)

    def run_train() -> None:
        nonlocal state
        state, loss, _ = train(state, frozen, stream, np.int32(0), np.int32(1))
        jax.block_until_ready((state, loss))

    def run_evaluate() -> None:
        jax.block_until_ready(evaluate(state.params, frozen, stream, np.int32(0)))

    return run_train if part.kind == parts.TRAIN else run_evaluate
