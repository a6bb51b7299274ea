"""Settings of the models that CVFP is measured against."""

import dataclasses

from cvfp_jax.config.checks import at_least
from cvfp_jax.config.documented import documented

CVFP = "cvfp"
ARCHITECTURES = (CVFP, "gru", "transformer", "bptt")


@documented
@dataclasses.dataclass(frozen=True)
class BaselineConfig:
    """An ordinary model in the place of both phases, of as many parameters as both blocks have.

    It is trained by the settings of phase 2 (optimizer, batch, dropout, epochs, early stopping), which are
    thereby the same for all architectures.
    """

    segment: int = 64
    """Tokens that a lane of a training step reads: how far back gradients go, and a transformer's window. A
    step has phase2.batch_size / segment lanes."""
    num_layers: int = 1
    """Layers of a GRU or a transformer; their width follows from the number of parameters."""
    num_heads: int = 4
    """Attention heads of a transformer."""

    def __post_init__(self) -> None:
        """Validates the fields."""
        at_least(2, "baseline", self, "segment")
        at_least(1, "baseline", self, "num_layers", "num_heads")
