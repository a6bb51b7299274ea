"""The seconds of a cell's steps on some devices: the roofline, and what a calibration makes of it.

A step takes as long as the slowest of its products, its traffic to memory and its traffic between devices.
Nothing is measured here; a calibration says what share of a device's products a step reached elsewhere.

References: Williams, Waterman and Patterson, Roofline: An Insightful Visual Performance Model for Multicore
Architectures, 2009.

Shapes: N tokens, U distinct ones, D context width of all blocks, E embedding width, V vocabulary.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from cvfp_jax.config.settings import RunConfig
from cvfp_jax.core.widths import context_widths, num_params, token_widths
from cvfp_jax.planning import flops, memory_model
from cvfp_jax.planning.memory_model import CONTEXTS, FLOAT_BYTES, PHASE1, PHASE2, RANK, Share

# The roofs of a step.
PRODUCTS, MEMORY, LINK = "products", "memory", "link"
# Numbers that a row moves for each of a layer's outputs, if a batch is too large for caches: in phase 1 two
# that are kept for the pass backward, in phase 2 three, written and read; the token term, read; its gradient,
# read and written.
_MOVED_OF_CONTEXT, _MOVED_OF_TOKEN = 7, 9
# The same of the inside of two linear maps: its slope and its output, written and read.
_MOVED_OF_INNER = 4
# Parameters, gradient and two moments, read; parameters and moments, written.
_MOVED_BY_ADAM = 7
# A table of token terms is written; its gradient written, added up and read.
_MOVED_TABLES = 3
# Rounds of exact contexts at most, each of which hands a state on (``parallel_scan``).
_ROUNDS = 4
_SCALARS = 4  # losses and a count, summed over devices


@dataclasses.dataclass(frozen=True)
class Machine:
    """Some devices of one kind."""

    devices: int
    memory_bytes: int  # of each
    flops: float  # operations a second of each, of products of the run's precision
    memory_rate: float  # bytes a second of each
    link_rate: float  # bytes a second that each sends to others
    host_rate: float  # bytes a second between each and its host's files


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What share of its products' rate each part of ``benchmarks.compare`` reached."""

    source: str
    precision: str
    shares: Mapping[str, float]

    def nearest(self, part: str, size: int) -> float | None:
        """Returns the share of the part of this name whose number is nearest to a size; None without one.

        >>> Calibration("f", "f32", {"phase1_k1": 0.5, "phase1_k2": 0.4}).nearest("phase1_k", 3)
        0.4
        """
        ends = {name: name.removeprefix(part) for name in self.shares if name.startswith(part)}
        known = {int(end or 1): self.shares[name] for name, end in ends.items() if (end or "1").isdecimal()}
        return known[min(known, key=lambda number: abs(math.log(number / size)))] if known else None


@dataclasses.dataclass(frozen=True)
class Step:
    """One step of a stage, and what it takes of the device that has most to do."""

    name: str
    stage: str
    count: int  # of these in a cell, at most
    per_unit: int  # steps of an epoch; 1 elsewhere
    operations: int
    moved_bytes: int
    sent_bytes: int
    seconds: dict[str, float]  # by roof
    calibrated_seconds: float | None

    @property
    def limit(self) -> str:
        """The roof that it meets first."""
        return max(self.seconds, key=lambda roof: self.seconds[roof])

    @property
    def roofline_seconds(self) -> float:
        """The least that it takes."""
        return self.seconds[self.limit]

    def to_json(self) -> dict[str, Any]:
        """Returns the step as JSON."""
        return {
            "name": self.name,
            "count": self.count,
            "steps_per_epoch": self.per_unit,
            "operations": self.operations,
            "moved_bytes": self.moved_bytes,
            "sent_bytes": self.sent_bytes,
            "seconds": self.seconds,
            "limit": self.limit,
            "roofline_seconds": self.roofline_seconds,
            "calibrated_seconds": self.calibrated_seconds,
        }


@dataclasses.dataclass(frozen=True)
class Work:
    """What the steps of a cell take of the device that has most to do."""

    config: RunConfig
    machine: Machine
    vocab_size: int
    num_tokens: int
    share: Share
    calibration: Calibration | None

    def steps(self) -> list[Step]:
        """Returns the steps, in the order in which a cell makes them."""
        contexts = {"sequential": [self._exact], "parallel": [self._parallel], "recomputed": []}
        makers = contexts[self.config.phase2.train_contexts]
        return [self._phase1(), *(make() for make in makers), self._rank(), self._phase2()]

    def _step(
        self,
        name: str,
        stage: str,
        count: int,
        needed: int,
        moved: int,
        sent: float,
        reached: float | None,
        per_unit: int = 1,
    ) -> Step:
        machine = self.machine
        seconds = {
            PRODUCTS: needed / machine.flops,
            MEMORY: moved / machine.memory_rate,
            LINK: sent / machine.link_rate,
        }
        # What was measured holds the traffic to memory, and none between devices.
        calibrated = None if reached is None else seconds[PRODUCTS] / reached + seconds[LINK]
        return Step(name, stage, count, per_unit, needed, moved, math.ceil(sent), seconds, calibrated)

    def _reached(self, part: str, size: int) -> float | None:
        return self.calibration.nearest(part, size) if self.calibration else None

    def _reduced(self, count: float) -> float:
        """Bytes that a device sends for a sum of so many numbers over all devices, round a ring."""
        return 2 * (self.share.devices - 1) / self.share.devices * FLOAT_BYTES * count

    def _handed_on(self, rows: int, size: int = FLOAT_BYTES) -> int:
        """Bytes that a device sends to hand on so many rows of contexts of all blocks."""
        model = self.config.model
        return size * rows * model.num_blocks * model.context_dim if self.share.devices > 1 else 0

    @property
    def _width(self) -> int:
        return self.config.model.num_blocks * self.config.model.context_dim

    def _counts(self) -> dict[str, int]:
        frozen = self.config.phase2.freeze_embedding
        return num_params(self.config.model, self.vocab_size, frozen, count_embed_norm=False)

    def _phase1(self) -> Step:
        config, share = self.config, self.share
        model, block = config.model, self._counts()["params_context_block"]
        held = memory_model.context_bytes(config, share.tokens, config.phase1.context_dtype)
        widths = context_widths(model)
        inner = memory_model.table_width(config) if model.ffn_num_layers == 2 else 0
        row = _MOVED_OF_CONTEXT * sum(widths[1:]) + _MOVED_OF_INNER * inner
        tables = model.num_blocks * share.distinct * memory_model.table_width(config)
        moved = FLOAT_BYTES * (share.tokens * row + _MOVED_TABLES * tables + _MOVED_BY_ADAM * block)
        # The row at the border, the last of all, and the sums.
        size = FLOAT_BYTES if config.phase1.context_dtype == "float32" else 2
        sent = self._handed_on(2, size) + self._reduced(block + _SCALARS)
        if share.micro_batch < min(config.phase1.batch_size or self.num_tokens, self.num_tokens):
            sent += self._reduced(self._width)  # the mean of a micro-batch that devices share
        return self._step(
            "phase 1, iteration",
            PHASE1,
            config.phase1.max_iterations - 1,
            flops.phase1_iteration(model, share.tokens, share.distinct),
            3 * held + moved,
            sent,
            self._reached("phase1_k", model.num_input_tokens),
        )

    def _exact(self) -> Step:
        model, share = self.config.model, self.share
        contexts = memory_model.context_bytes(self.config, share.tokens)
        terms = FLOAT_BYTES * share.tokens * sum(context_widths(model)[1:]) * model.num_blocks
        # Written as lanes, read and written in order.
        return self._step(
            "exact contexts",
            CONTEXTS,
            1,
            flops.exact_contexts(model, share.tokens),
            3 * contexts + terms,
            self._handed_on(_ROUNDS),
            self._reached("recurrence_", model.context_dim),
        )

    def _parallel(self) -> Step:
        model, share = self.config.model, self.share
        held = memory_model.context_bytes(self.config, share.tokens, self.config.phase1.context_dtype)
        contexts = memory_model.context_bytes(self.config, share.tokens)
        terms = FLOAT_BYTES * share.tokens * sum(context_widths(model)[1:])
        return self._step(
            "parallel contexts",
            CONTEXTS,
            1,
            flops.parallel_pass(model, share.tokens, share.distinct),
            held + contexts + terms,
            self._handed_on(1),
            self._reached("phase1_k", model.num_input_tokens),
        )

    def _rank(self) -> Step:
        width, devices = self._width, self.share.devices
        rows = min(self.config.effective_rank_rows or self.num_tokens, self.num_tokens)
        own = min(rows, -(-rows // devices) if self.config.effective_rank_rows else self.share.tokens)
        needed = flops.effective_rank(own, width)
        if devices > 1:
            needed += flops.effective_rank(devices * width, width)
        return self._step(
            "effective rank",
            RANK,
            1,
            needed,
            2 * FLOAT_BYTES * own * width,
            FLOAT_BYTES * (devices - 1) * width**2,
            self._reached("effective_rank", 1),
        )

    def _phase2(self) -> Step:
        config, share = self.config, self.share
        model, trained = config.model, self._counts()["params_trainable_phase2"]
        steps = -(-(self.num_tokens - 1) // config.phase2.batch_size)
        frozen = config.phase2.freeze_embedding and model.use_weight_tying
        table = self.vocab_size * model.embed_dim * (2 if config.precision == "bf16" else FLOAT_BYTES)
        row = _MOVED_OF_TOKEN * sum(token_widths(model)[1:])
        # A frozen head is read once; a trained one for its logits, twice, and for two gradients.
        moved = (1 if frozen else 4) * table + FLOAT_BYTES * (share.batch * row + _MOVED_BY_ADAM * trained)
        rows = min(config.phase2.batch_size, self.num_tokens)
        sent = self._reduced(trained + _SCALARS + rows * self._width)
        return self._step(
            "phase 2, step",
            PHASE2,
            config.phase2.epochs * steps,
            flops.phase2_training(model, config.phase2, self.vocab_size, share.batch),
            moved,
            sent,
            self._reached("phase2_train_", share.batch),
            steps,
        )
