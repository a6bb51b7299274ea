"""Runs a sweep in children that are killed, each at a moment of its own, until one is let through.

Children are forks of a process that has imported everything and started nothing, which saves seconds a
launch. A moment is a number of seconds, or of the events "a file of the work directory is touched":
those fall into saves, records and reports.
"""

import json
import os
import signal
import sys
import time

import matplotlib.pyplot  # noqa: F401
import orbax.checkpoint  # noqa: F401

import cvfp_jax.sweeps.runner  # noqa: F401
import launch

_TOUCHES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree"}


def die_at_touch(folder, number):
    count = 0

    def hook(event, arguments):
        nonlocal count
        if event in _TOUCHES and folder in str(arguments[0]):
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def run(argv, folder, log, kind, moment):
    """Launches once and returns the exit code, negative if it was killed."""
    child = os.fork()
    if child == 0:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
        if kind == "touch":
            die_at_touch(folder, moment)
        code = launch.main(argv)
        sys.stdout.flush()
        os._exit(code)
    if kind == "time":
        time.sleep(moment)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    flags, folder, log, moments = json.loads(sys.argv[1])
    codes = [run(["launch.py", *flags], folder, log, kind, moment) for kind, moment in moments]
    print(json.dumps(codes))
