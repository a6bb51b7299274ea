"""Times the parts of this project beside the same steps in plain PyTorch.

python -m benchmarks.compare --json=FILE

In every part both sides are warmed up, then take turns, round after round: medians and quartiles are over
rounds, the ratio is PyTorch's median over this project's. Products of matrices (JAX, f32 and bf16 operands,
sums in f32) of the part's shape and of 2048 x 2048 x 2048 take their turns too. The fraction of the peak is
the rate of the operations that the part needs (``planning/flops``) over the peak: the faster of the two
medians, with operands of the run's precision; for the whole cell, the rate that it would have if all of its
parts ran at their peaks. Memory is the peak of a process that runs one part of one side only.
"""

import argparse
import json
import sys
from collections.abc import Sequence

from benchmarks import flags, result, sides
from benchmarks.measure import measure_all, measure_memory
from benchmarks.parts import CELL_MEMORY, NAMES, needed, parts
from benchmarks.timing import LEAST


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = flags.Parser(__doc__)
    parser.add_argument("--json", type=flags.output, metavar="FILE", help="where all numbers are written")
    flags.add_precision(parser)
    flags.add_sizes(parser)
    parser.add_argument(
        "--repeats", type=flags.positive, metavar="N", help="rounds (3 to 9, none begun after 8 s of a part)"
    )
    parser.add_argument(
        "--parts", type=flags.part_names, default=NAMES, metavar="A,B", help=f"of {', '.join(NAMES)} (all)"
    )
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--ours_only", action="store_true", help="this project alone; needs no PyTorch")
    one.add_argument("--baseline_only", action="store_true", help="PyTorch alone")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> None:
    """Measures, prints the table and writes the JSON."""
    options = _options(argv)
    work, scale = flags.sizes(options)
    chosen_sides = [
        side
        for side, left_out in ((sides.OURS, options.baseline_only), (sides.TORCH, options.ours_only))
        if not left_out
    ]
    modules = {side: sides.load(side) for side in chosen_sides}
    header = result.header(work, scale, options.precision, chosen_sides)
    print("\n".join(result.header_lines(header)), flush=True)

    def tell(line: str) -> None:
        print(line, flush=True)

    every = parts(work, scale)
    chosen = {name: every[name] for name in needed(options.parts, work, scale)}
    repeats = options.repeats or (LEAST if options.quick else 0)
    measured = measure_all(chosen, modules, options.precision, repeats, tell)
    weighed = {name: part for name, part in chosen.items() if name in (*NAMES, *CELL_MEMORY)}
    peaks = measure_memory(weighed, chosen_sides, options.precision, flags.size_flags(options), tell)
    numbers = header | result.numbers(options.parts, measured, peaks, work, scale, options.precision)
    print(f"\n{result.table(numbers, options.parts).text()}\n" + "\n".join(result.footer_lines(numbers)))
    if options.json:
        flags.write(options.json, json.dumps(numbers, indent=1) + "\n")
        print(f"wrote {options.json}")


if __name__ == "__main__":
    sys.exit(flags.run(main))
