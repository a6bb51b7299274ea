from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import launch
from cvfp_jax.cli.analyses import ANALYSES, FitRequest, ReportRequest, ReportsRequest
from cvfp_jax.cli.main import help_text, list_text, read_request
from cvfp_jax.errors import UserError
from cvfp_jax.scaling.choice import Choice, read_conditions, read_derived
from experiments import EXPERIMENTS


def request(*flags):
    return read_request(["launch.py", *flags], EXPERIMENTS)


def test_a_fit_needs_a_file_only():
    assert request("--experiment=fit", "--points=data/a.b.csv") == FitRequest(
        Path("data/a.b.csv"), None, None, None, None, "log", (), Path("runs/fit-a.b")
    )


def test_the_flags_of_a_fit():
    flags = [
        "--points=~/p.csv",
        "--x=tokens",
        "--y=val_ppl",
        "--group=config_name",
        "--laws=saturating,power",
    ]
    flags += ["--objective=huber", "--predict=1e6,2.5,1M", "--workdir=here", "--where=a=b,c>1", "--best"]
    flags += [
        "--sigma=dy",
        "--fix=a=.5",
        "--bound=b=1:2",
        "--compute=6nd",
        "--holdout=split=test",
        "--derive=D=C/6/N",
        "--min_x=1k",
        "--max_x=2",
        "--strict",
    ]
    assert request("--experiment=fit", *flags) == FitRequest(
        Path("~/p.csv").expanduser(),
        "tokens",
        "val_ppl",
        "config_name",
        ("saturating", "power"),
        "huber",
        ((1e6,), (2.5,)),
        Path("here"),
        (("a", 0.5),),
        (("b", 1.0, 2.0),),
        "6nd",
        Choice(
            "dy",
            read_conditions("a=b,c>1"),
            read_conditions("split=test"),
            read_derived("D=C/6/N"),
            best=True,
            min_x=1000.0,
            max_x=2.0,
            strict=True,
        ),
    )


def test_the_folders_of_reports():
    assert request("--experiment=report", "--workdir=there") == ReportRequest(Path("there"))
    flags = ("--experiment=report", "--workdir=there", "--against=here")
    assert request(*flags) == ReportRequest(Path("there"), Path("here"))
    assert request("--experiment=reports") == ReportsRequest(Path("runs/reports"))
    assert request("--experiment=reports", "--workdir=there") == ReportsRequest(Path("there"))


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("x", ["--experiment 'x' is unknown: choose sample_scaling,", "generate, fit, report, reports."]),
        ("fit", ["--points is missing: name a table (.csv,"]),
        ("fit --points=", ["--points= is not a file"]),
        ("fit --points=~nobody-of-this-name/x", ["is not usable", "name a file"]),
        ("fit --points=p --points=p", ["--points is given twice"]),
        ("fit --points=p --samples=5", ["--samples is no flag of --experiment=fit", "--x, --y"]),
        ("fit --points=p --dry_run", ["--dry_run is no flag of --experiment=fit"]),
        ("fit --points=p --config.seed=1", ["--config.seed is no flag of --experiment=fit"]),
        ("fit --points=p --objective=l1", ["--objective 'l1' is unknown", "log, linear, huber"]),
        ("fit --points=p --predict=1e6,x", ["--predict=1e6,x is not a list of sizes above zero"]),
        ("fit --points=p --predict=", ["--predict= is not a list"]),
        ("fit --points=p --predict=0", ["--predict=0 is not a list"]),
        ("fit --points=p --predict=1:2,3", ["--predict=1:2,3 is not a list"]),
        ("fit --points=p --where=x", ["--where: 'x' is no condition"]),
        ("fit --points=p --max_x=many", ["--max_x=many is not a size"]),
        ("fit --points=p --predict=nan", ["--predict=nan is not a list"]),
        ("fit --points=p --predict=1e999", ["--predict=1e999 is not a list"]),
        ("fit --points=p --workdir=launch.py", ["--workdir=launch.py is not a folder"]),
        ("report", ["--workdir is missing: name the folder of a sweep"]),
        ("report --workdir=", ["--workdir= is not a folder"]),
        ("report --workdir=w --json", ["--json is no flag of --experiment=report", "--against, --workdir."]),
        ("report --workdir=w --against=", ["--against= is not a file"]),
        ("report --workdir=runs/none", ["runs/none is not there"]),
        ("reports --preset=v2", ["--preset is no flag of --experiment=reports"]),
        ("reports --points=p", ["--points is no flag of --experiment=reports"]),
    ],
)
def test_a_mistake_is_one_line(capsys, line, parts):
    assert launch.main(["launch.py", *f"--experiment={line}".split()]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (said,) = captured.err.splitlines()
    for part in parts:
        assert part in said


def test_the_reports_are_named(capsys, monkeypatch):
    def written(workdir):
        return [workdir / "index.html", workdir / "R1.html"]

    monkeypatch.setattr("cvfp_jax.reproduction.write.write_reports", written)
    assert launch.main(["launch.py", "--experiment=reports", "--workdir=w"]) == 0
    assert capsys.readouterr().out.splitlines() == ["wrote w/index.html", "wrote w/R1.html"]


def test_no_sweep_has_the_name_of_an_analysis():
    assert not ANALYSES.keys() & EXPERIMENTS.keys()


def test_list_and_help_tell_whose_flags_there_are(capsys):
    listed, helped = list_text(EXPERIMENTS), help_text(EXPERIMENTS)
    assert listed in helped
    for name, analysis in ANALYSES.items():
        assert f"\n{name}: {analysis.text}\n  flags: " in listed
        for flag in analysis.flags:
            assert f"\n  --{flag}: " in helped
    places = [helped.index(f"\n  --{name}: ") for name in ("workdir", "samples", "points", "config.seed")]
    assert places == sorted(places)
    assert max(map(len, helped.splitlines())) <= 130
    assert launch.main(["launch.py", "-h"]) == 0
    assert capsys.readouterr().out == helped


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(sorted(ANALYSES)),
    st.dictionaries(
        st.sampled_from(["points", "x", "laws", "objective", "predict", "workdir", "samples", "json"]),
        st.text(max_size=8) | st.sampled_from(["1e6", "log", "power"]),
        max_size=3,
    ),
)
def test_any_flags_give_a_request_or_a_message(name, given_flags):
    message = ""
    try:
        assert request(f"--experiment={name}", *(f"--{flag}={text}" for flag, text in given_flags.items()))
    except UserError as error:
        message = str(error)
    assert "\n" not in message
