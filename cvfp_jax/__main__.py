"""Runs the program: python -m cvfp_jax --experiment=context_dim. See --help."""

from cvfp_jax.cli.main import launch

if __name__ == "__main__":
    launch()
