"""What an install puts where, and that it runs away from its source tree beside a user's own modules."""

import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import cvfp_jax
from cvfp_jax.cli.experiments import load_experiments
from experiments import EXPERIMENTS
from tests import tiny

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "launch.py", "cvfp_jax", "experiments")
DECOY = "raise SystemExit('a module of the user was imported')\n"


def test_every_package_is_installed():
    folders = [path.parent.relative_to(ROOT) for path in (ROOT / "cvfp_jax").rglob("__init__.py")]
    packages = [".".join(folder.parts) for folder in folders]
    assert PROJECT["tool"]["setuptools"]["packages"] == sorted([*packages, "cvfp_jax.experiments"])


def test_the_citation_has_the_version_and_the_licence():
    cited = dict(re.findall(r"^([\w-]+): (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE))
    assert (cited["version"], cited["license"]) == (cvfp_jax.__version__, PROJECT["project"]["license"])
    assert cited["cff-version"] == "1.2.0"


def test_a_source_tree_loads_the_experiments_beside_the_package(monkeypatch):
    """By their path: a user's module of that name, imported or not, changes nothing."""
    for name in [name for name in sys.modules if name.startswith("cvfp_jax.experiments")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "experiments", None)
    loaded = load_experiments()
    assert list(loaded) == list(EXPERIMENTS)
    for name, module in loaded.items():
        assert module.__name__ == f"cvfp_jax.experiments.{name}"
        assert Path(module.__file__).parent == ROOT / "experiments"
        assert module.PRESETS == EXPERIMENTS[name].PRESETS
    assert load_experiments() is loaded, "they are loaded once"


def run(command, folder, **more):
    # Neither the path nor the settings of this process's Python are those of the user's.
    environment = {name: text for name, text in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, **more)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def test_the_source_tree_runs_as_a_module_and_as_a_script():
    version = f"cvfp_jax {cvfp_jax.__version__}\n"
    for program in (["launch.py"], ["-m", "cvfp_jax"]):
        assert run([sys.executable, *program, "--version"], ROOT) == version
        listed = run([sys.executable, *program, "--list"], ROOT)
        assert all(f"{name}: " in listed for name in EXPERIMENTS)


def pip(*arguments, folder):
    """Runs pip; with this environment's own setuptools where that will do, so that nothing is downloaded."""
    needed = int(re.search(r"\d+", PROJECT["build-system"]["requires"][0])[0])
    found = importlib.util.find_spec("setuptools") and importlib.metadata.version("setuptools")
    isolation = ["--no-build-isolation"] if found and int(found.split(".")[0]) >= needed else []
    run([sys.executable, "-m", "pip", *arguments, "--no-deps", *isolation], folder)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of the source tree, into which builds may write, and in which nothing old lies about."""
    folder = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", f"--wheel-dir={folder}", ".", folder=source)
    (path,) = folder.iterdir()
    return path


def environment(folder, *what):
    """Installs into an environment of its own, beside the libraries of this one; returns its programs."""
    venv.create(folder, symlinks=True)
    paths = sysconfig.get_paths(vars={"base": str(folder), "platbase": str(folder)})
    here = sysconfig.get_paths()
    # A folder named there is searched, but the links to source trees that it holds are not followed.
    libraries = "\n".join(dict.fromkeys([here["purelib"], here["platlib"]]))
    Path(paths["purelib"], "libraries.pth").write_text(libraries)
    programs = Path(paths["scripts"])
    pip("--python", programs / "python", "install", *what, folder=folder)
    return programs


@pytest.fixture(scope="module")
def from_wheel(wheel, tmp_path_factory):
    return environment(tmp_path_factory.mktemp("environment"), wheel)


@pytest.fixture(scope="module")
def editable(source, tmp_path_factory):
    return environment(tmp_path_factory.mktemp("editable"), "--editable", source)


@pytest.fixture
def folder(tmp_path):
    """A user's folder with modules of its own that are named as ours are."""
    for name in ("experiments.py", "launch.py"):
        (tmp_path / name).write_text(DECOY)
    return tmp_path


@pytest.mark.slow
def test_a_wheel_holds_the_package_and_nothing_beside_it(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"cvfp_jax", f"cvfp_jax-{cvfp_jax.__version__}.dist-info"}
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "cvfp_jax").rglob("*") if path.is_file()}
    files |= {f"cvfp_jax/experiments/{path.name}" for path in (ROOT / "experiments").glob("*.py")}
    assert {name for name in names if name.startswith("cvfp_jax/")} == {
        name for name in files if "__pycache__" not in name
    }
    assert "cvfp_jax/py.typed" in names


@pytest.mark.slow
@pytest.mark.parametrize("how", ["from_wheel", "editable"])
def test_an_installed_program_runs_beside_a_users_own_modules(how, source, folder, request):
    installed = request.getfixturevalue(how)
    program, module = [installed / "cvfp"], [installed / "python", "-m", "cvfp_jax"]
    assert run([*program, "--version"], folder) == f"cvfp_jax {cvfp_jax.__version__}\n"
    for command in (program, module):
        listed = run([*command, "--list"], folder)
        assert all(f"{name}: " in listed for name in EXPERIMENTS)
    where = run([installed / "python", "-P", "-c", "import cvfp_jax; print(cvfp_jax.__file__)"], folder)
    assert Path(where.strip()).is_relative_to(source if how == "editable" else installed.parent)
    points = f"--points={ROOT / 'docs/points.csv'}"
    fitted = run([*module, "--experiment=fit", points, "--x=tokens", "--y=val_ppl", "--laws=power"], folder)
    assert "1.368e+04" in fitted
    assert (folder / "runs/fit-points/fits.html").is_file()


@pytest.mark.slow
def test_an_installed_program_trains_a_sweep(from_wheel, folder):
    corpus = tiny.write_corpus(folder / "corpus")
    flags = tiny.flags(corpus, "--samples=6", "--context_dims=8", "--workdir=work")
    run([from_wheel / "cvfp", *flags], folder, timeout=300)
    (line,) = (folder / "work/records.jsonl").read_text().splitlines()
    assert json.loads(line)["status"] == "ok"
    assert "</html>" in (folder / "work/report.html").read_text()
