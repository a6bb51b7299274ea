"""What the numbers support, and what a reader must know before trusting them: a sentence each."""

from collections.abc import Iterator, Sequence

from cvfp_jax.data.leakage import RUN
from cvfp_jax.report.formats import interval, number, percent
from cvfp_jax.report.inference import Inference
from cvfp_jax.report.records import LEAKAGE, Record, label
from cvfp_jax.report.summary import PREDICT_AT, Summary

_SIGNIFICANT = 0.05
_LEAKED = 0.01  # of the validation samples, or of their runs of tokens, above which a reader is warned


def findings(summaries: Sequence[Summary], inference: Inference) -> list[str]:
    """Returns the sentences that the numbers support, each with the numbers in it.

    Args:
      summaries: a sweep's series.
      inference: what follows from them.
    """
    sentences = []
    usable = [(summary, summary.best) for summary in summaries if summary.best]
    if usable:
        summary, best = min(usable, key=lambda pair: pair[1]["val_loss"])
        sentences.append(
            f"The lowest validation perplexity is {number(best['val_ppl'])}, by {summary.series}"
            f"{_seed(summary, best)} at {best['train_tokens']:,} tokens; a unigram model of the same tokens"
            f" has {number(best['unigram_ppl'])}."
        )
        if best["kn3_ppl"] is not None and best["val_ppl"] is not None:
            sentences.append(_against_trigram(best))
    for summary in summaries:
        law = summary.law
        if law.fitted:
            sentences.append(
                f"{summary.series}: each doubling of the data multiplies the perplexity by"
                f" {2**law.alpha:.3f} (alpha {law.alpha:.4f}, standard error {law.std_err:.4f},"
                f" {_points(summary)})."
            )
        else:
            sentences.append(f"{summary.series}: law {law.status}.")
    for pair in inference.comparisons:
        change, low, high = pair.difference
        if pair.difference.told_from_zero:
            sentences.append(
                f"The exponent of {pair.second} less that of {pair.first} is {change:+.4f}, told from zero"
                f" (95% interval {interval((low, high), 4)})."
            )
    return sentences


def _against_trigram(best: Record) -> str:
    """How the best model stands beside an ordinary one of the same tokens."""
    ours, trigram = best["val_ppl"], best["kn3_ppl"]
    verb, factor = ("beats", trigram / ours) if ours < trigram else ("loses to", ours / trigram)
    return (
        f"It {verb} a Kneser-Ney trigram of the same tokens, which has {number(trigram)}, by a factor of"
        f" {factor:.2f}."
    )


def warnings(summaries: Sequence[Summary]) -> list[str]:
    """Returns what a reader must know before trusting the numbers."""
    sentences: list[str] = []
    for summary in summaries:
        for record in summary.records:
            name = label(record) + _seed(summary, record)
            sentences += [f"{name}: {text}." for text in _cell_warnings(record)]
        sentences += [f"{summary.series}: {text}." for text in _law_warnings(summary)]
    return sentences


def _cell_warnings(record: Record) -> Iterator[str]:
    if record["status"] != "ok":
        yield record["status"]
    leaked = leakage_warning(*(record[name] for name in LEAKAGE))
    if leaked:
        yield leaked
    converged = f"with {percent(record['phase1_convergence_rate'])} of the tokens converged"
    if record["phase1_status"] == "max steps":
        yield f"phase 1 ended at its last iteration, {record['phase1_iterations']}, {converged}"
    if record["phase1_status"] == "no improvement":
        yield (
            f"phase 1 stopped at iteration {record['phase1_iterations']} because it no longer improved,"
            f" {converged}"
        )
    if record["is_zero_solution"] or record["is_global_attractor"] or record["is_identity"]:
        yield "the contexts are degenerate; see the diagnostics"
    measured = record["status"] == "ok" and record["val_loss"] is not None
    if measured and record["val_loss"] >= record["unigram_loss"]:
        yield (
            f"the validation perplexity, {number(record['val_ppl'])}, is no better than the unigram"
            f" model's, {number(record['unigram_ppl'])}"
        )
    capped = record["phase2_status"] == "max steps" and record["phase2_epochs"] > 1
    if capped and record["best_epoch"] == record["phase2_epochs"]:
        yield (
            f"phase 2 ended at its last epoch, {record['phase2_epochs']}, while the validation loss was"
            " still falling"
        )


def leakage_warning(copies: int | None, val_samples: int | None, shared_runs: float | None) -> str | None:
    """Returns what a user must know of what training holds of validation.

    Args:
      copies: validation samples that are equal to a training sample; None if that was not measured.
      val_samples: all of them.
      shared_runs: share of the validation text's runs of 13 tokens that training holds.

    Returns:
      A sentence without its end; None if both shares are 1 % or less, or not known.

    >>> leakage_warning(2, 10, 0.001)
    'training holds 2 of 10 validation samples, so the perplexity says little of new text'
    """
    parts = []
    if copies and val_samples and copies / val_samples > _LEAKED:
        parts.append(f"{copies:,} of {val_samples:,} validation samples")
    if shared_runs is not None and shared_runs > _LEAKED:
        parts.append(f"{percent(shared_runs)} of the runs of {RUN} tokens of the validation text")
    return (
        f"training holds {' and '.join(parts)}, so the perplexity says little of new text" if parts else None
    )


def _law_warnings(summary: Summary) -> Iterator[str]:
    law = summary.law
    if len({record["val_tokens"] for record in summary.records}) > 1:
        yield "each size has validation tokens of its own, so the law mixes them"
    if law.fitted and law.p_value > _SIGNIFICANT:
        yield f"{_points(summary)} do not tell this law from a flat one (p = {law.p_value:.2g})"
    below = [size for size in PREDICT_AT if law.fitted and law.predict(size) < 1]
    if below:
        yield (
            "the law predicts perplexities below 1, which cannot be, so it does not reach to"
            f" {below[0]:,} tokens"
        )
    if summary.left_out:
        cells = ", ".join(f"{record['num_samples']}" for record in summary.left_out) + " samples"
        if summary.replicated:
            cells = "; ".join(f"{r['num_samples']} samples{_seed(summary, r)}" for r in summary.left_out)
        yield f"the law leaves out the failed cells of {cells}"


def _points(summary: Summary) -> str:
    """How many points a law goes through, and of how many sizes where these are fewer."""
    n, sizes = summary.law.n, summary.num_sizes
    return f"{n} points" if n == sizes else f"{n} points of {sizes} sizes and {summary.num_seeds} seeds"


def _seed(summary: Summary, record: Record) -> str:
    """Which replicate a cell is, where its series has several."""
    return f", seed {record['seed']}" if summary.replicated else ""
