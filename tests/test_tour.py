"""docs/tour.ipynb runs, and what it shows of its last run is small and nobody's own."""

import ast
import base64
import importlib.util
import json
import re
import struct
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "docs/tour.ipynb"
TEXT = NOTEBOOK.read_text()
CELLS = json.loads(TEXT)["cells"]
CODE = [cell for cell in CELLS if cell["cell_type"] == "code"]


def outputs():
    for cell in CODE:
        for output in cell["outputs"]:
            yield cell["id"], output


def test_the_notebook_is_valid_short_and_small():
    nbformat = pytest.importorskip("nbformat")
    nbformat.validate(nbformat.reads(TEXT, as_version=nbformat.NO_CONVERT))
    assert len(CELLS) <= 20
    assert len(TEXT) < 400_000
    assert len({cell["id"] for cell in CELLS}) == len(CELLS)


def test_the_first_lines_train_load_and_plot():
    """What help() shows is enough for them."""
    lines = [line for cell in CODE[:2] for line in "".join(cell["source"]).splitlines() if line.strip()]
    assert len(lines) <= 6
    called = {
        ast.unparse(node.func) for node in ast.walk(ast.parse("\n".join(lines))) if isinstance(node, ast.Call)
    }
    assert {"cj.train", "cj.load", "cell.plot"} <= called


def test_outputs_are_of_one_run_without_errors():
    assert [cell["execution_count"] for cell in CODE] == list(range(1, len(CODE) + 1))
    kinds = {output["output_type"] for _, output in outputs()}
    assert kinds <= {"stream", "execute_result", "display_data"}
    assert [
        output["name"]
        for _, output in outputs()
        if output["output_type"] == "stream" and output["name"] != "stdout"
    ] == []
    assert 2 <= sum("image/png" in output.get("data", {}) for _, output in outputs()) <= 3


def test_outputs_hold_no_path_of_a_machine():
    for cell, output in outputs():
        kept = json.dumps({**output, "data": {**output.get("data", {}), "image/png": ""}})
        # An absolute path: a slash behind which a name begins, but not behind a word or another slash.
        assert re.findall(r"(?<![\w./])/\w[^\s\"']*|[A-Z]:\\\\\w|~/", kept) == [], cell


@pytest.mark.parametrize(("cell", "name"), [("plot", "convergence.png"), ("law", "law.png")])
def test_pictures_are_those_of_the_notebook_and_small(cell, name):
    data = (ROOT / "docs" / name).read_bytes()
    (image,) = (
        output["data"]["image/png"]
        for of, output in outputs()
        if of == cell and "image/png" in output.get("data", {})
    )
    assert base64.b64decode(image) == data, "run python docs/tour.py"
    assert len(data) < 60_000
    assert min(struct.unpack(">II", data[16:24])) > 300


@pytest.mark.slow
def test_the_tour_runs(tmp_path, monkeypatch):
    pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    # Its cells compile as a user's do.
    for name in ("JAX_DISABLE_MOST_OPTIMIZATIONS", "JAX_COMPILATION_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CVFP_CACHE_DIR", str(tmp_path / "cache"))
    spec = importlib.util.spec_from_file_location("docs_tour", ROOT / "docs/tour.py")
    tour = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tour)
    folder = tmp_path / "run"
    folder.mkdir()
    done = tour.tidy(tour.execute(nbformat.reads(TEXT, as_version=4), folder))
    assert sorted(tour.pictures(done)) == ["convergence.png", "law.png"]
    assert (folder / "runs/tour/sweep/report.html").is_file()
    assert all(
        output.output_type != "error"
        for cell in done.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    )
