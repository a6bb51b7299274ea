"""Tables: what they hold, and how they are written for a terminal and in Markdown."""

import dataclasses
import html
import math
import re
from collections.abc import Sequence

from cvfp_jax.planning.plan import CellPlan, gib
from cvfp_jax.report.summary import Summary
from cvfp_jax.results.records import seconds

UNKNOWN = "-"


@dataclasses.dataclass(frozen=True)
class Table:
    """Column names and rows of cells, all of them text; the first column is the rows' name."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""

    def text(self) -> str:
        """Returns the table for a terminal.

        >>> print(Table(["name", "PPL"], [["a", "9.5"]]).text())
        name  PPL
        ----  ---
        a     9.5
        """
        widths = [max(map(len, column)) for column in zip(self.columns, *self.rows, strict=True)]
        lines = [self.columns, ["-" * width for width in widths], *self.rows]
        return "\n".join(self._line(line, widths) for line in lines)

    @staticmethod
    def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
        first, *rest = zip(cells, widths, strict=True)
        return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)]).rstrip()

    def markdown(self) -> str:
        """Returns the table in Markdown.

        >>> print(Table(["name", "PPL"], [["a|b", "9.5"]]).markdown())
        | name | PPL |
        |:---|---:|
        | a\\|b | 9.5 |
        """
        rule = ["|:---" + "|---:" * (len(self.columns) - 1) + "|"]
        header, *rows = ("| " + " | ".join(map(escape, line)) + " |" for line in [self.columns, *self.rows])
        return "\n".join([header, *rule, *rows])


def escape(text: str) -> str:
    """Returns text that Markdown shows as it is, on one line.

    >>> escape("<b>|")
    '&lt;b&gt;\\\\|'
    >>> print(escape("![a](b)"))
    !\\[a\\](b)
    """
    return re.sub(r"([\\`*\[\]|])", r"\\\1", html.escape(" ".join(text.split()), quote=False))


def number(value: float | None, digits: int = 1) -> str:
    """Returns a number with so many decimals, in powers of ten where it is huge.

    >>> number(1234.56), number(3.2e9), number(None)
    ('1,234.6', '3.2e+09', '-')
    """
    if value is None or math.isnan(value):
        return UNKNOWN
    return f"{value:,.{digits}f}" if abs(value) < 1e7 else f"{value:.3g}"


def whole(value: int | None) -> str:
    """Returns a whole number with its thousands marked.

    >>> whole(1181952)
    '1,181,952'
    """
    return UNKNOWN if value is None else f"{value:,}"


def percent(value: float | None, digits: int = 1) -> str:
    """Returns a share in per cent.

    >>> percent(0.7966)
    '79.7%'
    """
    return UNKNOWN if value is None or math.isnan(value) else f"{100 * value:.{digits}f}%"


def size(value: float) -> str:
    """Returns a number of tokens or samples with three to four digits.

    >>> size(1251389.0), size(324500.0), size(800), size(2.5e9), size(3e31)
    ('1.251M', '324.5k', '800', '2.5B', '3e+31')
    """
    for least, unit, letter in (
        (999.95e12, 0, ""),
        (999.95e9, 1e12, "T"),
        (999.95e6, 1e9, "B"),
        (999_950, 1e6, "M"),
    ):
        if value >= least:
            return f"{value / unit:.4g}{letter}" if unit else f"{value:.3g}"
    return f"{value / 1e3:.4g}k" if value >= 10_000 else f"{value:,.0f}"


def duration(seconds: float) -> str:
    """Returns a time in words.

    >>> duration(7.4), duration(75), duration(7500)
    ('7 s', '1 min 15 s', '2 h 5 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def interval(low: float, high: float, digits: int = 1) -> str:
    """Returns an interval's ends.

    >>> interval(80.04, 1234.5)
    '80.0 to 1,234.5'
    """
    return f"{low:,.{digits}f} to {high:,.{digits}f}"


def plan_table(cells: Sequence[CellPlan]) -> Table:
    """What the cells of a sweep will take."""
    columns = ["cell", "samples", "tokens", "context block", "token block", "all parameters", "memory"]
    rows = [
        [
            cell.series,
            whole(cell.config.num_samples),
            whole(cell.train_tokens),
            whole(cell.params["params_context_block"]),
            whole(cell.params["params_token_block"]),
            whole(cell.params["params_total"]),
            UNKNOWN if cell.memory_bytes is None else gib(cell.memory_bytes),
        ]
        for cell in cells
    ]
    return Table(columns, rows)


def summary_table(summaries: Sequence[Summary]) -> Table:
    """The reports' first table: a row a configuration."""
    columns = [
        "config", "context block", "alpha", "A", "R2", "best val PPL", "unigram PPL", "accuracy",
        "val ER", "P1 iterations",
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
        "val ER", "epochs (best)", "train PPL", "val PPL", "unigram PPL", "accuracy",
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
            number(record["unigram_ppl"]),
            percent(record["val_acc"]),
        ]
        for record in summary.records
    ]
    return Table(columns, rows, "Measures of each cell")


def diagnostics_table(summary: Summary) -> Table:
    """What the contexts of each cell are like."""
    columns = [
        "samples", *_seed(summary, "seed"), "ER verdict", "trials", "slope", "norm", "distance",
        "copies its input",
    ]  # fmt: skip
    rows = [
        [
            whole(record["num_samples"]),
            *_seed(summary, str(record["seed"])),
            str(record["rank_verdict"] or UNKNOWN),
            str(record["val_convergence_status"] or UNKNOWN).lower(),
            number(record["val_convergence_slope"], 5),
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
