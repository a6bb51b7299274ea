"""R1: sample scaling with three layers, answered from its own table."""

from collections.abc import Mapping
from typing import Any

from cvfp_jax.report.formats import interval, size
from cvfp_jax.reproduction.source import Answer, Rules, Source, column, law, logs
from cvfp_jax.scaling.derived import size_for
from cvfp_jax.scaling.line import log_line


def _best_epochs(source: Source, _: Mapping[str, Any]) -> Answer:
    epochs = source.elsewhere["best_epochs"]
    later = {samples: epoch for samples, epoch in epochs.items() if epoch > 1}
    first = source.elsewhere["epoch_1_ppl_of_50_samples"]
    best = next(point["val_ppl"] for point in source.tables["points"] if point["samples"] == 50)
    text = f"In {len(epochs) - len(later)} of {len(epochs)}: " + "; ".join(
        f"{samples} samples were best at epoch {epoch}" for samples, epoch in later.items()
    )
    return Answer(
        f"{text} ({best:,.2f}; epoch 1 had {first:,.2f}).", {"later": len(later), "epoch": later["50"]}
    )


def _target(source: Source, printed: Mapping[str, Any]) -> Answer:
    line = law(source.tables["points"])
    reached = size_for(line, printed["target"])
    there = line.predict(printed["tokens"])
    return Answer(
        f"{there:.0f} at {size(printed['tokens'])} tokens; {printed['target']} at {size(reached.size)},"
        f" 95% interval {size(reached.low)} to {size(reached.high)}, {reached.times_last:.0f} times the"
        " largest run.",
        {"ppl": there, "tokens": reached.size},
    )


def _val_tokens(source: Source, _: Mapping[str, Any]) -> Answer:
    (tokens,) = {point["val_tokens"] for point in source.tables["points"]}
    return Answer(f"The table has {tokens:,} for every size.", {"val_tokens": tokens})


def _train_tokens(source: Source, printed: Mapping[str, Any]) -> Answer:
    tokens = next(p["tokens"] for p in source.tables["points"] if p["samples"] == printed["samples"])
    return Answer(f"{tokens:,}, or {tokens / printed['samples']:.0f} a sample.", {"tokens": tokens})


def _rank_bound(source: Source, _: Mapping[str, Any]) -> Answer:
    dim = source.elsewhere["embed_dim"]
    rows = max(column(source.tables["points"], "val_tokens"))
    fewest = min(column(source.tables["points"], "tokens"))
    bound = 100 * min(1.0, rows / dim)
    return Answer(
        f"Validation has {rows} rows for {dim} dimensions, so at most {bound:.1f}%; training has"
        f" {fewest:,} or"
        " more. The two do not compare.",
        {"bound": bound},
    )


def _minutes(source: Source, _: Mapping[str, Any]) -> Answer:
    total = sum(column(source.tables["points"], "minutes"))
    return Answer(f"The rows add up to {total:.1f}.", {"minutes": total})


def _trainable(source: Source, _: Mapping[str, Any]) -> Answer:
    norm = 2 * source.elsewhere["embed_dim"]
    count = source.tables["params_phase2"] + norm
    return Answer(f"{count:,}: {norm:,} more.", {"trainable": count})


def _quotes(source: Source, _: Mapping[str, Any]) -> Answer:
    six = source.elsewhere["six_layers"]
    three, deep = law(source.tables["points"]), log_line(six["tokens"], logs(six["val_ppl"]))
    return Answer(
        f"{three.alpha:.4f} with three layers, {deep.alpha:.4f} with six.",
        {"three": three.alpha, "six": deep.alpha, "six_A": deep.A, "six_r2": deep.r2},
    )


RULES: Rules = {
    "best_epochs": _best_epochs,
    "target": _target,
    "val_tokens": _val_tokens,
    "train_tokens": _train_tokens,
    "rank_bound": _rank_bound,
    "minutes": _minutes,
    "trainable": _trainable,
    "quotes": _quotes,
}


def findings(source: Source) -> list[str]:
    """Returns sentences that the table's numbers support."""
    points = source.tables["points"]
    line = law(points)
    best = min(points, key=lambda point: point["val_ppl"])
    accuracies = column(points, "val_acc")
    order = "rises with every size" if accuracies == sorted(accuracies) else "does not rise with every size"
    return [
        f"The lowest validation perplexity is {best['val_ppl']:,.2f}, at {best['tokens']:,} tokens.",
        f"Accuracy {order}: {', '.join(f'{value:.2f}%' for value in accuracies)}.",
        f"The exponent is {line.alpha:.4f}, 95% interval {interval(line.alpha_interval(), 3)},"
        f" from {line.n} points.",
    ]
