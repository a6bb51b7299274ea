"""What ``compare`` has measured, as numbers for the JSON and as a table."""

import datetime
import importlib.metadata
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import Measured
from benchmarks.parts import CELL_MEMORY, UNITS, WHOLE_CELL, Scale, cell, cell_formula
from benchmarks.sides import OURS, TORCH
from benchmarks.workload import Workload
from cvfp_jax.config.settings import PRECISIONS
from cvfp_jax.report.formats import UNKNOWN
from cvfp_jax.report.page import Table

Numbers = dict[str, Any]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def header(work: Workload, scale: Scale, precision: str, sides: Sequence[str]) -> Numbers:
    """Returns what was measured, where and with what."""
    packages = ["jax", "jaxlib", "flax", "numpy"] + (["torch"] if TORCH in sides else [])
    facts: Numbers = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "precision": precision,
        "sizes": {name: getattr(work, name) for name in work.__dataclass_fields__}
        | {name: getattr(scale, name) for name in scale.__dataclass_fields__},
        "distinct_tokens": work.distinct_tokens(),
        "processor": _processor(),
        "cores": _cores(),
        "versions": {"python": platform.python_version()}
        | {package: importlib.metadata.version(package) for package in packages},
    }
    threads = {OURS: _cores()}  # XLA's CPU client takes one thread a core
    if TORCH in sides:
        threads[TORCH] = sys.modules["torch"].get_num_threads()
    return facts | {"threads": {side: threads[side] for side in sides}}


def header_lines(facts: Numbers) -> list[str]:
    """Returns the header of the output."""
    sizes = facts["sizes"]
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    threads = ", ".join(f"{count} threads of {side}" for side, count in facts["threads"].items())
    return [
        f"{facts['precision']}, {facts['cores']} cores of {facts['processor']}, {threads}; {versions}",
        f"N={sizes['tokens']:,} ({facts['distinct_tokens']:,} distinct) D={sizes['context_dim']}"
        f" E={sizes['embed_dim']} V={sizes['vocab']:,} K={sizes['input_tokens']}",
    ]


def numbers(
    names: Sequence[str],
    measured: Mapping[str, Measured],
    peaks: Mapping[str, Mapping[str, float]],
    work: Workload,
    scale: Scale,
    precision: str,
) -> Numbers:
    """Returns everything that was measured, by kind of number and part.

    ``ratios`` are to PyTorch in f32, ``ratios_same_precision`` to PyTorch in the run's precision. Times are
    seconds a unit of work, rates 10^9 operations a second, memory 10^6 bytes. The whole cell's quartiles are
    sums of its parts' quartiles, and its memory is that of phase 1 or of training, whichever is more.
    """
    distinct = work.distinct_tokens()
    tables: Numbers = {
        kind: {}
        for kind in (
            "rows", "ratios", "ratios_same_precision", OURS, TORCH, "torch_same_precision", "gflop", "gflops",
            "torch_gflops", "fraction_of_peak", "peak_gflops", "peak_rss_mb", "compile_seconds",
        )
    }  # fmt: skip
    for name in names:
        if name == WHOLE_CELL:
            column = _cell(measured, peaks, work, scale, precision, distinct)
        else:
            column = _column(measured[name], distinct, precision) | {"peak_rss_mb": dict(peaks[name])}
        for kind, value in (column | _derived(column)).items():
            tables[kind][name] = value
    if WHOLE_CELL in names:
        counts = cell(work, scale)
        tables["cell"] = {
            "formula": cell_formula(counts),
            "parts": {
                name: {"count": count} | _column(measured[name], distinct, precision)
                for name, count in counts.items()
            },
        }
    return tables | {"matmul_gflops": _products(measured)}


def _column(measured: Measured, distinct: int, precision: str) -> Numbers:
    """A part's numbers; none of a side that was not run."""
    part = measured.part
    timings = {OURS: measured.ours, TORCH: measured.torch, "torch_same_precision": measured.torch_same}
    column: Numbers = {
        side: timing.facts(part.runs_per_unit, UNITS[part.kind]) for side, timing in timings.items() if timing
    }
    if measured.ours:
        column["compile_seconds"] = measured.ours.compilation
    return column | {
        "rows": part.rows,
        "gflop": part.operations(distinct) / 1e9,
        "peak_gflops": measured.best_product(precision),
    }


def _derived(column: Numbers) -> Numbers:
    """The numbers that follow from the medians."""
    derived = {}
    for ratio, side in (("ratios", TORCH), ("ratios_same_precision", "torch_same_precision")):
        if OURS in column and side in column:
            derived[ratio] = column[side]["median"] / column[OURS]["median"]
    if OURS in column:
        derived["gflops"] = column["gflop"] / column[OURS]["median"]
        derived["fraction_of_peak"] = derived["gflops"] / column["peak_gflops"]
    if TORCH in column:
        derived["torch_gflops"] = column["gflop"] / column[TORCH]["median"]
    return derived


def _cell(
    measured: Mapping[str, Measured],
    peaks: Mapping[str, Mapping[str, float]],
    work: Workload,
    scale: Scale,
    precision: str,
    distinct: int,
) -> Numbers:
    """The numbers of a whole cell, from those of its parts."""
    counts = cell(work, scale)
    columns = {name: _column(measured[name], distinct, precision) for name in counts}
    first = next(iter(columns.values()))
    operations = {name: count * columns[name]["gflop"] for name, count in counts.items()}
    at_peak = sum(operations[name] / columns[name]["peak_gflops"] for name in counts)
    whole: Numbers = {
        "gflop": sum(operations.values()),
        "peak_gflops": sum(operations.values()) / at_peak,
        "peak_rss_mb": {
            side: max(peaks[name][side] for name in CELL_MEMORY) for side in peaks[CELL_MEMORY[0]]
        },
    }
    if "compile_seconds" in first:
        whole["compile_seconds"] = sum(column["compile_seconds"] for column in columns.values())
    for side in (OURS, TORCH, "torch_same_precision"):
        if side in first:
            times = [(count, columns[name][side]) for name, count in counts.items()]
            whole[side] = {
                "median": sum(count * time["median"] for count, time in times),
                "quartiles": [sum(count * time["quartiles"][end] for count, time in times) for end in (0, 1)],
                "repeats": min(time["repeats"] for _, time in times),
                "unit": "seconds a cell",
            }
    return whole


def _products(measured: Mapping[str, Measured]) -> Numbers:
    """The rates of products, by operands: the best of this run, and all of them."""
    rates: dict[str, Numbers] = {}
    for name, one in measured.items():
        for operands in PRECISIONS:
            mine = rates.setdefault(operands, {"best": 0.0, "parts": {}})
            best = one.best_product(operands)
            mine["best"] = max(mine["best"], best)
            mine["parts"][name] = best
    return rates


def _seconds(facts: Numbers | None) -> str:
    """A time with its quartiles, in the unit that suits it."""
    if facts is None:
        return UNKNOWN
    scale, unit = next(
        pair
        for pair in ((1, "s"), (1e3, "ms"), (1e6, "us"), (1e9, "ns"))
        if facts["median"] * pair[0] >= 1 or pair[1] == "ns"
    )
    low, high = facts["quartiles"]
    return f"{facts['median'] * scale:.3g} [{low * scale:.3g}, {high * scale:.3g}] {unit}"


def table(facts: Numbers, names: Sequence[str]) -> Table:
    """Returns the table of the output."""

    def cell_of(kind: str, name: str, form: str) -> str:
        value = facts[kind].get(name)
        return UNKNOWN if value is None else format(value, form)

    reduced = facts["precision"] != "f32"
    rows = []
    for name in names:
        sides = (facts[OURS].get(name), facts[TORCH].get(name))
        unit = next(side["unit"] for side in sides if side).removeprefix("seconds ")
        memory = facts["peak_rss_mb"].get(name, {})
        rows.append(
            [
                f"{name} ({unit})",
                *map(_seconds, sides),
                cell_of("ratios", name, ".2f"),
                *([cell_of("ratios_same_precision", name, ".2f")] if reduced else []),
                cell_of("gflops", name, ",.0f"),
                cell_of("fraction_of_peak", name, ".0%"),
                *(format(memory[side], ",.0f") if side in memory else UNKNOWN for side in (OURS, TORCH)),
                cell_of("compile_seconds", name, ".1f"),
            ]
        )
    columns = (
        "part", "ours [quartiles]", "torch f32 [quartiles]", "ratio",
        *([f"to {facts['precision']}"] if reduced else []),
        "needed GFLOP/s", "of peak", "ours MB", "torch MB", "compile s",
    )  # fmt: skip
    return Table(columns, rows)


def _rows_meant(name: str, sizes: Numbers) -> int:
    """The rows of a batch that a part's name or --batch says."""
    return int(sizes["eval_batch"]) if name == "phase2_eval" else int(name.rpartition("_")[2])


def footer_lines(facts: Numbers) -> list[str]:
    """Returns what stands below the table."""
    best = ", ".join(f"{rates['best']:,.0f} {operands}" for operands, rates in facts["matmul_gflops"].items())
    cut = [
        f"{name}: {rows:,} rows, because there are no more tokens"
        for name, rows in facts["rows"].items()
        if name.startswith("phase2") and rows < _rows_meant(name, facts["sizes"])
    ]
    lines = [*cut, f"matrix products, best median of this run: {best} GFLOP/s"]
    return [*lines, facts["cell"]["formula"]] if "cell" in facts else lines
