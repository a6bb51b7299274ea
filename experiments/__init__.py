"""The experiments, by the name that ``launch.py --experiment`` takes."""

from types import ModuleType

from experiments import context_dim

EXPERIMENTS: dict[str, ModuleType] = {"context_dim": context_dim}
