"""A search of settings on the development samples: its trials, and what they choose.

A trial is an ordinary cell that the development samples validate. Its record stands in ``trials.jsonl`` of
the sweep's folder, so that a search goes on where it was left. No trial reads the validation samples.
"""

import itertools
import random
from collections.abc import Mapping, Sequence

from cvfp_jax.config.grid import ARM, Changes, Grid, Tuning
from cvfp_jax.config.overrides import replace
from cvfp_jax.errors import UserError
from cvfp_jax.report.records import Record, failed

FILE_NAME = "trials.jsonl"


def combinations(options: Mapping[str, Sequence[object]], most: int = 0, seed: int = 0) -> dict[str, Changes]:
    """Returns the settings to try, by a name that tells what they are.

    Args:
      options: the values to choose from, by dotted field name.
      most: how many combinations are tried, drawn without replacement; 0, or as many as there are: all.
      seed: of the draw.

    Returns:
      Changes by name, in the options' order, the last one running fastest.

    >>> list(combinations({"phase2.learning_rate": (0.001, 0.003), "phase2.dropout": (0.0,)}))
    ['learning_rate=0.001, dropout=0.0', 'learning_rate=0.003, dropout=0.0']
    """
    every = [dict(zip(options, values, strict=True)) for values in itertools.product(*options.values())]
    if 0 < most < len(every):
        kept = sorted(random.Random(seed).sample(range(len(every)), most))
        every = [every[index] for index in kept]
    names = [
        ", ".join(f"{name.rpartition('.')[2]}={value}" for name, value in each.items()) for each in every
    ]
    return dict(zip(names, every, strict=True))


def trial_grid(grid: Grid, arms: Mapping[str, Changes]) -> Grid:
    """Returns the trials of a sweep as a sweep of its own: an arm a trial, for each value of the tuned axis.

    Args:
      grid: a sweep with ``tuning``.
      arms: the settings to try, by name.

    Returns:
      Its cells train on ``tuning.num_samples`` samples with the sweep's first seed, and are validated on the
      development samples.

    Raises:
      UserError: there is no room for development samples, or a trial is not valid.
    """
    tuning = grid.tuning
    assert tuning is not None
    base = replace(grid.base, {"num_samples": tuning.num_samples}).on_development()
    axes = {
        tuning.axis: grid.axes[tuning.axis],
        ARM: tuple(arms),
        "num_samples": (tuning.num_samples,),
        "seed": grid.axes["seed"][:1],
    }
    trials = Grid(base, axes, arms={name: dict(changes) for name, changes in arms.items()})
    trials.cells()
    return trials


def choose(tuning: Tuning, arms: Mapping[str, Changes], trials: Sequence[Record]) -> dict[object, Changes]:
    """Returns the settings with the lowest development loss, for each value of the tuned axis.

    Args:
      tuning: names the axis.
      arms: the settings that were tried, by name.
      trials: their records.

    Raises:
      UserError: every trial of a value failed.
    """
    best: dict[object, Changes] = {}
    values = dict.fromkeys(trial["cell"][tuning.axis] for trial in trials)
    for value in values:
        ended = [
            trial
            for trial in trials
            if trial["cell"][tuning.axis] == value and trial["val_loss"] is not None and not failed(trial)
        ]
        if not ended:
            raise UserError(
                f"{tuning.axis}={value}: no trial of the search ended with a finite loss; see {FILE_NAME},"
                " and change the settings that it starts from."
            )
        best[value] = arms[min(ended, key=lambda trial: trial["val_loss"])["cell"][ARM]]
    return best
