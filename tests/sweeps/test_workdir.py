import json
import subprocess

import pytest

from cvfp_jax.config.grid import Grid
from cvfp_jax.config.settings import RunConfig
from cvfp_jax.errors import UserError
from cvfp_jax.sweeps import workdir

GRID = Grid(RunConfig(), {"model.context_dim": (8, 16), "num_samples": (5, 10)})


def test_it_writes_what_made_the_results(tmp_path):
    workdir.claim(tmp_path / "a", GRID, "cpu: test", has_records=False)
    content = json.loads((tmp_path / "a" / "config.json").read_text())
    assert content["config"]["phase1.max_iterations"] == 60
    assert content["axes"] == {"model.context_dim": [8, 16], "num_samples": [5, 10], "seed": [42]}
    assert content["device"] == "cpu: test"
    assert {"cvfp_jax", "jax", "numpy"} <= content["versions"].keys()
    revision = content["git_revision"]
    assert revision is None or len(revision.removesuffix("-dirty")) == 40


def test_the_same_sweep_and_one_with_more_cells_are_let_in(tmp_path):
    workdir.claim(tmp_path, GRID, "cpu", has_records=False)
    workdir.claim(tmp_path, GRID, "cpu", has_records=True)
    workdir.claim(tmp_path, GRID.resolve({"num_samples": (5, 10, 20)}, {}), "cpu", has_records=True)
    assert json.loads((tmp_path / "config.json").read_text())["axes"]["num_samples"] == [5, 10, 20]
    workdir.claim(tmp_path, GRID.resolve({"num_samples": (40, 5)}, {}), "cpu", has_records=True)
    axes = json.loads((tmp_path / "config.json").read_text())["axes"]
    assert axes == {"model.context_dim": [8, 16], "num_samples": [5, 10, 20, 40], "seed": [42]}


def test_another_sweep_is_refused_and_the_field_named(tmp_path):
    workdir.claim(tmp_path, GRID, "cpu", has_records=False)
    before = (tmp_path / "config.json").read_bytes()
    other = GRID.resolve({}, {"phase1.max_iterations": "20"})
    with pytest.raises(UserError, match=r"config.phase1.max_iterations=60, not 20: .*--workdir"):
        workdir.claim(tmp_path, other, "cpu", has_records=True)
    fewer_axes = Grid(RunConfig(), {"num_samples": (5, 10)})
    with pytest.raises(UserError, match=r"over model\.context_dim, num_samples, seed"):
        workdir.claim(tmp_path, fewer_axes, "cpu", has_records=True)
    assert (tmp_path / "config.json").read_bytes() == before


def test_an_arm_that_changes_something_else_is_another_sweep(tmp_path):
    def sweep(**arms):
        return Grid(RunConfig(), {"arm": ("base",), "num_samples": (5,)}, arms={"base": {}, **arms})

    short = {"phase1.max_iterations": 10}
    workdir.claim(tmp_path, sweep(short=short), "cpu", has_records=False)
    workdir.claim(tmp_path, sweep(short=short, zero={"phase2.contexts": "zero"}), "cpu", has_records=True)
    with pytest.raises(UserError, match=r"config\.arms\.short=.*10.*, not .*20.*: give"):
        workdir.claim(tmp_path, sweep(short={"phase1.max_iterations": 20}), "cpu", has_records=True)


def test_a_field_that_an_earlier_version_had_not_is_its_default(tmp_path):
    workdir.claim(tmp_path, GRID, "cpu", has_records=False)
    path = tmp_path / "config.json"
    content = json.loads(path.read_text())
    del content["config"]["data.roles"]
    path.write_text(json.dumps(content))
    other = GRID.resolve({}, {"data.roles": "true"})
    with pytest.raises(UserError, match=r"config\.data\.roles=False, not True"):
        workdir.claim(tmp_path, other, "cpu", has_records=True)
    workdir.claim(tmp_path, GRID, "cpu", has_records=True)


def test_a_folder_without_results_is_anybodys(tmp_path):
    workdir.claim(tmp_path, GRID, "cpu", has_records=False)
    other = GRID.resolve({}, {"phase1.max_iterations": "20"})
    workdir.claim(tmp_path, other, "cpu", has_records=False)
    assert json.loads((tmp_path / "config.json").read_text())["config"]["phase1.max_iterations"] == 20


def test_results_without_a_config_are_refused(tmp_path):
    with pytest.raises(UserError, match="use another --workdir"):
        workdir.claim(tmp_path, GRID, "cpu", has_records=True)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"config": 1, "axes": {}}',
        '{"config": {}, "axes": {"num_samples": 1}}',
        "[" * 100_000,
    ],
)
def test_a_foreign_config_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match="use another --workdir"):
        workdir.claim(tmp_path, GRID, "cpu", has_records=True)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="use another --workdir"):
        workdir.claim(tmp_path / "file" / "inside", GRID, "cpu", has_records=False)


def test_without_git_there_is_no_revision(monkeypatch):
    def missing(*arguments, **options):
        raise FileNotFoundError("git")

    monkeypatch.setattr(workdir.subprocess, "run", missing)
    assert workdir.git_revision() is None


def test_another_projects_commit_is_not_taken_for_this_ones(tmp_path, monkeypatch):
    for arguments in (
        ["init", "-q"],
        ["-c", "user.name=a", "-c", "user.email=a", "commit", "-q", "--allow-empty", "-m", "a"],
    ):
        subprocess.run(["git", *arguments], cwd=tmp_path, check=True)
    (tmp_path / "workdir.py").write_text("")
    monkeypatch.setattr(workdir, "__file__", str(tmp_path / "workdir.py"))
    assert workdir.git_revision() is None
    subprocess.run(["git", "add", "workdir.py"], cwd=tmp_path, check=True)
    assert workdir.git_revision() is not None


def test_a_folder_of_an_earlier_version_had_todays_defaults(tmp_path):
    workdir.claim(tmp_path, GRID, "cpu", has_records=False)
    path = tmp_path / "config.json"
    content = json.loads(path.read_text())
    for name in ("architecture", "phase2.contexts", "baseline.segment"):
        del content["config"][name]
    path.write_text(json.dumps(content))
    workdir.claim(tmp_path, GRID, "cpu", has_records=True)
    path.write_text(json.dumps(content))
    other = GRID.resolve({}, {"phase2.contexts": "zero"})
    with pytest.raises(UserError, match=r"config\.phase2\.contexts=trained, not zero"):
        workdir.claim(tmp_path, other, "cpu", has_records=True)
