"""The report of a sweep: report.md, report.json and figures."""

import json
from collections.abc import Sequence
from pathlib import Path

from cvfp_jax.data.cache import write_atomic
from cvfp_jax.records import Record, label
from cvfp_jax.report import tables
from cvfp_jax.report.summary import PREDICT_AT, Summary, summarise

_SIGNIFICANT = 0.05


def findings(summaries: Sequence[Summary]) -> list[str]:
    """Returns the sentences that the numbers support, each with the numbers in it."""
    found = []
    usable = [(summary, summary.best) for summary in summaries if summary.best]
    if usable:
        summary, best = min(usable, key=lambda pair: pair[1]["val_loss"])
        found.append(
            f"The lowest validation perplexity is {tables.number(best['val_ppl'])}, by {summary.series}"
            f" at {best['train_tokens']:,} tokens; a unigram model of the same tokens has"
            f" {tables.number(best['unigram_ppl'])}."
        )
    for summary in summaries:
        law = summary.law
        if law.fitted:
            found.append(
                f"{summary.series}: each doubling of the data multiplies the perplexity by"
                f" {2**law.alpha:.3f} (alpha {law.alpha:.4f}, standard error {law.std_err:.4f},"
                f" {law.n} points)."
            )
        else:
            found.append(f"{summary.series}: law {law.status}.")
    fitted = sorted((s for s in summaries if s.law.fitted), key=lambda s: s.law.alpha)
    if len(fitted) > 1:
        steep, flat = fitted[0].law, fitted[-1].law
        gap, error = flat.alpha - steep.alpha, (flat.std_err**2 + steep.std_err**2) ** 0.5
        verdict = "more than twice" if gap > 2 * error else "within twice"
        found.append(
            f"The exponents of {fitted[0].series} and {fitted[-1].series}, the steepest and the"
            f" flattest, differ by {gap:.4f}: {verdict} the standard error of the difference, {error:.4f}."
        )
    return found


def warnings(summaries: Sequence[Summary]) -> list[str]:
    """Returns what a reader must know before trusting the numbers."""
    found = []
    for summary in summaries:
        replicates = len({record["seed"] for record in summary.records}) > 1
        for record in summary.records:
            name = label(record) + (f", seed {record['seed']}" if replicates else "")
            if record["status"] != "ok":
                found.append(f"{name}: {record['status']}.")
            if record["phase1_status"] == "max steps":
                found.append(
                    f"{name}: phase 1 ended at its last iteration, {record['phase1_iterations']}, with"
                    f" {tables.percent(record['phase1_convergence_rate'])} of the tokens converged."
                )
            if record["phase1_status"] == "no improvement":
                found.append(
                    f"{name}: phase 1 stopped at iteration {record['phase1_iterations']} because it no longer"
                    f" improved, with {tables.percent(record['phase1_convergence_rate'])} of the tokens"
                    " converged."
                )
            if record["is_zero_solution"] or record["is_global_attractor"] or record["is_identity"]:
                found.append(f"{name}: the contexts are degenerate; see the diagnostics.")
            if record["status"] == "ok" and record["val_loss"] >= record["unigram_loss"]:
                found.append(
                    f"{name}: the validation perplexity, {tables.number(record['val_ppl'])}, is no better"
                    f" than the unigram model's, {tables.number(record['unigram_ppl'])}."
                )
            capped = record["phase2_status"] == "max steps" and record["phase2_epochs"] > 1
            if capped and record["best_epoch"] == record["phase2_epochs"]:
                found.append(
                    f"{name}: phase 2 ended at its last epoch, {record['phase2_epochs']}, while the"
                    " validation loss was still falling."
                )
        if len({record["val_tokens"] for record in summary.records}) > 1:
            found.append(
                f"{summary.series}: each size has validation tokens of its own, so the law mixes them."
            )
        law = summary.law
        if law.fitted and law.p_value > _SIGNIFICANT:
            found.append(
                f"{summary.series}: {law.n} points do not tell this law from a flat one"
                f" (p = {law.p_value:.2g})."
            )
        below = [size for size in PREDICT_AT if law.fitted and law.predict(size) < 1]
        if below:
            found.append(
                f"{summary.series}: the law predicts perplexities below 1, which cannot be, so it does"
                f" not reach to {below[0]:,} tokens."
            )
        if summary.left_out:
            left_out = ", ".join(str(record["num_samples"]) for record in summary.left_out)
            found.append(f"{summary.series}: the law leaves out the failed cells of {left_out} samples.")
    return found


def _bullets(lines: Sequence[str]) -> list[str]:
    return [f"- {tables.escape(line)}" for line in lines] or ["- none"]


def markdown(title: str, summaries: Sequence[Summary], figures: dict[str, str]) -> str:
    """Returns the report as Markdown."""
    first = summaries[0].records[0]
    sizes = [record["train_tokens"] for summary in summaries for record in summary.points]
    span = f"; measured from {min(sizes):,} to {max(sizes):,} tokens" if sizes else ""
    lines = [
        f"# {tables.escape(title)}",
        "",
        f"Corpus `{tables.escape(first['corpus'])}`, embedding `{tables.escape(first['embedding'])}`,"
        f" vocabulary {first['vocabulary']} ({first['vocab_size']:,} tokens), layers {first['num_layers']},"
        f" input tokens {first['num_input_tokens']}, embedding width {first['embed_dim']}, seed"
        f" {first['seed']}, {first['val_tokens']:,} validation tokens, device {first['device']}.",
        "",
        "ER is the effective rank in per cent of the context dimensions, P1 is phase 1, and the unigram"
        " perplexity is that of an add-one unigram model of the same training tokens. Train PPL is the mean"
        " over the batches of the best epoch, each measured before its step. Converged is the share of the"
        " tokens whose context had stopped moving, and residual the mean squared change that one more pass at"
        " fixed parameters would make. ER verdict is the original's (over 80 % good, 75 to 80 % fair), trials"
        " says whether passes over the validation tokens, each from where the last one ended, agree more and"
        " more, and norm and distance are means over contexts and pairs of them. Standard errors are single"
        " ones of the least-squares fit, with as many degrees of freedom as points less two.",
        "",
        "## Summary",
        "",
        tables.summary_table(summaries).markdown(),
        "",
        *(f"![{text}](figures/{name})" for name, text in figures.items()),
        "",
        "## Findings",
        "",
        *_bullets(findings(summaries)),
        "",
        "## To keep in mind",
        "",
        *_bullets(warnings(summaries)),
        "",
    ]
    for summary in summaries:
        lines += [f"## {tables.escape(summary.series)}", ""]
        lines += [tables.cells_table(summary.records).markdown(), ""]
        lines += [tables.diagnostics_table(summary.records).markdown(), ""]
    lines += [
        "## Power laws",
        "",
        f"PPL = A tokens^alpha, least squares of ln PPL on ln tokens{span}. What stands beyond is"
        " extrapolated and carries no interval; a perplexity below 1 cannot be, so there the law has ended.",
        "",
        tables.fits_table(summaries, PREDICT_AT).markdown(),
        "",
    ]
    return "\n".join(lines)


def write_report(title: str, records: Sequence[Record], workdir: Path) -> list[Summary]:
    """Writes report.md, report.json and figures/*.png.

    Args:
      title: the sweep's name.
      records: one or more, of one sweep.
      workdir: where the files go.

    Returns:
      What the report says, by configuration.
    """
    from cvfp_jax.report.figures import save_figures  # half a second, and only needed now

    summaries = summarise(records)
    figures = save_figures(summaries, title, workdir / "figures")
    write_atomic(workdir / "report.md", markdown(title, summaries, figures).encode())
    report = {
        "title": title,
        "summary": [summary.to_json() for summary in summaries],
        "findings": findings(summaries),
        "warnings": warnings(summaries),
        "records": list(records),
    }
    write_atomic(workdir / "report.json", (json.dumps(report, indent=1, allow_nan=False) + "\n").encode())
    return summaries
