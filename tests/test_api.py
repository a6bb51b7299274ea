import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cvfp_jax as cj
from cvfp_jax import api
from cvfp_jax.report.curves import Curves
from tests import tiny

pytestmark = pytest.mark.usefixtures("quick_compilation")
ROOT = Path(__file__).parents[1]
CONFIG = {
    "model.embed_dim": 8,
    "phase1.max_iterations": 6,
    "phase1.batch_size": 200,
    "phase2.epochs": 2,
    "phase2.batch_size": 64,
}
# The sizes of tests/tiny.py, for which other tests compile too.
SMALL = {"context_dim": 8, "embedding": "random", "val_samples": "24:30", "progress": False}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny.write_corpus(tmp_path_factory.mktemp("text")).partition("=")[2]


@pytest.fixture(scope="module")
def cell(corpus):
    return cj.train(corpus, samples=24, config={**CONFIG, "seed": 3}, **SMALL)


@pytest.fixture(scope="module")
def sweep(corpus, tmp_path_factory):
    """A sweep over two sizes: its report, and its folder."""
    folder = tmp_path_factory.mktemp("sweep")
    named = {"samples": (12, 24), "context_dims": [8], "corpus": corpus, "val_samples": "24:30"}
    return cj.sweep(workdir=folder, embedding="random", config=CONFIG, **named), folder


def python(code):
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_nothing_heavy_is_imported_before_it_is_used():
    imported = python("import sys, cvfp_jax; dir(cvfp_jax); print(*sys.modules)").split()
    heavy = {"flax", "jax", "matplotlib", "numpy", "optax", "orbax", "scipy", "tiktoken", "cvfp_jax.api"}
    assert not heavy & set(imported)


def test_the_public_names_are_there_and_no_others():
    assert dir(cj) == sorted([*cj.__all__, "__version__"], key=dir(cj).index)
    assert {getattr(cj, name).__name__ for name in cj.__all__} == set(cj.__all__)
    assert all(getattr(cj, name).__doc__ for name in cj.__all__)
    with pytest.raises(AttributeError, match="'cvfp_jax' has no attribute 'trane'"):
        cj.trane  # noqa: B018


def test_help_shows_every_function():
    shown = python("import cvfp_jax; help(cvfp_jax)")
    for name in cj.__all__:
        assert re.search(rf"\b{name}\(", shown), name


def test_a_trained_cell_has_its_record_its_model_and_its_curves(cell, tmp_path):
    assert (cell.record["status"], cell.record["config_name"]) == ("ok", "1L_8d_1tok")
    assert cell.record["cell"] == {"num_samples": 24, "seed": 3}
    assert len(cell.curves["phase2_val_loss"]) == cell.record["phase2_epochs"] == 2
    assert "validation perplexity" in repr(cell)
    assert len(cell.plot().axes) == 3
    cell.save(str(tmp_path), keep="all")
    assert Curves.load(tmp_path / "curves.npz")["phase1_loss"].tolist() == cell.curves["phase1_loss"].tolist()
    kept = np.load(tmp_path / "val_contexts.npy")
    assert kept.shape == (cell.record["val_tokens"] - 1, 8)
    assert cj.effective_rank(kept) == pytest.approx(8 * cell.record["val_effective_rank"], rel=1e-5)
    loaded = cj.load(tmp_path)
    assert loaded.generate("the cat", 5, seed=1).ids.tolist() == (
        cell.model.generate("the cat", 5, seed=1).ids.tolist()
    )
    with pytest.raises(cj.UserError, match="keep='some' is unknown: choose model, all, none"):
        cell.save(tmp_path, keep="some")


@pytest.mark.slow
def test_settings_of_a_cell_replace_its_arguments(corpus):
    config = {**CONFIG, "num_samples": 6, "seed": 3, "phase2.epochs": 1}
    other = cj.train(corpus, samples=12, config=config, **{**SMALL, "val_samples": None})
    assert other.model.config.data.val_samples == "tail:0.1"
    assert other.record["cell"] == {"num_samples": 6, "seed": 3}
    assert other.model.config.num_samples == 6


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (
            lambda: cj.train(config={"phase1.iterations": 3}),
            r"config 'phase1.iterations' is no setting: ",
        ),
        (lambda: cj.train(samples=0), r"config.num_samples=0 is not allowed"),
        (lambda: cj.train("text:nowhere"), r"corpus text:nowhere does not exist"),
        (lambda: cj.sweep("context_dims"), r"--experiment 'context_dims' is unknown: choose "),
        (lambda: cj.sweep(sampels=[1]), r"unknown flag --sampels"),
        (lambda: cj.sweep(config={"phase1.iterations": 3}), r"unknown field --config.phase1.iterations"),
        (lambda: cj.sweep(dry_run=True), r"trains nothing: give an experiment that trains, and no dry_run"),
        (lambda: cj.sweep("fit", points="a.csv", x="x", y="y"), r"sweep\('fit'\) trains nothing"),
        (lambda: cj.sweep(samples=[0]), r"--samples=0 is not a grid axis"),
        (lambda: cj.load("nowhere"), r"nowhere is not there: name the folder of a model"),
        (lambda: cj.read_points("nowhere.csv"), r"nowhere.csv"),
        (lambda: cj.fit_law("powr", [1], [1]), r"'powr' is unknown: choose power, "),
        (lambda: cj.fit_law("power", [1], [1], "squares"), r"'squares' is unknown: choose "),
        (lambda: cj.fit_law("power", [1, 2], [1]), r"x has 2 and y 1 numbers"),
        (lambda: cj.fit_law("power", [], []), r"x has 0 and y 0 numbers"),
        (lambda: cj.fit_law("power", [1, 0], [1, 1]), r"finite and above 0"),
        (lambda: cj.fit_law("power", [1, 2], [1, float("nan")]), r"finite and above 0"),
        (lambda: cj.fit_law("power", ["a"], [1]), r"x and y must be numbers in a row each: could not"),
        (lambda: cj.fit_law("power", [[1, 2]], [1]), r"x and y must be numbers in a row each: float"),
        (lambda: cj.effective_rank([1.0, 2.0]), r"contexts of shape \(2,\) have no effective rank"),
        (lambda: cj.effective_rank(np.zeros((0, 3))), r"contexts of shape \(0, 3\) have no effective rank"),
        (lambda: cj.effective_rank([["a"]]), r"contexts must be numbers \[N, D\]"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_a_line(ask, message):
    with pytest.raises(cj.UserError, match=message) as error:
        ask()
    assert "\n" not in str(error.value)


def test_a_sweep_writes_its_folder_and_returns_its_report(sweep, capsys):
    report, folder = sweep
    assert [record["num_samples"] for record in report.records] == [12, 24]
    assert (folder / "report.html").is_file()
    assert len(list((folder / "cells").iterdir())) == 2
    assert "2 cells" in repr(report)
    assert report.plot().axes[0].get_xlabel() == "training tokens"


def test_the_best_model_of_a_sweep_is_loaded(sweep):
    report, folder = sweep
    best = min(report.records, key=lambda record: record["val_loss"])
    model = cj.load(folder)
    assert dict(model.facts())["cell"] == f"1L_8d_1tok-{best['num_samples']}-seed42"
    assert cj.load(str(folder), "1L_8d_1tok-12").config.num_samples == 12
    assert 1 < model.score("the cat dog sat ran on").perplexity < 100


def test_the_points_of_a_sweep_are_read(sweep):
    report, folder = sweep
    (group,) = cj.read_points(folder / "records.jsonl").groups
    assert group.x == tuple(record["train_tokens"] for record in report.records)
    assert group.y == tuple(record["val_ppl"] for record in report.records)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.5, "0.5"),
        (True, "true"),
        ([25, 50], "25,50"),
        ((True, False), "true,false"),
        (range(1, 4), "1,2,3"),
        (np.array([6, 12]), "6,12"),
        ("text:a", "text:a"),
        (Path("a"), "a"),
    ],
)
def test_values_are_written_as_the_command_line_has_them(value, text):
    assert api._flag_text(value) == text


@dataclasses.dataclass
class Asked:
    argv: list[str]


def test_flags_that_are_zero_are_given_and_those_that_are_off_are_not(monkeypatch):
    """A setting may be false, a switch may not."""

    def read(argv, _):
        monkeypatch.setattr(asked, "argv", argv)

    asked = Asked([])
    monkeypatch.setattr(api, "read_request", read)
    with pytest.raises(cj.UserError):
        cj.sweep(seed=0, force=False, profile=True, corpus=None, config={"a": False, "b": 0, "c": [8, 16]})
    assert asked.argv == [
        "launch.py", "--experiment=context_dim", "--seed=0", "--profile=true",
        "--config.a=false", "--config.b=0", "--config.c=8,16",
    ]  # fmt: skip


def test_a_law_is_fitted_and_says_what_it_found():
    x = np.array([100, 200, 400, 800, 1600.0])
    noise = np.exp([0.01, -0.01, 0.005, -0.005, 0.002])
    fit = cj.fit_law("power", x[::-1], (500 * x**-0.5 * noise)[::-1])
    assert fit.status == "converged"
    assert fit.params == pytest.approx({"A": 500, "a": 0.5}, rel=0.1)
    low, high = fit.intervals["a"]
    assert low < fit.params["a"] < high
    np.testing.assert_allclose(fit.predict([100, 400]), [50, 25], rtol=0.05)
    assert "law     " in repr(fit)
    above, below = fit.plot("tokens", "perplexity").axes
    assert above.get_title() == "y = A x^-a"
    assert (above.get_ylabel(), below.get_xlabel()) == ("perplexity", "tokens")


def test_too_few_points_are_no_error_but_a_status():
    fit = cj.fit_law("saturating", [1, 2], [3, 2])
    assert fit.status == "too few points: 2 sizes, 4 or more are needed"
    assert fit.params == {}
    assert np.isnan(fit.predict(3))
    assert "too few points" in repr(fit)
    fit.plot()._repr_png_()


def test_the_effective_rank_is_that_of_the_equations():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(50, 6))
    s = np.linalg.svd(rows, compute_uv=False)
    p = s / s.sum()
    assert cj.effective_rank(rows) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-5)
    assert cj.effective_rank(np.outer(np.arange(1, 5), [1, 2])) == pytest.approx(1, abs=1e-4)
