"""One part of one side in a process of its own: its peak memory and what a run takes.

python -m benchmarks.memory --side=ours --part=phase1_k1

The peak is that of the whole process with its libraries, its tables and, on this project's side, its
compiler. It is read from ``VmHWM`` where there is a /proc: ``ru_maxrss`` of a new process begins with the
peak of the one that started it.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import flags, sides
from benchmarks.parts import parts
from benchmarks.timing import alternate
from cvfp_jax.errors import MachineError


def peak_rss_mb() -> float:
    """Returns the most memory that this process has held, in 10^6 bytes."""
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) * 1024 / 1e6
    except (OSError, KeyError):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = flags.Parser(__doc__)
    parser.add_argument("--side", choices=(sides.OURS, sides.TORCH), required=True)
    parser.add_argument("--part", required=True, help="a part of benchmarks.compare")
    parser.add_argument("--repeats", type=flags.positive, default=1, help="runs after the first (1)")
    flags.add_precision(parser)
    flags.add_sizes(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> None:
    """Runs the part and prints a line of JSON."""
    options = _options(argv)
    part = parts(*flags.sizes(options)).get(options.part)
    if part is None:
        raise flags.UserError(
            f"--part={options.part} is unknown: choose {', '.join(parts(*flags.sizes(options)))}."
        )
    run = sides.load(options.side).prepare(part, options.precision)
    timing = alternate({"run": run}, options.repeats)["run"]
    facts = timing.facts(part.runs_per_unit, "a unit of work")
    print(json.dumps({"peak_rss_mb": peak_rss_mb(), "compile_seconds": timing.compilation, **facts}))


def measure(
    side: str, part: str, precision: str, size_flags: Sequence[str], repeats: int = 1
) -> dict[str, Any]:
    """Returns what another process measures.

    Args:
      side: ``ours`` or ``torch``.
      part: its name.
      precision: ``f32`` or ``bf16``.
      size_flags: the flags of its sizes.
      repeats: runs after the first.

    Raises:
      MachineError: it broke down, perhaps for want of memory.
    """
    command = [sys.executable, "-m", "benchmarks.memory", f"--side={side}", f"--part={part}"]
    command += [f"--precision={precision}", f"--repeats={repeats}", *size_flags]
    root = str(Path(__file__).parents[1])
    # Programs compiled before would leave the compiler out of the peak.
    environment = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1].removeprefix("error: ")
        why = "killed, probably for want of memory" if done.returncode < 0 else last
        raise MachineError(f"{part} of {side} broke down in its own process: {why}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


if __name__ == "__main__":
    sys.exit(flags.run(main))
