import functools
import itertools
import subprocess
import sys

import jax
import numpy as np
import pytest

from cvfp_jax.config.overrides import replace
from cvfp_jax.errors import UserError
from cvfp_jax.generation.sampling import Sampling, draw
from cvfp_jax.sweeps.cell import run_cell
from tests.generation.models import VOCAB, make, reference_logits
from tests.sweeps.test_cell import CONFIG, data_of
from tests.tiers import cases

pytestmark = pytest.mark.usefixtures("quick_compilation")

# Of the reference's; it has neither several blocks nor earlier contexts.
KINDS = {
    "one layer": {},
    "every layer": {"model.num_layers": 3, "model.num_input_tokens": 2},
    "final": {"model.num_layers": 2, "model.context_mode": "A", "model.num_input_tokens": 3},
    "first only": {"model.num_layers": 2, "model.context_mode": "F", "model.token_input_all_layers": False},
    "previous": {"model.num_layers": 2, "model.context_mode": "G", "model.activation": "gelu"},
    "untied": {"model.use_weight_tying": False, "model.ffn_num_layers": 2},
}
OTHERS = {
    "blocks": {"model.num_blocks": 3, "model.context_mode": "A", "phase2.train_contexts": "sequential"},
    "earlier": {"model.context_mode": "A", "model.prev_context_steps": 2, "model.num_input_tokens": 2},
}
TEXT = np.random.default_rng(5).integers(0, VOCAB, 40)


@pytest.mark.parametrize("name", cases(KINDS, fast=["one layer", "every layer", "previous"]))
def test_logits_are_those_of_the_equations(name):
    trained = make(**KINDS[name])
    expected = jax.jit(functools.partial(reference_logits, trained))(TEXT)
    np.testing.assert_allclose(trained.logits(TEXT), expected, rtol=0, atol=2e-5)
    np.testing.assert_allclose(jax.jit(trained.model)(TEXT), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", cases(OTHERS, fast=["blocks"]))
def test_logits_of_a_whole_text_are_those_of_one_token_after_the_other(name):
    trained = make(**OTHERS[name])
    np.testing.assert_allclose(trained.logits(TEXT), jax.jit(trained.model)(TEXT), rtol=0, atol=2e-5)
    assert trained.contexts(TEXT).shape == (40, 10 * trained.config.model.num_blocks)


@pytest.mark.parametrize("name", cases(KINDS, fast=["every layer"]))
@pytest.mark.parametrize(
    "sampling", [Sampling(0.0), Sampling(1.3, top_k=9, top_p=0.8)], ids=["greedy", "drawn"]
)
def test_generation_is_a_loop_over_the_equations(name, sampling):
    trained = make(**KINDS[name])
    made = trained.generate(
        TEXT[:3], 12, temperature=sampling.temperature, top_k=sampling.top_k, top_p=sampling.top_p, seed=7
    )
    by_equations = jax.jit(functools.partial(reference_logits, trained))
    key, ids = jax.random.fold_in(jax.random.key(7), 0), TEXT[:3].tolist()
    for index in range(12):
        # What comes later changes nothing, and one length is compiled once.
        logits = by_equations(np.pad(ids, (0, 15 - len(ids))))[None, len(ids) - 1]
        ids.append(int(draw(logits, jax.random.fold_in(key, index)[None], sampling)[0]))
    assert made.ids[0].tolist() == ids[3:]


def test_a_seed_decides_and_samples_do_not_depend_on_one_another():
    trained = make()
    four = trained.generate(TEXT, 25, seed=3, num_samples=4)
    assert [
        row.tolist() for row in trained.generate(TEXT, 25, seed=3, num_samples=4).ids
    ] == four.ids.tolist()
    assert trained.generate(TEXT, 25, seed=3, num_samples=2).ids.tolist() == four.ids[:2].tolist()
    assert trained.generate(TEXT, 25, seed=3).ids.tolist() == four.ids[:1].tolist()
    assert len({tuple(row) for row in four.ids.tolist()}) == 4
    assert trained.generate(TEXT, 25, seed=4).ids.tolist() != four.ids[:1].tolist()


def test_a_stream_is_the_text_that_is_generated_at_once():
    trained = make()
    streamed = "".join(itertools.islice(trained.stream(TEXT, Sampling(), seed=2), 30))
    # A character that is not whole yet is kept back.
    assert trained.generate(TEXT, 30, seed=2).text.startswith(streamed)


def test_the_likeliest_tokens_have_the_models_probabilities():
    trained = make()
    logits = trained.logits(TEXT)[-1].astype(np.float64)
    p = np.exp(logits) / np.exp(logits).sum()
    best = trained.next_tokens(TEXT, 4)
    assert [token.id for token in best] == np.argsort(-p)[:4].tolist()
    np.testing.assert_allclose([token.probability for token in best], np.sort(p)[::-1][:4], rtol=1e-5)
    assert best[0].text == trained.decode([best[0].id])


FLAT = """
import itertools, resource
import numpy as np
from cvfp_jax.generation.sampling import Sampling
from tests.generation.models import make

texts = make().stream(np.arange(5), Sampling(), seed=1)
for _ in range(1000):
    next(texts)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for _ in range(99_000):
    next(texts)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_text():
    done = subprocess.run([sys.executable, "-c", FLAT], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1024, "KiB between 1,000 and 100,000 tokens"


@pytest.fixture(scope="module")
def cell():
    return run_cell(CONFIG, data_of())


def test_the_score_of_the_validation_text_is_the_records_loss(cell):
    score = cell.model.score(data_of().val_ids)
    assert score.loss == pytest.approx(cell.record["val_loss"], rel=1e-6)
    assert score.accuracy == pytest.approx(cell.record["val_acc"])
    assert score.surprisals_P.mean() == pytest.approx(score.loss)
    assert score.perplexity == pytest.approx(cell.record["val_ppl"], rel=1e-5)
    assert f"perplexity {score.perplexity:.4g}" in str(score)


def test_a_tied_head_that_was_trained_goes_with_the_model():
    config = replace(CONFIG, {"phase2.freeze_embedding": False})
    trained = run_cell(config, data_of())
    ids = data_of().val_ids
    assert trained.model.score(ids).loss == pytest.approx(trained.record["val_loss"], rel=1e-6)
    head = trained.model.model.head.table[...]
    assert not np.array_equal(head, trained.model.model.embedding.table[...])


def test_a_text_is_encoded_in_the_models_own_numbers():
    trained = make(token_ids=np.array([11, 995, 15496], np.int32))
    assert trained.encode("Hello world, world").tolist() == [2, 1, 0, 1]
    assert trained.decode([2, 1, 0]) == "Hello world,"
    assert "3 tokens" in repr(trained)
    assert "3 tokens" in trained._repr_html_()


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (
            lambda model: model.encode("Hello there"),
            r"does not know 1 of the 2 tokens of this text \(' there'\)",
        ),
        (lambda model: model.encode([0, 3]), "whole numbers from 0 to 2"),
        (lambda model: model.generate(""), "the prompt is empty"),
        (lambda model: model.score("Hello"), "a text of 1 tokens has nothing to predict"),
        (lambda model: model.generate("Hello", seed=-1), "seed=-1 is not allowed"),
        (lambda model: model.generate("Hello", num_samples=0), "num_samples=0 is not allowed"),
        (lambda model: model.generate("Hello", -1), "max_tokens=-1 is not allowed"),
        (lambda model: model.generate("Hello", temperature=-1), "temperature=-1 is not allowed"),
        (lambda model: model.generate("Hello", top_p=0), "top_p=0 is not allowed"),
        (lambda model: model.generate("Hello", top_k=-2), "top_k=-2 is not allowed"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_a_line(ask, message):
    with pytest.raises(UserError, match=message):
        ask(make(token_ids=np.array([11, 995, 15496], np.int32)))
