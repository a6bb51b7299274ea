"""Times the continuation of texts beside a plain read of the table that each token reads.

python -m benchmarks.generation --json=FILE

A token's logits take the whole table, so no model can be faster than memory. Models of random weights, f32
and bf16, continue one text and several at once; the plain read sums as many bytes as float32 numbers. All
take turns, round after round; a run is some tokens in a row.
"""

import argparse
import functools
import itertools
import json
import sys
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import flags, ours
from benchmarks.timing import Run, alternate
from benchmarks.workload import Workload
from cvfp_jax.config.settings import PRECISIONS
from cvfp_jax.report.page import Table

SAMPLES = (1, 8)
_TOKENS = 16  # of a run
_BYTES = {"f32": 4, "bf16": 2}


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = flags.Parser(__doc__)
    parser.add_argument("--json", type=flags.output, metavar="FILE", help="where all numbers are written")
    parser.add_argument("--repeats", type=flags.positive, metavar="N", default=9, help="rounds (9)")
    flags.add_sizes(parser)
    return parser.parse_args(argv)


@jax.jit
def _sum(numbers: jax.Array) -> jax.Array:
    return numbers.sum()


def _read(work: Workload, precision: str) -> Run:
    """As many reads as a run has tokens."""
    numbers = jnp.ones(work.vocab * work.embed_dim * _BYTES[precision] // 4, jnp.float32)

    def run() -> None:
        for _ in range(_TOKENS):
            _sum(numbers).block_until_ready()

    return run


def _take(tokens: Iterator[np.ndarray]) -> None:
    for _ in itertools.islice(tokens, _TOKENS):
        pass


def measure(work: Workload, repeats: int) -> list[dict[str, object]]:
    """Returns a row a precision and a number of samples."""
    runs: dict[tuple[str, int], Run] = {}
    for precision in PRECISIONS:
        runs[precision, 0] = _read(work, precision)
        for num_samples in SAMPLES:
            runs[precision, num_samples] = functools.partial(
                _take, ours.continued(work, precision, num_samples)
            )
    timings = alternate(runs, repeats)
    rows: list[dict[str, object]] = []
    for precision, num_samples in itertools.product(PRECISIONS, SAMPLES):
        read, step = timings[precision, 0].median / _TOKENS, timings[precision, num_samples].median / _TOKENS
        rows.append(
            {
                "precision": precision,
                "samples": num_samples,
                "tokens_per_second": num_samples / step,
                "step_seconds": step,
                "read_seconds": read,
                "share_of_read": read / step,
                "of_one_sample": step / (timings[precision, 1].median / _TOKENS),
                "table_bytes": work.vocab * work.embed_dim * _BYTES[precision],
            }
        )
    return rows


def main(argv: Sequence[str]) -> None:
    """Measures, prints the table and writes the JSON."""
    options = _options(argv)
    work, _ = flags.sizes(options)
    rows = measure(work, options.repeats)
    columns = [
        "precision",
        "samples",
        "tokens/s",
        "ms a step",
        "ms a plain read",
        "read / step",
        "of one sample",
    ]
    print(
        f"V = {work.vocab:,}, E = {work.embed_dim}, D = {work.context_dim}, {jax.devices()[0].device_kind}\n"
    )
    table = [
        [
            str(row["precision"]),
            str(row["samples"]),
            f"{row['tokens_per_second']:,.0f}",
            f"{1e3 * float(str(row['step_seconds'])):.2f}",
            f"{1e3 * float(str(row['read_seconds'])):.2f}",
            f"{float(str(row['share_of_read'])):.2f}",
            f"{float(str(row['of_one_sample'])):.2f}",
        ]
        for row in rows
    ]
    print(Table(columns, table).text())
    if options.json:
        flags.write(options.json, json.dumps(rows, indent=1) + "\n")
        print(f"wrote {options.json}")


if __name__ == "__main__":
    sys.exit(flags.run(main))
