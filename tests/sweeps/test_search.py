"""A search: as many trials for all, on development samples only, and what they choose."""

import dataclasses
import json
import math

import pytest

from cvfp_jax.config.grid import Grid, Tuning
from cvfp_jax.config.overrides import replace
from cvfp_jax.config.settings import RunConfig
from cvfp_jax.errors import UserError
from cvfp_jax.report import records
from cvfp_jax.sweeps import runner, search
from cvfp_jax.sweeps.runner import run_sweep
from tests import tiny

pytestmark = pytest.mark.usefixtures("quick_compilation")

OPTIONS = {"phase2.learning_rate": (1e-6, 0.02), "phase2.dropout": (0.0,)}
TUNING = Tuning("architecture", OPTIONS, num_samples=6)
TINY = {
    "experiment": "baselines",
    "preset": "quick",
    "model.context_dim": 8,
    "model.embed_dim": 8,
    "phase1.max_iterations": 3,
    "phase2.epochs": 2,
    "phase2.batch_size": 32,
    "baseline.segment": 16,
    "baseline.num_heads": 2,
    "num_samples": 6,
    "data.embedding": "random",
    "data.vocabulary": "corpus",
    "data.val_samples": "24:30",
}


def grid(corpus, architectures=("gru",)):
    base = replace(RunConfig(), {**TINY, "data.corpus": corpus})
    axes = {"architecture": architectures, "num_samples": (6, 12), "seed": (42, 43)}
    return Grid(base, axes, tuning=TUNING)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tmp_path_factory.mktemp("corpus")


@pytest.fixture(scope="module")
def searched(corpus, tmp_path_factory):
    """The folder of a sweep with a search."""
    folder = tmp_path_factory.mktemp("sweep")
    assert run_sweep(grid(tiny.write_corpus(corpus).removeprefix("--corpus=")), folder)
    return folder


def trials(folder):
    return records.read(folder / search.FILE_NAME)


def test_all_combinations_or_as_many_as_are_asked_for_in_order():
    options = {"phase2.learning_rate": (0.1, 0.2, 0.3), "phase2.dropout": (0.0, 0.5)}
    every = search.combinations(options)
    assert len(every) == 6
    some, others = (search.combinations(options, most=3, seed=seed) for seed in (1, 2))
    assert list(some) == [name for name in every if name in some]
    assert len(some) == 3
    assert some == search.combinations(options, most=3, seed=1) != others
    assert some["learning_rate=0.3, dropout=0.0"] == {"phase2.learning_rate": 0.3, "phase2.dropout": 0.0}


def test_trials_are_cells_that_the_development_samples_validate():
    arms = search.combinations(OPTIONS)
    made = search.trial_grid(grid("pydocs", ("cvfp", "gru")), arms).cells()
    assert len(made) == 4
    for cell in made:
        assert cell.data.val_samples == "18:24"
        assert (cell.num_samples, cell.seed) == (6, 42)
    tried = {(cell.architecture, cell.phase2.learning_rate) for cell in made}
    assert tried == {(name, rate) for name in ("cvfp", "gru") for rate in (1e-6, 0.02)}


def test_the_best_trial_is_chosen_for_each_value():
    arms = search.combinations(OPTIONS)
    slow, fast = arms

    def trial(value, arm, loss, status="ok"):
        return {"cell": {"architecture": value, "arm": arm}, "val_loss": loss, "status": status}

    found = search.choose(
        TUNING,
        arms,
        [
            trial("cvfp", slow, 5.0),
            trial("cvfp", fast, 4.0),
            trial("gru", slow, 5.0),
            trial("gru", fast, None),
        ],
    )
    assert found == {"cvfp": arms[fast], "gru": arms[slow]}
    broken = [trial("gru", slow, 5.0, "failed: x"), trial("gru", fast, None)]
    with pytest.raises(UserError, match="architecture=gru: no trial"):
        search.choose(TUNING, arms, broken)


@pytest.mark.slow
def test_the_sweep_runs_with_what_its_search_chose(searched):
    best = min(trials(searched), key=lambda trial: trial["val_loss"])
    assert best["cell"]["arm"] == "learning_rate=0.02, dropout=0.0"
    found = records.read(searched / "records.jsonl")
    assert len(found) == 4
    for record in found:
        assert record["tuned"] == {"phase2.learning_rate": 0.02, "phase2.dropout": 0.0}
        assert record["val_ppl"] == pytest.approx(math.exp(record["val_loss"]))
    assert all(trial["tuned"] is None for trial in trials(searched))
    assert {path.name for path in (searched / "cells").iterdir()} == {
        f"gru_1L_8d_1tok-{samples}-seed{seed}" for samples in (6, 12) for seed in (42, 43)
    }


@pytest.mark.slow
def test_no_trial_reads_the_validation_samples(searched, corpus, tmp_path):
    """On a corpus with other validation samples, new words in them, all trials end with the same bits."""
    lines = (corpus / "corpus.jsonl").read_text().splitlines()
    for place in range(24, 30):
        lines[place] = json.dumps({"text": "unseen words " * 20})
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
    assert run_sweep(grid(f"text:{tmp_path}"), tmp_path / "sweep")
    numbers = ("cell", "val_loss", "train_loss", "val_acc", "corpus_sha256", "vocab_size", "val_tokens")
    ours, others = (
        [{name: trial[name] for name in numbers} for trial in trials(folder)]
        for folder in (searched, tmp_path / "sweep")
    )
    assert ours == others
    finals = (records.read(folder / "records.jsonl") for folder in (searched, tmp_path / "sweep"))
    assert [r["val_loss"] for r in next(finals)] != [r["val_loss"] for r in next(finals)]


@pytest.mark.slow
def test_a_search_goes_on_where_it_was_left(searched, corpus, tmp_path, monkeypatch, capsys):
    ran = []
    monkeypatch.setattr(runner, "run_cell", lambda cell, *_: ran.append(cell))
    whole = grid(f"text:{corpus}")
    assert run_sweep(whole, searched)
    assert ran == []
    assert "all 4 cells are finished" in capsys.readouterr().out
    # A sweep that grows asks the trials there are, and runs none again.
    monkeypatch.setattr(
        runner, "run_cell", lambda cell, *_: pytest.fail(cell.arm) if cell.arm else stop(cell)
    )

    class StoppedError(Exception):
        pass

    def stop(cell):
        assert cell.phase2.learning_rate == 0.02
        raise StoppedError

    with pytest.raises(StoppedError):
        run_sweep(dataclasses.replace(whole, axes={**whole.axes, "seed": (42, 43, 44)}), searched)


@pytest.mark.slow
def test_other_options_are_another_sweep(searched, corpus):
    other = dataclasses.replace(TUNING, options={"phase2.dropout": (0.0, 0.1)})
    with pytest.raises(UserError, match=r"holds a sweep with config\.tuning="):
        run_sweep(dataclasses.replace(grid(f"text:{corpus}"), tuning=other), searched)


def test_development_samples_that_a_cell_trains_on_are_refused():
    with pytest.raises(UserError, match="training samples 0:20 leave no room for development samples 18:24"):
        grid("pydocs").resolve({"num_samples": (6, 20)}, {})
