import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvfp_jax.data import spectral
from cvfp_jax.errors import UserError


def counted(ids, vocab_size, window):
    table = np.zeros((vocab_size, vocab_size))
    for place, token in enumerate(ids):
        for other in range(max(0, place - window), min(len(ids), place + window + 1)):
            if other != place:
                table[token, ids[other]] += 1
    return table


@settings(max_examples=50, deadline=None)
@given(
    ids=st.lists(st.integers(0, 4), min_size=1, max_size=30),
    window=st.integers(1, 6),
    chunk=st.sampled_from([1, 3, 7, 100]),
)
def test_cooccurrences_are_those_counted_one_by_one(ids, window, chunk):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spectral, "_CHUNK", chunk)
        found = spectral.cooccurrences(np.array(ids), 5, window).toarray()
    np.testing.assert_array_equal(found, counted(ids, 5, window))


def test_positive_pmi_equals_its_definition():
    counts = spectral.cooccurrences(np.random.default_rng(0).integers(0, 6, 200), 6)
    joint = counts.toarray() / counts.sum()
    marginal = joint.sum(axis=1)
    expected = np.maximum(0, np.log(joint / np.outer(marginal, marginal)))
    np.testing.assert_allclose(spectral.positive_pmi(counts).toarray(), expected, atol=1e-12)


def text(tokens=3000, seed=0):
    """Tokens of three kinds that keep to themselves for a while; number 39 never occurs."""
    rng = np.random.default_rng(seed)
    kinds = np.repeat(rng.integers(0, 3, tokens // 30), 30)
    return kinds + 3 * rng.integers(0, 13, len(kinds))


def test_rows_have_gpt2s_norm_and_tokens_that_do_not_occur_have_zeros():
    ids = text()
    table = spectral.spectral_table(ids, 41, 8)
    norms = np.linalg.norm(table, axis=1)
    assert (table.shape, table.dtype) == ((41, 8), np.float32)
    np.testing.assert_allclose(norms[:39], 3.96, rtol=1e-5)
    assert (norms[39:] == 0).all()


def test_tokens_of_one_kind_are_neighbours():
    table = spectral.spectral_table(text(), 39, 8)
    unit = table / np.linalg.norm(table, axis=1, keepdims=True)
    cosine = unit @ unit.T
    same = np.equal.outer(np.arange(39) % 3, np.arange(39) % 3)
    assert cosine[same & ~np.eye(39, dtype=bool)].mean() > 0.5 + cosine[~same].mean()


def test_it_is_the_best_low_rank_factor_of_the_pmi_but_for_its_rows_lengths():
    ids = text()
    pmi = spectral.positive_pmi(spectral.cooccurrences(ids, 39)).toarray()
    left, values, _ = np.linalg.svd(pmi)
    rows = left[:, :8] * np.sqrt(values[:8])
    rows *= np.sign(rows[np.abs(rows).argmax(axis=0), range(8)])
    expected = 3.96 * rows / np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(spectral.spectral_table(ids, 39, 8), expected, atol=1e-4)


def test_it_is_deterministic(tmp_path, monkeypatch):
    tables = []
    for run in "ab":
        monkeypatch.setenv("CVFP_CACHE_DIR", str(tmp_path / run))
        tables.append(spectral.spectral_table(text(), 39, 8))
    np.testing.assert_array_equal(*tables)


def test_too_few_different_tokens():
    with pytest.raises(UserError, match=r"more than 3 different tokens, .*holds 3: use more text, "):
        spectral.spectral_table(np.array([1, 2, 3]), 5, 3)
