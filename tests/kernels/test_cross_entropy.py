import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvfp_jax.core import reference
from cvfp_jax.core.matmul import as_kept, operand
from cvfp_jax.kernels import cross_entropy
from cvfp_jax.kernels.cross_entropy import frozen_head_losses, trained_head_losses
from tests.tiers import cases

pytestmark = pytest.mark.usefixtures("quick_compilation")


def example(rows, width, vocab, seed, scale=1.0):
    rng = np.random.default_rng(seed)
    hidden = scale * rng.normal(size=(rows, width))
    table = rng.normal(size=(vocab, width))
    return hidden, table, rng.integers(0, vocab, rows), rng.random(rows) < 0.8


@jax.jit
def by_the_equations(hidden, table, targets, valid):
    """The loss summed over the rows that count, and its gradients."""

    def total(hidden, table):
        each = jax.vmap(lambda row, target: reference.phase2_loss(row[None], table, target[None]))
        return jnp.where(valid, each(hidden, targets), 0).sum()

    return jax.value_and_grad(total, (0, 1))(hidden, table)


def hits_among(hidden, table, targets, valid):
    return ((hidden @ table.T).argmax(axis=1) == targets)[valid].sum()


def as_jax(hidden, table, targets, valid, dtype=np.float32):
    arrays = (hidden.astype(dtype), table.astype(dtype), targets, valid)
    return tuple(map(jnp.asarray, arrays))


def cut_into(monkeypatch, rows, tokens, group):
    """So many rows and tokens at a time, and in a group where tokens are a multiple."""
    for name in ("_CPU_LOGITS", "_CPU_LOSS_LOGITS", "LOGITS"):
        monkeypatch.setattr(cross_entropy, name, (rows, tokens))
    monkeypatch.setattr(cross_entropy, "_GROUP", group)


@settings(max_examples=6, deadline=None)
@given(rows=st.integers(1, 23), vocab=st.integers(2, 30), chunk=st.integers(1, 30), seed=st.integers(0, 99))
def test_losses_and_gradients_are_those_of_the_equations_whatever_the_chunk(rows, vocab, chunk, seed):
    arrays = example(rows, 5, vocab, seed)
    with pytest.MonkeyPatch.context() as monkeypatch, jax.enable_x64(True):
        monkeypatch.setattr(cross_entropy, "_CHUNK_BYTES", 4 * vocab * chunk)
        cut_into(monkeypatch, chunk, 1 + seed % 11, 1 + seed % 3)
        hidden, table, *rest = as_jax(*arrays, np.float64)
        loss, (on_hidden, on_table) = by_the_equations(hidden, table, *rest)
        for head in (frozen_head_losses, trained_head_losses):

            def total(hidden, table, head=head, rest=rest):
                losses = head(hidden, table, *rest)
                return losses.loss, losses.hits

            step = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))
            (ours, hits), gradients = step(hidden, table)
            assert float(ours) == pytest.approx(float(loss), rel=1e-12, abs=1e-12)
            assert int(hits) == hits_among(*arrays)
            np.testing.assert_allclose(gradients[0], on_hidden, rtol=0, atol=1e-12)
            expected = on_table if head is trained_head_losses else jnp.zeros_like(table)
            np.testing.assert_allclose(gradients[1], expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize(("tokens", "group"), [(40, 40), (40, 8), (16, 4), (16, 3), (5, 5), (1, 1)])
def test_hits_among_many_equal_logits_are_those_of_argmax(monkeypatch, tokens, group):
    cut_into(monkeypatch, 64, tokens, group)
    vocab = 40
    table = np.random.default_rng(0).integers(0, 3, (vocab, 1))
    # Every token is once the target, where the largest logit is the largest or the least number of the table.
    hidden, targets = np.repeat([[1.0], [-1.0]], vocab, axis=0), np.tile(np.arange(vocab), 2)
    arrays = as_jax(hidden, table, targets, np.ones(2 * vocab, bool))
    hits = jax.jit(lambda valid: frozen_head_losses(*arrays[:3], valid).hits)
    for number in range(vocab):
        valid = targets == number
        assert int(hits(jnp.asarray(valid))) == hits_among(hidden, table, targets, valid)


@pytest.mark.parametrize("losses", [frozen_head_losses, trained_head_losses])
def test_of_equal_logits_the_first_counts_as_argmax_has_it(losses):
    table = jnp.array([[-1.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    hidden = jnp.array([[1.0, 0.0]] * 3)
    assert int(jax.jit(losses)(hidden, table, jnp.array([1, 2, 3]), jnp.ones(3, bool)).hits) == 1


def test_huge_logits_do_not_overflow():
    arrays = example(6, 5, 9, 0, scale=1e4)
    with jax.enable_x64(True):
        expected, _ = by_the_equations(*as_jax(*arrays, np.float64))
    losses = jax.jit(frozen_head_losses)(*as_jax(*arrays))
    assert float(losses.loss) == pytest.approx(float(expected), rel=1e-5)


def test_the_gradient_is_scaled_by_what_comes_after():
    hidden, table, targets, valid = as_jax(*example(6, 5, 9, 0))

    @jax.jit
    def gradient(factor):
        return jax.grad(lambda h: factor * frozen_head_losses(h, table, targets, valid).loss)(hidden)

    once, thrice = gradient(1.0), gradient(3.0)
    np.testing.assert_allclose(thrice, 3 * once, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("full_compilation")
def test_a_kept_table_gives_the_same_and_is_never_made_single_precision_as_a_whole():
    hidden, table, targets, valid = as_jax(*example(20, 6, 5000, 0, scale=0.2))
    kept = as_kept(operand(table, "bf16"))

    def step(head):
        return jax.value_and_grad(lambda h: frozen_head_losses(h, head, targets, valid, "bf16").loss)(hidden)

    compiled = jax.jit(step).lower(kept).compile()
    for found, expected in zip(compiled(kept), jax.jit(step)(operand(table, "bf16")), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    # On 2 cores this took as long as a third of a step, for each batch.
    assert "f32[5000,6]" not in compiled.as_text()


@pytest.mark.usefixtures("full_compilation")
def test_no_array_of_all_logits_is_made():
    rows, vocab = 4096, 40_000
    hidden, table, targets, valid = as_jax(*example(rows, 4, vocab, 0))
    loss = jax.jit(jax.grad(lambda h: frozen_head_losses(h, table, targets, valid).loss))
    memory = loss.lower(hidden).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 4 * rows * vocab


@pytest.mark.usefixtures("full_compilation")
@pytest.mark.parametrize("losses", cases([frozen_head_losses, trained_head_losses], [frozen_head_losses]))
def test_bf16_losses_and_gradients_are_near_those_in_single_precision(losses):
    hidden, table, targets, valid = as_jax(*example(40, 64, 300, 0, scale=0.2))
    head = (
        (lambda h, p: losses(h, table, targets, valid, precision=p))
        if losses is frozen_head_losses
        else (lambda h, p: losses(h, table, targets, valid, None, p))
    )
    exact, by = jax.jit(jax.value_and_grad(lambda h: head(h, "f32").loss))(hidden)
    near, near_by = jax.jit(jax.value_and_grad(lambda h: head(h, "bf16").loss))(hidden)
    assert 0 < abs(float(near) - float(exact)) < 2e-3 * float(exact)
    assert 0 < np.linalg.norm(np.asarray(near_by - by)) < 1e-2 * np.linalg.norm(np.asarray(by))


@pytest.mark.usefixtures("full_compilation")
def test_rounded_numbers_are_summed_over_all_tokens_however_few_at_a_time(monkeypatch):
    hidden, table, targets, valid = as_jax(*example(20, 6, 50, 0))

    def gradient():
        return jax.jit(jax.grad(lambda h: frozen_head_losses(h, table, targets, valid, "bf16").loss))(hidden)

    at_once = gradient()
    monkeypatch.setattr(cross_entropy, "_CPU_ROUNDED", 7)
    np.testing.assert_allclose(gradient(), at_once, rtol=0, atol=1e-6)
