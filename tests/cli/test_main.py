import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import launch
from cvfp_jax.cli.main import read_request
from cvfp_jax.cli.sweep import SweepRequest
from cvfp_jax.config.overrides import flat_fields
from cvfp_jax.config.settings import RunConfig
from cvfp_jax.errors import UserError
from experiments import EXPERIMENTS

ROOT = Path(__file__).parents[2]


def request(*flags):
    return read_request(["launch.py", "--experiment=context_dim", *flags], EXPERIMENTS)


def test_the_default_is_the_quick_preset():
    found = request()
    assert isinstance(found, SweepRequest)
    assert found.grid == EXPERIMENTS["context_dim"].PRESETS["quick"]
    assert found.workdir == Path("runs/context_dim-quick")
    assert not found.dry_run
    assert not found.json


def test_flags_replace_fields_and_axes():
    found = request(
        "--preset=v2",
        "--config.phase1.max_iterations=20",
        "--config.phase2.freeze_embedding=false",
        "--samples=50,100",
        "--context_dims=256,576",
        "--corpus=text:x",
        "--val_samples=100:105",
        "--embedding=random",
        "--seed=7",
        "--workdir=here",
    )
    cells = found.grid.cells()
    assert [(c.model.context_dim, c.num_samples) for c in cells] == [
        (256, 50),
        (256, 100),
        (576, 50),
        (576, 100),
    ]
    cell = cells[0]
    assert (cell.phase1.max_iterations, cell.phase2.freeze_embedding, cell.seed) == (20, False, 7)
    assert (cell.data.corpus, cell.data.val_samples, cell.data.embedding) == ("text:x", "100:105", "random")
    assert found.workdir == Path("here")


def test_flags_say_how_text_is_read():
    flags = ("--corpus=text:x", "--text_field=body", "--sample=line", "--skip_bad_rows")
    data = request(*flags, "--val_corpus=text:y").grid.base.data
    assert (data.text_field, data.sample, data.skip_bad_rows) == ("body", "line", True)
    assert (data.val_corpus, data.val_samples) == ("text:y", "all")
    data = request(*flags, "--val_corpus=text:y", "--val_samples=0:5").grid.base.data
    assert data.val_samples == "0:5"


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--skip_bad_rows", "--config.data.skip_bad_rows=false"], ["set the same field: give one of them"]),
        (["--iterations=3"], ["unknown flag --iterations", "--samples", "--config.FIELD"]),
        (["--sampels=3"], ["unknown flag --sampels: did you mean --samples? (--help lists all)"]),
        (["--val-samples=0:3"], ["unknown flag --val-samples: did you mean --val_samples"]),
        (
            ["--config.phase1.iterations=3"],
            ["unknown field --config.phase1.iterations", "config.phase1.max_iter"],
        ),
        (
            ["--config.zzz=3"],
            ["unknown field --config.zzz: the fields are config.", "config.phase1.max_iter"],
        ),
        (["--config.preset=v1"], ["unknown field --config.preset"]),
        (["--preset=v9"], ["--preset 'v9' is unknown", "quick, v1, v2"]),
        (["--samples=5", "--seed=1", "--samples=5"], ["--samples is given twice"]),
        (["--dry_run", "--nodry_run"], ["--dry_run is given twice"]),
        (
            ["--points=x.csv"],
            ["--points is no flag of --experiment=context_dim", "--samples", "--config.FIELD"],
        ),
        (["--x=tokens"], ["--x is no flag of --experiment=context_dim"]),
        (["--samples=ten"], ["--samples=ten is not a list of whole numbers"]),
        (["--samples="], ["--samples= is not a list"]),
        (["--samples=0"], ["--samples=0 is not a grid axis"]),
        (["--samples=5,5"], ["--samples=5,5 is not a grid axis"]),
        (["--samples=5000"], ["overlap validation samples", "--val_samples="]),
        (["--val_samples=x"], ["val_samples='x' is not a range"]),
        (["--dev_samples=x"], ["dev_samples='x' is not a range", "--dev_samples="]),
        (["--config.architecture=lstm"], ["config.architecture=lstm", "cvfp, gru, transformer or bptt"]),
        (["--seed=x"], ["config.seed=x is not allowed"]),
        (["--seeds=x"], ["--seeds=x is not a number of replicates"]),
        (["--seeds=0"], ["--seeds=0 is not a number of replicates"]),
        (["--seeds=2", "--seed=4294967295"], ["config.seed=4294967296"]),
        (["--seed=1", "--config.seed=2"], ["--seed and --config.seed set the same field"]),
        (
            ["--samples=5", "--config.num_samples=6"],
            ["--samples and --config.num_samples=6 set the same axis"],
        ),
        (["--json"], ["add --dry_run"]),
        (["--dry_run", "--profile"], ["--profile is for cells that run"]),
        (["--dry_run", "--mesh=data:2"], ["--mesh is for cells that run"]),
        (["--mesh=data:2,rows:2"], ["--mesh=data:2,rows:2 is not a mesh"]),
        (["--dry_run=perhaps"], ["--dry_run=perhaps: a switch takes no value"]),
        (["--dry_run", "--nodry_run=1"], ["write --FLAG=VALUE"]),
        (["--dry_run", "--corpus=wikipedia"], ["unknown corpus 'wikipedia'"]),
        (["--workdir="], ["--workdir= is not a folder"]),
        (["--workdir=launch.py"], ["--workdir=launch.py is not a folder"]),
        (["--workdir=~nobody-of-this-name/x"], ["is not usable", "use another"]),
        (["--seed"], ["Missing value for flag --seed"]),
        (["stray"], ["unexpected argument 'stray'"]),
    ],
)
def test_a_mistake_is_one_line_that_names_it_and_the_choices(capsys, flags, parts):
    assert launch.main(["launch.py", "--experiment=context_dim", *flags]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    for part in parts:
        assert part in line


def test_no_experiment():
    with pytest.raises(UserError, match=r"--experiment is missing: choose sample_scaling, .*context_dim"):
        read_request(["launch.py"], EXPERIMENTS)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.text(max_size=15) | st.sampled_from(["--", "--samples", "--config.", "--no", "-x=1"]), max_size=4
    )
)
def test_any_arguments_give_a_request_a_text_or_a_message(arguments):
    message = ""
    try:
        assert request(*arguments)
    except UserError as error:
        message = str(error)
    assert "\n" not in message


FIELDS = [f"config.{name}" for name in flat_fields(RunConfig())] + [
    "samples", "context_dims", "seeds", "checkpoint_minutes", "workdir",
]  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([*FIELDS, "checkpoint_minutes", "workdir"]),
    st.text(max_size=12) | st.integers() | st.floats(),
)
def test_any_value_of_any_field_gives_a_request_or_a_message(name, value):
    message = ""
    try:
        assert request(f"--{name}={value}")
    except UserError as error:
        message = str(error)
    assert "\n" not in message


def test_a_trace_and_a_list_of_compilations_are_made_when_asked_for():
    plain, asked = request(), request("--profile", "--log_compiles")
    assert (plain.options.profile, plain.log_compiles) == (False, False)
    assert (asked.options.profile, asked.log_compiles) == (True, True)
    assert asked.grid == plain.grid, "neither is a setting"


@pytest.mark.parametrize("text", ["-1", "inf", "nan", "x", ""])
def test_a_time_between_saves_that_is_none_is_refused(text):
    assert request("--checkpoint_minutes=0.25").options.checkpoint_minutes == 0.25
    with pytest.raises(UserError, match=r"is not a time: write minutes from 0 on"):
        request(f"--checkpoint_minutes={text}")


def run(*flags):
    command = [sys.executable, "launch.py", *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_list_and_help():
    listed = run("--list")
    assert listed.returncode == 0
    assert "context_dim: How perplexity falls" in listed.stdout
    assert "presets: quick, v1, v2" in listed.stdout
    helped = run("--help")
    assert helped.returncode == 0
    for part in (
        "--config.phase1.max_iterations",
        "Standard deviation of the Gaussian noise added to each context",
        "Tokens in a training step. (int; default: 8192)",
        "--val_samples",
        "--dry_run",
        "presets: quick, v1, v2",
    ):
        assert part in " ".join(helped.stdout.split())


def test_a_dry_run_reads_nothing(tmp_path):
    flags = ["--experiment=context_dim", "--dry_run", "--corpus=text:/nowhere", f"--workdir={tmp_path / 'w'}"]
    shown = run(*flags)
    assert shown.returncode == 0, shown.stderr
    assert "1L_150d_1tok" in shown.stdout
    assert "37,350" in shown.stdout
    assert "phase2.learning_rate=0.003" in shown.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_plan_as_json_has_the_reports_counts():
    cells = json.loads(run("--experiment=context_dim", "--preset=v2", "--dry_run", "--json").stdout)
    assert len(cells) == 12
    counts = {
        cell["config_name"]: [
            cell[f"params_{part}"] for part in ("context_block", "token_block", "total", "trainable_phase2")
        ]
        for cell in cells
    }
    assert counts == {  # as the report printed them
        "1L_768d_1tok": [1_181_952, 1_181_952, 40_962_816, 1_183_488],
        "1L_1200d_1tok": [2_365_200, 1_513_728, 42_477_840, 1_515_264],
        "1L_1537d_1tok": [3_547_396, 1_772_544, 43_918_852, 1_774_080],
    }


def test_an_interruption_says_how_to_go_on(capsys, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("cvfp_jax.cli.main.read_request", interrupt)
    assert launch.main(["launch.py"]) == 130
    assert "the same command goes on" in capsys.readouterr().err


def test_a_text_that_cannot_be_written_is_one_line():
    command = f"{sys.executable} launch.py --list > /dev/full"
    run = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    told = "error: cannot write standard output: No space left on device; send it elsewhere.\n"
    assert (run.returncode, run.stderr) == (1, told)


def test_a_reader_who_has_seen_enough_is_no_error():
    command = f"{sys.executable} launch.py --experiment=context_dim --dry_run --json | head -1"
    piped = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], cwd=ROOT, capture_output=True, text=True
    )
    assert (piped.returncode, piped.stderr) == (0, "")
