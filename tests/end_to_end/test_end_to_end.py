"""The whole job from the command line, on a text of thirty short samples."""

import contextlib
import io
import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import launch
from cvfp_jax.data.cache import content_hash
from cvfp_jax.report import records
from tests import tiny

pytestmark = pytest.mark.usefixtures("quick_compilation")
ROOT = Path(__file__).parents[2]
TIMES = {name for name in records.FIELDS if name.endswith("_seconds")}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny.write_corpus(tmp_path_factory.mktemp("corpus"))


def command(corpus, workdir, *flags):
    return ["launch.py", *tiny.flags(corpus, f"--workdir={workdir}", *flags)]


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory):
    """A finished sweep: its folder and its output."""
    workdir, out = tmp_path_factory.mktemp("finished") / "inside", io.StringIO()
    # In this process, so that the tests below find compiled what it has compiled.
    with contextlib.redirect_stdout(out):
        assert launch.main(command(corpus, workdir)) == 0
    return workdir, out.getvalue()


def without_times(found):
    return [{name: value for name, value in record.items() if name not in TIMES} for record in found]


def test_the_plan_comes_first_then_cells_then_the_summary(finished):
    _, out = finished
    lines = out.splitlines()
    plan = next(n for n, line in enumerate(lines) if line.startswith("context_dim, preset quick: 6 cells"))
    first = next(n for n, line in enumerate(lines) if line.startswith("[1/6] 1L_8d_1tok, 6 samples: val PPL"))
    last = next(n for n, line in enumerate(lines) if line.startswith("[6/6] 1L_12d_1tok, 24 samples"))
    summary = next(n for n, line in enumerate(lines) if line.startswith("config ") and "alpha" in line)
    assert plan < first < last < summary
    header = lines[plan + 1].split()
    assert header[:3] == ["cell", "samples", "tokens"]
    assert "memory" in header
    assert "left" in lines[first]
    assert re.search(r", \d+ s, compiling \d+ s; about ", lines[first])
    assert lines[summary + 2].startswith("1L_8d_1tok")


def test_every_cell_has_a_record(finished):
    workdir, _ = finished
    found = records.read(workdir / "records.jsonl")
    assert [(record["series"], record["num_samples"]) for record in found] == [
        (f"1L_{dim}d_1tok", samples) for dim in (8, 12) for samples in (6, 12, 24)
    ]
    assert found[0]["cell"] == {"model.context_dim": 8, "num_samples": 6, "seed": 42}
    for record in found:
        assert record["status"] == "ok"
        assert record["vocabulary"] == "corpus"
        assert record["val_ppl"] == pytest.approx(math.exp(record["val_loss"]))
    sizes = [record["train_tokens"] for record in found[:3]]
    assert sizes == sorted(sizes)
    assert len({record["corpus_sha256"] for record in found}) == 3
    assert len({record["val_tokens"] for record in found}) == 1


def test_the_report_and_the_config_are_written(finished):
    workdir, _ = finished
    config = json.loads((workdir / "config.json").read_text())
    assert config["config"]["phase2.epochs"] == 2
    assert config["axes"]["num_samples"] == [6, 12, 24]
    report = json.loads((workdir / "report.json").read_text())
    assert [summary["series"] for summary in report["summary"]] == ["1L_8d_1tok", "1L_12d_1tok"]
    found = records.read(workdir / "records.jsonl")
    assert report["records"] == found
    fit = report["summary"][0]["fit"]
    slope, intercept = np.polyfit(
        np.log([r["train_tokens"] for r in found[:3]]), [r["val_loss"] for r in found[:3]], 1
    )
    assert (fit["alpha"], fit["log_A"]) == pytest.approx((slope, intercept))
    text = (workdir / "report.md").read_text()
    figures = {path.name for path in (workdir / "figures").iterdir()}
    assert figures >= {"scaling.png", "effective_rank.png"}
    assert figures == set(re.findall(r"\(figures/([^)]+)\)", text))


def test_a_report_is_made_again_from_records_and_curves(finished, tmp_path, capsys):
    workdir, out = finished
    (tmp_path / "records.jsonl").write_bytes((workdir / "records.jsonl").read_bytes())
    shutil.copytree(workdir / "cells", tmp_path / "cells")
    assert launch.main(["launch.py", "--experiment=report", f"--workdir={tmp_path}"]) == 0
    closing = capsys.readouterr().out
    assert closing
    assert out.endswith(closing.replace(str(tmp_path), str(workdir)))
    for name in ("report.md", "report.html", "report.json"):
        assert (tmp_path / name).read_bytes() == (workdir / name).read_bytes()


def test_without_curves_a_report_is_that_of_the_records(finished, tmp_path, capsys):
    (tmp_path / "records.jsonl").write_bytes((finished[0] / "records.jsonl").read_bytes())
    cells = sorted((finished[0] / "cells").iterdir())
    broken = tmp_path / "cells" / cells[0].name
    broken.mkdir(parents=True)
    (broken / "curves.npz").write_bytes(b"no zip")
    assert launch.main(["launch.py", "--experiment=report", f"--workdir={tmp_path}"]) == 0
    text = (tmp_path / "report.md").read_text()
    assert "## Curves" in (finished[0] / "report.md").read_text()
    assert "## Curves" not in text
    assert "scaling.png" in text
    capsys.readouterr()


def test_a_second_launch_runs_nothing_and_says_so(finished, corpus, capsys):
    workdir, _ = finished
    before = (workdir / "records.jsonl").read_bytes()
    # What a kill between a cell's record and the removal of its checkpoints leaves.
    first = records.read(workdir / "records.jsonl")[0]
    key = content_hash([records.cell_key(first["cell"])])[:12]
    left = workdir / "checkpoints" / f"{first['config_name']}-{first['num_samples']}-{key}"
    (left / "3").mkdir(parents=True)
    assert launch.main(command(corpus, workdir)) == 0
    assert not left.parent.exists()
    out = capsys.readouterr().out
    assert "all 6 cells are finished" in out
    assert "1L_12d_1tok" in out
    assert (workdir / "records.jsonl").read_bytes() == before


def test_a_launch_completes_what_is_missing(finished, corpus, tmp_path, capsys):
    workdir, _ = finished
    lines = (workdir / "records.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "records.jsonl").write_text("".join([lines[0], *lines[3:]]))
    (tmp_path / "config.json").write_text((workdir / "config.json").read_text())
    assert launch.main(command(corpus, tmp_path)) == 0
    assert "4 cells are finished already; running the other 2" in capsys.readouterr().out
    made = records.read(tmp_path / "records.jsonl")

    def key(record):
        return records.cell_key(record["cell"])

    assert without_times(sorted(made, key=key)) == without_times(
        sorted(records.read(workdir / "records.jsonl"), key=key)
    )


def test_seeds_are_replicates_of_a_cell(corpus, tmp_path):
    flags = ["--samples=6,12,24", "--context_dims=8"]
    assert launch.main(command(corpus, tmp_path, *flags, "--seed=5")) == 0
    assert launch.main(command(corpus, tmp_path, *flags, "--seed=5", "--seeds=2")) == 0
    found = records.read(tmp_path / "records.jsonl")
    cells = [(record["num_samples"], record["seed"]) for record in found]
    assert cells == [(samples, seed) for seed in (5, 6) for samples in (6, 12, 24)]
    assert len({record["val_loss"] for record in found}) == 6
    (summary,) = json.loads((tmp_path / "report.json").read_text())["summary"]
    assert summary["fit"]["n"] == 6


def test_a_grid_can_grow(corpus, tmp_path):
    one = ["--samples=24", "--context_dims=8"]
    assert launch.main(command(corpus, tmp_path, *one)) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["summary"][0]["fit"]["status"] == "not fitted: 1 points, 3 or more are needed"
    assert launch.main(command(corpus, tmp_path, "--samples=6,24", "--context_dims=8")) == 0
    assert [record["num_samples"] for record in records.read(tmp_path / "records.jsonl")] == [24, 6]


def fails(capsys, arguments, *parts):
    assert launch.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    for part in parts:
        assert part in line


def test_a_workdir_of_another_config_is_refused(finished, corpus, capsys):
    workdir, _ = finished
    changed = command(corpus, workdir, "--config.phase2.epochs=3")
    fails(capsys, changed, "config.phase2.epochs=2, not 3", "--workdir")
    fails(capsys, command(corpus, workdir, "--config.phase1.diversity=SDL"), "config.phase1.diversity=MCDL")


def test_a_corpus_that_changed_is_refused(tmp_path, capsys):
    folder = tmp_path / "corpus"
    corpus = tiny.write_corpus(folder)
    partly = tmp_path / "work"
    assert launch.main(command(corpus, partly, "--samples=24", "--context_dims=8")) == 0
    tiny.write_corpus(folder, seed=1)
    capsys.readouterr()
    fails(capsys, command(corpus, partly), "has changed since 1L_8d_1tok, 24 samples, was run", "--workdir")


def test_text_that_changed_is_noticed_by_cells_of_other_sizes(tmp_path, capsys):
    folder, work = tmp_path / "corpus", tmp_path / "work"
    corpus = tiny.write_corpus(folder)
    assert launch.main(command(corpus, work, "--samples=24", "--context_dims=8")) == 0
    lines = (folder / "corpus.jsonl").read_text().splitlines()
    lines[9] = json.dumps({"text": "the cat sat on the mat"})
    (folder / "corpus.jsonl").write_text("\n".join(lines))
    capsys.readouterr()
    fails(capsys, command(corpus, work, "--samples=6", "--context_dims=8"), "corpus_sha256", "24 samples")


def test_a_table_that_changed_is_refused(tmp_path, capsys):
    corpus, table = tiny.write_corpus(tmp_path / "corpus"), tmp_path / "table.npy"
    flags = [f"--embedding=file:{table}", "--context_dims=8"]
    rng = np.random.default_rng(0)
    np.save(table, rng.normal(size=(50257, 8)).astype(np.float32))
    assert launch.main(command(corpus, tmp_path / "work", *flags, "--samples=24")) == 0
    np.save(table, rng.normal(size=(50257, 8)).astype(np.float32))
    capsys.readouterr()
    fails(
        capsys,
        command(corpus, tmp_path / "work", *flags, "--samples=6,24"),
        "embedding_sha256",
        "has changed",
    )


def test_bad_records_are_refused(finished, corpus, tmp_path, capsys):
    workdir, _ = finished
    (tmp_path / "config.json").write_text((workdir / "config.json").read_text())
    (tmp_path / "records.jsonl").write_text('{"experiment": "cont\n')
    fails(capsys, command(corpus, tmp_path), "records.jsonl, line 1: not valid JSON")


def test_a_line_that_a_killed_launch_left_unfinished_runs_again(finished, corpus, tmp_path, capsys):
    workdir, _ = finished
    (tmp_path / "config.json").write_text((workdir / "config.json").read_text())
    content = (workdir / "records.jsonl").read_bytes()
    (tmp_path / "records.jsonl").write_bytes(content[:-100])
    assert launch.main(command(corpus, tmp_path)) == 0
    out = capsys.readouterr().out
    assert "unfinished and is cut off" in out
    assert "running the other 1" in out
    made = records.read(tmp_path / "records.jsonl")
    assert without_times(made) == without_times(records.read(workdir / "records.jsonl"))


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--corpus=text:/no/such/place"], ["/no/such/place does not exist"]),
        (["--corpus=books"], ["unknown corpus 'books'"]),
        (["--val_samples=40:50"], ["has 30 samples, but samples 40:50 are asked for"]),
        (["--embedding=glove"], ["unknown embedding 'glove'"]),
        (["--embedding=file:/no/such.npy"], ["/no/such.npy does not exist"]),
        (["--embedding=spectral", "--config.model.embed_dim=64"], ["embedding spectral needs more than 64"]),
        (["--workdir=/dev/null/x"], ["use another --workdir"]),
    ],
)
def test_bad_input_of_each_kind_is_one_line(corpus, tmp_path, capsys, flags, parts):
    fails(capsys, command(corpus, tmp_path, *flags), *parts)


def test_a_cell_that_fails_does_not_stop_the_sweep(corpus, tmp_path, capsys):
    flags = ["--config.phase2.learning_rate=1e30", "--samples=6,24", "--context_dims=8"]
    assert launch.main(command(corpus, tmp_path, *flags)) == 1
    out = capsys.readouterr().out
    assert "1L_8d_1tok, 24 samples: failed: phase 2 was not finite" in out
    found = records.read(tmp_path / "records.jsonl")
    assert len(found) == 2
    assert all(record["val_loss"] is None and record["val_acc"] is None for record in found)
    assert "failed: phase 2 was not finite" in (tmp_path / "report.md").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("full_compilation")
def test_the_embedded_default_beats_its_unigram(tmp_path):
    """The quick preset cut down to one width and one size, with its own data and settings."""
    flags = ["--context_dims=96", "--samples=50", f"--workdir={tmp_path}"]
    run = subprocess.run(
        [sys.executable, "launch.py", "--experiment=context_dim", *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    (record,) = records.read(tmp_path / "records.jsonl")
    assert (record["corpus"], record["embedding"]) == ("pydocs", "spectral")
    assert record["val_ppl"] < 0.95 * record["unigram_ppl"]
    assert record["phase1_status"] == "converged"
    assert 0.7 < record["val_effective_rank"] < 0.9
