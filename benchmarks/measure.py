"""The measuring of ``compare``: all parts, side by side, each with this machine's rate of matrix products."""

import dataclasses
import gc
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

from benchmarks import memory, rate
from benchmarks.parts import Part
from benchmarks.sides import OURS, TORCH, has_precision
from benchmarks.timing import Run, Timing, alternate

# Processes whose memory is measured side by side; their time is not. Much of it is spent on one core.
_AT_ONCE = 3
# Receives a line that says what was done.
Tell = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Measured:
    """A part's timings; a side that was not run has none."""

    part: Part
    ours: Timing | None
    torch: Timing | None  # in f32
    torch_same: Timing | None  # in this project's precision
    products: dict[tuple[str, str], tuple[tuple[int, int, int], Timing]]  # by operands and shape

    def best_product(self, precision: str) -> float:
        """The fastest median rate of products of these operands, in 10^9 operations a second."""
        return max(
            rate.gflops(shape, timing.median)
            for (operands, _), (shape, timing) in self.products.items()
            if operands == precision
        )


def measure_part(part: Part, modules: Mapping[str, ModuleType], precision: str, repeats: int) -> Measured:
    """Times a part on every side that is there, and products of its shape and a large square one in turn."""
    runs: dict[str | tuple[str, str], Run] = {}
    if OURS in modules:
        runs[OURS] = modules[OURS].prepare(part, precision)
    if TORCH in modules:
        runs[TORCH] = modules[TORCH].prepare(part, "f32")
        if has_precision(part, precision):
            runs[TORCH, precision] = modules[TORCH].prepare(part, precision)
    shapes = {"square": rate.SQUARE, "part": part.product_shape()}
    products: dict[str | tuple[str, str], Run] = dict(rate.product_runs(shapes).items())
    timings = alternate(runs | products, repeats)
    torch = timings.get(TORCH)
    return Measured(
        part,
        timings.get(OURS),
        torch,
        timings.get((TORCH, precision), torch),
        {key: (shapes[key[1]], timings[key]) for key in products if isinstance(key, tuple)},
    )


def measure_all(
    chosen: Mapping[str, Part], modules: Mapping[str, ModuleType], precision: str, repeats: int, tell: Tell
) -> dict[str, Measured]:
    """Times parts one after the other; those that are the same at these sizes, once."""
    done: dict[Part, Measured] = {}
    for number, (name, part) in enumerate(chosen.items(), 1):
        if part in done:
            tell(f"[{number}/{len(chosen)}] {name}: measured above")
            continue
        done[part] = measure_part(part, modules, precision, repeats)
        gc.collect()  # tables of the part before are gone before the next ones are made
        tell(f"[{number}/{len(chosen)}] {name}: {_summary(done[part])}")
    return {name: done[part] for name, part in chosen.items()}


def _summary(measured: Measured) -> str:
    sides = {OURS: measured.ours, TORCH: measured.torch}
    return ", ".join(
        f"{side} {timing.median / measured.part.runs_per_unit:.3g} s (first run {timing.first:.1f} s,"
        f" {len(timing.seconds)} rounds)"
        for side, timing in sides.items()
        if timing
    )


def measure_memory(
    chosen: Mapping[str, Part],
    sides: Sequence[str],
    precision: str,
    size_flags: Sequence[str],
    tell: Tell,
) -> dict[str, dict[str, float]]:
    """Measures each part's peak memory on each side in a process of its own; PyTorch in f32."""
    names: dict[Part, str] = {}
    for name, part in chosen.items():
        names.setdefault(part, name)
    # PyTorch's take longest, so that none of them is left for last.
    jobs = [(name, side) for side in reversed(sides) for name in names.values()]

    def one(job: tuple[str, str]) -> float:
        name, side = job
        return float(
            memory.measure(side, name, precision if side == OURS else "f32", size_flags)["peak_rss_mb"]
        )

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        peaks = dict(zip(jobs, pool.map(one, jobs), strict=True))
    tell(f"memory: {len(jobs)} processes")
    return {name: {side: peaks[names[part], side] for side in sides} for name, part in chosen.items()}
