import dataclasses
import json

import numpy as np
import pytest

from cvfp_jax.config import DataConfig, ModelConfig, RunConfig
from cvfp_jax.data import dataset, tokenizer
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


def texts_of(ids, vocabulary):
    return tokenizer.gpt2_encoding().decode(vocabulary.token_ids[ids].tolist())


def test_cells_are_the_first_samples_and_share_their_validation(config):
    data = dataset.load(config, [3, 9])
    small, large = (data.cell(run_of(config, samples)) for samples in (3, 9))
    np.testing.assert_array_equal(large.train_ids[: len(small.train_ids)], small.train_ids)
    assert texts_of(small.train_ids, data.vocabulary) == "".join(data.train_texts[:3])
    assert texts_of(small.val_ids, data.vocabulary) == "".join(data.val_texts)
    np.testing.assert_array_equal(small.val_ids, large.val_ids)
    assert small.table.shape == (50257, 4)
    assert small.capacity == large.capacity == len(large.train_ids)


def test_the_hash_tells_cells_and_texts_apart_but_not_sweeps(config):
    wide, narrow = dataset.load(config, [3, 9]), dataset.load(config, [3])
    assert wide.sha256(3) == narrow.sha256(3) != wide.sha256(9)
    moved = dataset.load(dataclasses.replace(config, val_samples="17:19"), [3])
    assert moved.sha256(3) != narrow.sha256(3)


def test_a_corpus_vocabulary_holds_what_occurs_up_to_the_end_of_the_validation_range(config):
    config = dataclasses.replace(config, vocabulary="corpus")
    one, other = dataset.load(config, [3]), dataset.load(config, [9, 12])
    np.testing.assert_array_equal(one.vocabulary.token_ids, other.vocabulary.token_ids)
    known = set(one.vocabulary.token_ids.tolist())
    (zebra,), (hippo,) = (tokenizer.encode([word]) for word in (" zebra", "hippopotamus"))
    assert zebra[0] in known
    assert not known.issuperset(hippo.tolist())
    assert one.cell(run_of(config, 3)).table.shape == (len(known), 4)
    assert texts_of(one.train_ids(3), one.vocabulary) == "".join(one.train_texts[:3])


def test_samples_are_cut(config):
    data = dataset.load(dataclasses.replace(config, max_sample_tokens=5), [4])
    assert len(data.train_ids(4)) == 20
    assert len(data.val_ids) == 10


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
