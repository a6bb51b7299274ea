"""Several processes on loopback compute what one does, write once, and end together."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cvfp_jax.cli import hosts
from cvfp_jax.cli.main import main
from cvfp_jax.errors import MachineError, UserError
from cvfp_jax.report import records
from tests import quickly, tiny

pytestmark = pytest.mark.usefixtures("quick_compilation")
ROOT = Path(__file__).parents[2]
FLAGS = tiny.flags("--samples=12", "--context_dims=8", "--config.phase2.batch_size=192")
GONE = "error: another process of this run has ended"


def launch(flags, script=("launch.py",), devices=1):
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", *script, *flags],
        cwd=ROOT,
        env={**os.environ, **quickly.environment(devices)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def launch_two(flags, others=()):
    """Two processes of four devices each; the second with other flags, too."""
    coordinator = f"127.0.0.1:{free_port()}"
    return [
        launch(
            [
                *flags,
                *(others if number else ()),
                f"--coordinator={coordinator}",
                "--num_processes=2",
                f"--process_id={number}",
            ],
            devices=4,
        )
        for number in (0, 1)
    ]


def wait_for_saves(folder, process, least):
    """Waits until so many checkpoints were made."""
    end = time.monotonic() + 100
    while time.monotonic() < end and process.poll() is None:
        sealed = folder.glob("checkpoints/*/*/sealed.json")
        if max((int(path.parent.name) for path in sealed), default=-1) >= least:
            return
        time.sleep(0.02)
    raise AssertionError(process.communicate())


def the_record(folder):
    (record,) = records.read(folder / records.FILE_NAME)
    return record


def assert_close(record, expected):
    """Equal but for rounding, times, and what stands for the device."""
    for name, value in expected.items():
        if name.endswith("_seconds") or name == "device":
            continue
        if isinstance(value, float) or (isinstance(value, list) and value and isinstance(value[0], float)):
            # The last of the losses between passes is rounding's noise.
            assert record[name] == pytest.approx(value, rel=1e-4, abs=1e-9), name
        else:
            assert record[name] == value, name
    assert record.keys() == expected.keys()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny.write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def of_one(corpus, tmp_path_factory):
    """The record of one process with one device: of this one, which other tests may have compiled for."""
    folder = tmp_path_factory.mktemp("one")
    assert main(["launch.py", *FLAGS, corpus, f"--workdir={folder}"]) == 0
    return the_record(folder)


def test_two_processes_write_one_record_of_what_one_computes(corpus, of_one, tmp_path):
    flags = [*FLAGS, corpus, f"--workdir={tmp_path}"]
    first, second = launch_two(flags)
    (out, said), (other_out, other_said) = first.communicate(), second.communicate()
    assert (first.returncode, second.returncode) == (0, 0), said + other_said
    assert_close(the_record(tmp_path), of_one)
    assert "1 cells on 8 x cpu" in out
    assert "[Gloo]" not in out
    assert (other_out, other_said) == ("", ""), "only the first speaks"
    assert (tmp_path / "report.html").exists()
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.slow
def test_what_two_processes_compute_together_each_computes_alone():
    coordinator = f"127.0.0.1:{free_port()}"
    two = [
        launch([coordinator, str(number)], ("-m", "tests.distributed.two_hosts"), devices=4)
        for number in (0, 1)
    ]
    said = [process.communicate() for process in two]
    assert [process.returncode for process in two] == [0, 0], said
    assert said[0][0] == "equal\n", "the first alone prints"
    assert said[1][0] == ""


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_one_that_is_killed_ends_the_other_and_one_process_goes_on(corpus, of_one, tmp_path, killed):
    flags = [*FLAGS, corpus, f"--workdir={tmp_path}", "--checkpoint_minutes=0"]
    two = launch_two(flags)
    wait_for_saves(tmp_path, two[0], 2)
    two[killed].kill()
    began = time.monotonic()
    _, said = two[1 - killed].communicate(timeout=60)
    two[killed].communicate()
    assert time.monotonic() - began < 60
    assert two[1 - killed].returncode == MachineError.exit_code
    assert said.splitlines()[-1].startswith(GONE), said
    assert "Traceback" not in said
    alone = launch(flags)
    out, said = alone.communicate()
    assert alone.returncode == 0, said
    assert "going on from" in out
    assert_close(the_record(tmp_path), of_one)


@pytest.mark.slow
def test_two_go_on_from_one_and_a_signal_to_either_saves_and_ends_both(corpus, of_one, tmp_path):
    flags = [*FLAGS, corpus, f"--workdir={tmp_path}", "--checkpoint_minutes=0"]
    alone = launch(flags)
    wait_for_saves(tmp_path, alone, 1)
    alone.send_signal(signal.SIGTERM)
    assert "saved in phase 1" in alone.communicate()[1]
    saved = max(int(path.parent.name) for path in tmp_path.glob("checkpoints/*/*/sealed.json"))
    two = launch_two(flags)
    wait_for_saves(tmp_path, two[0], saved + 1)
    two[1].send_signal(signal.SIGTERM)
    said = [process.communicate(timeout=60) for process in two]
    assert "going on from" in said[0][0]
    assert [process.returncode for process in two] == [128 + signal.SIGINT, 128 + signal.SIGTERM], said
    assert all("interrupted: saved in" in err for _, err in said)
    last = launch(flags)
    out, err = last.communicate()
    assert last.returncode == 0, err
    assert "going on from" in out
    assert_close(the_record(tmp_path), of_one)


@pytest.mark.slow
def test_processes_that_differ_are_refused(corpus, tmp_path):
    flags = [*FLAGS, corpus, f"--workdir={tmp_path}"]
    first, second = launch_two(flags, ["--config.phase1.learning_rate=0.25"])
    (_, said), (_, other_said) = first.communicate(timeout=60), second.communicate(timeout=60)
    assert second.returncode == UserError.exit_code
    assert "process 1 has config.phase1.learning_rate=0.25, and process 0 " in other_said
    assert first.returncode == MachineError.exit_code
    assert said.splitlines()[-1].startswith(GONE), said


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_others_that_are_not_there_are_told_in_a_line(number):
    script = (
        "from cvfp_jax.distributed import processes\nfrom cvfp_jax.runtime.cluster import Place\n"
        f"with processes.joined(Place('127.0.0.1:{free_port()}', 2, {number}), seconds=2): pass"
    )
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == MachineError.exit_code
    line = f"error: process {number} of 2 did not find the others at 127.0.0.1:"
    assert run.stderr.splitlines()[-1].startswith(line), run.stderr


def test_a_launch_tells_mistakes_in_a_line():
    given = {"coordinator": "host:1234", "num_processes": "2", "process_id": "1"}
    for changes, message in [
        ({"process_id": None}, "lacks --process_id: give"),
        ({"coordinator": None, "process_id": None}, "lacks --coordinator and --process_id: give"),
        ({"coordinator": "host"}, "--coordinator=host is not HOST:PORT"),
        ({"coordinator": "host:http"}, "--coordinator=host:http is not HOST:PORT"),
        ({"coordinator": "host:70000"}, "--coordinator=host:70000 is not HOST:PORT"),
        ({"num_processes": "0"}, "--num_processes=0 is not a number of processes"),
        ({"num_processes": "two"}, "--num_processes=two is not a whole number"),
        ({"process_id": "2"}, "--process_id=2 is none of 2 processes"),
        ({"process_id": "-1"}, "--process_id=-1 is not a whole number"),
    ]:
        flags = {name: value for name, value in {**given, **changes}.items() if value is not None}
        with pytest.raises(UserError, match=message.replace("+", r"\+")):
            hosts.read_place(flags, {})


def test_a_clusters_launcher_says_which_process_this_is():
    slurm = {"SLURM_NTASKS": "4", "SLURM_PROCID": "3", "SLURM_STEP_NODELIST": "n[1-4]"}
    assert hosts.read_place({}, slurm) == hosts.Place(None, 4, 3)
    assert hosts.read_place({}, {**slurm, "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}) is None
    in_a_shell_of_a_job = {name: value for name, value in slurm.items() if name != "SLURM_STEP_NODELIST"}
    assert hosts.read_place({}, in_a_shell_of_a_job) is None
    ompi = {
        "OMPI_COMM_WORLD_SIZE": "2",
        "OMPI_COMM_WORLD_RANK": "1",
        "OMPI_MCA_orte_hnp_uri": "1.0;tcp://a:1",
    }
    assert hosts.read_place({}, ompi) == hosts.Place(None, 2, 1)
    flags = {"coordinator": "a:1", "num_processes": "2", "process_id": "0"}
    assert hosts.read_place(flags, slurm) == hosts.Place("a:1", 2, 0), "flags come first"
    assert hosts.read_place({**flags, "num_processes": "1"}, slurm) is None


def test_long_things_are_told_whole_in_pieces(monkeypatch):
    """What process 0 sends comes together again in another, however long."""
    from cvfp_jax.distributed import processes

    sent = []
    monkeypatch.setattr(processes, "is_multiprocess", lambda: True)
    monkeypatch.setattr(processes, "is_process_0", lambda: True)
    monkeypatch.setattr(processes, "_from_process_0", lambda words: sent.append(words.copy()) or words)
    for length in (0, 1, 4 * 255 - 2, 4 * 255 - 1, 4 * 255, 600_000):
        value = "x" * length
        assert processes.broadcast(value) == value
    first, sent = sent, []
    monkeypatch.setattr(processes, "is_process_0", lambda: False)
    pieces = iter(first)
    monkeypatch.setattr(processes, "_from_process_0", lambda words: next(pieces))
    for length in (0, 1, 4 * 255 - 2, 4 * 255 - 1, 4 * 255, 600_000):
        assert processes.broadcast(json.loads("null")) == "x" * length
