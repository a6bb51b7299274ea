import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cvfp_jax.config import ModelConfig
from cvfp_jax.layout import lay_out
from cvfp_jax.mesh import ROWS, WHOLE, on_each, one_device
from cvfp_jax.micro_batches import Range, Tokens, num_batches, own_range, read_contexts, renew_contexts
from cvfp_jax.model import ContextBlock, token_windows


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
    layout = lay_out(one_device(), len(contexts), batch_size)
    each = on_each(
        lambda contexts, tokens: own_range(contexts, tokens, layout, wrap), layout.mesh, (ROWS, WHOLE)
    )
    return each(contexts, tokens)


@pytest.mark.parametrize("wrap", [True, False])
@pytest.mark.parametrize("batch_size", [1, 4, 7, 20])
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
    new, seen = renew_contexts(contexts, tokens, own, batch_size, renew, jnp.int32(0))
    contexts = np.asarray(contexts)
    window = token_windows(vectors, ids, jnp.arange(count), 3)
    shifted = np.roll(contexts[:count], 1, axis=0)
    if not wrap:
        shifted[0] = 0
    expected = block(jnp.asarray(shifted), window)
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
