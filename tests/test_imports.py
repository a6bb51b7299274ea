"""What may import what, and what no file may do."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def modules():
    return sorted(path for path in (ROOT / "cvfp_jax").rglob("*.py") if path.name != "__init__.py")


def imported(path, top_level_only=False):
    """The dotted names that a file imports."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_imports_keep_the_contract():
    """Rooms, and which may import which, are in pyproject.toml."""
    lint = Path(sys.executable).with_name("lint-imports")
    run = subprocess.run([lint, "--no-logo"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout


def test_the_package_imports_nothing_above_it():
    for path in modules():
        names = {name.split(".")[0] for name in imported(path)}
        assert not names & {"experiments", "launch", "tests", "benchmarks", "torch"}, path


@pytest.mark.parametrize(
    ("library", "allowed"),
    [
        (
            "matplotlib",
            {
                "report/against_figures.py",
                "report/contrast_figures.py",
                "report/figures.py",
                "report/curve_figures.py",
                "report/law_figures.py",
                "report/surface_figures.py",
                "report/power_law_figures.py",
                "report/plotting.py",
                "reproduction/figures.py",
                "scaling/plot.py",
            },
        ),
        ("orbax", {"checkpointing/orbax.py"}),
        ("datasets", {"data/ultrachat.py"}),
        ("jinja2", {"report/webpage.py"}),
    ],
)
def test_who_may_import_what(library, allowed):
    users = {
        path.relative_to(ROOT / "cvfp_jax").as_posix()
        for path in modules()
        if any(name.split(".")[0] == library for name in imported(path))
    }
    assert users == allowed


def test_one_file_knows_the_distributed_runtime():
    """The others ask it what process 0 says."""
    words = (r"jax\.distributed", "multihost_utils", "process_allgather", "broadcast_one_to_all")
    users = {
        path.name
        for path in modules()
        if any(re.search(rf"(?<!cvfp_){word}", path.read_text()) for word in words)
    }
    assert users == {"processes.py"}


def test_nothing_that_is_read_is_executed():
    """No pickle in any disguise, and no text run as code."""
    for path in modules():
        assert not {name.split(".")[0] for name in imported(path)} & {"pickle", "marshal", "shelve", "dill"}
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                assert getattr(node.func, "id", None) not in {"eval", "exec", "compile", "__import__"}, path
                pickled = [word for word in node.keywords if word.arg in ("allow_pickle", "shell")]
                assert all(word.value.value is False for word in pickled), path
                if ast.unparse(node.func) == "np.load":
                    assert pickled, path


def test_scaling_stands_alone():
    parts = [path.stem for path in modules() if path.parent.name == "scaling"]
    script = f"import sys; from cvfp_jax.scaling import {', '.join(parts)}; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    names = out.stdout.split()
    assert not {"jax", "matplotlib"} & set(names)
    others = {n for n in names if n.startswith("cvfp_jax.") and not n.startswith("cvfp_jax.scaling")}
    below = {f"cvfp_jax.{name}" for name in ("errors", "runtime", "runtime.floats", "runtime.version")}
    assert others == below


@pytest.mark.parametrize(
    ("flag", "answer"),
    [
        ("--help", "context_dim: How perplexity falls"),
        ("-h", "context_dim: How perplexity falls"),
        ("--list", "context_dim: How perplexity falls"),
        ("--version", "cvfp_jax "),
    ],
)
def test_the_command_line_answers_without_heavy_libraries(flag, answer):
    """Which is why it answers in less than half a second."""
    script = f"import sys, launch; assert launch.main(['launch.py', {flag!r}]) == 0; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer in out.stdout
    imported = {name.split(".")[0] for name in out.stdout.splitlines()[-1].split()}
    assert "cvfp_jax" in imported
    heavy = {"flax", "jax", "jaxlib", "matplotlib", "numpy", "optax", "orbax", "scipy", "tiktoken"}
    assert not imported & heavy


def test_no_file_is_named_for_nothing_in_particular():
    for path in modules():
        assert path.stem not in {"util", "utils", "helper", "helpers", "common", "misc"}
        assert len(path.read_text().splitlines()) <= 600, path


def test_the_benchmarks_are_above_everything():
    packages = [path for folder in ("cvfp_jax", "experiments") for path in (ROOT / folder).rglob("*.py")]
    for path in [*packages, ROOT / "launch.py"]:
        assert not any(name.split(".")[0] in ("benchmarks", "torch") for name in imported(path)), path
    files = sorted((ROOT / "benchmarks").glob("*.py"))
    assert files
    # What is measured is called in one place, other ways to do it in another, and PyTorch in two.
    for path in files:
        names = {name.split(".")[0] for name in imported(path)}
        assert ("torch" in names) <= (path.name in ("plain_torch.py", "sides.py")), path
        steps = {f"cvfp_jax.{name}" for name in ("phase1", "phase2", "contexts.recurrence", "core.model")}
        assert bool(steps & set(imported(path))) == (path.name in ("ours.py", "evaluation.py")), path
        assert len(path.read_text().splitlines()) <= 600, path
