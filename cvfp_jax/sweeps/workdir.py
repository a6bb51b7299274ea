"""The folder of a sweep: which sweep it belongs to, and which versions made its contents."""

import importlib.metadata
import json
import subprocess
from pathlib import Path
from typing import Any

from cvfp_jax.config.grid import Grid
from cvfp_jax.config.overrides import flat_fields
from cvfp_jax.config.settings import RunConfig
from cvfp_jax.errors import UserError, file_error
from cvfp_jax.runtime.files import write_atomic
from cvfp_jax.runtime.version import VERSION

FILE_NAME = "config.json"
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "scipy", "tiktoken")


def git_revision() -> str | None:
    """Returns the project's commit, marked ``-dirty`` if files differ from it; None outside a checkout."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()

    try:
        # Installed inside another project's checkout, this would return that project's commit.
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return git("describe", "--always", "--abbrev=40", "--dirty", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None


def _versions() -> dict[str, str]:
    return {"cvfp_jax": VERSION, **{name: importlib.metadata.version(name) for name in _PACKAGES}}


def folder_of(text: str) -> Path:
    """Returns the folder that --workdir names.

    Raises:
      UserError: it is empty, a file, or in the home of an unknown user.
    """
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:
        raise UserError(f"--workdir={text} is not usable ({error}): use another.") from None
    if not text or path.is_file():
        raise UserError(f"--workdir={text} is not a folder: name a new or an existing one.")
    return path


def claim(workdir: Path, grid: Grid, device: str, has_records: bool) -> None:
    """Makes a folder a sweep's own, or checks that it already is.

    A sweep can be given more cells later, so the values on the grid's axes are no part of its identity. The
    file lists those of all launches, beside the versions and the device of the last. A folder without
    records can become any sweep's, so that a first launch with a mistake in it is no obstacle.

    Args:
      workdir: the folder, made if it is missing.
      grid: the sweep.
      device: what it runs on.
      has_records: whether the folder holds records.

    Raises:
      UserError: the folder holds a sweep that differs in a field, or cannot be written.
    """
    path = workdir / FILE_NAME
    shared = json.loads(json.dumps(grid.shared_fields()))
    axes = {name: list(values) for name, values in grid.axes.items()}
    if has_records:
        previous = _read(path)
        if previous["axes"].keys() != axes.keys():
            raise UserError(
                f"{workdir} holds a sweep over {', '.join(previous['axes'])}: use another --workdir."
            )
        _check_same(workdir, previous["config"], shared)
        for name, values in axes.items():
            axes[name] = list(dict.fromkeys([*previous["axes"][name], *values]))
    content: dict[str, Any] = {
        "config": shared,
        "axes": axes,
        "versions": _versions(),
        "device": device,
        "git_revision": git_revision(),
    }
    try:
        write_atomic(path, (json.dumps(content, indent=1) + "\n").encode())
    except OSError as error:
        raise file_error(f"cannot write {path}: {error.strerror}; use another --workdir.", error) from None


def _read(path: Path) -> dict[str, Any]:
    """Returns what an earlier launch wrote."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}): use another --workdir.") from None
    is_ours = (
        isinstance(content, dict)
        and all(isinstance(content.get(part), dict) for part in ("config", "axes"))
        and all(isinstance(values, list) for values in content["axes"].values())
    )
    if not is_ours:
        raise UserError(f"{path} was not written by this program: use another --workdir.")
    return content


def _check_same(workdir: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    # What a folder of an earlier version does not name had the effect of today's default.
    defaults = json.loads(json.dumps(flat_fields(RunConfig())))
    for name in sorted(old.keys() | new.keys()):
        if name.startswith("arms.") and not (name in old and name in new):
            continue  # an arm that one of both does not know has no cell that they could share
        was = old.get(name, defaults.get(name))
        if was != new.get(name):
            raise UserError(
                f"{workdir} holds a sweep with config.{name}={was}, not {new.get(name)}:"
                " give that value, or use another --workdir."
            )
