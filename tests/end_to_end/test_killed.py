"""A sweep that is killed again and again ends with the records of one that was not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cvfp_jax.report import records
from tests import quickly, tiny

ROOT = Path(__file__).parents[2]
FLAGS = tiny.flags(
    "--samples=6,12",
    "--context_dims=8,12",
    "--checkpoint_minutes=0",
    "--config.phase2.epochs=3",
    "--config.phase2.batch_size=48",
)
KILLS = 10


def launches(flags, folder, log, moments):
    asked = json.dumps([flags, str(folder), str(log), moments])
    command = [sys.executable, "-W", "ignore", "-m", "tests.end_to_end.killed", asked]
    env = {**os.environ, **quickly.environment()}
    run = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def records_without_times(folder):
    return [
        {name: value for name, value in record.items() if not name.endswith("_seconds")}
        for record in records.read(folder / records.FILE_NAME)
    ]


@pytest.mark.slow
def test_killed_at_ten_moments_a_sweep_ends_with_the_same_records(tmp_path):
    flags = [*FLAGS, tiny.write_corpus(tmp_path / "corpus")]
    whole, killed, log = tmp_path / "whole", tmp_path / "killed", tmp_path / "log"
    assert launches([*flags, f"--workdir={whole}"], whole, log, [("never", 0)]) == [0]
    rng = np.random.default_rng(4)
    moments = [("touch", int(rng.integers(1, 400))) for _ in range(KILLS - 3)]
    moments += [("time", float(rng.uniform(0.2, 2.5))) for _ in range(3)]
    moments = [moments[place] for place in rng.permutation(KILLS)]
    log.unlink()
    codes = launches([*flags, f"--workdir={killed}"], killed, log, [*moments, ("never", 0), ("never", 0)])
    assert codes == [-9] * KILLS + [0, 0], "each must be struck, and the last ones must end"
    said = log.read_text()
    assert "it was never finished" in said, "a save must have been struck"
    assert "going on from" in said
    assert "all 4 cells are finished" in said
    assert records_without_times(killed) == records_without_times(whole)
    assert len(records_without_times(whole)) == 4
    assert not (killed / "checkpoints").exists(), "finished cells leave nothing behind"
    assert {path.name for path in killed.iterdir()} == {path.name for path in whole.iterdir()}
