import pytest

from cvfp_jax.config import RunConfig
from cvfp_jax.fields import replace
from cvfp_jax.plan import expected_memory, plan_cell, work


def test_what_only_the_data_can_tell_is_null_until_they_are_read():
    full, corpus = RunConfig(), replace(RunConfig(), {"data.vocabulary": "corpus"})
    assert plan_cell(full).to_json() == {
        "config_name": "1L_768d_1tok",
        "series": "1L_768d_1tok",
        "seed": 42,
        "context_dim": 768,
        "num_samples": 50,
        "vocab_size": 50257,
        "train_tokens": None,
        "params_context_block": 1_181_952,
        "params_token_block": 1_181_952,
        "params_head": 0,
        "params_total": 40_962_816,
        "params_trainable_phase2": 1_183_488,
        "memory_bytes": None,
    }
    unread = plan_cell(corpus)
    assert (unread.vocab_size, unread.params["params_total"]) == (None, None)
    assert unread.params["params_context_block"] == 1_181_952
    trained = plan_cell(replace(corpus, {"phase2.freeze_embedding": False}))
    assert trained.params["params_trainable_phase2"] is None
    read = plan_cell(corpus, vocab_size=1000, train_tokens=5000)
    assert read.params["params_total"] == 1000 * 768 + 2 * 768 + 2 * 1_181_952
    assert read.memory_bytes == expected_memory(corpus, 1000, 5000)
    assert plan_cell(corpus, 1000, 5000, 9000).memory_bytes == expected_memory(corpus, 1000, 9000)


def test_memory_grows_with_two_sets_of_contexts():
    config = RunConfig()
    few, many = (expected_memory(config, 50257, tokens) for tokens in (1_000_000, 2_000_000))
    assert many - few == 2 * 1_000_000 * 768 * 4


def test_work_is_proportional_to_the_tokens():
    config = RunConfig()
    once = work(config, 50257, 1000, iterations=30, epochs=5)
    assert work(config, 50257, 2000, 30, 5) == pytest.approx(2 * once)
    assert work(config, 50257, 1000, 60, 10) == pytest.approx(2 * once)
    assert work(replace(config, {"model.context_dim": 1537}), 50257, 1000, 30, 5) > once
