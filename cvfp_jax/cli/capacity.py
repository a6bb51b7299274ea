"""The flags of a capacity plan: the devices, and what they have reached."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cvfp_jax.config.settings import PRECISIONS, RunConfig
from cvfp_jax.errors import UserError, read_text

if TYPE_CHECKING:
    from cvfp_jax.planning.roofline import Calibration, Machine

_DEVICES = {
    "devices": "plan for so many devices, with the next two flags: bytes, seconds, the most tokens that fit",
    "device_memory_gb": "memory of each that arrays may take, in 10^9 bytes",
    "device_tflops": "matrix products of each in the cells' precision, in 10^12 operations a second",
}
# With what stands for each where it is not given: an H100's memory, 400 Gb/s of network, a PCIe 4 bus.
_RATES = {
    "memory_gb_per_second": (3350.0, "between a device and its memory"),
    "link_gb_per_second": (50.0, "that a device sends to others"),
    "host_gb_per_second": (
        25.0,
        "between a device and files of its host, or the files' disk if it is slower",
    ),
}
FLAGS = {
    **_DEVICES,
    "num_tokens": "training tokens to plan for, such as 2.4e8 (default: the most that fit)",
    "calibration": "a JSON file of benchmarks.compare: the shares of their products' rate that parts reached",
    **{name: f"10^9 bytes a second {text} (default: {rate:g})" for name, (rate, text) in _RATES.items()},
}
_MOST_DEVICES, _MOST_TOKENS = 10**6, 10**15
# A part may be a little faster than the products beside it; more is no share.
_LARGEST_SHARE = 2.0


class CapacityRequest(NamedTuple):
    """The machine that a command line plans for."""

    machine: "Machine"
    num_tokens: int | None
    calibration: "Calibration | None"

    def plan(self, cells: Mapping[str, RunConfig], as_json: bool) -> str:
        """Returns the plans of cells by the name of their series, whose sizes in samples do not count.

        Raises:
          UserError: the calibration was measured in another precision.
        """
        from cvfp_jax.planning.capacity import plan_capacity  # with the next line brings SciPy
        from cvfp_jax.report.plans import capacity_text

        for config in cells.values():
            if self.calibration is not None and self.calibration.precision != config.precision:
                raise UserError(
                    f"--calibration={self.calibration.source} was measured in {self.calibration.precision},"
                    f" and the cells run in {config.precision}: measure with --precision={config.precision}."
                )
        plans = [
            plan_capacity(config, self.machine, self.num_tokens, self.calibration, series)
            for series, config in cells.items()
        ]
        return json.dumps([plan.to_json() for plan in plans], indent=1) if as_json else capacity_text(plans)


def capacity_request(given: Mapping[str, str]) -> CapacityRequest | None:
    """Returns the machine that flags describe, or None if they describe none.

    Args:
      given: the flags that were given, with their texts.

    Raises:
      UserError: a flag is missing, means nothing, or its file cannot be used.
    """
    first = next((name for name in FLAGS if name in given), None)
    if first is None:
        return None
    shown = f"--{first}={given[first]}"
    if "dry_run" not in given:
        raise UserError(f"{shown} is for a capacity plan, which runs nothing: add --dry_run.")
    if missing := [f"--{name}" for name in _DEVICES if name not in given]:
        raise UserError(
            f"{shown} is for a capacity plan, which also needs {' and '.join(missing)}: write for example"
            " --devices=64 --device_memory_gb=80 --device_tflops=400."
        )
    from cvfp_jax.planning.roofline import Machine  # brings what the command line does without

    rates = {
        name: _number(name, given[name]) if name in given else rate for name, (rate, _) in _RATES.items()
    }
    machine = Machine(
        devices=_whole("devices", given["devices"], 1, _MOST_DEVICES),
        memory_bytes=int(1e9 * _number("device_memory_gb", given["device_memory_gb"])),
        flops=1e12 * _number("device_tflops", given["device_tflops"]),
        memory_rate=1e9 * rates["memory_gb_per_second"],
        link_rate=1e9 * rates["link_gb_per_second"],
        host_rate=1e9 * rates["host_gb_per_second"],
    )
    tokens = None
    if "num_tokens" in given:
        tokens = _whole("num_tokens", given["num_tokens"], 2, _MOST_TOKENS)
    calibration = read_calibration(Path(given["calibration"])) if "calibration" in given else None
    return CapacityRequest(machine, tokens, calibration)


def _number(flag: str, text: str) -> float:
    try:
        value = float(text)
        if not 1e-6 <= value <= 1e9:
            raise ValueError
    except ValueError:
        raise UserError(
            f"--{flag}={text} is not allowed: it must be a number from 1e-06 to 1e+09, for example"
            f" --{flag}=80."
        ) from None
    return value


def _whole(flag: str, text: str, least: int, most: int) -> int:
    """A whole number, which may be written as 2.4e8."""
    try:
        value = float(text)
        if not (math.isfinite(value) and value == int(value) and least <= value <= most):
            raise ValueError
    except ValueError:
        raise UserError(
            f"--{flag}={text} is not allowed: it must be a whole number from {least} to {most:g}, for example"
            f" --{flag}={'64' if flag == 'devices' else '2.4e8'}."
        ) from None
    return int(value)


def read_calibration(path: Path) -> "Calibration":
    """Reads what parts reached of their products' rate.

    Args:
      path: a JSON file of ``benchmarks.compare``; of it ``precision`` and ``fraction_of_peak`` are read.

    Raises:
      UserError: it cannot be read or holds something else.
    """
    from cvfp_jax.planning.roofline import Calibration

    advice = "name a file that python -m benchmarks.compare --json=FILE has written."
    try:
        measured = json.loads(read_text(path, advice))
    except ValueError as error:
        raise UserError(f"--calibration={path} is not JSON ({error}): {advice}") from None
    shares = measured.get("fraction_of_peak") if isinstance(measured, dict) else None
    if not isinstance(shares, dict) or not shares or measured.get("precision") not in PRECISIONS:
        raise UserError(f"--calibration={path} has no precision or no fraction_of_peak: {advice}")
    for name, share in shares.items():
        is_number = isinstance(share, int | float) and not isinstance(share, bool)
        if not (is_number and 0 < share <= _LARGEST_SHARE):
            raise UserError(
                f"--calibration={path}: fraction_of_peak.{name}={share} is no share of a rate, from above 0"
                f" to {_LARGEST_SHARE:g}: {advice}"
            )
    return Calibration(
        str(path), measured["precision"], {name: float(share) for name, share in shares.items()}
    )
