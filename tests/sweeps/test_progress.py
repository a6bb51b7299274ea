import numpy as np

from cvfp_jax.config.settings import RunConfig
from cvfp_jax.sweeps.progress import CellProgress


def last_line(capsys):
    return capsys.readouterr().err.split("\r")[-1]


def test_phase1_shows_loss_convergence_speed_and_time_left(capsys):
    progress = CellProgress("[1/2] cell", RunConfig())
    show = progress.phase1(0, 1000)
    show(1, {"loss": np.array([0.5]), "converged_tokens": np.array([0])})
    show(30, {"loss": np.array([0.5, -0.25]), "converged_tokens": np.array([0, 420])})
    progress._bar.refresh()
    line = last_line(capsys)
    for part in (
        "[1/2] cell phase 1",
        "51%",
        "loss -0.2500",
        "converged 42.0%",
        "tokens/s",
        "at most",
        "left",
    ):
        assert part in line
    progress.close()


def test_phase2_shows_epoch_loss_speed_and_time_left(capsys):
    progress = CellProgress("[1/2] cell", RunConfig())
    show = progress.phase2(1000)
    show(3, 5000, 4.5)  # the last batch may be counted beyond the stream's end
    progress._bar.refresh()
    line = last_line(capsys)
    for part in ("phase 2", "15%", "epoch 3", "loss 4.5000", "tokens/s", "left"):
        assert part in line
    progress.close()
    progress.close()


def test_it_can_be_silent(capsys):
    progress = CellProgress("cell", RunConfig(), visible=False)
    progress.phase1(0, 10)(1, {"loss": np.array([1.0]), "converged_tokens": np.array([1])})
    progress.phase2(10)(1, 5, 1.0)
    progress.close()
    assert capsys.readouterr().err == ""
