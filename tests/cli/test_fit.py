import json
import math
import re
from pathlib import Path

import pytest

import launch
from cvfp_jax.cli.analyses import ANALYSES
from cvfp_jax.report import records
from cvfp_jax.scaling.laws import LAWS
from cvfp_jax.scaling.objectives import LOG, OBJECTIVES

ROOT = Path(__file__).parents[2]
FIELDS = {
    "group", "law", "status", "k", "n", "params", "std_errors", "intervals", "r2", "r2_log", "rss", "aic",
    "aicc", "loo_log_rmse", "holdout_log_rmse", "predictions", "verdict",
}  # fmt: skip


def fit(capsys, *flags):
    assert launch.main(["launch.py", "--experiment=fit", *flags]) == 0
    return capsys.readouterr().out


def power_table(path, groups, seeds=(None,)):
    """Writes points of y = 1000 x^-a for each group's a."""
    lines = ["config,tokens,ppl,seed"]
    for name, a in groups.items():
        for x in (1000, 2000, 4000, 8000, 16000):
            for n, seed in enumerate(seeds):
                lines.append(f"{name},{x},{1000 * x**-a * (1.01 - 0.02 * n if n else 1)!r},{seed or ''}")
    path.write_text("\n".join(lines))
    return path


@pytest.mark.slow
def test_the_documented_example(tmp_path, capsys):
    points = ROOT / "docs" / "points.csv"
    printed = json.loads((ROOT / "cvfp_jax/reproduction/data/reports.json").read_text())["R5"]["points"]
    rows = [f"{point['samples']},{point['tokens']},{point['val_ppl']}" for point in printed]
    assert points.read_text().splitlines() == ["samples,tokens,val_ppl", *rows]
    flags = [
        f"--points={points}",
        "--x=tokens",
        "--y=val_ppl",
        "--predict=4e6,1e7",
        f"--workdir={tmp_path / 'w'}",
    ]
    out = fit(capsys, *flags)
    fits = json.loads((tmp_path / "w" / "fits.json").read_text())
    assert [row["law"] for row in fits] == list(LAWS)
    for row in fits:
        assert row.keys() >= FIELDS
        assert (row["group"], row["n"]) == ("all", 5)
        assert [point["x"] for point in row["predictions"]] == [4e6, 1e7]
        assert re.search(rf"\n{row['law']} +{row['status'].partition(':')[0]} ", out)
        assert row["status"] in out
        for name, value in row["params"].items():
            assert f"\n{row['law']}: {name} " in out
            assert f" {value:.4g} " in out
    assert "all: val_ppl against tokens, 5 points from 122,795 to 1,920,992\n" in out
    assert re.search(r"\npower +4,000,000 +100\.6 +\[81\.93, 123\.6\] ", out)
    assert f"\n{fits[0]['verdict']}\n" in out
    end = f"wrote {tmp_path / 'w' / 'fits.html'}, fits.md, fits.json and figures/ beside it\n"
    assert out.endswith(end)


def numbers(text):
    """A text with a mark for each number, and the numbers."""
    pattern = r"-?\d[\d,]*(?:\.\d+)?(?:e[+-]\d+)?"
    found = [float(number.replace(",", "")) for number in re.findall(pattern, text)]
    return re.sub(r"[ -]+", " ", re.sub(pattern, "#", text)), found


def test_the_readme_shows_what_is_printed(tmp_path, capsys):
    text = (ROOT / "README.md").read_text()
    command, shown = re.search(r"(--experiment=fit .*?)\n```\n\n```\n(.*?)\n```", text, re.DOTALL).groups()
    flags = command.replace("docs/points.csv", str(ROOT / "docs" / "points.csv")).replace("\\", "").split()
    out = fit(capsys, *flags[1:], f"--workdir={tmp_path}")
    printed = out[out.index("all: ") : out.index("\n\nwrote ")]
    (words, own), (shown_words, theirs) = numbers(printed), numbers(shown)
    assert words == shown_words
    # Where the points hardly set an end, the last digits of a machine do.
    close = [math.isclose(a, b, rel_tol=2e-3, abs_tol=1e-9) for a, b in zip(own, theirs, strict=True)]
    assert sum(close) > 0.9 * len(close)
    assert all(close[: close_until(printed)])


def close_until(printed):
    """How many numbers stand before the law whose parameters the points hardly set."""
    return len(numbers(printed[: printed.index("saturating: A")])[1])


def test_the_document_has_a_section_a_group(tmp_path, capsys):
    points = power_table(tmp_path / "p<b>.csv", {"small": 0.2, "<script>": 0.5})
    flags = ["--x=tokens", "--y=ppl", "--group=config", "--laws=power,constant", "--predict=1e5"]
    fit(capsys, f"--points={points}", *flags, f"--workdir={tmp_path / 'w'}")
    text, page = ((tmp_path / "w" / name).read_text() for name in ("fits.md", "fits.html"))
    fits = json.loads((tmp_path / "w" / "fits.json").read_text())
    assert text.startswith("# Laws fitted to p&lt;b&gt;.csv\n")
    for part in (
        "\n## small\n",
        "\n## &lt;script&gt;\n",
        f"\n> {fits[0]['verdict']}\n",
        "figures/fits-2.png",
    ):
        assert part in text
    assert "| power | 100,000 | 100 |" in text
    assert page.count("data:image/png;base64,") == 2
    assert page.count("<script") == 1
    assert "Left out" not in page
    figures = sorted(path.name for path in (tmp_path / "w" / "figures").iterdir())
    assert figures == [f"fits-{n}.{kind}" for n in (1, 2) for kind in ("pdf", "png", "svg")]
    assert "## Checklist\n\n- what is fitted: ppl against tokens; power: y = A x^-a;" in text
    lines = (tmp_path / "w" / "fits.csv").read_text().splitlines()
    assert lines[0] == "group,law,status,n,quantity,value,low,high"
    assert lines[3].startswith("small,power,converged,5,y at 100000,")


def test_held_out_rows_test_each_law(tmp_path, capsys):
    points = power_table(tmp_path / "p.csv", {"a": 0.2, "b": 0.4})
    flags = ["--x=tokens", "--y=ppl", "--group=config", "--laws=power,constant", "--holdout=tokens>9000"]
    out = fit(capsys, f"--points={points}", *flags, f"--workdir={tmp_path / 'w'}")
    (line,) = re.findall(r"\nmean \(groups\) .*", out)
    assert "(2)" in line
    fits = json.loads((tmp_path / "w" / "fits.json").read_text())
    assert fits[0]["n"] == 4
    assert fits[0]["test_log_rmse"] < 1e-9
    assert fits[1]["test_log_rmse"] == pytest.approx(0.2 * 2.5 * math.log(2), rel=1e-6)
    assert "Held-out rows" in (tmp_path / "w" / "fits.md").read_text()


def test_a_document_that_cannot_be_written_is_a_message(tmp_path, capsys):
    points = power_table(tmp_path / "p.csv", {"a": 0.2})
    (tmp_path / "figures").write_text("in the way")
    flags = [f"--points={points}", "--x=tokens", "--y=ppl", "--group=config", "--laws=constant"]
    assert launch.main(["launch.py", "--experiment=fit", *flags, f"--workdir={tmp_path}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"error: cannot write {tmp_path / 'figures'}: File exists; use another --workdir."


def test_groups_are_fitted_apart_and_by_the_laws_asked_for(tmp_path, capsys):
    points = power_table(tmp_path / "p.csv", {"small": 0.2, "large": 0.5})
    flags = ["--x=tokens", "--y=ppl", "--group=config", "--laws=power,constant", f"--workdir={tmp_path}"]
    out = fit(capsys, f"--points={points}", *flags)
    fits = json.loads((tmp_path / "fits.json").read_text())
    assert [(row["group"], row["law"]) for row in fits] == [
        (group, law) for group in ("small", "large") for law in ("power", "constant")
    ]
    assert {row["objective"] for row in fits} == {LOG}
    assert len(re.findall(r"\npower +converged ", out)) == out.count("\npower: a ") == 2
    assert fits[0]["params"]["a"] == pytest.approx(0.2, rel=1e-6)
    assert fits[2]["params"]["a"] == pytest.approx(0.5, rel=1e-6)
    assert out.index("small: ppl against tokens") < out.index("large: ppl against tokens")


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_fits_are_by_the_objective_asked_for(tmp_path, capsys, objective):
    points = power_table(tmp_path / "p.csv", {"a": 0.2})
    flags = ["--x=tokens", "--y=ppl", "--laws=constant", f"--objective={objective}", f"--workdir={tmp_path}"]
    fit(capsys, f"--points={points}", *flags)
    (row,) = json.loads((tmp_path / "fits.json").read_text())
    assert row["objective"] == objective
    assert f"- fitted by: {OBJECTIVES[objective]}\n" in (tmp_path / "fits.md").read_text()


def test_replicates_are_points_of_their_size(tmp_path, capsys):
    points = power_table(tmp_path / "p.csv", {"a": 0.3}, seeds=("1", "2"))
    flags = ["--x=tokens", "--y=ppl", "--group=config", "--laws=power", f"--workdir={tmp_path}"]
    assert "a: ppl against tokens, 10 points at 5 sizes" in fit(capsys, f"--points={points}", *flags)


def test_records_say_what_they_leave_out(tmp_path, capsys):
    fields = {**dict.fromkeys(records.FIELDS), "experiment": "context_dim", "preset": "quick", "seed": 0}
    for size in (1000, 2000, 4000, 8000):
        made = {**fields, "cell": {"num_samples": size}, "series": "1L", "train_tokens": size}
        ended = "ok" if size < 8000 else "failed: phase 1 broke down"
        records.append(
            tmp_path / "records.jsonl", {**made, "status": ended, "val_ppl": 1000 / math.sqrt(size)}
        )
    out = fit(capsys, f"--points={tmp_path / 'records.jsonl'}", "--laws=power", f"--workdir={tmp_path}")
    assert "1L: val_ppl against train_tokens, 3 points from 1,000 to 4,000" in out
    assert f"\nleft out: {tmp_path / 'records.jsonl'}, line 4: 1L, failed: phase 1 broke down\n" in out
    assert "## Left out\n\n- " in (tmp_path / "fits.md").read_text()


def test_a_floor_that_is_fixed_and_the_windows_that_grow(tmp_path, capsys):
    # marin-community/marin, issue 4447: the loss of the best model at each number of operations.
    losses = {
        "1e18": 3.522,
        "3e18": 3.339,
        "1e19": 3.154,
        "3e19": 3.0,
        "1e20": 2.848,
        "3e20": 2.725,
        "1e21": 2.599,
    }
    points = tmp_path / "p.csv"
    points.write_text("flops,loss\n" + "".join(f"{x},{y}\n" for x, y in losses.items()))
    flags = [f"--points={points}", "--x=flops", "--y=loss", "--laws=saturating", "--fix=ppl_min=1.6"]
    fit(capsys, *flags, f"--workdir={tmp_path / 'w'}")
    table = re.findall(r"\| saturating, (\d) \|.* ([\d.]+) \|\n", (tmp_path / "w" / "fits.md").read_text())
    assert table == [("2", "2.625"), ("3", "2.616"), ("4", "2.611"), ("5", "2.607"), ("6", "2.606")]
    (row,) = json.loads((tmp_path / "w" / "fits.json").read_text())
    assert (row["k"], row["params"]["ppl_min"], row["fixed"]) == (2, 1.6, {"ppl_min": 1.6})


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--laws=power,parabola"], "--laws: 'parabola' is no law: choose of power, saturating"),
        (["--fix=ppl_min=3"], "--fix: no law here has a parameter 'ppl_min': choose of A, a."),
        (["--bound=a=2:1"], "--bound=a=2:1 limits no parameter: write for example --bound=a=0.01:1."),
        (["--laws=log_linear", "--fix=B=3"], "--fix: B of log_linear can be neither fixed nor bounded"),
        (["--laws="], "--laws: '' is no law"),
        (["--x=size"], "no column 'size': the columns are config, tokens, ppl, seed."),
        (["--points=/nowhere/p.csv"], "cannot read /nowhere/p.csv: No such file"),
        (["--workdir=/dev/null/w"], "cannot write /dev/null/w/fits.json: Not a directory"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, capsys, flags, part):
    given = {"--points": power_table(tmp_path / "p.csv", {"a": 0.3}), "--x": "tokens", "--y": "ppl"}
    given |= {"--laws": "power", "--workdir": tmp_path / "w"}
    given |= dict(flag.split("=", 1) for flag in flags)
    assert launch.main(["launch.py", "--experiment=fit", *(f"{k}={v}" for k, v in given.items())]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert part in line
    assert not (tmp_path / "w").exists()


def test_the_help_names_every_law():
    text = ANALYSES["fit"].flags["laws"]
    assert text.partition(";")[0].split(", ") == list(LAWS)
