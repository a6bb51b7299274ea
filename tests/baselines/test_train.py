"""Training by segments: gradients, early stopping and evaluation, and work that is taken up again."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from cvfp_jax.baselines import train
from cvfp_jax.baselines.train import Frozen, Segment, Tokens, learn_baseline, make_network, segments
from cvfp_jax.config.baseline import ARCHITECTURES, BaselineConfig
from cvfp_jax.config.settings import ModelConfig, Phase2Config, RunConfig
from cvfp_jax.contexts.runtime import Runtime
from cvfp_jax.core import reference
from cvfp_jax.core.fixed_point import Status
from tests.plain import drawn, module
from tests.tiers import cases

pytestmark = pytest.mark.usefixtures("quick_compilation")

V, E = 12, 6


def config(architecture="gru", model=None, **phase2):
    phase2 = {"epochs": 3, "batch_size": 16, "learning_rate": 0.01, **phase2}
    return RunConfig(
        architecture=architecture,
        model=model or ModelConfig(8, E),
        phase2=Phase2Config(**phase2),
        baseline=BaselineConfig(8, num_layers=1, num_heads=2),
    )


@functools.cache
def text():
    """Tokens of which most are the one before plus one, and a table."""
    rng = np.random.default_rng(0)
    ids = (np.cumsum(np.where(rng.random(200) < 0.2, rng.integers(0, V, 200), 1)) % V).astype(np.int32)
    table = jnp.asarray(rng.normal(size=(V, E)), jnp.float32)
    return Tokens(ids[:120], ids[120:], val_capacity=100), table


def learn(run, network=None, **runtime):
    tokens, table = text()
    network = network or make_network(run, nnx.Rngs(0))
    return learn_baseline(network, table, table, tokens, run, jax.random.key(1), runtime=Runtime(**runtime))


@given(tokens=st.integers(2, 60), lanes=st.integers(1, 5), length=st.integers(1, 9))
def test_every_token_but_the_first_is_predicted_once(tokens, lanes, length):
    cut = segments(np.arange(tokens), lanes, length)
    assert {segment.ids_BxS.shape for segment in cut} == {(lanes, length)}
    predicted = np.concatenate([segment.targets_BxS[segment.valid_BxS] for segment in cut])
    assert sorted(predicted.tolist()) == list(range(1, tokens))
    for lane in range(lanes):
        read = np.concatenate([segment.ids_BxS[lane][segment.valid_BxS[lane]] for segment in cut])
        assert (np.diff(read) == 1).all(), "a lane's tokens follow one another"


@pytest.mark.parametrize(
    "model",
    [
        ModelConfig(5, E),
        pytest.param(ModelConfig(5, E, 2, 3), marks=pytest.mark.slow),
        pytest.param(ModelConfig(5, E, 2, context_mode="G"), marks=pytest.mark.slow),
        pytest.param(ModelConfig(5, E, 2, context_mode="A", num_token_layers=1), marks=pytest.mark.slow),
    ],
    ids=["one layer", "windows", "mode G", "mode A"],
)
def test_gradients_through_time_are_the_references(model):
    """Those of its functions composed in a scan, with the gradient of the whole stream."""
    rng = np.random.default_rng(1)
    makes = reference.init_context_block, reference.init_token_block
    blocks = [drawn(rng, make, model, np.float32) for make in makes]
    ids = rng.integers(0, V, 10).astype(np.int32)
    table = jnp.asarray(rng.normal(size=(V, E)), jnp.float32)

    def expected(blocks):
        context_block, token_block = blocks
        window_NxKE = reference.token_windows(table[ids[:-1]], model.num_input_tokens)

        def step(context_D, window_KE):
            layers = reference.context_block(context_block, context_D[None], window_KE[None], model)
            return layers[-1][0], [layer[0] for layer in layers]

        _, layers = jax.lax.scan(step, jnp.zeros(model.context_dim), window_NxKE)
        read = reference.contexts_read(layers, reference.predecessors(layers[-1]), model)
        hidden = reference.token_block(token_block, read, window_NxKE, model)
        return reference.phase2_loss(hidden, table, ids[1:])

    run = config("bptt", model)
    network = make_network(run, nnx.Rngs(0))
    network.context_block = module(type(network.context_block), model, blocks[0])
    network.token_block = module(type(network.token_block), model, blocks[1])
    graphdef, params = nnx.split(network)
    segment = Segment(ids[None, :-1], ids[None, 1:], np.ones((1, 9), bool))

    def found(params):
        network = nnx.merge(graphdef, params)
        return train.segment_loss(network, network.start(1), Frozen(table, table), segment)[0]

    loss, gradient = jax.value_and_grad(expected)(blocks)
    ours, our_gradient = jax.value_and_grad(found)(params)
    assert float(ours) == pytest.approx(float(loss), abs=1e-6)
    context_block = module(type(network.context_block), model, gradient[0])
    token_block = module(type(network.token_block), model, gradient[1])
    wanted = {"context_block": nnx.split(context_block)[1], "token_block": nnx.split(token_block)[1]}
    for name, tree in wanted.items():
        leaves = zip(jax.tree.leaves(our_gradient[name]), jax.tree.leaves(tree), strict=True)
        for one, other in leaves:
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("architecture", cases(ARCHITECTURES[1:], fast=["gru", "transformer"]))
def test_an_evaluation_is_that_of_a_slow_loop(architecture):
    run = config(architecture, epochs=1)
    network = make_network(run, nnx.Rngs(0))
    result = learn(run, network)
    tokens, table = text()
    nnx.update(network, result.best_params)
    vectors, head = table[tokens.val_ids[:-1]], np.asarray(table, np.float64)
    losses, hits, carry = [], 0, network.start(1)
    read = jax.jit(lambda carry, rows: network.segment(carry, rows))
    for place, target in enumerate(tokens.val_ids[1:]):
        if architecture == "transformer":  # the first window that reaches the place, of 8 tokens each 4
            start = max(0, -(-(place - 7) // 4) * 4)
            window = jnp.zeros((8, E)).at[: place - start + 1].set(vectors[start : place + 1])
            hidden = read((), window[None])[1][0, place - start]
        else:
            carry, hidden = read(carry, vectors[None, place : place + 1])
            hidden = hidden[0, 0]
        logits = head @ np.asarray(hidden, np.float64)
        losses.append(np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[target])
        hits += int(np.argmax(logits)) == target
    (epoch,) = result.epochs
    assert epoch.val_loss == pytest.approx(np.mean(losses), abs=1e-5)
    assert epoch.val_acc == pytest.approx(hits / len(losses))


@pytest.mark.parametrize("architecture", ARCHITECTURES[1:])
def test_it_learns_what_follows(architecture):
    run = config(architecture, epochs=20)
    losses = [epoch.val_loss for epoch in learn(run).epochs]
    assert min(losses) < 1.9, "three of four tokens follow from the one before"


def test_the_best_epoch_is_kept_and_training_stops_early():
    run = config("gru", epochs=30, learning_rate=0.05)
    result = learn(run)
    losses = [epoch.val_loss for epoch in result.epochs]
    assert (result.status, len(losses)) == (Status.CONVERGED, result.best_epoch + 1)
    assert losses[result.best_epoch - 1] == min(losses)
    short = learn(dataclasses.replace(run, phase2=dataclasses.replace(run.phase2, epochs=result.best_epoch)))
    jax.tree.map(np.testing.assert_array_equal, result.best_params, short.last_params)


def test_what_is_dropped_changes_training_and_no_evaluation():
    plain, dropped = learn(config(epochs=1)), learn(config(epochs=1, dropout=0.4))
    assert plain.epochs[0].train_loss != dropped.epochs[0].train_loss
    run = config(epochs=1, dropout=0.4, learning_rate=1e-12)
    assert learn(run).epochs[0].val_loss == pytest.approx(
        learn(config(epochs=1, learning_rate=1e-12)).epochs[0].val_loss, abs=1e-6
    )


def test_numbers_that_break_down_end_training():
    result = learn(config("bptt", learning_rate=1e30))
    assert result.status == Status.NON_FINITE
    assert result.best_epoch == 0
