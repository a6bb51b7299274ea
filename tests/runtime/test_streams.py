import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

WORK = """
import os, sys
from cvfp_jax.runtime import streams
streams.open_closed()
with streams.may_be_lost():
    for number in range(20000):
        print("a line of output", number)
        print("\\u4e00", file=sys.stderr)
    with open(sys.argv[1], "w") as file:
        file.write("done")
print("the end")
"""


@pytest.mark.parametrize(
    ("redirected", "told"),
    [
        ("| head -1", "stdout cannot be written any more (Broken pipe): going on"),
        ("> /dev/full", "stdout cannot be written any more (No space left on device): going on"),
        (">&-", None),
        ("2>&-", None),
        ("2> /dev/full", None),
        (">&- 2>&- <&-", None),
    ],
)
def test_work_goes_on_when_nobody_reads_it(tmp_path, redirected, told):
    done = tmp_path / "done"
    command = f"PYTHONIOENCODING=latin-1 {sys.executable} -c '{WORK}' {done} {redirected}"
    run = subprocess.run(["bash", "-o", "pipefail", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert (run.returncode, done.read_text()) == (0, "done"), run.stderr[-500:]
    assert "Traceback" not in run.stdout + run.stderr
    if told:
        assert run.stderr.splitlines().count(told) == 1
        assert "\\u4e00" in run.stderr
