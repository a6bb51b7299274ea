"""Runs docs/tour.ipynb in a temporary folder, and writes it back with its outputs and two figures."""

import base64
import os
import re
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent
NOTEBOOK = HERE / "tour.ipynb"
PICTURES = {"plot": "convergence.png", "law": "law.png"}  # by the cell that draws them
SECONDS = 900  # that a cell may take


def execute(notebook: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    """Runs all cells in a folder, by this interpreter, and returns the notebook with their outputs.

    Raises:
      CellExecutionError: a cell has failed.
    """
    root = str(HERE.parent)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = root if before is None else f"{root}{os.pathsep}{before}"
    try:
        client = NotebookClient(notebook, timeout=SECONDS, resources={"metadata": {"path": str(folder)}})
        return client.execute()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _joined(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Outputs with the pieces of a printed text as one."""
    joined: list[nbformat.NotebookNode] = []
    for output in outputs:
        if joined and output.output_type == joined[-1].output_type == "stream":
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


def tidy(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Leaves out what is another one at each run: progress bars, times of execution, versions."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = _joined([out for out in cell.outputs if out.get("name") != "stderr"])
            for output in cell.outputs:
                # The table of a result as text is enough.
                output.get("data", {}).pop("text/html", None)
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    return notebook


def pictures(notebook: nbformat.NotebookNode) -> dict[str, bytes]:
    """The figures that README shows, by the names of their files."""
    found = {}
    for cell in notebook.cells:
        if cell.id in PICTURES:
            (image,) = (out.data["image/png"] for out in cell.outputs if "image/png" in out.get("data", {}))
            found[PICTURES[cell.id]] = base64.b64decode(re.sub(r"\s", "", image))
    return found


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        done = tidy(execute(nbformat.read(NOTEBOOK, as_version=4), Path(folder)))
    nbformat.write(done, NOTEBOOK)
    for name, data in pictures(done).items():
        (HERE / name).write_bytes(data)
