"""./check finds the tests of what has changed."""

import importlib.machinery
import importlib.util
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def check():
    loader = importlib.machinery.SourceFileLoader("check", str(ROOT / "check"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("check", loader))
    loader.exec_module(module)
    return module


@pytest.fixture
def tree(tmp_path):
    """A package, tests that mirror it or import it, and a file that a test names."""
    files = {
        "cvfp_jax/core/model.py": "",
        "cvfp_jax/core/untested.py": "",
        "tests/core/test_model.py": "from cvfp_jax.core import model",
        "tests/core/test_near.py": "from cvfp_jax.core.model import Block",
        "tests/cli/test_far.py": "def test():\n    import cvfp_jax.core.model",
        "tests/cli/test_other.py": "from cvfp_jax.core import models\nSTYLE = 'page.css'",
        "tests/tiny.py": "",
        "tests/cli/test_tiny.py": "from tests import tiny",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("changed", "own", "others"),
    [
        (
            ["cvfp_jax/core/model.py"],
            ["tests/core/test_model.py", "cvfp_jax/core/model.py"],
            ["tests/core/test_near.py", "tests/cli/test_far.py"],
        ),
        (["cvfp_jax/core/untested.py"], ["cvfp_jax/core/untested.py"], []),
        (["tests/core/test_model.py"], ["tests/core/test_model.py"], []),
        (["tests/tiny.py"], [], ["tests/cli/test_tiny.py"]),
        (["cvfp_jax/report/page.css"], [], ["tests/cli/test_other.py"]),
        (["README.md"], [], []),
        (
            ["cvfp_jax/core/model.py", "tests/core/test_near.py"],
            ["tests/core/test_model.py", "cvfp_jax/core/model.py", "tests/core/test_near.py"],
            ["tests/cli/test_far.py"],
        ),
    ],
)
def test_a_files_tests_are_its_own_and_those_that_import_or_name_it(check, tree, changed, own, others):
    selected = check.select(map(Path, changed), tree)
    assert [[path.as_posix() for path in paths] for paths in selected] == [own, others]


@pytest.mark.parametrize(
    ("path", "test"),
    [
        ("cvfp_jax/kernels/block_vjp.py", "tests/kernels/test_block_vjp.py"),
        ("cvfp_jax/errors.py", "tests/test_errors.py"),
        ("benchmarks/compare.py", "tests/benchmarks/test_compare.py"),
        ("docs/data.md", None),
    ],
)
def test_tests_stand_where_their_modules_do(check, path, test):
    mirrored = check.mirrored(Path(path))
    assert (mirrored and mirrored.as_posix()) == test


def test_what_git_does_not_know_counts_too(check, tmp_path, monkeypatch):
    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    monkeypatch.setattr(check, "ROOT", tmp_path)
    git("init", "--initial-branch=main")
    for name in ("kept", "changed", "gone"):
        (tmp_path / name).write_text("")
    git("add", ".")
    git("commit", "--message=One")
    git("checkout", "-b", "branch")
    (tmp_path / "changed").write_text("more")
    (tmp_path / "gone").unlink()
    git("commit", "--all", "--message=Two")
    (tmp_path / "new").write_text("")
    for branch in (None, "main"):
        assert check.changed_files(check.base_commit(branch)) == [Path("changed"), Path("new")]
    assert check.changed_files(check.base_commit("HEAD")) == [Path("new")]
    git("checkout", "main")
    (tmp_path / "new").unlink()
    assert check.base_commit(None).endswith("~1"), "nothing has changed since the last commit"


def test_a_branch_that_is_none_is_refused(check, monkeypatch, capsys):
    monkeypatch.setenv("BASE", "nonsense")
    with pytest.raises(SystemExit):
        check.main([])
    assert "BASE=nonsense is no branch or commit" in capsys.readouterr().err


def test_files_that_are_always_tested_are_there(check):
    assert all((ROOT / path).exists() for path in check.ALWAYS)
