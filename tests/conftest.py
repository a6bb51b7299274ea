"""Strict JAX, a cache of the tests' own, and the recorded numbers of the original."""

import json
import os
import tempfile
from pathlib import Path

# Sweeps in processes of their own compile what this one has compiled too; workers inherit the folder.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", tempfile.mkdtemp(prefix="cvfp-test-compiled-"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

import jax
import numpy as np
import pytest
from hypothesis import settings

from cvfp_jax.runtime import compilation

# The same examples every time, so that a failure is a change's; --hypothesis-profile=default explores.
settings.register_profile("fixed", derandomize=True)
settings.load_profile("fixed")
# No test reads or fills the user's cache.
os.environ["CVFP_CACHE_DIR"] = tempfile.mkdtemp(prefix="cvfp-test-cache-")
# As a launch has it, and a cell; on a CPU neither changes a digit.
compilation.request_determinism()
jax.config.update("jax_default_matmul_precision", "highest")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

GOLDENS = Path(__file__).parent / "goldens"


@pytest.fixture(scope="session")
def golden():
    """Returns a reader of goldens: name -> (facts, arrays)."""

    def read(name):
        facts = json.loads((GOLDENS / f"{name}.json").read_text())
        path = GOLDENS / f"{name}.npz"
        if not path.exists():
            return facts, {}
        with np.load(path, allow_pickle=False) as arrays:
            return facts, dict(arrays.items())

    return read


@pytest.fixture(scope="module")
def quick_compilation():
    """Halves the time to compile, for tests that compile much and compute little."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
