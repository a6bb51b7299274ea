import csv
import io
import json

import numpy as np
import pytest

from cvfp_jax.cli.generate import GenerateRequest
from cvfp_jax.cli.main import main, read_request
from cvfp_jax.errors import UserError
from cvfp_jax.generation.trained import TrainedModel
from experiments import EXPERIMENTS
from tests.generation.models import make

pytestmark = pytest.mark.usefixtures("quick_compilation")
WORDS = np.array([262, 290, 3290, 3797, 15496], np.int32)  # " the", " and", " dog", " cat", "Hello"


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """The folder of a sweep with three models, the last of which is the best."""
    root = tmp_path_factory.mktemp("sweep")
    for number, name in enumerate(["a-50-seed42", "a-50-seed43", "a-100-seed42"]):
        trained = make(seed=number, token_ids=WORDS)
        trained = TrainedModel(trained.model, trained.config, trained.vocabulary, {"val_loss": 5.0 - number})
        trained.save(root / "cells" / name, root / "tables")
    return root


def launch(*flags):
    return main(["launch.py", "--experiment=generate", *flags])


def test_a_prompt_is_continued(workdir, capsys):
    flags = [f"--workdir={workdir}", "--prompt=Hello the dog", "--max_tokens=6", "--seed=3", "--top_k=4"]
    assert launch(*flags) == 0
    printed = capsys.readouterr()
    model = TrainedModel.load(workdir, "a-100")
    assert printed.out == str(model.generate("Hello the dog", 6, seed=3, top_k=4)) + "\n"
    assert printed.err.splitlines()[0].startswith("a-100-seed42: ")
    assert "[6 tokens, " in printed.err


def test_several_samples_are_made_together(workdir, capsys):
    flags = [
        f"--workdir={workdir}",
        "--cell=a-50-seed43",
        "--prompt=Hello",
        "--max_tokens=5",
        "--num_samples=2",
    ]
    assert launch(*flags) == 0
    texts = TrainedModel.load(workdir, "a-50-seed43").generate("Hello", 5, num_samples=2).texts
    assert capsys.readouterr().out == "".join(f"--- {n}\nHello{text}\n" for n, text in enumerate(texts, 1))


def test_a_file_is_scored(workdir, tmp_path, capsys):
    path = tmp_path / "text.txt"
    path.write_text("Hello the cat and the dog")
    assert launch(f"--workdir={workdir}", f"--score={path}") == 0
    score = TrainedModel.load(workdir).score(path.read_text())
    assert f"perplexity {score.perplexity:.4g}" in capsys.readouterr().out
    rows = list(csv.DictReader(io.StringIO((tmp_path / "text.txt.surprisal.csv").read_text())))
    assert [json.loads(row["text"]) for row in rows] == [" the", " cat", " and", " the", " dog"]
    np.testing.assert_allclose([float(row["surprisal_nats"]) for row in rows], score.surprisals_P, rtol=1e-5)


def test_prompts_are_read_line_by_line_and_a_mistake_does_not_end_it(workdir, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello the\nzebra\n\nHello and\n"))
    assert launch(f"--workdir={workdir}", "--interactive", "--max_tokens=2") == 0
    printed = capsys.readouterr()
    assert [line.startswith(("Hello the", "Hello and")) for line in printed.out.splitlines()] == [True, True]
    assert "does not know" in printed.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--prompt=a"], "--workdir is missing"),
        (["--workdir=w"], "nothing to do: give one of --prompt, --prompt_file, --score, --interactive"),
        (["--workdir=w", "--prompt=a", "--score=b"], "--prompt and --score: give one of"),
        (["--workdir=w", "--prompt="], "--prompt is empty"),
        (["--workdir=w", "--prompt=a", "--max_tokens=many"], "--max_tokens=many is not allowed"),
        (["--workdir=w", "--prompt=a", "--temperature=hot"], "--temperature=hot is not a number"),
        (["--workdir=w", "--prompt_file=/nowhere"], "cannot read /nowhere"),
        (["--workdir=w", "--prompt=a", "--samples=3"], "--samples is no flag of --experiment=generate"),
    ],
)
def test_what_is_not_clear_is_refused_in_a_line(flags, message):
    with pytest.raises(UserError, match=message):
        read_request(["launch.py", "--experiment=generate", *flags], EXPERIMENTS)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("a-50", "'a-50' is the beginning of a-50-seed42, a-50-seed43: name one of them"),
        ("a-10", "has no model 'a-10': did you mean a-100-seed42"),
    ],
)
def test_a_cell_is_named_by_enough_of_its_name(workdir, capsys, cell, message):
    assert launch(f"--workdir={workdir}", "--prompt=Hello", f"--cell={cell}") == 2
    assert message in capsys.readouterr().err
    assert launch(f"--workdir={workdir / 'tables'}", "--prompt=Hello") == 2
    assert "holds no model" in capsys.readouterr().err


def test_a_prompt_can_come_from_a_file(tmp_path):
    (tmp_path / "p.txt").write_text("Hello")
    flags = ["--experiment=generate", "--workdir=w", f"--prompt_file={tmp_path / 'p.txt'}"]
    assert read_request(["launch.py", *flags], EXPERIMENTS) == GenerateRequest(
        read_request(["launch.py", *flags], EXPERIMENTS).workdir, prompt="Hello"
    )
