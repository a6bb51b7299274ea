"""What the three networks are: causal, of the right size, and read in segments as in one go."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from cvfp_jax.baselines.network import Dropout
from cvfp_jax.baselines.train import make_network
from cvfp_jax.baselines.widths import gru_shape, matched_params, transformer_shape
from cvfp_jax.config.baseline import ARCHITECTURES, BaselineConfig
from cvfp_jax.config.settings import ModelConfig, RunConfig
from tests.tiers import cases

pytestmark = pytest.mark.usefixtures("quick_compilation")

NETWORKS = ARCHITECTURES[1:]
E = 6


def config(architecture, segment=6, **model):
    baseline = BaselineConfig(segment, num_layers=2, num_heads=2)
    return RunConfig(architecture=architecture, model=ModelConfig(8, E, **model), baseline=baseline)


def made(architecture, **changes):
    return make_network(config(architecture, **changes), nnx.Rngs(0))


def vectors(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=(*shape, E)), jnp.float32)


@pytest.mark.parametrize("architecture", NETWORKS)
def test_no_prediction_depends_on_a_later_token(architecture):
    network, inputs = made(architecture), vectors(1, 6)

    def read_at(vectors_BxSxE):
        _, hidden = network.segment(network.start(1), vectors_BxSxE)
        return jnp.square(hidden[0]).sum(axis=1)

    # d hidden_t / d vector_s, summed over the vector's entries.
    influence_TxS = np.abs(np.asarray(jax.jit(jax.jacobian(read_at))(inputs))[:, 0]).sum(axis=2)
    later = np.triu_indices(6, 1)
    assert (influence_TxS[later] == 0).all()
    assert (influence_TxS[np.tril_indices(6)] > 0).all(), "and on every token up to its own"


@pytest.mark.parametrize("architecture", cases(["gru", "bptt", "windows", "modes"], fast=["gru"]))
def test_segments_carry_on_as_if_the_stream_were_one(architecture):
    changes = {
        "windows": {"num_input_tokens": 3, "num_layers": 2},
        "modes": {"num_layers": 2, "context_mode": "G"},
    }
    model = changes.get(architecture, {})
    network, inputs = made("bptt" if model else architecture, **model), vectors(12)
    carry, parts = network.start(1), []
    for first in (0, 5, 10):
        carry, hidden = network.segment(carry, inputs[None, first : first + 5])
        parts.append(hidden[0])
    np.testing.assert_allclose(np.concatenate(parts), network.stream(inputs), rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("window", [6, 5])
@pytest.mark.parametrize("tokens", [4, 6, 19])
def test_a_transformer_reads_a_stream_in_windows_that_overlap_by_half(window, tokens):
    network, inputs = made("transformer", segment=window), vectors(tokens)
    hop = window // 2
    expected = []
    for place in range(tokens):
        # The first window that reaches the place; hops count from the stream's start.
        start = max(0, -(-(place + 1 - window) // hop) * hop)
        _, hidden = network.segment((), inputs[None, start : place + 1])
        expected.append(hidden[0, -1])
    np.testing.assert_allclose(network.stream(inputs), np.stack(expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize("architecture", NETWORKS)
def test_dropout_changes_what_is_passed_on_and_not_its_mean(architecture):
    network, inputs = made(architecture), vectors(2, 4)

    @functools.partial(jax.jit, static_argnames="drops")
    def hidden(key, rate, drops=True):
        return network.segment(network.start(2), inputs, Dropout(key, rate) if drops else None)[1]

    key = jax.random.key(1)
    plain = hidden(key, 0.0, drops=False)
    np.testing.assert_allclose(hidden(key, 0.0), plain, atol=1e-6)
    assert not np.allclose(hidden(key, 0.5), plain, atol=1e-3)
    assert not np.allclose(hidden(key, 0.5), hidden(jax.random.key(2), 0.5), atol=1e-3)


def test_dropout_keeps_the_mean():
    kept = Dropout(jax.random.key(0), jnp.float32(0.25))(jnp.ones(4000), 0)
    assert np.unique(kept).tolist() == pytest.approx([0, 4 / 3])
    assert float(kept.mean()) == pytest.approx(1, abs=0.03)


@given(
    context_dim=st.integers(96, 1600),
    embed_dim=st.integers(96, 800),
    num_layers=st.integers(1, 3),
    num_heads=st.sampled_from([1, 2, 4]),
)
def test_as_many_parameters_as_cvfps_blocks(context_dim, embed_dim, num_layers, num_heads):
    run = RunConfig(
        model=ModelConfig(context_dim, embed_dim), baseline=BaselineConfig(64, num_layers, num_heads)
    )
    wanted = matched_params(run)
    gru, transformer = gru_shape(run), transformer_shape(run)
    assert gru.num_params(embed_dim) == pytest.approx(wanted, rel=0.021)
    assert transformer.num_params(embed_dim) == pytest.approx(wanted, rel=0.02)
    assert transformer.width % (2 * num_heads) == 0


@pytest.mark.parametrize("architecture", NETWORKS)
def test_a_network_has_the_parameters_that_were_counted(architecture):
    run = config(architecture)
    network = nnx.eval_shape(lambda: make_network(run, nnx.Rngs(0)))
    held = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(network)))
    counted = {
        "gru": lambda: gru_shape(run).num_params(E),
        "transformer": lambda: transformer_shape(run).num_params(E),
        "bptt": lambda: matched_params(run),
    }
    assert held == counted[architecture]()
