import dataclasses
import itertools
import json
import mmap

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cvfp_jax.config.data import SEPARATORS
from cvfp_jax.config.settings import DataConfig, ModelConfig, RunConfig
from cvfp_jax.data import cache, corpus, dataset, tokenizer
from cvfp_jax.errors import UserError

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


@pytest.fixture
def config(tmp_path):
    rng = np.random.default_rng(0)
    lines = [json.dumps({"text": " ".join(rng.choice(WORDS, 12))}) for _ in range(20)]
    lines[19] = json.dumps({"text": "a zebra and a giraffe"})
    lines.append(json.dumps({"text": "hippopotamus"}))
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    return DataConfig(corpus=f"text:{tmp_path}", val_samples="18:20", embedding="random")


def run_of(config, samples):
    return RunConfig(num_samples=samples, data=config, model=ModelConfig(embed_dim=4))


def samples_of(config, part):
    return list(corpus.Samples(config.corpus, (part,)))


def texts_of(ids, vocabulary):
    return tokenizer.gpt2_encoding().decode(vocabulary.token_ids[ids].tolist())


def test_cells_are_the_first_samples_and_share_their_validation(config):
    data = dataset.load(config, [3, 9])
    small, large = (data.cell(run_of(config, samples)) for samples in (3, 9))
    np.testing.assert_array_equal(large.train_ids[: len(small.train_ids)], small.train_ids)
    assert texts_of(small.train_ids, data.vocabulary) == "".join(samples_of(config, range(3)))
    assert texts_of(small.val_ids, data.vocabulary) == "".join(samples_of(config, range(18, 20)))
    np.testing.assert_array_equal(small.val_ids, large.val_ids)
    assert small.table.shape == (50257, 4)
    assert small.capacity == large.capacity == len(large.train_ids)


def test_the_hash_tells_cells_and_texts_apart_but_not_sweeps(config):
    wide, narrow = dataset.load(config, [3, 9]), dataset.load(config, [3])
    assert wide.sha256(3) == narrow.sha256(3) != wide.sha256(9)
    moved = dataset.load(dataclasses.replace(config, val_samples="17:19"), [3])
    assert moved.sha256(3) != narrow.sha256(3)


@pytest.mark.parametrize("vocabulary", ["full", "corpus"])
def test_the_hash_is_that_of_the_texts_and_their_parts(config, vocabulary):
    config = dataclasses.replace(config, vocabulary=vocabulary)
    train, val = samples_of(config, range(3)), samples_of(config, range(18, 20))
    for each, parts in (config, ["validation", *val]), (tail_of(config), ["tail", "tail:0.25"]):
        data = dataset.load(each, [3, 9])
        known = ["vocabulary", data.vocabulary.token_ids.tobytes()]
        assert data.sha256(3) == cache.content_hash([*train, *parts, *known])


@pytest.mark.parametrize("vocabulary", ["full", "corpus"])
def test_a_cells_tokens_are_views_of_files(config, vocabulary):
    for _ in range(2):
        data = dataset.load(dataclasses.replace(config, vocabulary=vocabulary), [3, 9])
        for ids in (data.train_ids(9), data.train_ids(3), data.val_ids(3)):
            assert ids.dtype == np.int32
            assert not ids.flags.owndata
            assert not ids.flags.writeable
            while isinstance(ids, np.ndarray):
                ids = ids.base
            assert isinstance(ids, mmap.mmap)


def test_a_corpus_vocabulary_holds_what_occurs_up_to_the_end_of_the_validation_range(config):
    config = dataclasses.replace(config, vocabulary="corpus")
    one, other = dataset.load(config, [3]), dataset.load(config, [9, 12])
    np.testing.assert_array_equal(one.vocabulary.token_ids, other.vocabulary.token_ids)
    known = set(one.vocabulary.token_ids.tolist())
    (zebra,), (hippo,) = (tokenizer.encode([word]) for word in (" zebra", "hippopotamus"))
    assert zebra[0] in known
    assert not known.issuperset(hippo.tolist())
    assert one.cell(run_of(config, 3)).table.shape == (len(known), 4)
    for data in (one, other):
        assert texts_of(data.train_ids(3), one.vocabulary) == "".join(samples_of(config, range(3)))
        assert texts_of(data.val_ids(3), one.vocabulary) == "".join(samples_of(config, range(18, 20)))


def test_samples_are_cut(config):
    data = dataset.load(dataclasses.replace(config, max_sample_tokens=5), [4])
    assert len(data.train_ids(4)) == 20
    assert len(data.val_ids(4)) == 10


def test_the_unigram_baseline_is_that_of_the_cells_own_tokens(config):
    cell = dataset.load(config, [3]).cell(run_of(config, 3))
    counts = np.bincount(cell.train_ids, minlength=50257) + 1
    expected = -np.log(counts / counts.sum())[cell.val_ids[1:]].mean()
    assert cell.unigram_loss == pytest.approx(expected)


def test_too_little_text(config, tmp_path):
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": "a"}) for _ in range(20)))
    with pytest.raises(UserError, match=r"hold 1 tokens and the validation samples 2: each needs 2"):
        dataset.load(config, [1, 5])


def test_the_hash_covers_the_text_that_decides_the_vocabulary(config, tmp_path):
    config = dataclasses.replace(config, vocabulary="corpus")
    before = dataset.load(config, [3])
    lines = (tmp_path / "a.jsonl").read_text().splitlines()
    lines[10] = json.dumps({"text": "an unheard of quagga"})
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    after = dataset.load(config, [3])
    assert after.vocabulary.size > before.vocabulary.size
    assert after.sha256(3) != before.sha256(3)


def test_the_table_has_a_hash_of_its_own(config):
    data = dataset.load(config, [3, 9])
    one, other = (data.cell(run_of(config, samples)) for samples in (3, 9))
    reseeded = data.cell(dataclasses.replace(run_of(config, 3), seed=1))
    assert one.table_sha256 == other.table_sha256 != reseeded.table_sha256


def tail_of(config, share="0.25", **changes):
    return dataclasses.replace(config, val_samples=f"tail:{share}", **changes)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    counts=st.lists(st.integers(2, 19), min_size=1, max_size=4),
    share=st.floats(0.15, 0.85),
    vocabulary=st.sampled_from(["full", "corpus"]),
    cut=st.sampled_from([0, 7]),
)
def test_a_tail_parts_each_cells_own_tokens(config, counts, share, vocabulary, cut):
    config = tail_of(config, share, vocabulary=vocabulary, max_sample_tokens=cut)
    data = dataset.load(config, counts)
    samples = list(tokenizer.encode(samples_of(config, range(max(counts)))))
    for count in counts:
        train_ids, val_ids = data.train_ids(count), data.val_ids(count)
        whole = np.concatenate([ids[: cut or None] for ids in samples[:count]])
        both = data.vocabulary.token_ids[np.concatenate([train_ids, val_ids])]
        np.testing.assert_array_equal(both, whole)
        assert len(val_ids) == int(share * len(whole))
    both = data.train_ids, data.val_ids
    *most, distinct = data.capacities
    assert most == [max(len(ids_of(count)) for count in counts) for ids_of in both]
    assert distinct == len(np.unique(np.concatenate([ids_of(max(counts)) for ids_of in both])))


def test_a_cell_has_its_tail_and_a_baseline_of_the_rest(config):
    data = dataset.load(tail_of(config), [3, 9])
    small, large = (data.cell(run_of(data.config, samples)) for samples in (3, 9))
    assert texts_of(small.train_ids, data.vocabulary) + texts_of(small.val_ids, data.vocabulary) == (
        "".join(samples_of(config, range(3)))
    )
    assert len(small.val_ids) < len(large.val_ids)
    assert small.val_capacity == large.val_capacity == len(large.val_ids)
    assert small.capacity == large.capacity == len(large.train_ids)
    counts = np.bincount(small.train_ids, minlength=50257) + 1
    expected = -np.log(counts / counts.sum())[small.val_ids[1:]].mean()
    assert small.unigram_loss == pytest.approx(expected)


def test_a_tail_needs_no_sample_but_the_training_ones(config):
    data = dataset.load(tail_of(config), [21])
    assert (data.num_samples, data.num_held_out) == (21, 0)
    with pytest.raises(UserError, match="has 21 samples, but samples 0:22 are asked for"):
        dataset.load(tail_of(config), [22])


def test_a_corpus_vocabulary_holds_the_tail_of_the_largest_cell(config):
    data = dataset.load(tail_of(config, vocabulary="corpus"), [3, 20])
    (zebra,) = next(tokenizer.encode([" zebra"]))[:1]
    assert zebra not in data.vocabulary.token_ids[data.train_ids(20)]
    assert zebra in data.vocabulary.token_ids[data.val_ids(20)]
    assert data.cell(run_of(data.config, 3)).table.shape == (data.vocabulary.size, 4)


def test_the_hash_tells_splits_of_the_same_text_apart(config):
    configs = [config, dataclasses.replace(config, val_samples="17:19"), tail_of(config)]
    configs.append(tail_of(config, "0.3"))
    hashes = {dataset.load(each, counts).sha256(3) for each in configs for counts in ([3], [3, 9])}
    assert len(hashes) == len(configs)
    data = dataset.load(tail_of(config), [3, 9])
    assert data.sha256(3) != data.sha256(9)


@pytest.mark.parametrize(("share", "train", "val"), [("0.05", 11, 0), ("0.99", 1, 10), ("0.1", 10, 1)])
def test_a_tail_that_leaves_too_little(config, share, train, val):
    with pytest.raises(UserError) as caught:
        dataset.load(tail_of(config, share, max_sample_tokens=11), [1, 19])
    message = str(caught.value)
    assert f"the 1 smallest training samples hold 11 tokens, of which val_samples=tail:{share}" in message
    assert f"leaves {train} to train on and {val} to validate on: each needs 2 or more" in message
    assert "use more samples or another share" in message
    assert "\n" not in message


def test_other_turns_are_other_tokens_even_with_a_warm_cache(config, tmp_path):
    turns = [{"content": "one two"}, {"content": "three"}]
    (tmp_path / "a.jsonl").write_text("\n".join([json.dumps({"messages": turns})] * 20))
    found = {}
    # Twice, so that each is read from the cache once.
    for which, separator in [*itertools.product(("all", "first"), SEPARATORS)] * 2:
        data = dataset.load(dataclasses.replace(config, turns=which, turn_separator=separator), [2])
        for ids in (data.train_ids(2), data.val_ids(2)):
            text = texts_of(ids, data.vocabulary)
            assert found.setdefault((which, separator), text) == text
    assert found == {
        ("all", "newline"): "one two\nthree" * 2,
        ("all", "space"): "one two three" * 2,
        ("first", "newline"): "one two" * 2,
        ("first", "space"): "one two" * 2,
    }


@pytest.mark.parametrize("vocabulary", ["full", "corpus"])
def test_a_corpus_of_its_own_validates(config, tmp_path, vocabulary):
    other = tmp_path / "other.txt"
    other.write_text("a rhinoceros\n\na second paragraph")
    config = dataclasses.replace(
        config, vocabulary=vocabulary, corpus=f"text:{tmp_path / 'a.jsonl'}", val_corpus=f"text:{other}"
    )
    whole = dataset.load(dataclasses.replace(config, val_samples="all"), [3, 9])
    second = dataset.load(dataclasses.replace(config, val_samples="1:2"), [3, 9])
    for data, expected in (whole, "a rhinocerosa second paragraph"), (second, "a second paragraph"):
        for samples in (3, 9):
            assert texts_of(data.val_ids(samples), data.vocabulary) == expected
            trained = texts_of(data.train_ids(samples), data.vocabulary)
            assert trained == "".join(samples_of(config, range(samples)))
    assert whole.sha256(3) != second.sha256(3) != second.sha256(9)
    with pytest.raises(UserError, match=r"other\.txt has 2 samples, but samples 1:3"):
        dataset.load(dataclasses.replace(config, val_samples="1:3"), [3])


def test_what_training_holds_of_validation(config, tmp_path):
    words = "the quick brown fox jumps over the lazy dog and then it runs home"
    texts = [words, "something else", "a third of them", words, "one of its own that is quite long and new"]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    data = dataset.load(dataclasses.replace(config, val_samples="3:5"), [1, 2])
    for samples in (1, 2):
        found = data.cell(run_of(config, samples)).leakage
        assert (found.copies, found.val_samples) == (1, 2)
        # Of the validation tokens' runs, those that lie in the first sample.
        length, total = len(data.train_ids(1)), len(data.val_ids(1))
        assert found.shared_runs == pytest.approx((length - 12) / (total - 12))


def test_the_samples_of_a_tail_are_those_that_lie_in_it_whole(config, tmp_path):
    texts = ["one", "a b c d e f g h", "one", "two", "a b c d e f g h"]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    # 11 of 19 tokens validate: three samples, and the last letter of the second, which trains without it.
    config = dataclasses.replace(config, val_samples="tail:0.6")
    found = dataset.load(config, [5]).leakage(5)
    assert (found.copies, found.val_samples) == (1, 3)
    at_an_end = dataset.load(dataclasses.replace(config, val_samples="tail:0.53"), [5]).leakage(5)
    assert (at_an_end.copies, at_an_end.val_samples) == (2, 3)
    assert dataset.load(config, [2]).leakage(2) == (0, 0, None)


def test_rows_that_are_left_out_are_counted_once(config, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": ""}\n' + path.read_text())
    with pytest.raises(UserError, match=r"a\.jsonl, line 1: the sample is empty; .*--skip_bad_rows"):
        dataset.load(config, [3])
    clean = dataset.load(dataclasses.replace(config, skip_bad_rows=True), [3])
    assert clean.cell(run_of(config, 3)).skipped_rows == {"blank": 1}
    assert clean.notes == ["rows left out by --skip_bad_rows: 1 blank"]
    path.write_text(path.read_text().partition("\n")[2])
    same = dataset.load(config, [3])
    assert same.sha256(3) == clean.sha256(3)
    assert (same.notes, same.skipped_rows) == ([], None)
