"""R2: effective rank against token count with equal-decrease widths, answered from its own table."""

from collections.abc import Mapping
from typing import Any

from cvfp_jax.report.formats import interval
from cvfp_jax.reproduction.source import Answer, Rules, Source, column, law
from cvfp_jax.scaling.derived import reduction_per_doubling


def _ranks(source: Source) -> list[float]:
    points = source.tables["points"]
    return column(points, "train_er") + column(points, "val_er")


def _rank_range(source: Source, _: Mapping[str, Any]) -> Answer:
    low, high = min(ranks := _ranks(source)), max(ranks)
    return Answer(f"Between {low} and {high}%.", {"low": low, "high": high})


def _reduction(source: Source, _: Mapping[str, Any]) -> Answer:
    ppl = column(source.tables["points"], "val_ppl")
    percent = 100 * (1 - ppl[-1] / ppl[0])
    return Answer(f"By {percent:.1f}%, from {ppl[0]:,.1f} to {ppl[-1]:,.1f}.", {"percent": percent})


def _val_sets(source: Source, _: Mapping[str, Any]) -> Answer:
    tokens = source.elsewhere["val_tokens"]
    return Answer(
        f"{len(set(tokens))} validation texts for {len(source.tables['points'])} sizes:"
        f" {', '.join(f'{count:,}' for count in tokens)} tokens.",
        {"texts": len(set(tokens))},
    )


def _old_rank(source: Source, _: Mapping[str, Any]) -> Answer:
    ranks = source.elsewhere["token_input_val_er"]
    return Answer(f"{min(ranks)} to {max(ranks)}%.", {"low": min(ranks), "high": max(ranks)})


def _dimensions(source: Source, _: Mapping[str, Any]) -> Answer:
    used = [rank / 100 * source.elsewhere["context_dim"] for rank in _ranks(source)]
    return Answer(f"{min(used):.0f} to {max(used):.0f}.", {"low": min(used), "high": max(used)})


RULES: Rules = {
    "rank_range": _rank_range,
    "reduction": _reduction,
    "val_sets": _val_sets,
    "old_rank": _old_rank,
    "dimensions": _dimensions,
}


def findings(source: Source) -> list[str]:
    """Returns sentences that the table's numbers support."""
    points = source.tables["points"]
    line = law(points)
    ranks = _ranks(source)
    best = max(points, key=lambda point: point["val_acc"])
    return [
        "Each doubling of the tokens lowers the perplexity by"
        f" {100 * reduction_per_doubling(line.alpha):.1f}%"
        f" (alpha {line.alpha:.4f}, 95% interval {interval(line.alpha_interval(), 3)}, {line.n} points).",
        f"Effective ranks lie between {min(ranks)} and {max(ranks)}% of the context dimensions.",
        f"The highest accuracy, {best['val_acc']}%, is that of {best['samples']} samples"
        + ("." if best is points[-1] else ", not that of the largest run."),
    ]
