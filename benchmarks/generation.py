"""Times the continuation of texts beside a plain read of the table that each token reads.

python -m benchmarks.generation --json=FILE

A token's logits take the whole table, so no model can be faster than memory. Models of random weights, f32
and bf16, continue one text and several at once; the plain read sums as many bytes as float32 numbers. All
take turns, round after round; a run is some tokens in a row.
"""

import argparse
import dataclasses
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


@dataclasses.dataclass(frozen=True)
class Row:
    """What was measured of a precision and a number of samples; seconds are medians."""

    precision: str
    samples: int
    table_bytes: int
    step_seconds: float
    read_seconds: float
    one_sample_seconds: float

    @property
    def tokens_per_second(self) -> float:
        """Of all samples."""
        return self.samples / self.step_seconds

    @property
    def share_of_read(self) -> float:
        """The time of a plain read of the table over that of a step."""
        return self.read_seconds / self.step_seconds

    @property
    def of_one_sample(self) -> float:
        """The time of a step over that of one sample's."""
        return self.step_seconds / self.one_sample_seconds

    def to_json(self) -> dict[str, object]:
        """Returns all numbers."""
        derived = ("tokens_per_second", "share_of_read", "of_one_sample")
        return {**dataclasses.asdict(self), **{name: getattr(self, name) for name in derived}}

    def cells(self) -> list[str]:
        """Returns the row of a table."""
        return [
            self.precision,
            str(self.samples),
            f"{self.tokens_per_second:,.0f}",
            f"{1e3 * self.step_seconds:.2f}",
            f"{1e3 * self.read_seconds:.2f}",
            f"{self.share_of_read:.2f}",
            f"{self.of_one_sample:.2f}",
        ]


def measure(work: Workload, repeats: int) -> list[Row]:
    """Returns a row a precision and a number of samples."""
    runs: dict[tuple[str, int], Run] = {}
    for precision in PRECISIONS:
        runs[precision, 0] = _read(work, precision)
        for num_samples in SAMPLES:
            runs[precision, num_samples] = functools.partial(
                _take, ours.continued(work, precision, num_samples)
            )
    seconds = {key: timing.median / _TOKENS for key, timing in alternate(runs, repeats).items()}
    return [
        Row(
            precision,
            num_samples,
            work.vocab * work.embed_dim * _BYTES[precision],
            seconds[precision, num_samples],
            seconds[precision, 0],
            seconds[precision, 1],
        )
        for precision, num_samples in itertools.product(PRECISIONS, SAMPLES)
    ]


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
    print(Table(columns, [row.cells() for row in rows]).text())
    if options.json:
        flags.write(options.json, json.dumps([row.to_json() for row in rows], indent=1) + "\n")
        print(f"wrote {options.json}")


if __name__ == "__main__":
    sys.exit(flags.run(main))
