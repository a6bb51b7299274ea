"""Each test is in one of two tiers, and .ci/run runs both."""

import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
TWO_TESTS = """
import pytest

def test_quick():
    pass

@pytest.mark.slow
def test_long():
    pass
"""


def collected(folder, *flags):
    """The tests that pytest would run with this project's settings."""
    command = [sys.executable, "-m", "pytest", "-c", ROOT / "pyproject.toml", "--rootdir", folder, folder]
    quietly = ["--collect-only", "-q", "-p", "no:cacheprovider", "-n", "0"]
    run = subprocess.run([*command, *quietly, *flags], cwd=folder, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout
    return [line.partition("::")[2] for line in run.stdout.splitlines() if "::" in line]


def test_a_test_is_fast_or_slow_and_both_are_run(tmp_path):
    (tmp_path / "test_two.py").write_text(TWO_TESTS)
    assert collected(tmp_path) == ["test_quick"]
    script = (ROOT / ".ci/run").read_text()
    (line,) = [line for line in script.splitlines() if line.startswith("slow=")]
    flags = shlex.split(shlex.split(line)[0])[3:]
    assert collected(tmp_path, *flags) == ["test_long"]


def test_readme_and_the_clean_checkout_run_the_same_command():
    (command,) = [line for line in (ROOT / "README.md").read_text().splitlines() if "'.[test]'" in line]
    assert command.endswith(".venv/bin/python -m pytest")
    assert "grep -F '.[test]' README.md" in (ROOT / ".ci/run").read_text()


def test_what_is_not_marked_slow_is_no_other_marker():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    assert [marker.partition(":")[0] for marker in settings["markers"]] == ["slow"]
    assert "--strict-markers" in settings["addopts"]
