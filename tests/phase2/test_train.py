import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cvfp_jax.config.settings import ModelConfig, Phase2Config
from cvfp_jax.contexts.runtime import NoProgress, Runtime
from cvfp_jax.contexts.store import as_store
from cvfp_jax.core.fixed_point import Status
from cvfp_jax.core.model import ContextBlock, TokenBlock
from cvfp_jax.distributed.mesh import single_device_mesh
from cvfp_jax.phase2 import step, train
from cvfp_jax.phase2.stream import Stream
from cvfp_jax.phase2.train import begin_training, learn_tokens
from tests.original import load_block, make_model, named
from tests.tiers import cases

pytestmark = pytest.mark.usefixtures("quick_compilation")


class RecordedContexts(ContextBlock):
    """Gives out a recorded cache, [L, N, D], whose row numbers stand in the contexts it is fed."""

    def __init__(self, config, cache):
        super().__init__(config, rngs=nnx.Rngs(0))
        self.cache = nnx.Param(jnp.asarray(cache))

    def every_layer(self, context_BxD, window_BxKE):
        rows = context_BxD[:, 0].astype(jnp.int32)
        return [self.cache[layer][rows] for layer in range(len(self.layers))]


@pytest.mark.parametrize(
    "name",
    cases(["frozen_L2K2", "frozen_L1K1_clip", "unfrozen_L1K3"], fast=["frozen_L1K1_clip", "unfrozen_L1K3"]),
)
def test_a_step_and_then_an_epoch_equal_the_original(golden, monkeypatch, name):
    facts, arrays = golden("unit_phase2_step")
    case = facts["cases"][name]
    arrays = {
        key.removeprefix(f"{name}/"): value for key, value in arrays.items() if key.startswith(f"{name}/")
    }
    windows = jnp.asarray(arrays["token_embeds"])
    monkeypatch.setattr(step, "token_windows", lambda vectors, ids, places, K: windows[places])
    model_config = ModelConfig(case["D"], case["E"], case["L"], case["K"])
    context_block = RecordedContexts(model_config, arrays["cache"])
    token_block = TokenBlock(model_config, rngs=nnx.Rngs(0))
    load_block(token_block, arrays, "param0/")
    if model_config.reads_every_layer:
        # Row t is fed the context after token t - 1, so that is where its own number must stand.
        contexts = np.zeros((case["N"], case["D"]), np.float32)
        contexts[:, 0] = np.arange(1, case["N"] + 1)
    else:
        contexts = arrays["cache"][0]
    stream = Stream.of(arrays["ids"], jnp.asarray(contexts))
    config = Phase2Config(case["lr"], 1, 1, case["b"], case["clip"], case["freeze"])
    model = make_model(model_config, arrays["emb"])
    model.context_blocks, model.token_block = nnx.List([context_block]), token_block
    state, frozen, spec = begin_training(model, config, single_device_mesh(), jax.random.key(0))

    def parameters(state):
        found = named(nnx.merge(spec.token_block, state.params.token_block))
        if not case["freeze"]:
            found["token_embedding.weight"] = np.asarray(state.params.table_VxE)
        return found

    loss, accuracy = train._evaluate(state.params, frozen, stream, spec)
    assert (loss, accuracy) == pytest.approx((case["eval_before"][0], case["eval_before"][2]), abs=2e-6)
    train_step, _ = step.compile_steps(spec)
    arrays_of_batch = next(spec.arrays(stream, stream.batches(config.batch_size)))
    state, loss, norm = train_step(state, frozen, arrays_of_batch, np.int32(0), np.int32(1))
    assert float(loss) == pytest.approx(case["batch1_loss_ppl"][0], abs=2e-6)
    norms = [float(norm)]
    for parameter, value in parameters(state).items():
        np.testing.assert_allclose(value, arrays[f"after_batch1/{parameter}"], rtol=0, atol=1e-6)
    state, measures = train.train_epoch(state, frozen, stream, spec, 1)
    norms += [norm for _, norm in measures]
    np.testing.assert_allclose(norms, case["grad_norms"], rtol=2e-6)
    rows = [16, 16, 7]
    mean = sum(loss * n for (loss, _), n in zip(measures, rows, strict=True)) / 39
    assert mean == pytest.approx(case["epoch_loss_ppl"][0], abs=2e-6)
    for parameter, value in parameters(state).items():
        np.testing.assert_allclose(value, arrays[f"after_epoch/{parameter}"], rtol=0, atol=2e-6)
    loss, accuracy = train._evaluate(state.params, frozen, stream, spec)
    assert (loss, accuracy) == pytest.approx((case["eval_after"][0], case["eval_after"][2]), abs=2e-6)


def problem(seed=0, train_tokens=60, val_tokens=30, **changes):
    """Everything that learn_tokens needs, small."""
    rng = np.random.default_rng(seed)
    model = make_model(ModelConfig(8, 6, 2, 2), rng.normal(size=(12, 6)).astype(np.float32))
    config = dataclasses.replace(Phase2Config(epochs=6, batch_size=16, learning_rate=0.01), **changes)

    def stream(count, capacity=0):
        ids = rng.integers(0, 12, count)
        return Stream.of(ids, jnp.asarray(rng.normal(size=(max(count, capacity), 8)), jnp.float32), capacity)

    return model, config, stream(train_tokens), stream(val_tokens)


def learn(model, config, train, val, key=None, **runtime):
    return learn_tokens(model, train, val, config, key, runtime=Runtime(**runtime))


def test_the_best_epochs_weights_are_kept():
    model, config, train, val = problem(learning_rate=0.05, epochs=12, patience=3)
    result = learn(model, config, train, val)
    losses = [epoch.val_loss for epoch in result.epochs]
    best = result.best_epoch
    assert losses[best - 1] == min(losses)
    assert (result.status, len(losses)) == (Status.CONVERGED, best + 3), "the case must stop early"
    # A run of just so many epochs ends with the weights that the longer one kept.
    short = learn(model, dataclasses.replace(config, epochs=best), train, val)
    last = nnx.merge(nnx.split(model.token_block)[0], short.last_params.token_block)
    kept, final = named(result.token_block), named(last)
    for name, value in kept.items():
        np.testing.assert_array_equal(value, final[name])
    longer = nnx.merge(nnx.split(model.token_block)[0], result.last_params.token_block)
    assert any((named(longer)[name] != value).any() for name, value in kept.items())


def test_without_early_stopping_all_epochs_run():
    model, config, train, val = problem(learning_rate=1e-5, epochs=3)
    result = learn(model, config, train, val)
    assert (result.status, len(result.epochs), result.best_epoch) == (Status.MAX_STEPS, 3, 3)


def test_a_loss_that_is_not_finite_ends_training():
    model, config, train, val = problem()
    model.token_block.layers[0].linear.kernel[...] *= jnp.nan
    result = learn(model, config, train, val)
    assert (result.status, len(result.epochs), result.best_epoch) == (Status.NON_FINITE, 1, 0)
    assert math.isnan(result.epochs[0].val_loss)


@pytest.mark.parametrize("capacity", cases([60, 61, 100], fast=[61]))
def test_padding_changes_nothing_but_rounding(capacity):
    model, config, train, val = problem()
    plain = learn(model, config, train, val)
    ids = np.asarray(train.ids_N)
    contexts = jnp.pad(train.contexts.array, ((0, capacity - 60), (0, 0)), constant_values=7.0)
    padded = learn(model, config, Stream.of(ids, contexts, capacity), val)
    np.testing.assert_allclose(padded.batch_losses, plain.batch_losses, rtol=0, atol=1e-6)
    assert [e.val_acc for e in padded.epochs] == [e.val_acc for e in plain.epochs]


@pytest.mark.slow
def test_the_last_context_is_not_needed():
    model, config, train, val = problem()
    shorter = dataclasses.replace(val, contexts=as_store(val.contexts.array[:-1]))
    assert learn(model, config, train, val).epochs == learn(model, config, train, shorter).epochs


def test_progress_tells_of_every_sixteenth_batch():
    model, config, train, val = problem(train_tokens=70, batch_size=2, epochs=1)
    seen = []

    class Seen(NoProgress):
        def phase2(self, num_tokens):
            seen.append(num_tokens)
            return lambda epoch, rows, loss: seen.append((epoch, rows))

    learn(model, config, train, val, progress=Seen())
    assert seen == [70, (1, 32), (1, 64)]


def test_the_callers_arrays_are_left_as_they_are():
    model, config, train, val = problem(freeze_embedding=False)
    before = jax.device_get((named(model.token_block), model.embedding.table[...]))
    result = learn(model, config, train, val)
    after = jax.device_get((named(model.token_block), model.embedding.table[...]))
    for ours, theirs in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert (np.asarray(result.best_params.table_VxE) != before[1]).any()


def test_weight_decay_takes_its_share_off_every_parameter():
    model, config, train, val = problem(epochs=1, batch_size=100)
    plain, decayed = (
        learn(model, dataclasses.replace(config, weight_decay=decay), train, val) for decay in (0.0, 0.5)
    )
    before = named(model.token_block)
    graph = nnx.split(model.token_block)[0]
    one, other = (named(nnx.merge(graph, result.last_params.token_block)) for result in (plain, decayed))
    for name, value in before.items():
        expected = one[name] - config.learning_rate * 0.5 * value
        np.testing.assert_allclose(other[name], expected, rtol=0, atol=1e-6)


def test_dropout_thins_out_training_but_not_validation():
    model, config, train, val = problem(epochs=2, learning_rate=1e-12)
    plain = learn(model, config, train, val)
    dropped, again, other = (
        learn(model, dataclasses.replace(config, dropout=0.5), train, val, key=jax.random.key(seed))
        for seed in (1, 1, 2)
    )
    assert [epoch.val_loss for epoch in dropped.epochs] == pytest.approx(
        [epoch.val_loss for epoch in plain.epochs], abs=1e-5
    )
    np.testing.assert_array_equal(dropped.batch_losses, again.batch_losses)
    assert (dropped.batch_losses != plain.batch_losses).all()
    assert (dropped.batch_losses != other.batch_losses).all()
    batches = len(dropped.batch_losses) // 2
    assert (dropped.batch_losses[:batches] != dropped.batch_losses[batches:]).all(), "drawn anew each epoch"


def test_an_untied_head_starts_at_the_uniform_distribution():
    model, config, train, val = problem(epochs=1, batch_size=100)
    model = make_model(dataclasses.replace(model.config, use_weight_tying=False), model.embedding.table[...])
    result = learn(model, config, train, val)
    assert result.batch_losses[0] == pytest.approx(math.log(12), abs=1e-6)
    # No gradient reaches the token block through a head of zeros, so it is as it was.
    graph = nnx.split(model.token_block)[0]
    after = named(nnx.merge(graph, result.last_params.token_block))
    for name, value in named(model.token_block).items():
        np.testing.assert_array_equal(after[name], value)
    assert np.asarray(result.last_params.bias_V).any()
