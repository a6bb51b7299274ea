import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvfp_jax.config.baseline import BaselineConfig
from cvfp_jax.config.overrides import flat_fields, parse_changes, replace
from cvfp_jax.config.settings import (
    DataConfig,
    ModelConfig,
    Phase1Config,
    Phase2Config,
    RunConfig,
)
from cvfp_jax.errors import UserError


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"model.context_dim": 0}, "config.model.context_dim=0"),
        ({"phase1.learning_rate": 0.0}, "config.phase1.learning_rate=0.0"),
        ({"phase1.learning_rate": float("nan")}, "config.phase1.learning_rate=nan"),
        ({"phase1.max_iterations": 1}, "from 2 to"),
        ({"phase1.max_iterations": 2_000_000}, "from 2 to 1000000"),
        ({"num_samples": 10**12}, "config.num_samples=1000000000000"),
        ({"data.corpus": "books"}, "unknown corpus 'books': choose pydocs"),
        ({"data.corpus": "text:"}, "unknown corpus 'text:'"),
        ({"data.corpus": "/home/me/notes.txt"}, "for a path write text:/home/me/notes.txt; choose pydocs"),
        ({"data.corpus": "~/notes"}, "for a path write text:~/notes;"),
        (
            {"data.val_corpus": "notes.txt"},
            "unknown val_corpus 'notes.txt': for a path write text:notes.txt;",
        ),
        ({"data.embedding": "./t.npy"}, "for a path write file:./t.npy;"),
        (
            {"data.val_samples": "all"},
            "val_samples=all is for a corpus of its own: give --val_corpus=text:PATH",
        ),
        ({"data.val_corpus": "text:x", "data.val_samples": "tail:0.1"}, "do not go together"),
        ({"data.sample": "word"}, "auto, line, paragraph or file"),
        ({"data.preference": "best"}, "chosen or rejected"),
        ({"data.embedding": "glove"}, "unknown embedding 'glove': choose gpt2"),
        ({"data.val_samples": "1" * 30 + ":" + "2" * 31}, "START:STOP"),
        ({"phase1.min_converged_ratio": 1.1}, "between 0 and 1"),
        ({"phase1.dist_reg_weight": -0.1}, "between 0 and 1"),
        ({"phase1.context_noise": float("inf")}, "config.phase1.context_noise=inf"),
        ({"phase1.convergence_threshold": -1.0}, "above 0"),
        ({"phase2.epochs": 0}, "config.phase2.epochs=0"),
        ({"phase2.train_contexts": "exact"}, "parallel, sequential or recomputed"),
        ({"data.vocabulary": "half"}, "full or corpus"),
        ({"data.max_sample_tokens": -1}, "config.data.max_sample_tokens=-1"),
        ({"data.val_samples": "10"}, "START:STOP"),
        ({"data.val_samples": "20:10"}, "START:STOP"),
        ({"data.val_samples": "-1:10"}, "START:STOP"),
        ({"num_samples": 1001}, "training samples 0:1001 overlap validation samples 1000:1020"),
        ({"num_samples": 0}, "config.num_samples=0"),
        ({"seed": -1}, "config.seed=-1"),
        ({"effective_rank_rows": -5}, "config.effective_rank_rows=-5"),
        ({"phase1.diversity": "NOISE"}, "MCDL, ODCM, OACD"),
        ({"phase1.stop": "never"}, "rate, val_effective_rank or improvement"),
        ({"model.activation": "tanh"}, "relu or gelu"),
        ({"phase2.dropout": 1.0}, "at least 0 and below 1"),
        ({"phase2.weight_decay": -1.0}, "0 or more"),
        ({"data.val_samples": "tail:1.5"}, "tail:SHARE"),
        ({"data.val_samples": "tail:x"}, "tail:SHARE"),
        ({"architecture": "lstm"}, "config.architecture=lstm is not allowed: it must be cvfp, gru"),
        ({"baseline.segment": 1}, "config.baseline.segment=1"),
        ({"phase2.contexts": "none"}, "trained, untrained, zero or shuffled"),
        ({"data.dev_samples": "9:x"}, "dev_samples='9:x' is not a range"),
        ({"data.dev_samples": "1010:1030"}, "overlaps validation samples 1000:1020"),
        ({"data.dev_samples": "1020:1030", "data.vocabulary": "corpus"}, "use samples before"),
        ({"data.dev_samples": "40:60"}, "training samples 0:50 leave no room for development samples 40:60"),
        ({"data.dev_samples": "40:60", "data.val_samples": "tail:0.1"}, "write START:STOP"),
    ],
)
def test_what_is_not_allowed_is_refused_in_one_line(changes, part):
    with pytest.raises(UserError) as caught:
        replace(RunConfig(), changes)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_fields_are_flattened_by_dotted_name():
    flat = flat_fields(RunConfig())
    assert flat["phase1.dist_reg_weight"] == 0.9
    assert flat["data.corpus"] == "pydocs"
    sections = (ModelConfig, Phase1Config, Phase2Config, BaselineConfig, DataConfig)
    leaves = sum(len(dataclasses.fields(section)) for section in sections)
    assert len(flat) == leaves + len(dataclasses.fields(RunConfig)) - len(sections)


def test_texts_become_values_of_the_fields_types():
    texts = {
        "phase1.max_iterations": "20",
        "phase1.learning_rate": "1e-4",
        "phase2.freeze_embedding": "False",
        "data.corpus": "text:x",
    }
    values = parse_changes(RunConfig(), texts)
    assert values == {
        "phase1.max_iterations": 20,
        "phase1.learning_rate": 1e-4,
        "phase2.freeze_embedding": False,
        "data.corpus": "text:x",
    }


@pytest.mark.parametrize(
    ("name", "text", "part"),
    [
        ("phase1.max_iterations", "2.5", "a whole number"),
        ("phase1.learning_rate", "fast", "a number"),
        ("phase2.freeze_embedding", "maybe", "true or false"),
        ("phase1.iterations", "3", "unknown field config.phase1.iterations: the fields are experiment, "),
        ("phase1", "3", "unknown field config.phase1"),
    ],
)
def test_texts_that_do_not_fit_are_refused(name, text, part):
    with pytest.raises(UserError, match=part):
        parse_changes(RunConfig(), {name: text})


@given(st.text(max_size=20), st.text(max_size=20))
def test_any_name_and_text_gives_a_value_or_a_message(name, text):
    for field in (name, "phase1.max_iterations", "phase2.learning_rate", "data.val_samples"):
        message = ""
        try:
            replace(RunConfig(), parse_changes(RunConfig(), {field: text}))
        except UserError as error:
            message = str(error)
        assert "\n" not in message


def test_a_replacement_is_validated_as_a_whole():
    # Either change alone would overlap.
    config = replace(RunConfig(num_samples=50), {"num_samples": 5, "data.val_samples": "5:9"})
    assert (config.num_samples, config.data.val_range()) == (5, (5, 9))


def test_a_corpus_of_its_own_cannot_overlap_training():
    changes = {"data.val_corpus": "text:x", "data.val_samples": "0:3"}
    assert replace(RunConfig(num_samples=50), changes).data.val_range() == (0, 3)
    changes["data.val_samples"] = "all"
    assert replace(RunConfig(num_samples=50), changes).data.val_whole


@pytest.mark.parametrize("name", ["", "text", "text:", "wiki", "pydocs:x"])
def test_unknown_corpora(name):
    with pytest.raises(UserError, match=r"unknown corpus .*: choose pydocs, ultrachat"):
        DataConfig(corpus=name)


@pytest.mark.parametrize("name", ["", "gpt3", "file:", "file", "spectral:x"])
def test_unknown_embeddings(name):
    with pytest.raises(UserError, match=r"unknown embedding .*: choose gpt2, file:PATH"):
        DataConfig(embedding=name)


@pytest.mark.parametrize(
    ("changes", "one", "other"),
    [
        ({"model.context_mode": "F"}, "model.context_mode=F", "model.num_token_layers=1"),
        ({"model.context_mode": "G"}, "model.context_mode=G", "model.num_token_layers=1"),
        ({"model.num_token_layers": 2}, "model.context_mode=E", "model.num_token_layers=2"),
        ({"model.num_blocks": 2}, "model.context_mode=E", "model.num_blocks=2"),
        ({"model.prev_context_steps": 1}, "model.context_mode=E", "model.prev_context_steps=1"),
        ({"model.token_input_all_layers": False}, "model.token_input_all_layers=False", "model.num_layers=1"),
        (
            {"model.num_blocks": 2, "model.context_mode": "A"},
            "model.num_blocks=2", "phase2.train_contexts=parallel",
        ),
        ({"phase1.compat_stale_clip": True}, "phase1.compat_stale_clip=True", "model.num_blocks=1"),
        (
            {"phase2.train_contexts": "recomputed", "model.context_mode": "A"},
            "phase2.train_contexts=recomputed", "model.context_mode=A",
        ),
        (
            {"phase2.train_contexts": "recomputed", "phase2.freeze_embedding": False},
            "phase2.train_contexts=recomputed", "phase2.freeze_embedding=False",
        ),
        (
            {"model.use_weight_tying": False, "phase2.freeze_embedding": False},
            "model.use_weight_tying=False", "phase2.freeze_embedding=False",
        ),
        (
            {"architecture": "gru", "model.use_weight_tying": False},
            "architecture=gru", "model.use_weight_tying=False",
        ),
        (
            {"architecture": "bptt", "model.prev_context_steps": 1, "model.context_mode": "A"},
            "architecture=bptt", "model.prev_context_steps=1",
        ),
        (
            {"architecture": "gru", "phase2.batch_size": 32},
            "baseline.segment=64", "phase2.batch_size=32",
        ),
        (
            {"phase2.contexts": "zero", "model.num_layers": 2},
            "phase2.contexts=zero", "model.num_layers=2",
        ),
    ],
)  # fmt: skip
def test_what_means_nothing_together_is_refused_naming_both(changes, one, other):
    with pytest.raises(UserError) as caught:
        replace(RunConfig(), changes)
    message = str(caught.value)
    assert f"config.{one} and config.{other} do not go together: " in message
    assert "\n" not in message


def test_a_tail_overlaps_nothing():
    assert replace(RunConfig(), {"data.val_samples": "tail:0.1", "num_samples": 5000}).data.val_tail == 0.1


def test_development_samples_are_those_before_validation():
    trial = replace(RunConfig(), {"data.val_samples": "200:220"}).on_development()
    assert (trial.data.val_range(), trial.num_samples) == ((180, 200), 50)
    apart = {"data.val_corpus": "text:v", "data.val_samples": "all"}
    own = replace(RunConfig(), {**apart, "data.dev_samples": "60:70"}).on_development().data
    assert (own.val_corpus, own.val_samples) == ("", "60:70")
    with pytest.raises(UserError, match="with val_corpus the development samples are the corpus's own"):
        replace(RunConfig(), apart).on_development()
    given = replace(RunConfig(), {"data.dev_samples": "1500:1510"}).on_development()
    assert given.data.val_samples == "1500:1510"
    with pytest.raises(
        UserError, match="training samples 0:190 leave no room for development samples 180:200"
    ):
        replace(RunConfig(), {"num_samples": 190, "data.val_samples": "200:220"}).on_development()
