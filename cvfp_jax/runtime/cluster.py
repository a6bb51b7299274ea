"""Which process of a run this is, where a cluster's launcher (SLURM, Open MPI) says it."""

import dataclasses
from collections.abc import Mapping

# The variables of each launcher: the number of processes, which one this is, and where process 0 runs. A
# shell inside a job has the first two as well, and must not wait for others.
_LAUNCHERS = (
    ("SLURM_NTASKS", "SLURM_PROCID", "SLURM_STEP_NODELIST"),
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_MCA_orte_hnp_uri"),
)


@dataclasses.dataclass(frozen=True)
class Place:
    """Which process this is among those of a run."""

    coordinator: str | None  # HOST:PORT of process 0; None where JAX asks the cluster
    num_processes: int
    process_id: int


def place_in_cluster(environment: Mapping[str, str]) -> Place | None:
    """Returns what a cluster's launcher says of this process; None if it is alone.

    >>> place_in_cluster({"SLURM_NTASKS": "4", "SLURM_PROCID": "3", "SLURM_STEP_NODELIST": "n[1-4]"})
    Place(coordinator=None, num_processes=4, process_id=3)
    >>> place_in_cluster({}) is None
    True
    """
    for count, index, address in _LAUNCHERS:
        texts = [environment.get(name, "") for name in (count, index)]
        if all(text.isdecimal() for text in texts) and int(texts[0]) > 1 and address in environment:
            return Place(None, int(texts[0]), int(texts[1]))
    return None
