"""Scaling laws; numpy and scipy only, usable without JAX."""
