"""Tables of a sweep's series and cells."""

from collections.abc import Sequence

from cvfp_jax.report.formats import UNKNOWN, number, percent, whole
from cvfp_jax.report.page import Table
from cvfp_jax.report.records import seconds
from cvfp_jax.report.summary import Summary


def summary_table(summaries: Sequence[Summary]) -> Table:
    """The reports' first table: a row a configuration."""
    columns = [
        "config", "context block", "alpha", "A", "R2", "best val PPL", "trigram PPL", "unigram PPL",
        "accuracy", "val ER", "P1 iterations",
    ]  # fmt: skip
    rows = []
    for summary in summaries:
        law, best = summary.law, summary.best
        iterations = [record["phase1_iterations"] for record in summary.records]
        spread = f"{min(iterations)}-{max(iterations)}" if len(set(iterations)) > 1 else f"{iterations[0]}"
        rows.append(
            [
                summary.series,
                whole(summary.records[0]["params_context_block"]),
                number(law.alpha, 4),
                f"{law.A:.3e}" if law.fitted else UNKNOWN,
                number(law.r2, 3),
                number(best["val_ppl"]) if best else UNKNOWN,
                number(best["kn3_ppl"]) if best else UNKNOWN,
                number(best["unigram_ppl"]) if best else UNKNOWN,
                percent(best["val_acc"]) if best else UNKNOWN,
                percent(best["val_effective_rank"]) if best else UNKNOWN,
                spread,
            ]
        )
    return Table(columns, rows, "By configuration, the smallest context block first")


def _seed(summary: Summary, text: str) -> list[str]:
    """The text of a column that only series with several seeds have."""
    return [text] if summary.replicated else []


def cells_table(summary: Summary) -> Table:
    """The measures of each cell."""
    columns = [
        "samples", *_seed(summary, "seed"), "tokens", "P1 iterations", "converged", "residual", "train ER",
        "val ER", "epochs (best)", "train PPL", "val PPL", "trigram PPL", "unigram PPL", "accuracy",
    ]  # fmt: skip
    rows = [
        [
            whole(record["num_samples"]),
            *_seed(summary, str(record["seed"])),
            whole(record["train_tokens"]),
            f"{record['phase1_iterations']} ({record['phase1_status']})",
            percent(record["phase1_convergence_rate"]),
            number(record["residual_mean"], 4),
            percent(record["train_effective_rank"]),
            percent(record["val_effective_rank"]),
            f"{record['phase2_epochs']} ({record['best_epoch']})",
            number(record["train_ppl"]),
            number(record["val_ppl"]),
            number(record["kn3_ppl"]),
            number(record["unigram_ppl"]),
            percent(record["val_acc"]),
        ]
        for record in summary.records
    ]
    return Table(columns, rows, "Measures of each cell")


def diagnostics_table(summary: Summary) -> Table:
    """What the contexts of each cell are like."""
    columns = [
        "samples", *_seed(summary, "seed"), "ER verdict", "trials", "slope", "Lyapunov exponent",
        "contraction rate", "parallel iterations", "norm", "distance", "copies its input",
    ]  # fmt: skip
    rows = [
        [
            whole(record["num_samples"]),
            *_seed(summary, str(record["seed"])),
            str(record["rank_verdict"] or UNKNOWN),
            str(record["val_convergence_status"] or UNKNOWN).lower(),
            number(record["val_convergence_slope"], 5),
            number(record["val_lyapunov_exponent"], 3),
            number(record["val_contraction_rate"], 3),
            whole(record["val_parallel_iterations"]),
            number(record["context_norm_mean"], 2),
            number(record["context_distance_mean"], 2),
            {True: "yes", False: "no"}.get(record["is_identity"], UNKNOWN),
        ]
        for record in summary.records
    ]
    return Table(columns, rows, "Contexts of each cell")


def times_table(summary: Summary) -> Table:
    """What each cell took."""
    stages = ("phase1", "contexts", "effective_rank", "diagnostics", "phase2")
    columns = [
        "samples", *_seed(summary, "seed"), "P1", "contexts", "ER", "diagnostics", "P2", "all work",
        "compiling",
    ]  # fmt: skip
    rows = [
        [
            whole(record["num_samples"]),
            *_seed(summary, str(record["seed"])),
            *(number(record[f"{stage}_seconds"]) for stage in stages),
            *map(number, seconds(record)),
        ]
        for record in summary.records
    ]
    return Table(columns, rows, "Seconds of each cell")
