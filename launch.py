"""Runs an experiment: python launch.py --experiment=context_dim. See --help."""

import logging
import os
import sys
from collections.abc import Sequence

from cvfp_jax.cli.main import read_request
from cvfp_jax.errors import UserError
from cvfp_jax.runtime import signals
from experiments import EXPERIMENTS

OK, CELL_FAILED = 0, 1


def _run(argv: Sequence[str]) -> int:
    """Does what a command line asks for; an interruption that was made into an ImportError is one again."""
    try:
        request = read_request(argv, EXPERIMENTS)
        if isinstance(request, str):
            print(request, end="", flush=True)
            return OK
        ended_well = request.run()
        sys.stdout.flush()  # here, where a reader who has gone is no error
        return OK if ended_well else CELL_FAILED
    except ImportError:
        signals.check()  # a compiled module that is struck while it is imported raises this
        raise


def main(argv: Sequence[str]) -> int:
    """Does what a command line asks for and returns the exit code."""
    logging.basicConfig(format="%(message)s")
    try:
        return _run(argv)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except KeyboardInterrupt as stop:
        state = f"{stop}; " if str(stop) else ""
        print(f"interrupted: {state}the same command goes on with what is unfinished", file=sys.stderr)
        return signals.exit_code()


if __name__ == "__main__":
    signals.listen()
    code = main(sys.argv)
    if signals.leaves():
        signals.leave(code)
    sys.exit(code)
