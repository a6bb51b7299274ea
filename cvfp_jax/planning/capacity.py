"""What a cell takes of some devices: bytes of each, seconds of each step, and the most tokens that fit.

Phase 1 gives each device a range of whole micro-batches, or, where there are fewer of them than devices, a
part of one; phase 2 gives each a range of the rows of every batch. ``memory_model.py`` has the bytes,
``roofline.py`` the seconds.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from cvfp_jax.config.settings import RunConfig
from cvfp_jax.data.tokenizer import VOCAB_SIZE
from cvfp_jax.planning import memory_model
from cvfp_jax.planning.memory_model import ALWAYS, INDEX_BYTES, Share
from cvfp_jax.planning.plan import MOST_COUNTED
from cvfp_jax.planning.roofline import Calibration, Machine, Step, Work


@dataclasses.dataclass(frozen=True)
class Capacity:
    """The capacity plan of a cell."""

    series: str
    config: RunConfig
    machine: Machine
    num_tokens: int  # given, or the most that fit
    vocab_size: int
    share: Share
    arrays: dict[str, dict[str, int]]  # bytes a device, by stage and name
    largest_tokens: int  # that fit; 0 if none do
    steps: list[Step]
    calibration: Calibration | None

    @property
    def peak_bytes(self) -> int:
        """What each device needs."""
        return memory_model.peak(self.arrays)

    @property
    def peak_stage(self) -> str:
        """The stage that needs it."""
        return max(memory_model.STAGES, key=lambda stage: sum(self.arrays[stage].values()))

    @property
    def largest_array(self) -> tuple[str, int]:
        """The array that takes most of the stage that takes most, and its bytes."""
        there = self.arrays[ALWAYS] | self.arrays[self.peak_stage]
        return max(there.items(), key=lambda item: item[1])

    @property
    def fits(self) -> bool:
        """Whether each device has the memory."""
        return self.peak_bytes <= self.machine.memory_bytes

    @property
    def contexts_bytes(self) -> int:
        """All contexts, as phase 1 keeps them: in memory, in a file, or in a checkpoint."""
        return memory_model.context_bytes(self.config, self.num_tokens, self.config.phase1.context_dtype)

    @property
    def streamed_seconds(self) -> float:
        """Reading and writing contexts in a file once, each device its own."""
        return 2 * self.contexts_bytes / self.machine.devices / self.machine.host_rate

    @property
    def token_ids_bytes(self) -> int:
        """Token ids that each process holds or maps."""
        return INDEX_BYTES * self.num_tokens

    def cell_seconds(self, calibrated: bool = False) -> float | None:
        """Returns what all iterations and epochs take, none stopped early; None if it is not known."""
        each = [step.calibrated_seconds if calibrated else step.roofline_seconds for step in self.steps]
        known = [seconds for seconds in each if seconds is not None]
        if len(known) < len(each):
            return None
        counts = [step.count for step in self.steps]
        return math.fsum(count * seconds for count, seconds in zip(counts, known, strict=True))

    def notes(self) -> list[str]:
        """Returns what the plan leaves out or takes from above, a sentence each."""
        config = self.config
        notes = []
        if max(self.num_tokens, self.largest_tokens) > MOST_COUNTED:
            notes.append(
                f"Counts and places of tokens are int32: beyond N = {MOST_COUNTED:,} the program stops,"
                " whatever the memory."
            )
        if config.data.vocabulary == "corpus":
            notes.append(f"V is known once the corpus is read: planned with GPT-2's {self.vocab_size:,}.")
        if config.phase1.diversity not in ("MCDL", "OACD"):
            notes.append(f"Products of the diversity loss {config.phase1.diversity} are not counted.")
        if config.phase2.train_contexts == "recomputed":
            notes.append(
                "train_contexts=recomputed walks along each batch token by token, which takes longer than any"
                " roof of phase 2."
            )
        return notes

    def to_json(self) -> dict[str, Any]:
        """Returns the plan as JSON, in bytes and seconds."""
        name, size = self.largest_array
        return {
            "series": self.series,
            "num_tokens": self.num_tokens,
            "distinct_tokens_at_most": self.share.distinct,
            "vocab_size": self.vocab_size,
            "machine": dataclasses.asdict(self.machine),
            "calibration": None if self.calibration is None else dataclasses.asdict(self.calibration),
            "share": dataclasses.asdict(self.share),
            "arrays_bytes": self.arrays,
            "peak_bytes": self.peak_bytes,
            "peak_stage": self.peak_stage,
            "largest_array": {"name": name, "bytes": size},
            "fits": self.fits,
            "largest_num_tokens": self.largest_tokens,
            "steps": [step.to_json() for step in self.steps],
            "cell_roofline_seconds": self.cell_seconds(),
            "cell_calibrated_seconds": self.cell_seconds(calibrated=True),
            "contexts_bytes": self.contexts_bytes,
            "streamed_seconds": self.streamed_seconds,
            "token_ids_bytes": self.token_ids_bytes,
            "notes": self.notes(),
        }


def plan_capacity(
    config: RunConfig,
    machine: Machine,
    num_tokens: int | None = None,
    calibration: Calibration | None = None,
    series: str | None = None,
) -> Capacity:
    """Plans a cell on some devices, before its text is read.

    Args:
      config: the cell; of its data only the vocabulary counts, which is GPT-2's at most.
      machine: the devices.
      num_tokens: N; the most that fit if none is given, or 2 where not even these do.
      calibration: what a device of this kind reached.
      series: the cell's name; that of its config if none is given.

    Returns:
      Its plan.

    >>> machine = Machine(64, 80 * 10**9, 400e12, 3350e9, 50e9, 25e9)
    >>> plan_capacity(RunConfig(), machine, 240_000_000).fits
    True
    """

    def arrays_of(num_tokens: int) -> dict[str, dict[str, int]]:
        return memory_model.cell_arrays(
            config, VOCAB_SIZE, Share.of_devices(config, VOCAB_SIZE, num_tokens, machine.devices)
        )

    largest = largest_count(lambda count: memory_model.peak(arrays_of(count)) <= machine.memory_bytes)
    num_tokens = num_tokens or max(2, largest)
    share = Share.of_devices(config, VOCAB_SIZE, num_tokens, machine.devices)
    return Capacity(
        series or config.config_name,
        config,
        machine,
        num_tokens,
        VOCAB_SIZE,
        share,
        arrays_of(num_tokens),
        largest,
        Work(config, machine, VOCAB_SIZE, num_tokens, share, calibration).steps(),
        calibration,
    )


def largest_count(fits: Callable[[int], bool]) -> int:
    """Returns the largest whole number that fits, if smaller ones do whenever a larger one does; 0 if none.

    >>> largest_count(lambda count: 3 * count <= 100)
    33
    """
    too_many = 1
    while fits(too_many):
        too_many *= 2
    most = too_many // 2
    while too_many - most > 1:
        middle = (most + too_many) // 2
        most, too_many = (middle, too_many) if fits(middle) else (most, middle)
    return most
