"""Which process of a run this is, where a cluster's launcher (SLURM, Open MPI) says it."""

import dataclasses
from collections.abc import Mapping

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


def place_in_cluster(environment: Mapping[str, str]) -> Place | None:
    """What a cluster's launcher says of this process."""
    for count, number in _CLUSTERS:
        found = [environment.get(name, "") for name in (count, number)]
        if all(text.isdecimal() for text in found) and int(found[0]) > 1 and _PLACES[count] in environment:
            return Place(None, int(found[0]), int(found[1]))
    return None
