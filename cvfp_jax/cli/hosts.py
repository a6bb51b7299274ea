"""The flags by which processes on several hosts find one another, or what SLURM and Open MPI set."""

from collections.abc import Mapping

from cvfp_jax.errors import UserError
from cvfp_jax.runtime.cluster import Place, place_in_cluster

FLAGS = {
    "coordinator": "HOST:PORT of process 0, the same for all processes of a run on several hosts",
    "num_processes": "how many processes there are; SLURM and Open MPI say it themselves",
    "process_id": "which of them this is, from 0",
}


def read_place(given: Mapping[str, str], environment: Mapping[str, str]) -> Place | None:
    """Returns which process of a run this is.

    Args:
      given: the flags that were given, with their texts.
      environment: the environment's variables.

    Returns:
      Its place; None if it is alone.

    Raises:
      UserError: some flags are missing, or a value is not allowed.

    >>> read_place({"coordinator": "a:1234", "num_processes": "2", "process_id": "1"}, {})
    Place(coordinator='a:1234', num_processes=2, process_id=1)
    >>> read_place({}, {}) is None
    True
    """
    missing = [f"--{name}" for name in FLAGS if name not in given]
    if len(missing) == len(FLAGS):
        return place_in_cluster(environment)
    if missing:
        raise UserError(
            f"a run on several hosts lacks {' and '.join(missing)}: give --coordinator=HOST:PORT,"
            " --num_processes and --process_id to each process, or none of them."
        )
    host, _, port = given["coordinator"].rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UserError(
            f"--coordinator={given['coordinator']} is not HOST:PORT: write for example"
            " --coordinator=10.0.0.1:7654, with a free port of process 0's host."
        )
    num_processes, process_id = (_whole(name, given[name]) for name in ("num_processes", "process_id"))
    if num_processes < 1:
        raise UserError(f"--num_processes={num_processes} is not a number of processes: write 1 or more.")
    if process_id >= num_processes:
        raise UserError(
            f"--process_id={process_id} is none of {num_processes} processes: write a number from 0 to"
            f" {num_processes - 1}."
        )
    return Place(given["coordinator"], num_processes, process_id) if num_processes > 1 else None


def _whole(name: str, text: str) -> int:
    if not text.isdecimal() or len(text) > 6:
        raise UserError(f"--{name}={text} is not a whole number from 0 on: write for example --{name}=1.")
    return int(text)
