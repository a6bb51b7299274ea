"""The experiments, by the name that ``launch.py --experiment`` takes."""

from types import ModuleType

from . import (
    ablations,
    baselines,
    blocks,
    context_dim,
    context_dim_search,
    context_modes,
    diversity,
    effective_rank,
    embedding_freeze,
    input_tokens,
    matrix,
    phase2_regularisation,
    sample_scaling,
    sample_size,
)

EXPERIMENTS: dict[str, ModuleType] = {
    "sample_scaling": sample_scaling,
    "effective_rank": effective_rank,
    "context_dim": context_dim,
    "input_tokens": input_tokens,
    "matrix": matrix,
    "diversity": diversity,
    "sample_size": sample_size,
    "embedding_freeze": embedding_freeze,
    "context_modes": context_modes,
    "blocks": blocks,
    "context_dim_search": context_dim_search,
    "phase2_regularisation": phase2_regularisation,
    "baselines": baselines,
    "ablations": ablations,
}
