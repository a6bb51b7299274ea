"""The flags by which processes on several hosts find one another, or what SLURM and Open MPI set."""

import dataclasses
from collections.abc import Mapping

from cvfp_jax.errors import UserError

FLAGS = {
    "coordinator": "HOST:PORT of process 0, the same for all processes of a run on several hosts",
    "num_processes": "how many processes there are; SLURM and Open MPI say it themselves",
    "process_id": "which of them this is, from 0",
}
# The number of processes and which one this is.
_CLUSTERS = (("SLURM_NTASKS", "SLURM_PROCID"), ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"))
# Without these JAX does not know where process 0 is: a shell of a job has the others, too.
_PLACES = {"SLURM_NTASKS": "SLURM_STEP_NODELIST", "OMPI_COMM_WORLD_SIZE": "OMPI_MCA_orte_hnp_uri"}


@dataclasses.dataclass(frozen=True)
class Place:
    """A process among those of a run."""

    coordinator: str | None  # None where the cluster says it
    num_processes: int
    process_id: int


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
        return _of_cluster(environment)
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
    count, number = (_whole(name, given[name]) for name in ("num_processes", "process_id"))
    if count < 1:
        raise UserError(f"--num_processes={count} is not a number of processes: write 1 or more.")
    if number >= count:
        raise UserError(
            f"--process_id={number} is none of {count} processes: write a number from 0 to {count - 1}."
        )
    return Place(given["coordinator"], count, number) if count > 1 else None


def _whole(name: str, text: str) -> int:
    if not text.isdecimal() or len(text) > 6:
        raise UserError(f"--{name}={text} is not a whole number from 0 on: write for example --{name}=1.")
    return int(text)


def _of_cluster(environment: Mapping[str, str]) -> Place | None:
    """What a cluster's launcher says of this process."""
    for count, number in _CLUSTERS:
        found = [environment.get(name, "") for name in (count, number)]
        if all(text.isdecimal() for text in found) and int(found[0]) > 1 and _PLACES[count] in environment:
            return Place(None, int(found[0]), int(found[1]))
    return None
