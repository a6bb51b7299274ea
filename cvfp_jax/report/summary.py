"""The records of a sweep by configuration, each with its fitted law."""

import dataclasses
import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from cvfp_jax.report.records import Record, failed
from cvfp_jax.runtime.floats import finite
from cvfp_jax.scaling.derived import reduction_per_doubling
from cvfp_jax.scaling.line import LogLine, log_line

PREDICT_AT = (1_000_000, 10_000_000)


@dataclasses.dataclass(frozen=True)
class Summary:
    """One configuration: its cells by size, and the law through those that ended well."""

    series: str
    records: list[Record]
    law: LogLine

    @property
    def best(self) -> Record | None:
        """The record of the lowest validation loss."""
        return min(self.points, key=lambda record: record["val_loss"], default=None)

    @property
    def points(self) -> list[Record]:
        """The records that the law goes through."""
        return [record for record in self.records if _usable(record)]

    @property
    def left_out(self) -> list[Record]:
        """The records that the law could not use."""
        return [record for record in self.records if not _usable(record)]

    @property
    def num_sizes(self) -> int:
        """The number of different sizes among the points, fewer than these where cells have replicates."""
        return len({record["train_tokens"] for record in self.points})

    @property
    def num_seeds(self) -> int:
        """The number of different seeds among the points."""
        return len({record["seed"] for record in self.points})

    @property
    def seed_spread(self) -> float:
        """Standard deviation of ln PPL between seeds of one size, over all sizes; NaN without replicates."""
        by_size: dict[int, list[float]] = {}
        for record in self.points:
            by_size.setdefault(record["train_tokens"], []).append(record["val_loss"])
        freedom = len(self.points) - len(by_size)
        squares = sum((loss - fmean(losses)) ** 2 for losses in by_size.values() for loss in losses)
        return math.sqrt(squares / freedom) if freedom else math.nan

    @property
    def replicated(self) -> bool:
        """Whether the cells have several seeds."""
        return len({record["seed"] for record in self.records}) > 1

    def to_json(self) -> dict[str, Any]:
        """Returns the summary with every number in full precision."""
        law, best = self.law, self.best
        fit = {
            "status": law.status,
            "n": law.n,
            "num_sizes": self.num_sizes,
            "num_seeds": self.num_seeds,
            **{
                name: finite(getattr(law, name))
                for name in ("alpha", "log_A", "A", "r2", "p_value", "std_err", "residual_variance")
            },
            "alpha_interval": ends(law.alpha_interval()) if law.fitted else None,
            "seed_spread": finite(self.seed_spread),
            "reduction_per_doubling": finite(reduction_per_doubling(law.alpha)),
            "predictions": {str(size): _prediction(law, size) for size in PREDICT_AT},
        }
        columns = ("val_ppl", "val_acc", "unigram_ppl", "train_effective_rank", "val_effective_rank")
        return {
            "series": self.series,
            "config_name": self.records[0]["config_name"],
            "params_context_block": self.records[0]["params_context_block"],
            "fit": fit,
            "best": {
                name: best[name] if best else None for name in ("num_samples", "train_tokens", *columns)
            },
            "phase1_iterations": [record["phase1_iterations"] for record in self.records],
            "left_out_of_fit": [record["num_samples"] for record in self.left_out],
        }


def ends(interval: Sequence[float]) -> list[float | None]:
    """Returns an interval for JSON; null is no end.

    >>> ends((0.0, math.inf))
    [0.0, None]
    """
    return [finite(end) for end in interval]


def _prediction(law: LogLine, size: int) -> dict[str, Any]:
    """What a law says of one more run at a size."""
    if not law.fitted:
        return {"ppl": None, "interval": None, "extrapolated": None}
    return {
        "ppl": finite(law.predict(size)),
        "interval": ends(law.interval(size)),
        "extrapolated": law.extrapolates(size),
    }


def _usable(record: Record) -> bool:
    return record["val_loss"] is not None and not failed(record)


def _order(record: Record) -> tuple[Any, ...]:
    return record["params_context_block"], record["series"], record["num_samples"], record["seed"]


def summarise(records: Sequence[Record]) -> list[Summary]:
    """Groups the records that differ by size and seed only, and fits a power law to each group.

    The law is fitted to the mean losses, which are the logarithms of the perplexities, so that one
    too large for a number does no harm. A cell that failed is left out and listed.

    Args:
      records: of one sweep.

    Returns:
      A summary a series, by the size of the context block; records by their number of samples.
    """
    by_name: dict[str, list[Record]] = {}
    for record in sorted(records, key=_order):
        by_name.setdefault(record["series"], []).append(record)
    summaries = []
    for name, group in by_name.items():
        points = [record for record in group if _usable(record)]
        law = log_line([r["train_tokens"] for r in points], [r["val_loss"] for r in points])
        summaries.append(Summary(name, group, law))
    return summaries
