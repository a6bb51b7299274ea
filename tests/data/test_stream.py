import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvfp_jax.data import cache, mapped, stream, tokenizer
from cvfp_jax.errors import UserError

TEXTS = ["Hello world", "", "one two three", "Hello again"]


def tokenize(texts, *options, **named):
    return stream.tokenize(texts, cache.content_hash(texts), *options, **named)


def test_the_stream_is_the_samples_without_separators():
    tokens = tokenize(TEXTS)
    samples = [ids.tolist() for ids in tokenizer.encode(TEXTS)]
    assert tokens.ids.tolist() == list(itertools.chain(*samples))
    assert tokens.ids.dtype == np.int32
    for number, sample in enumerate(samples):
        assert tokens.ids[tokens.boundaries[number] : tokens.boundaries[number + 1]].tolist() == sample
        assert tokens.first(number).tolist() == list(itertools.chain(*samples[:number]))


def test_a_larger_corpus_begins_with_the_smaller_one():
    few, many = tokenize(TEXTS[:2]), tokenize(TEXTS)
    np.testing.assert_array_equal(many.first(2), few.ids)


def test_samples_are_cut_one_by_one():
    tokens = tokenize(TEXTS, max_sample_tokens=2)
    assert np.diff(tokens.boundaries).tolist() == [2, 0, 2, 2]
    assert tokens.ids[:2].tolist() == [15496, 995]


def test_the_second_time_nothing_is_encoded(monkeypatch, tmp_path):
    monkeypatch.setenv("CVFP_CACHE_DIR", str(tmp_path))
    first = tokenize(TEXTS)
    monkeypatch.setattr(tokenizer, "encode", None)
    second = tokenize(TEXTS)
    np.testing.assert_array_equal(first.ids, second.ids)
    np.testing.assert_array_equal(first.boundaries, second.boundaries)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 3000), st.floats(0, 1, exclude_min=True, exclude_max=True))
def test_a_tail_and_what_is_before_it_are_the_whole_stream(size, share):
    ids = np.arange(size, dtype=np.int32)
    train, val = stream.split_tail(ids, share)
    assert len(val) == int(share * size)
    np.testing.assert_array_equal(np.concatenate([train, val]), ids)


@pytest.mark.parametrize(
    ("size", "train", "val"),
    [(62_891, 56_602, 6_289), (122_795, 110_516, 12_279), (240_132, 216_119, 24_013)],
)
def test_a_tail_has_the_reports_sizes(size, train, val):
    assert [len(part) for part in stream.split_tail(np.zeros(size, np.int32), 0.1)] == [train, val]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 50256), min_size=1, max_size=50))
def test_a_corpus_vocabulary_renumbers_without_loss(ids):
    ids = np.array(ids, np.int32)
    vocabulary = stream.corpus_vocabulary(ids)
    ours = vocabulary.renumber(ids)
    assert vocabulary.size == len(set(ids.tolist()))
    assert ours.max() < vocabulary.size
    np.testing.assert_array_equal(vocabulary.token_ids[ours], ids)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(st.integers(0, 50256), max_size=8), max_size=4), st.integers(1, 5))
def test_distinct_ids_are_those_of_all_streams(streams, chunk):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mapped, "CHUNK", chunk)
        found = stream.distinct_ids(*(np.array(ids, np.int32) for ids in streams))
    assert found.tolist() == sorted(set(itertools.chain(*streams)))


def test_a_renumbered_stream_is_kept_for_its_vocabulary_alone(monkeypatch):
    monkeypatch.setattr(mapped, "CHUNK", 2)
    tokens = tokenize(TEXTS)
    more = np.append(tokens.ids, [0, 1])
    vocabularies = [stream.corpus_vocabulary(ids) for ids in (tokens.ids, more)]
    for vocabulary in vocabularies * 2:
        ours = tokens.renumbered(vocabulary)
        np.testing.assert_array_equal(ours.ids, vocabulary.renumber(tokens.ids))
        assert ours.first(1).tolist() == vocabulary.renumber(tokens.first(1)).tolist()
    assert tokens.renumbered(stream.full_vocabulary()) is tokens


def test_texts_that_change_while_they_are_read_leave_no_stream(monkeypatch, tmp_path):
    monkeypatch.setenv("CVFP_CACHE_DIR", str(tmp_path))
    with pytest.raises(UserError, match="changed while it was read: start the same command again"):
        stream.tokenize(["Hello word", *TEXTS[1:]], cache.content_hash(TEXTS))
    assert list(tmp_path.iterdir()) == []


def test_a_stream_is_built_in_less_memory_than_its_text(monkeypatch, tmp_path):
    """Neither all texts nor all tokens are in memory at once: 3 MB of text and 5 MB of tokens."""
    monkeypatch.setenv("CVFP_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(tokenizer, "_WAITING", 1 << 18)

    class Texts:
        def __iter__(self):
            return (f"{number} 0 1 2 3 4 5 6 7 8 9 " * 40 for number in range(3_000))

    texts_hash = cache.content_hash(Texts())
    tokenizer.gpt2_encoding()
    tracemalloc.start()
    tokens = stream.tokenize(Texts(), texts_hash)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert tokens.ids.nbytes > 5e6
    assert peak < 2e6


def test_the_full_vocabulary_keeps_gpt2s_numbers():
    vocabulary = stream.full_vocabulary()
    assert vocabulary.size == 50257
    assert vocabulary.renumber(np.array([0, 995, 50256])).tolist() == [0, 995, 50256]
