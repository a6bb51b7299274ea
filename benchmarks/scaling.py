"""How time and memory of this project grow with N, D, K and V, four points each.

python -m benchmarks.scaling --json=FILE --figure=FILE.png

An iteration of phase 1 against the training tokens N, the context width D and the input tokens K, and a
training step of phase 2 (2,048 tokens) against the vocabulary V. Each point is a process of its own: its
median of three runs after the first, and its peak memory. The exponent p of ``c x^p`` is the slope of ln y
on ln x with its standard error; memory has a part that does not grow, so its slope between the ends, in
bytes, is told too.
"""

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks import flags, memory, result
from benchmarks.parts import Scale
from benchmarks.sides import OURS
from benchmarks.workload import Workload
from cvfp_jax.config.settings import ModelConfig, RunConfig
from cvfp_jax.planning.capacity import largest_count
from cvfp_jax.planning.memory_model import ALWAYS, PHASE1, Share, cell_arrays
from cvfp_jax.report.page import Table
from cvfp_jax.runtime.memory import available_memory
from cvfp_jax.scaling.line import log_line

_PROCESS_BYTES = 2 * 10**9  # libraries and compiler, from above


@dataclasses.dataclass(frozen=True)
class Axis:
    """A size that varies while the others stay."""

    letter: str
    flag: str
    part: str
    unit: str
    values: tuple[int, ...]


def axes(quick: bool) -> list[Axis]:
    """Returns what is measured."""
    step = "an iteration of phase 1"
    batch = "a training step of phase 2"
    if quick:
        return [
            Axis("N", "tokens", "phase1_k1", step, (4000, 8000, 16_000, 32_000)),
            Axis("D", "context_dim", "phase1_k1", step, (48, 96, 192, 384)),
            Axis("K", "input_tokens", "cell_phase1", step, (1, 2, 3, 4)),
            Axis("V", "vocab", "phase2_train_2048", batch, (2000, 4000, 8000, 16_000)),
        ]
    return [
        Axis("N", "tokens", "phase1_k1", step, (60_000, 200_000, 600_000, 2_000_000)),
        Axis("D", "context_dim", "phase1_k1", step, (192, 384, 768, 1536)),
        Axis("K", "input_tokens", "cell_phase1", step, (1, 2, 3, 4)),
        Axis("V", "vocab", "phase2_train_2048", batch, (6250, 12_500, 25_000, 50_000)),
    ]


def expected_bytes(work: Workload) -> int:
    """Estimates a point's peak memory, from above: phase 1's arrays, two tables more and the process."""
    model = ModelConfig(
        context_dim=work.context_dim, embed_dim=work.embed_dim, num_input_tokens=work.input_tokens
    )
    config = RunConfig(model=model)
    made = cell_arrays(config, work.vocab, Share.whole(config, work.vocab, work.tokens, on_cpu=True))
    tables = 2 * made[ALWAYS]["embedding table"]
    return tables + sum(made[ALWAYS].values()) + sum(made[PHASE1].values()) + _PROCESS_BYTES


def fitting(axis: Axis, base: Workload, available: int | None) -> tuple[Axis, str]:
    """Returns the axis without what does not fit in memory, and a line that says so.

    The largest value becomes the largest that fits, in two digits; values beyond it go.
    """

    def expected(value: int) -> int:
        return expected_bytes(dataclasses.replace(base, **{axis.flag: value}))

    largest = axis.values[-1]
    if axis.flag != "tokens" or available is None or expected(largest) <= available:
        return axis, ""
    most = largest_count(lambda value: expected(value) <= available)
    most -= most % 10 ** max(0, len(str(most)) - 2)
    values = tuple(value for value in axis.values if value < most)
    values += (most,) if most > axis.values[0] else ()
    return dataclasses.replace(axis, values=values), (
        f"N = {largest:,} needs up to {expected(largest) / 1e9:.1f} GB and"
        f" {available / 1e9:.1f} GB are free: the largest N is {values[-1] if values else 0:,}"
    )


def growth(values: Sequence[int], measures: Sequence[float]) -> dict[str, Any]:
    """Returns the exponent of a power law with its standard error, or why there is none."""
    line = log_line(values, [math.log(measure) for measure in measures])
    if not line.fitted:
        return {"status": line.status, "exponent": None, "std_err": None}
    return {"status": line.status, "exponent": line.alpha, "std_err": line.std_err}


def summarise(axis: Axis, points: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns an axis' points and what follows from them."""
    values = [point["value"] for point in points]
    peaks = [point["peak_rss_mb"] for point in points]
    between = 1e6 * (peaks[-1] - peaks[0]) / (values[-1] - values[0]) if len(values) > 1 else None
    return {
        "what": axis.unit,
        "points": list(points),
        "time": growth(values, [point["median"] for point in points]),
        "memory": growth(values, peaks) | {"bytes_a_unit": between},
    }


def per_token(points: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns the time a token at the largest N over that at the smallest."""
    times = [point["median"] / point["value"] for point in points]
    return {"from": points[0]["value"], "to": points[-1]["value"], "ratio": times[-1] / times[0]}


def table(summary: dict[str, dict[str, Any]]) -> Table:
    """Returns the points of all axes."""
    rows = [
        [
            f"{letter} = {point['value']:,}",
            f"{point['median']:.3g} [{point['quartiles'][0]:.3g}, {point['quartiles'][1]:.3g}]",
            f"{point['peak_rss_mb']:,.0f}",
        ]
        for letter, axis in summary.items()
        for point in axis["points"]
    ]
    return Table(["size", "seconds [quartiles]", "peak MB"], rows)


def sentences(summary: dict[str, dict[str, Any]]) -> list[str]:
    """Returns what was found, an axis a line."""
    lines = []
    for letter, axis in summary.items():
        told = [
            f"{name} ~ {letter}^{fit['exponent']:.3f} (s.e. {fit['std_err']:.3f})"
            if fit["exponent"] is not None
            else f"{name} {fit['status']}"
            for name, fit in (("time", axis["time"]), ("memory", axis["memory"]))
        ]
        slope = axis["memory"]["bytes_a_unit"]
        tail = "" if slope is None else f", {slope:,.0f} bytes more for each of {letter}"
        lines.append(f"{letter}, {axis['what']}: {', '.join(told)}{tail}")
    return lines


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = flags.Parser(__doc__)
    parser.add_argument("--json", type=flags.output, metavar="FILE", help="where all numbers are written")
    parser.add_argument(
        "--figure", type=flags.output, metavar="FILE", help="where the figure is written, a PNG"
    )
    flags.add_precision(parser)
    parser.add_argument("--quick", action="store_true", help="small sizes, for a minute or two; no result")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> None:
    """Measures, prints and writes."""
    options = _options(argv)
    base = Workload(tokens=8000, context_dim=96, embed_dim=96, vocab=4000) if options.quick else Workload()
    base = dataclasses.replace(base, tokens=8000 if options.quick else 60_000)
    header = result.header(base, Scale(), options.precision, [OURS])
    print("\n".join(result.header_lines(header)), flush=True)
    free = available_memory()
    summary: dict[str, dict[str, Any]] = {}
    for whole in axes(options.quick):
        axis, note = fitting(whole, base, free[0] if free else None)
        if note:
            print(note, flush=True)
        points = []
        for value in axis.values:
            work = dataclasses.replace(base, **{axis.flag: value})
            sizes = [f"--{name}={getattr(work, name)}" for name in flags.SIZES]
            measured = memory.measure(OURS, axis.part, options.precision, sizes, repeats=3)
            points.append({"value": value} | measured)
            print(f"{axis.letter} = {value:,}: {measured['median']:.3g} s {axis.unit}", flush=True)
        if points:
            summary[axis.letter] = summarise(axis, points)
    numbers = header | {"axes": summary}
    print(f"\n{table(summary).text()}\n\n" + "\n".join(sentences(summary)))
    if "N" in summary:
        numbers["per_token"] = per_token(summary["N"]["points"])
        told = numbers["per_token"]
        print(f"time a token at N = {told['to']:,}: {told['ratio']:.3f} of that at N = {told['from']:,}")
    if options.json:
        flags.write(options.json, json.dumps(numbers, indent=1) + "\n")
        print(f"wrote {options.json}")
    if options.figure:
        from benchmarks import scaling_figure  # it takes a second to load

        scaling_figure.save(summary, options.figure)
        print(f"wrote {options.figure}")


if __name__ == "__main__":
    sys.exit(flags.run(main))
