import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from cvfp_jax.config.settings import ModelConfig, Phase1Config
from cvfp_jax.core.model import ContextBlock, token_windows
from cvfp_jax.core.token_stream import TokenStream
from cvfp_jax.distributed.layout import lay_out
from cvfp_jax.distributed.mesh import REPLICATED, ROWS, shard_map, single_device_mesh
from cvfp_jax.phase1 import micro_batches
from cvfp_jax.phase1.micro_batches import (
    Range,
    Tokens,
    num_batches,
    num_tiles,
    own_range,
    padding_rows,
    read_contexts,
    renew_contexts,
)
from cvfp_jax.phase1.train import learn_contexts
from tests.tiers import cases


def tokens_of(vectors, ids, K, count):
    """A stream whose tokens are told apart by their vectors' places, the last of which is none."""
    vectors = jnp.concatenate([vectors, jnp.zeros((1, vectors.shape[1]))])
    return Tokens(vectors, jnp.pad(ids, (K - 1, 0), constant_values=len(vectors) - 1), jnp.int32(count))


def windows_of(batch, tokens, K):
    """The windows of a micro-batch's tokens."""
    rows = len(batch.valid_B)
    return jnp.concatenate([tokens.vectors_UxE[batch.places_W[k : k + rows]] for k in range(K)], axis=1)


def range_of(contexts, tokens, batch_size, wrap):
    """The range of the only device."""
    layout = lay_out(single_device_mesh(), len(contexts), batch_size)
    each = shard_map(
        lambda contexts, tokens: own_range(contexts, tokens, layout, wrap), layout.mesh, (ROWS, REPLICATED)
    )
    return each(contexts, tokens)


@pytest.mark.parametrize("wrap", [True, False])
@pytest.mark.parametrize("batch_size", cases([1, 4, 7, 20], fast=[4]))
def test_a_pass_equals_one_application_to_the_whole_stream(batch_size, wrap):
    rng = np.random.default_rng(0)
    count, padded = 7, 20
    block = ContextBlock(ModelConfig(6, 5, 2, 3), rngs=nnx.Rngs(0))
    padded += -padded % batch_size
    ids = jnp.asarray(np.pad(rng.integers(0, 4, count), (0, padded - count)), jnp.int32)
    vectors = jnp.asarray(rng.normal(size=(4, 5)), jnp.float32)
    contexts = np.zeros((padded, 6), np.float32)
    contexts[:count] = rng.normal(size=(count, 6))
    tokens = tokens_of(vectors, ids, 3, count)

    def renew(batch, seen):
        return block(batch.old_CxD[:-1], windows_of(batch, tokens, 3)), seen + batch.valid_B.sum()

    contexts = jnp.asarray(contexts)
    own = range_of(contexts, tokens, batch_size, wrap)
    assert (int(own.first_row), int(own.first_batch), int(own.batches)) == (0, 0, -(-count // batch_size))
    step = jax.jit(
        lambda contexts, own: renew_contexts(contexts, tokens, own, batch_size, renew, jnp.int32(0))
    )
    new, seen = step(contexts, own)
    contexts = np.asarray(contexts)
    window = token_windows(vectors, ids, jnp.arange(count), 3)
    shifted = np.roll(contexts[:count], 1, axis=0)
    if not wrap:
        shifted[0] = 0
    expected = jax.jit(lambda context, window: block(context, window))(jnp.asarray(shifted), window)
    np.testing.assert_allclose(new[:count], expected, rtol=0, atol=1e-6)
    assert not np.asarray(new[count:]).any()
    assert int(seen) == count
    assert int(num_batches(tokens, batch_size)) == -(-count // batch_size)

    def compare(batch, most):
        change = jnp.abs(batch.old_CxD[1:] - block(batch.old_CxD[:-1], windows_of(batch, tokens, 3)))
        return jnp.maximum(most, jnp.where(batch.valid_B[:, None], change, 0).max())

    most = read_contexts(jnp.asarray(contexts), tokens, own, batch_size, compare, jnp.float32(0))
    np.testing.assert_allclose(most, np.abs(expected - contexts[:count]).max(), rtol=0, atol=1e-6)


def test_a_context_depends_on_its_predecessor_and_its_window_only():
    count, K = 8, 2
    block = ContextBlock(ModelConfig(16, 3, 1, K), rngs=nnx.Rngs(0))
    ids = jnp.arange(count, dtype=jnp.int32)
    vectors = jax.random.normal(jax.random.key(0), (count, 3))
    contexts = jax.random.normal(jax.random.key(1), (count, 16))

    def renew(contexts, vectors):
        tokens = tokens_of(vectors, ids, K, count)
        renew = lambda batch, none: (block(batch.old_CxD[:-1], windows_of(batch, tokens, K)), none)  # noqa: E731
        own = Range(jnp.int32(0), jnp.int32(0), jnp.int32(2), contexts[-1])
        return renew_contexts(contexts, tokens, own, 4, renew, jnp.int32(0))[0]

    jacobians = jax.jacfwd(renew, (0, 1))(contexts, vectors)
    on_contexts, on_tokens = (np.abs(np.asarray(j)).sum(axis=(1, 3)) > 0 for j in jacobians)
    # The predecessor of the first token is the last one: the original's convention.
    np.testing.assert_array_equal(on_contexts, np.roll(np.eye(count, dtype=bool), -1, axis=1))
    window = np.eye(count, dtype=bool) | np.eye(count, k=-1, dtype=bool)
    np.testing.assert_array_equal(on_tokens, window)


pytestmark = pytest.mark.usefixtures("quick_compilation")


@given(st.integers(1, 100_000))
def test_tiles_hold_all_rows_and_little_else(rows):
    count, each = num_tiles(rows)
    assert each <= 1024
    assert padding_rows(rows) == count * each - rows
    assert 0 <= padding_rows(rows) < each
    assert count == 1 or each % 32 == 0
    # As a micro-batch grows, what is filled up is a vanishing part of it.
    assert padding_rows(rows) <= max(64, 0.05 * rows)


@pytest.fixture
def small_tiles(monkeypatch):
    def make_small():
        jax.clear_caches()  # programs are kept by their settings, of which tiles are none
        monkeypatch.setattr(micro_batches, "_CPU_ROWS", 64)

    yield make_small
    jax.clear_caches()


def test_phase_1_in_tiles_learns_what_it_learns_in_whole_micro_batches(small_tiles):
    rng = np.random.default_rng(5)
    vectors = jnp.asarray(rng.normal(size=(11, 6)), jnp.float32)
    ids = rng.integers(0, 11, 231)  # the last micro-batch is not full
    config = Phase1Config(
        max_iterations=4, batch_size=100, diversity="OACD", context_noise=0.1, dist_reg_weight=0.5
    )

    def learned():
        block = ContextBlock(ModelConfig(8, 6, 2, 2), rngs=nnx.Rngs(0))
        result = learn_contexts(block, TokenStream(vectors, ids), config, jax.random.key(0))
        return result.contexts_NxD, result.trace, result.residual_mean

    whole = learned()
    small_tiles()
    assert num_tiles(100)[0] > 1
    in_tiles = learned()
    jax.tree.map(
        lambda found, expected: np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5),
        in_tiles,
        whole,
    )
