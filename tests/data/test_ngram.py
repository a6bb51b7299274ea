import collections
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvfp_jax.data.ngram import KneserNey, ngram_losses


class Slowly:
    """Chen and Goodman's definitions with dictionaries, a context at a time."""

    def __init__(self, ids, vocab_size, order):
        self.vocab_size, self.order = vocab_size, order
        grams = [tuple(ids[at : at + order]) for at in range(len(ids) - order + 1)]
        self.counts = {order: collections.Counter(grams)}
        for length in range(order - 1, 0, -1):
            longer = {tuple(ids[at : at + length + 1]) for at in range(len(ids) - length)}
            self.counts[length] = collections.Counter(gram[1:] for gram in longer)

    def discounts(self, length):
        number = collections.Counter(self.counts[length].values())
        fallback = {1: 0.5, 2: 1.0, 3: 1.5}
        if not (number[1] and number[2] and number[3]):
            return fallback
        y = number[1] / (number[1] + 2 * number[2])
        estimated = {c: c - (c + 1) * y * number[c + 1] / number[c] for c in (1, 2, 3)}
        return {c: d if 0 < d <= c else fallback[c] for c, d in estimated.items()}

    def probability(self, token, past, length=None):
        length = min(self.order, len(past) + 1) if length is None else length
        if length == 0:
            return 1 / self.vocab_size
        counts = self.counts[length]
        context = tuple(past[len(past) - length + 1 :])
        followers = {gram[-1]: count for gram, count in counts.items() if gram[:-1] == context}
        lower = self.probability(token, past, length - 1)
        if not followers:
            return lower
        discounts, total = self.discounts(length), sum(followers.values())
        taken = {t: discounts[min(count, 3)] for t, count in followers.items()}
        kept = followers.get(token, 0) - taken.get(token, 0)
        return kept / total + sum(taken.values()) / total * lower


streams = st.lists(st.integers(0, 6), min_size=1, max_size=120)


@settings(deadline=None, max_examples=60)
@given(streams, st.lists(st.integers(0, 7), min_size=2, max_size=12), st.sampled_from([2, 3, 4]))
def test_probabilities_are_those_of_a_slow_implementation(train, text, order):
    found = KneserNey(np.array(train), 8).probabilities(np.array(text), order)
    slow = Slowly(train, 8, order)
    # What is shorter than the order reads the lower orders' counts.
    expected = [slow.probability(token, text[:at]) for at, token in enumerate(text) if at > 0]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@settings(deadline=None, max_examples=60)
@given(streams, st.lists(st.integers(0, 7), min_size=1, max_size=5), st.sampled_from([2, 3, 4]))
def test_the_probabilities_of_all_tokens_sum_to_one(train, past, order):
    model = KneserNey(np.array(train), 8)
    total = sum(model.probabilities(np.array([*past, token]), order)[-1] for token in range(8))
    assert total == pytest.approx(1, abs=1e-12)


def test_a_bigram_by_hand():
    # 0 is followed by 1 twice and by 2 once, and each token stands behind one other: discounts .5 and 1.
    model = KneserNey(np.array([0, 1, 0, 1, 0, 2]), 3)
    unigram = 0.5 / 3 + 1.5 / 3 * 1 / 3
    expected = [0.5 * unigram, 1 / 3 + 0.5 * unigram, 0.5 / 3 + 0.5 * unigram]
    for token, p in enumerate(expected):
        assert model.probabilities(np.array([0, token]), 2)[0] == pytest.approx(p, abs=1e-15)


def test_a_longer_past_helps_where_it_decides():
    rng = np.random.default_rng(0)
    ids = [0, 0]
    for _ in range(4000):  # the next token is the sum of the last two, mostly
        ids.append((ids[-1] + ids[-2] + (rng.random() < 0.1) + 1) % 7)
    ids = np.array(ids)
    bigram, trigram, fourgram = ngram_losses(ids[:3000], ids[3000:], 7)
    assert trigram < 0.6 < 1.5 < bigram < math.log(7) + 0.1
    assert fourgram == pytest.approx(trigram, rel=0.15)


def test_a_vocabulary_beyond_the_keys_is_refused():
    with pytest.raises(ValueError, match="a vocabulary of 70000 is too large: at most 65536"):
        KneserNey(np.array([1, 2]), 70_000)
