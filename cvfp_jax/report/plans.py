"""What ``--dry_run`` prints: the cells of a sweep, or with ``--devices=64 ...`` what a device needs."""

import textwrap
from collections.abc import Sequence

from cvfp_jax.planning.capacity import Capacity
from cvfp_jax.planning.memory_model import ALWAYS, STAGES
from cvfp_jax.planning.plan import CellPlan, gib
from cvfp_jax.report.formats import UNKNOWN, amount, duration, size, whole
from cvfp_jax.report.page import Table

_WIDTH = 72  # of sentences; tables are narrower


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


def _time(seconds: float | None) -> str:
    return duration(seconds, precise=True)


def arrays_table(plan: Capacity) -> Table:
    """The arrays of a device by stage; a stage needs its own and those that are always there."""
    always = sum(plan.arrays[ALWAYS].values())
    rows = [[f"{ALWAYS}: {name}", amount(count)] for name, count in plan.arrays[ALWAYS].items()]
    rows.append([f"{ALWAYS}, in all", amount(always)])
    for stage in STAGES:
        arrays = plan.arrays[stage]
        rows += [[f"{stage}: {name}", amount(count)] for name, count in arrays.items()]
        rows.append([f"{stage}, in all", amount(always + sum(arrays.values()))])
    return Table(["array", "a device"], rows)


def steps_table(plan: Capacity) -> Table:
    """What each step takes by the roofline and by the calibration, and what a device sends in it."""
    rows = []
    for step in plan.steps:
        rows.append(
            [
                step.name,
                size(step.count),
                _time(step.roofline_seconds),
                step.limit,
                amount(step.sent_bytes),
                _time(step.calibrated_seconds),
            ]
        )
        if step.per_unit > 1:
            measured = step.calibrated_seconds
            rows.append(
                [
                    f"{step.stage}, epoch",
                    size(step.count // step.per_unit),
                    _time(step.per_unit * step.roofline_seconds),
                    step.limit,
                    amount(step.per_unit * step.sent_bytes),
                    _time(None if measured is None else step.per_unit * measured),
                ]
            )
    totals = [_time(plan.cell_seconds()), UNKNOWN, UNKNOWN, _time(plan.cell_seconds(calibrated=True))]
    rows.append(["cell, at most", "1", *totals])
    return Table(["step", "times", "roofline", "limit", "sent", "calibrated"], rows)


def series_table(plans: Sequence[Capacity]) -> Table:
    """What each of several cells takes."""
    rows = [
        [
            plan.series,
            amount(plan.peak_bytes),
            size(plan.largest_tokens),
            _time(plan.steps[0].roofline_seconds),
            _time(plan.steps[-1].per_unit * plan.steps[-1].roofline_seconds),
        ]
        for plan in plans
    ]
    return Table(["cell", "a device", "largest N", "iteration", "epoch"], rows)


def sentences(plan: Capacity) -> list[str]:
    """Returns what follows from a plan, a sentence or two each."""
    machine = plan.machine
    name, weight = plan.largest_array
    verdict = "Fits" if plan.fits else "Does not fit"
    lines = [
        f"{verdict}: a device needs {amount(plan.peak_bytes)} and has {amount(machine.memory_bytes)}."
        f" Most is needed in stage {plan.peak_stage}, and of that {name}, {amount(weight)}.",
        f"The largest N that fits: {whole(plan.largest_tokens)}.",
        f"Contexts in a file: {amount(plan.contexts_bytes)} of disk, and as much a checkpoint of phase 1;"
        f" read and written in {_time(plan.streamed_seconds)} an iteration.",
        f"Token ids: {amount(plan.token_ids_bytes)} a process, unless mapped.",
        *plan.notes(),
        f"V = {whole(plan.vocab_size)}, of which {whole(plan.share.distinct)} occur at most. A device:"
        f" {machine.flops / 1e12:g} TFLOP/s; GB/s: {machine.memory_rate / 1e9:g} to its memory,"
        f" {machine.link_rate / 1e9:g} to others, {machine.host_rate / 1e9:g} to files.",
    ]
    if plan.calibration is None:
        lines.append("Steps take longer than the roofline; --calibration=FILE tells what was reached.")
    else:
        lines.append(
            f"Calibrated by {plan.calibration.source}: products at the share of their rate that was reached"
            " there, and sending."
        )
    return lines


def capacity_text(plans: Sequence[Capacity]) -> str:
    """Returns what is printed: all series in a table, and the one that needs most in full."""
    most = max(plans, key=lambda plan: plan.peak_bytes / plan.num_tokens)
    devices = most.machine.devices
    parts = [] if len(plans) == 1 else [series_table(plans).text()]
    parts.append(
        f"{most.series}: N = {whole(most.num_tokens)} on {whole(devices)} device{'s'[: devices > 1]}"
    )
    verdicts = "\n".join(textwrap.fill(line, _WIDTH) for line in sentences(most))
    parts += [arrays_table(most).text(), steps_table(most).text(), verdicts]
    return "\n\n".join(parts)
