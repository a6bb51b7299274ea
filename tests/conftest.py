"""Strict JAX, caches of the tests' own, and the recorded numbers of the original."""

import json
import os
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from cvfp_jax.runtime import compilation
from tests import quickly

# The same examples every time, so that a failure is a change's; --hypothesis-profile=default explores.
# Nor fails a test because a loaded machine took long to import what the first example needs.
settings.register_profile("fixed", derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("fixed")
# What one process has compiled is loaded by all others, of this run and of later ones.
os.environ["CVFP_CACHE_DIR"] = str(Path(__file__).parents[1] / ".pytest_cache")
if folder := compilation.enable_disk_cache():
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
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


@pytest.fixture(scope="session")
def quick_compilation():
    """Takes two thirds off the time to compile, for tests that compile much and compute little."""


@pytest.fixture(scope="session")
def full_compilation():
    """Compiles as a launch does, for a test in a file of others that ask for ``quick_compilation``."""


def compiles_quickly(item):
    """Says whether a test asks for ``quick_compilation``, or is an example in a docstring."""
    if isinstance(item, pytest.DoctestItem):
        return True
    return "quick_compilation" in item.fixturenames and "full_compilation" not in item.fixturenames


def pytest_collection_modifyitems(items):
    """Puts the files that begin with a quick test first, so that what is compiled serves the next file."""
    first = {}
    for item in items:
        first.setdefault(item.path, compiles_quickly(item))
    items.sort(key=lambda item: not first[item.path])


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item):
    """Compiles quickly for the tests that ask for it, and in full for all others."""
    quick = compiles_quickly(item)
    if quick != jax.config.read("jax_disable_most_optimizations"):
        quickly.switch(quick)
        # Processes of a test compile as it does.
        os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = str(int(quick))
