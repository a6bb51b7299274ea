"""Phase 1 against the original, step by step; against the equations it is in ``test_step``."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cvfp_jax.config.settings import ModelConfig, Phase1Config
from cvfp_jax.contexts.runtime import NoProgress, Runtime
from cvfp_jax.core.fixed_point import Status
from cvfp_jax.core.model import ContextBlock
from cvfp_jax.core.token_stream import TokenStream
from cvfp_jax.kernels.block_vjp import row_means
from cvfp_jax.phase1.iteration import advance_in_memory
from cvfp_jax.phase1.step import has_converged
from cvfp_jax.phase1.train import begin_iteration, conclude, learn_contexts
from tests import oracle
from tests.original import load_block, named
from tests.tiers import cases

pytestmark = pytest.mark.usefixtures("quick_compilation")

CASES = ["onebatch", "ragged", "ragged_clip", "lastbatch1", "w10"]


def block_of(case, arrays, prefix):
    config = ModelConfig(case["D"], case["E"], case["L"], case["K"])
    block = ContextBlock(config, rngs=nnx.Rngs(0))
    load_block(block, arrays, prefix)
    return block


def config_of(case, **changes):
    config = Phase1Config(
        learning_rate=case["lr"],
        max_iterations=3,
        min_converged_ratio=1.0,
        batch_size=case["b1"],
        gradient_clip=case["clip"],
        dist_reg_weight=case["w"],
    )
    return dataclasses.replace(config, **changes)


def layer_normed(table):
    return oracle.normalise(table.astype(np.float64), 1.0, 0.0)[0]


def small_problem(tokens=40, **changes):
    """A block, token vectors, a stream and settings for tests that need no recorded numbers."""
    rng = np.random.default_rng(3)
    block = ContextBlock(ModelConfig(8, 6, 2, 2), rngs=nnx.Rngs(0))
    vectors = jnp.asarray(rng.normal(size=(11, 6)), jnp.float32)
    config = dataclasses.replace(Phase1Config(max_iterations=8, batch_size=16), **changes)
    return block, vectors, rng.integers(0, 11, tokens), config


def stream_problem(tokens=40, **changes):
    """The same with the stream as one object."""
    block, vectors, ids, config = small_problem(tokens, **changes)
    return block, TokenStream(vectors, ids), config


def compiled(iteration):
    """The loop of steps in memory."""
    return advance_in_memory.lower(*iteration.in_memory(), jnp.int32(1), iteration.spec).compile()


@pytest.mark.slow
def test_rounded_contexts_are_changed_in_place():
    # By way of another type a CPU would write all contexts again for each micro-batch.
    problem = stream_problem(160, context_dtype="bfloat16")
    iteration = begin_iteration(*problem, jax.random.key(0))
    rows, width = iteration.contexts.shape
    text = compiled(iteration).as_text()
    assert set(re.findall(rf"\b(\w+)\[{rows},{width}\]", text)) == {"u16"}
    result = learn_contexts(*problem, jax.random.key(0))
    exact = learn_contexts(*stream_problem(160), jax.random.key(0))
    assert result.contexts_NxD.dtype == jnp.bfloat16
    np.testing.assert_allclose(result.contexts_NxD.astype(jnp.float32), exact.contexts_NxD, rtol=0, atol=0.1)
    assert result.residual_mean == pytest.approx(exact.residual_mean, rel=0.2)


@pytest.mark.slow
def test_an_iteration_keeps_one_set_of_contexts():
    temporary = []
    for tokens in (160, 1600):
        iteration = begin_iteration(*stream_problem(tokens), jax.random.key(0))
        memory = compiled(iteration).memory_analysis()
        assert memory.alias_size_in_bytes >= iteration.contexts.kept_NxD.nbytes
        temporary.append(memory.temp_size_in_bytes)
    # Ten times the tokens, and room for not even one of the contexts more.
    assert temporary[1] - temporary[0] < 4 * 8 * 1440


@pytest.mark.parametrize("name", cases(CASES, fast=["ragged_clip"]))
def test_two_steps_equal_the_original(golden, name):
    facts, arrays = golden("unit_phase1_step")
    case = facts["cases"][name]
    arrays = {
        key.removeprefix(f"{name}/"): value for key, value in arrays.items() if key.startswith(f"{name}/")
    }
    vectors = jnp.asarray(layer_normed(arrays["emb"]), jnp.float32)
    iteration = begin_iteration(
        block_of(case, arrays, "param0/"),
        TokenStream(vectors, arrays["ids"]),
        config_of(case),
        jax.random.key(0),
        initial_contexts=arrays["previous"],
    )
    for step in (1, 2):
        iteration.advance(step)
        logged = case["steps"][step - 1]
        # With weight 1 the gradient of the last norm's bias is zero but for rounding, which Adam turns
        # into a step of up to the learning rate.
        drift = 2 * case["lr"] if name == "w10" and step == 2 else 0.0
        for ours, theirs in (
            ("loss", "total"),
            ("cvfp_loss", "cvfp"),
            ("diversity_loss", "div"),
            ("grad_norm", "grad_norm_before_clip"),
        ):
            assert float(iteration.trace[ours][step - 1]) == pytest.approx(
                logged[theirs], abs=1e-6 + drift
            ), ours
        contexts = iteration.contexts.array[: case["N"]]
        np.testing.assert_allclose(contexts, arrays[f"step{step}/contexts"], rtol=0, atol=1e-5 + drift)
        found = named(nnx.merge(iteration.spec.block, iteration.solution.state.params))
        for parameter, value in found.items():
            if name == "w10" and parameter == "layers.0.context_norm.bias":
                continue
            np.testing.assert_allclose(value, arrays[f"step{step}/param/{parameter}"], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["exact_quarter_thr0.25", "ulp_around_thr0.03", "random_thr0.03", "random_thr0.03_prev"]
)
def test_convergence_is_strict_and_in_single_precision(golden, name):
    facts, arrays = golden("unit_convergence")
    case = facts["cases"][name]
    current, previous = arrays[f"{name}/current"], arrays[f"{name}/previous"]
    changes = row_means(jnp.square(jnp.asarray(current) - jnp.asarray(previous)))
    converged = np.asarray(has_converged(changes, Phase1Config(convergence_threshold=case["threshold"])))
    np.testing.assert_array_equal(converged, arrays[f"{name}/converged"].astype(bool))
    assert converged.mean() == pytest.approx(case["rate"])


@pytest.mark.parametrize("width", [2, 96, 100, 768, 1536])
def test_a_change_that_equals_the_threshold_is_not_below_it(width):
    changes = row_means(jnp.full((3, width), 0.25))
    assert changes.tolist() == [0.25] * 3
    assert not has_converged(changes, Phase1Config(convergence_threshold=0.25)).any()


def test_leaving_the_loop_changes_no_bit():
    block, vectors, ids, config = small_problem(context_noise=0.1)
    whole = learn_contexts(block, TokenStream(vectors, ids), config, jax.random.key(1))
    iteration = begin_iteration(block, TokenStream(vectors, ids), config, jax.random.key(1))
    for until in range(1, 8):
        iteration.advance(until)
    parts = conclude(iteration)
    assert parts.iterations == whole.iterations == 8
    np.testing.assert_array_equal(parts.contexts_NxD, whole.contexts_NxD)
    for name, values in whole.trace.items():
        np.testing.assert_array_equal(parts.trace[name], values)
    seen = []

    class Seen(NoProgress):
        def phase1(self, block_index, num_tokens):
            return lambda steps, trace: seen.append((steps, len(trace["loss"])))

    runtime = Runtime(progress=Seen())
    shown = learn_contexts(block, TokenStream(vectors, ids), config, jax.random.key(1), runtime=runtime)
    np.testing.assert_array_equal(shown.contexts_NxD, whole.contexts_NxD)
    assert seen[-1] == (7, 7)


@pytest.mark.slow
def test_room_for_longer_streams_changes_nothing_but_rounding():
    block, vectors, ids, config = small_problem(context_noise=0.1)
    tight = learn_contexts(block, TokenStream(vectors, ids), config, jax.random.key(1))
    roomy = learn_contexts(block, TokenStream(vectors, ids, 200), config, jax.random.key(1))
    assert len(roomy.contexts_NxD) >= 200
    assert not np.asarray(roomy.contexts_NxD[len(ids) :]).any()
    np.testing.assert_allclose(roomy.contexts_NxD[: len(ids)], tight.contexts_NxD[: len(ids)], atol=1e-5)
    assert roomy.residual_mean == pytest.approx(tight.residual_mean, rel=1e-4)
    assert roomy.residual_max == pytest.approx(tight.residual_max, rel=1e-4)


def test_the_residual_is_that_of_one_more_pass_with_the_final_parameters():
    block, vectors, ids, config = small_problem()
    result = learn_contexts(block, TokenStream(vectors, ids), config, jax.random.key(1))
    parameters = {name: value.astype(np.float64) for name, value in named(result.block).items()}
    contexts = np.asarray(result.contexts_NxD, np.float64)[: len(ids)]
    window = oracle.windows(np.asarray(vectors, np.float64)[ids], 2)
    again = oracle.context_block(parameters, 2, np.roll(contexts, 1, axis=0), window)[0][-1]
    residual = ((again - contexts) ** 2).mean(axis=1)
    assert result.residual_mean == pytest.approx(residual.mean(), rel=1e-4)
    assert result.residual_max == pytest.approx(residual.max(), rel=1e-4)


def test_stop_rules():
    block, vectors, ids, _ = small_problem()

    def run(**changes):
        _, _, _, config = small_problem(**changes)
        return learn_contexts(block, TokenStream(vectors, ids), config, jax.random.key(1))

    everything = run(convergence_threshold=1e9, min_iterations=5)
    assert (everything.status, everything.iterations) == (Status.CONVERGED, 5)
    assert everything.convergence_rate == 1.0
    nothing = run(convergence_threshold=1e-30)
    assert (nothing.status, nothing.iterations) == (Status.MAX_STEPS, 8)
    assert nothing.convergence_rate == 0.0


def test_contexts_that_are_not_finite_end_the_iteration():
    block, vectors, ids, config = small_problem()
    block.layers[0].linear.kernel[...] = jnp.full_like(block.layers[0].linear.kernel[...], jnp.nan)
    result = learn_contexts(block, TokenStream(vectors, ids), config, jax.random.key(1))
    assert (result.status, result.iterations) == (Status.NON_FINITE, 2)


def test_noise_has_the_asked_for_spread_and_is_drawn_anew_each_step():
    # With all weights zero the block is LN(S); from equal rows v with LN(v) = v, the first step adds the
    # noise n1_t to each, and the second compares v + n1_{t-1} + n2_t with v + n1_t.
    D, tokens, sigma = 64, 2000, 0.1
    block = ContextBlock(ModelConfig(D, 4), rngs=nnx.Rngs(0))
    linear = block.layers[0].linear
    linear.kernel[...], linear.bias[...] = jnp.zeros((D + 4, D)), jnp.zeros((D,))
    row = oracle.normalise(np.random.default_rng(0).normal(size=(1, D)), 1.0, 0.0)[0]
    config = Phase1Config(learning_rate=1e-12, max_iterations=3, batch_size=500, context_noise=sigma)
    iteration = begin_iteration(
        block,
        TokenStream(jnp.zeros((1, 4)), np.zeros(tokens, np.int32)),
        config,
        jax.random.key(1),
        initial_contexts=np.tile(row, (tokens, 1)).astype(np.float32),
    )
    iteration.advance(2)
    trace = iteration.trace["cvfp_loss"]
    kept = 1 - 2 / D  # LayerNorm takes two dimensions of the noise away
    assert float(trace[0]) == pytest.approx(kept * sigma**2, rel=0.03)
    assert float(trace[1]) == pytest.approx(3 * kept * sigma**2, rel=0.05)


def test_the_untrained_block_is_left_as_it_is():
    block, vectors, ids, config = small_problem()
    before = named(block)
    learn_contexts(block, TokenStream(vectors, ids), config, jax.random.key(1))
    for name, value in named(block).items():
        np.testing.assert_array_equal(value, before[name])


def test_one_loss_over_all_tokens_is_a_batch_of_all():
    block, vectors, ids, config = small_problem(batch_size=0)
    whole = learn_contexts(block, TokenStream(vectors, ids), config, jax.random.key(1))
    one = learn_contexts(
        block, TokenStream(vectors, ids), dataclasses.replace(config, batch_size=len(ids)), jax.random.key(1)
    )
    np.testing.assert_array_equal(whole.contexts_NxD, one.contexts_NxD)
    parts = learn_contexts(
        block, TokenStream(vectors, ids), dataclasses.replace(config, batch_size=16), jax.random.key(1)
    )
    assert parts.trace["diversity_loss"][0] != whole.trace["diversity_loss"][0]


def test_sequential_start_and_zero_first_context():
    block, vectors, ids, config = small_problem(initial_contexts="sequential", first_context="zero")
    result = learn_contexts(
        block, TokenStream(vectors, ids), dataclasses.replace(config, learning_rate=1e-12), jax.random.key(1)
    )
    # Exact contexts from zero are a fixed point of the untrained block.
    np.testing.assert_allclose(result.trace["cvfp_loss"], 0, atol=1e-10)
    assert result.convergence_rate == 1.0
    wrapped = dataclasses.replace(config, learning_rate=1e-12, first_context="last")
    result = learn_contexts(block, TokenStream(vectors, ids), wrapped, jax.random.key(1))
    assert result.trace["converged_tokens"][0] == len(ids) - 1, "only the first token's predecessor differs"


def test_the_validation_effective_rank_needs_validation_tokens():
    block, vectors, ids, config = small_problem(stop="val_effective_rank", val_frequency=2)
    with pytest.raises(ValueError, match="needs validation tokens"):
        learn_contexts(block, TokenStream(vectors, ids), config, jax.random.key(1))
    result = learn_contexts(
        block, TokenStream(vectors, ids), config, jax.random.key(1), val_stream=TokenStream(vectors, ids[:20])
    )
    assert result.iterations in (4, 6, 8)
    assert len(result.val_ranks) == result.iterations // 2
    shown = learn_contexts(
        block, TokenStream(vectors, ids), config, jax.random.key(1), val_stream=TokenStream(vectors, ids[:20])
    )
    assert shown.val_ranks == result.val_ranks
    np.testing.assert_array_equal(shown.contexts_NxD, result.contexts_NxD)


@pytest.mark.slow
def test_hsic_draws_from_the_iterations_key():
    block, vectors, ids, config = small_problem(diversity="HSIC", max_iterations=4)
    one, again, other = (
        learn_contexts(block, TokenStream(vectors, ids), config, jax.random.key(seed)) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one.trace["diversity_loss"], again.trace["diversity_loss"])
    assert (one.trace["diversity_loss"] != other.trace["diversity_loss"]).all()


def test_a_rank_that_is_no_number_ends_the_iteration_as_not_finite():
    block, vectors, ids, config = small_problem(
        stop="val_effective_rank", val_frequency=2, learning_rate=1e38
    )
    result = learn_contexts(
        block, TokenStream(vectors, ids), config, jax.random.key(1), val_stream=TokenStream(vectors, ids[:20])
    )
    assert result.status == Status.NON_FINITE
    assert all(np.isfinite(result.val_ranks))
