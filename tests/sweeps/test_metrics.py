import json
import sys

import numpy as np
import pytest

from cvfp_jax.contexts.runtime import Runtime
from cvfp_jax.errors import UserError
from cvfp_jax.sweeps.cell import run_cell
from cvfp_jax.sweeps.metrics import JsonLines, ScalarWriter, Together, open_sinks
from tests.sweeps.test_cell import CONFIG, data_of

pytestmark = pytest.mark.usefixtures("quick_compilation")


def lines_of(path):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {
        group: [line for line in lines if line["group"] == group] for group in ("phase1", "batch", "epoch")
    }


def test_a_cells_scalars_are_those_of_its_curves(tmp_path):
    path = tmp_path / "new" / "scalars.jsonl"
    with open_sinks(tmp_path, True, path) as sinks:
        result = run_cell(CONFIG, data_of(), Runtime(progress=Together([ScalarWriter("a", sinks)])))
    lines, curves = lines_of(path), result.curves
    assert [line["step"] for line in lines["phase1"]] == curves["phase1_iteration"].tolist()
    for name in ("loss", "cvfp_loss", "diversity_loss", "grad_norm", "converged_share"):
        written = np.array([line[name] for line in lines["phase1"]])
        np.testing.assert_allclose(written, curves[f"phase1_{name}"], rtol=1e-6)
    for name in ("train_loss", "val_loss", "val_acc"):
        assert [line[name] for line in lines["epoch"]] == curves[f"phase2_{name}"].tolist()
    assert {line["cell"] for group in lines.values() for line in group} == {"a"}
    (events,) = (tmp_path / "tensorboard" / "a").iterdir()
    assert b"phase1/grad_norm" in events.read_bytes()
    assert b"epoch/val_loss" in events.read_bytes()


def test_a_file_that_cannot_be_written_ends_no_training(caplog):
    class Full:
        def write(self, *_):
            raise OSError(28, "No space left on device")

        def flush(self):
            raise AssertionError

    writer = ScalarWriter("a", [Full()])
    writer.epoch(1, {"val_loss": 1.0})
    writer.epoch(2, {"val_loss": 1.0})
    assert [record.getMessage() for record in caplog.records] == [
        "no more scalars are written to Full: No space left on device"
    ]


def test_numbers_that_are_not_finite_are_null(tmp_path):
    sink = JsonLines(tmp_path / "m.jsonl")
    sink.write("a", "epoch", 1, {"val_loss": float("nan")})
    sink.close()
    assert json.loads((tmp_path / "m.jsonl").read_text()) == {
        "cell": "a", "group": "epoch", "step": 1, "val_loss": None,
    }  # fmt: skip


def test_what_cannot_be_had_is_refused_in_a_line(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"--metrics=.* cannot be written: Is a directory; name another"):
        JsonLines(tmp_path)
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with (
        pytest.raises(UserError, match=r"pip install 'cvfp-jax\[tensorboard\]'"),
        open_sinks(tmp_path, True, None),
    ):
        pass
