import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvfp_jax.data import mapped
from cvfp_jax.data.unigram import unigram_loss

IDS = st.lists(st.integers(0, 9), min_size=1, max_size=30)


def test_a_case_by_hand():
    # p = (2 + 1) / (3 + 4) and (0 + 1) / 7.
    loss = unigram_loss(np.array([1, 1, 2]), np.array([1, 0]), vocab_size=4)
    assert loss == pytest.approx(-(np.log(3 / 7) + np.log(1 / 7)) / 2)


@given(IDS, IDS)
def test_its_probabilities_add_up_to_one(train, targets):
    train = np.array(train)
    each = [unigram_loss(train, np.array([token]), 10) for token in range(10)]
    assert np.exp(-np.array(each)).sum() == pytest.approx(1.0)
    assert unigram_loss(train, np.array(targets), 10) == pytest.approx(np.mean([each[t] for t in targets]))


@given(st.integers(1, 5000), st.sampled_from([128, 136, 1000]))
def test_chunks_change_no_digit(size, chunk):
    rng = np.random.default_rng(size)
    train, targets = rng.integers(0, 50, (2, size))
    counts = np.bincount(train, minlength=50) + 1.0
    expected = float(np.mean(np.log(counts.sum()) - np.log(counts[targets])))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mapped, "CHUNK", chunk)
        assert unigram_loss(train, targets, 50) == expected


def test_no_target_is_an_error():
    with pytest.raises(ValueError, match="no target"):
        unigram_loss(np.array([1]), np.array([], int), 3)
