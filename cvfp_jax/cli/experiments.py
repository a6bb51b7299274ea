"""Finds the experiments that train: inside an installed package, beside the package in a source tree."""

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

_PACKAGE = Path(__file__).parents[1]


def load_experiments() -> Mapping[str, ModuleType]:
    """Returns the experiments by name; each module has ``PRESETS``, its grids by name.

    A wheel holds the folder ``experiments`` as the package ``cvfp_jax.experiments``. In a source tree it is
    loaded by its path under the same name, so that a user's own module ``experiments`` is never taken for it.
    """
    name = f"{_PACKAGE.name}.experiments"
    if name not in sys.modules:
        inside, beside = _PACKAGE / "experiments", _PACKAGE.parent / "experiments"
        folder = inside if (inside / "__init__.py").is_file() else beside
        spec = importlib.util.spec_from_file_location(
            name, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:  # a signal may strike here
            del sys.modules[name]
            raise
    return sys.modules[name].EXPERIMENTS
