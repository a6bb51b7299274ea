"""Flags of the benchmarks: what they share, and mistakes in one line."""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from benchmarks.parts import NAMES, Scale
from benchmarks.workload import Workload
from cvfp_jax.config.settings import PRECISIONS
from cvfp_jax.errors import UserError, file_error


class Parser(argparse.ArgumentParser):
    """Takes whole flags only, and raises a ``UserError``."""

    def __init__(self, description: str) -> None:
        """Takes what --help begins with."""
        super().__init__(
            description=description,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        """Raises the mistake."""
        raise UserError(f"{message}: see --help.")


def positive(text: str) -> int:
    """Reads a whole number above zero."""
    number = int(text) if text.isdecimal() else 0
    if not 0 < number < 10**9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to 999999999")
    return number


def part_names(text: str) -> tuple[str, ...]:
    """Reads a list of parts."""
    names = tuple(text.split(","))
    for name in names:
        if name not in NAMES:
            raise argparse.ArgumentTypeError(f"{name!r} is no part; choose from {', '.join(NAMES)}")
    return tuple(name for name in NAMES if name in names)


def add_precision(parser: Parser) -> None:
    """Adds --precision."""
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="f32", help="of matrix operands; sums are f32 (f32)"
    )


SIZES = {
    "tokens": "of the training stream",
    "context_dim": "D, of all parts that do not name theirs",
    "embed_dim": "E",
    "vocab": "V",
    "input_tokens": "K, of all parts that do not name theirs",
}
# Several parts of a whole cell are parts of their own at these sizes, and need not be measured again.
_QUICK = Workload(tokens=6000, context_dim=256, embed_dim=256, vocab=6000)
_QUICK_SCALE = Scale(
    eval_batch=2048, recurrence_tokens=1024, rank_rows=1500, cell_batch=2048, cell_val_tokens=3000
)


def add_sizes(parser: Parser) -> None:
    """Adds the sizes of the workload, --batch and --quick."""
    default, small = Workload(), _QUICK
    for name, text in SIZES.items():
        numbers = f"{getattr(default, name)}; with --quick {getattr(small, name)}"
        parser.add_argument(f"--{name}", type=positive, metavar="N", help=f"{text} ({numbers})")
    batches = f"{Scale().eval_batch}; with --quick {_QUICK_SCALE.eval_batch}"
    parser.add_argument("--batch", type=positive, metavar="N", help=f"of phase2_eval ({batches})")
    parser.add_argument("--quick", action="store_true", help="small sizes, for a minute or two; no result")


def sizes(options: argparse.Namespace) -> tuple[Workload, Scale]:
    """Returns the sizes that were asked for."""
    work, scale = (_QUICK, _QUICK_SCALE) if options.quick else (Workload(), Scale())
    given = {name: getattr(options, name) for name in SIZES if getattr(options, name) is not None}
    work = dataclasses.replace(work, **given)
    if work.tokens < 2:
        raise UserError(f"--tokens={work.tokens} is too few: the second token is the first to be predicted.")
    if options.batch is not None:
        scale = dataclasses.replace(scale, eval_batch=options.batch)
    return work, scale


def size_flags(options: argparse.Namespace) -> list[str]:
    """Returns the flags that make another process use the same sizes."""
    names = [*SIZES, "batch"]
    given = [f"--{name}={getattr(options, name)}" for name in names if getattr(options, name) is not None]
    return [*given, *(["--quick"] if options.quick else [])]


def output(text: str) -> Path:
    """Reads the name of a file to write, whose folder must be there."""
    path = Path(text)
    if path.is_dir() or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} cannot be written: name a file in a folder that exists")
    return path


def write(path: Path, text: str) -> None:
    """Writes a result, or says why it cannot be."""
    try:
        path.write_text(text)
    except OSError as error:
        raise file_error(f"cannot write {path}: {error.strerror}; choose another file.", error) from None


def run(main: Callable[[Sequence[str]], None]) -> int:
    """Runs a benchmark's main function and returns the exit code."""
    try:
        main(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0
