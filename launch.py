"""Runs an experiment: python launch.py --experiment=context_dim. See --help.

The program itself is ``cvfp_jax/cli/main.py``; an install also has it as ``cvfp`` and ``python -m cvfp_jax``.
"""

from cvfp_jax.cli.main import launch, main

__all__ = ["main"]

if __name__ == "__main__":
    launch()
