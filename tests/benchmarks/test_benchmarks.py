import argparse
import dataclasses
import itertools
import json
import math
import sys

import jax
import numpy as np
import pytest

from benchmarks import (
    compare,
    flags,
    generation,
    measure,
    memory,
    ours,
    result,
    scaling,
    scaling_figure,
    sides,
    timing,
)
from benchmarks.measure import Measured
from benchmarks.parts import (
    EVALUATE,
    NAMES,
    PHASE1,
    RANK,
    RECURRENCE,
    TRAIN,
    Part,
    Scale,
    cell,
    cell_formula,
    needed,
    parts,
)
from benchmarks.timing import Timing
from benchmarks.workload import Workload
from cvfp_jax.errors import MachineError, UserError
from tests.tiers import cases

TINY = Workload(tokens=300, context_dim=8, embed_dim=8, vocab=50)
TINY_FLAGS = ["--tokens=300", "--context_dim=8", "--embed_dim=8", "--vocab=50", "--quick"]
SCALE = Scale(eval_batch=64, recurrence_tokens=32, rank_rows=40, cell_batch=128, cell_val_tokens=101)
FACTS = {"precision": "f32", "cores": 2}


def taking(*seconds, first=5.0):
    return Timing(first, seconds)


def measured(part, ours, torch, torch_same=None, square=0.5):
    shape = (10, 10, 10)
    products = {
        ("f32", "square"): (shape, taking(square)),
        ("f32", "part"): (shape, taking(2 * square)),
        ("bf16", "square"): (shape, taking(square / 4)),
    }
    return Measured(part, ours, torch, torch_same or torch, products)


def whole(ours=2.0, torch=6.0, same=3.0):
    chosen = {name: parts(TINY, SCALE)[name] for name in needed(NAMES, TINY, SCALE)}
    each = {name: measured(part, taking(ours), taking(torch), taking(same)) for name, part in chosen.items()}
    peaks = {name: {"ours": 100.0 + n, "torch": 200.0 + n} for n, name in enumerate(chosen)}
    return each, peaks


def test_the_data_are_the_same_every_time_and_as_spread_as_text():
    work = Workload()
    assert 5500 < work.distinct_tokens() < 6500
    np.testing.assert_array_equal(work.ids(), Workload().ids())
    assert TINY.table().std() == pytest.approx(0.14, rel=0.1)
    assert TINY.contexts(7).shape == (7, 8)
    assert TINY.contexts(7).dtype == TINY.table().dtype == np.float32


def test_each_side_takes_its_turn_and_the_warm_up_is_apart():
    calls = []
    clock = itertools.count()
    runs = {name: lambda name=name: calls.append((name, next(clock))) for name in "ab"}
    timings = timing.alternate(runs, repeats=3)
    assert [name for name, _ in calls] == list("abababab")
    assert all(len(one.seconds) == 3 for one in timings.values())


def test_slow_parts_make_the_least_rounds_and_quick_ones_the_most(monkeypatch):
    monkeypatch.setattr(timing, "SECONDS", 0.0)
    assert len(timing.alternate({"a": int})["a"].seconds) == timing.LEAST
    monkeypatch.setattr(timing, "SECONDS", 60.0)
    assert len(timing.alternate({"a": int})["a"].seconds) == timing.MOST


def test_medians_quartiles_and_compilation():
    one = taking(4.0, 1.0, 2.0, 3.0, 90.0, first=10.0)
    assert one.median == 3.0
    assert one.quartiles == (2.0, 4.0)
    assert one.compilation == 7.0
    assert taking(2.0, first=1.0).compilation == 0.0
    assert one.facts(2, "a token") == {
        "median": 1.5, "quartiles": [1.0, 2.0], "repeats": 5, "unit": "seconds a token"
    }  # fmt: skip


def test_operations_are_those_of_the_products_that_are_needed():
    work = Workload(tokens=11, context_dim=3, embed_dim=5, vocab=7, input_tokens=2)
    N, D, E, V, K, U, B = 11, 3, 5, 7, 2, 4, 6
    assert Part(PHASE1, work, N).operations(U) == 4 * N * D * D + 4 * U * K * E * D
    assert Part("parallel", work, N).operations(U) == 2 * N * D * D + 2 * U * K * E * D
    assert Part(RECURRENCE, work, N).operations(U) == 2 * D * D
    train = 4 * B * E * V + 4 * B * (D + K * E) * E + 4 * B * K * E * E
    assert Part(TRAIN, work, B).operations(U) == train
    assert Part(EVALUATE, work, B).operations(U) == train / 2
    assert Part(RANK, work, 10).operations(U) == 20 * D * D + 2 * D**3
    one = dataclasses.replace(work, input_tokens=1)
    assert Part(TRAIN, one, B).operations(U) == 4 * B * E * V + 4 * B * (D + E) * E


def test_parts_are_of_the_sizes_that_their_names_say():
    made = parts(dataclasses.replace(Workload(), context_dim=100, input_tokens=3), Scale())
    assert [made[f"recurrence_{dim}"].work.context_dim for dim in (768, 256)] == [768, 256]
    assert [made[f"phase1_k{k}"].work.input_tokens for k in (1, 2)] == [1, 2]
    assert [made[f"phase2_train_{rows}"].rows for rows in (512, 2048)] == [512, 2048]
    assert made["effective_rank"].rows == 10_000
    assert made["recurrence_768"].rows == made["recurrence_256"].rows == 31_023  # as a cell's
    assert made["cell_phase1"].work.input_tokens == 3
    assert made["cell_recurrence"].work.context_dim == 100


def test_a_cell_is_r3_v2_at_fifty_samples():
    counts = cell(Workload(), Scale())
    assert counts["cell_phase1"] == 22
    assert counts["cell_recurrence"] == 31_023
    assert counts["effective_rank"] == 2
    assert counts["cell_phase2_train"] * 2048 == pytest.approx(20 * 62_890)
    assert counts["cell_phase2_eval"] * 2048 == pytest.approx(20 * 31_023)
    assert "22 cell_phase1 + 31,023 cell_recurrence + 1 cell_parallel" in cell_formula(counts)
    every = parts(Workload(), Scale())
    assert every["cell_phase2_train"] == every["phase2_train_2048"]
    assert every["cell_phase2_eval"] == every["phase2_eval"]


def test_ratios_and_fractions_follow_from_the_medians():
    each, peaks = whole()
    part = each["phase1_k1"].part
    facts = result.numbers(NAMES, each, peaks, TINY, SCALE, "f32")
    assert set(facts["ratios"]) == set(facts["ours"]) == set(facts["fraction_of_peak"]) == set(NAMES)
    assert all(ratio == pytest.approx(3.0) for ratio in facts["ratios"].values())
    assert all(ratio == pytest.approx(1.5) for ratio in facts["ratios_same_precision"].values())
    gflop = part.operations(TINY.distinct_tokens()) / 1e9
    assert facts["gflops"]["phase1_k1"] == pytest.approx(gflop / 2)
    assert facts["torch_gflops"]["phase1_k1"] == pytest.approx(gflop / 6)
    # Of the two products, the faster.
    assert facts["fraction_of_peak"]["phase1_k1"] == pytest.approx(gflop / 2 / (2e-6 / 0.5))
    assert facts["peak_rss_mb"]["phase1_k1"] == peaks["phase1_k1"]
    # A recurrence is told a token.
    assert facts["ours"]["recurrence_768"]["median"] == pytest.approx(2.0 / 32)
    assert facts["matmul_gflops"]["bf16"]["best"] == pytest.approx(4 * facts["matmul_gflops"]["f32"]["best"])
    assert json.loads(json.dumps(facts)) == facts


def test_in_bf16_the_peak_is_that_of_bf16_operands():
    each, peaks = whole()
    f32, bf16 = (result.numbers(NAMES, each, peaks, TINY, SCALE, p) for p in ("f32", "bf16"))
    for name in NAMES:
        assert f32["fraction_of_peak"][name] == pytest.approx(4 * bf16["fraction_of_peak"][name])


def test_a_cell_is_the_sum_of_its_parts():
    each, peaks = whole()
    facts = result.numbers(NAMES, each, peaks, TINY, SCALE, "f32")
    # 22 iterations, 100 tokens in runs of 32, a pass, two ranks; 20 epochs of 299 rows and of 100 rows to
    # evaluate, in batches of 128.
    runs = 22 + 100 / 32 + 1 + 2 + 20 * 299 / 128 + 20 * 100 / 128
    assert facts["ours"]["whole_cell"]["median"] == pytest.approx(2.0 * runs)
    assert facts["torch"]["whole_cell"]["median"] == pytest.approx(6.0 * runs)
    operations = sum(
        count * each[name].part.operations(TINY.distinct_tokens()) / 1e9
        for name, count in cell(TINY, SCALE).items()
    )
    assert facts["gflop"]["whole_cell"] == pytest.approx(operations)
    assert facts["fraction_of_peak"]["whole_cell"] == pytest.approx(operations / (2.0 * runs) / (2e-6 / 0.5))
    train, phase1 = peaks["cell_phase2_train"], peaks["cell_phase1"]
    assert facts["peak_rss_mb"]["whole_cell"] == {k: max(train[k], phase1[k]) for k in train}
    assert facts["cell"]["parts"]["effective_rank"]["count"] == 2


def test_the_table_says_what_was_not_measured():
    part = parts(TINY, SCALE)["recurrence_768"]
    each = {"recurrence_768": measured(part, taking(64e-6, 64e-6, 128e-6), None)}
    peaks = {"recurrence_768": {"ours": 1234.5}}
    facts = FACTS | result.numbers(["recurrence_768"], each, peaks, TINY, SCALE, "f32")
    row = result.table(facts, ["recurrence_768"]).rows[0]
    assert row[0] == "recurrence_768 (a token)"
    assert row[1] == "2 [2, 3] us"
    assert row[2:4] == ["-", "-"]
    assert row[6:8] == ["1,234", "-"]
    assert len(result.table(facts | {"precision": "bf16"}, ["recurrence_768"]).rows[0]) == len(row) + 1
    assert facts["ratios"] == facts["torch"] == {}


def test_a_batch_that_is_cut_is_told():
    each, peaks = whole()
    sizes = {"sizes": dataclasses.asdict(SCALE)}
    facts = sizes | result.numbers(NAMES, each, peaks, TINY, SCALE, "f32")
    assert facts["rows"]["phase2_train_512"] == 299
    told = [line for line in result.footer_lines(facts) if "rows" in line]
    assert [line.partition(":")[0] for line in told] == ["phase2_train_512", "phase2_train_2048"]


KINDS = ["phase1_k2", "recurrence_256", "phase2_train_512", "phase2_eval"]


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("kind", cases(KINDS, fast=["phase1_k2", "phase2_eval"]))
def test_this_projects_side_runs(kind):
    scale = dataclasses.replace(SCALE, recurrence_tokens=8)
    part = parts(TINY, scale)[kind]
    timings = timing.alternate({"ours": ours.prepare(part, "f32")}, repeats=2)
    assert all(seconds > 0 for seconds in timings["ours"].seconds)


@pytest.mark.slow
def test_this_project_alone_from_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    jax.clear_caches()  # so that there is something to compile, whatever ran before
    names = "phase2_eval,effective_rank"
    argv = [*TINY_FLAGS, "--batch=64", "--repeats=2", f"--parts={names}", "--ours_only"]
    compare.main([*argv, f"--json={tmp_path / 'a.json'}"])
    facts = json.loads((tmp_path / "a.json").read_text())
    assert set(facts["ours"]) == set(names.split(","))
    assert facts["ratios"] == {}
    assert facts["sizes"]["tokens"] == 300
    assert facts["sizes"]["eval_batch"] == 64
    assert facts["compile_seconds"]["phase2_eval"] > 0
    assert facts["threads"].keys() == {"ours"}
    assert 100 < facts["peak_rss_mb"]["phase2_eval"]["ours"] < 2000
    assert "phase2_eval (a batch)" in capsys.readouterr().out


def test_without_torch_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[bench\]'.*--ours_only"):
        compare.main(["--quick"])


def test_pytorch_is_measured_in_bf16_where_that_makes_a_difference():
    made = parts(TINY, SCALE)
    assert sides.has_precision(made["phase1_k1"], "bf16")
    assert not sides.has_precision(made["phase1_k1"], "f32")
    assert not sides.has_precision(made["recurrence_768"], "bf16")
    assert not sides.has_precision(made["effective_rank"], "bf16")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--tokens=0"], "'0' is not a whole number from 1"),
        (["--tokens=x"], "'x' is not a whole number"),
        (["--tokens=1"], "--tokens=1 is too few"),
        (["--precision=f16"], "invalid choice: 'f16'"),
        (["--parts=phase3"], "'phase3' is no part; choose from phase1_k1"),
        (["--token=5"], "unrecognized arguments: --token=5"),
        (["--json=/no/such/folder/a.json"], "name a file in a folder that exists"),
        (["--ours_only", "--baseline_only"], "not allowed with"),
    ],
)
def test_mistakes_are_one_line(argv, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["compare", *argv])
    assert flags.run(compare.main) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    assert message in err


def test_help_explains(capsys):
    with pytest.raises(SystemExit):
        compare.main(["--help"])
    out = capsys.readouterr().out
    assert "fraction of the peak" in out
    assert all(name in out for name in NAMES)


def test_parts_come_in_the_order_of_the_table():
    assert flags.part_names("phase2_eval,phase1_k1") == ("phase1_k1", "phase2_eval")
    assert "cell_parallel" in needed(("whole_cell",), TINY, SCALE)
    assert needed(("phase2_eval",), TINY, SCALE) == ["phase2_eval"]


def test_other_processes_get_the_same_sizes():
    parser = flags.Parser("")
    flags.add_sizes(parser)
    options = parser.parse_args(["--tokens=77", "--batch=9", "--quick"])
    again = parser.parse_args(flags.size_flags(options))
    assert flags.sizes(again) == flags.sizes(options)
    assert flags.sizes(options)[0].tokens == 77
    assert flags.sizes(options)[1].eval_batch == 9


def test_parts_of_the_same_sizes_are_measured_once(monkeypatch):
    calls = []
    monkeypatch.setattr(
        measure, "measure_part", lambda part, *_: calls.append(part) or measured(part, taking(1.0), None)
    )
    every = parts(TINY, SCALE)
    chosen = {name: every[name] for name in ("phase1_k1", "cell_phase1", "phase2_eval")}
    lines = []
    assert set(measure.measure_all(chosen, {}, "f32", 1, lines.append)) == set(chosen)
    assert calls == [every["phase1_k1"], every["phase2_eval"]]
    assert "measured above" in lines[1]


def test_memory_is_measured_once_a_part_and_side_with_pytorch_in_f32(monkeypatch):
    calls = []

    def fake(side, part, precision, size_flags):
        calls.append((side, part, precision, *size_flags))
        return {"peak_rss_mb": len(part)}

    monkeypatch.setattr(memory, "measure", fake)
    every = parts(TINY, SCALE)
    chosen = {name: every[name] for name in ("phase1_k1", "cell_phase1")}
    peaks = measure.measure_memory(chosen, ("ours", "torch"), "bf16", ["--quick"], print)
    assert sorted(calls) == [
        ("ours", "phase1_k1", "bf16", "--quick"),
        ("torch", "phase1_k1", "f32", "--quick"),
    ]
    assert peaks["cell_phase1"] == {"ours": 9, "torch": 9}


def test_a_process_that_breaks_down_is_told_in_one_line():
    with pytest.raises(MachineError, match=r"nonsense of ours broke down.*--part=nonsense is unknown"):
        memory.measure("ours", "nonsense", "f32", TINY_FLAGS)


def test_the_peak_of_a_process_is_its_own():
    # This process holds more than the new one does: a peak that is handed on would show.
    ballast = np.ones(150_000_000)
    mine = memory.peak_rss_mb()
    other = memory.measure("ours", "effective_rank", "f32", [*TINY_FLAGS])
    assert mine > ballast.nbytes / 1e6
    assert 100 < other["peak_rss_mb"] < mine / 2
    assert other["median"] > 0


def test_growth_is_the_exponent():
    fit = scaling.growth([1, 2, 4, 8], [3.0, 12.0, 48.0, 192.0])
    assert fit["exponent"] == pytest.approx(2.0)
    assert fit["std_err"] == pytest.approx(0.0, abs=1e-9)
    assert scaling.growth([1, 2], [1.0, 2.0])["exponent"] is None


def points(values, seconds, peaks):
    return [
        {"value": value, "median": time, "quartiles": [time, time], "peak_rss_mb": peak}
        for value, time, peak in zip(values, seconds, peaks, strict=True)
    ]


def test_an_axis_is_summed_up_in_a_sentence_and_drawn(tmp_path):
    values = (1000, 10_000, 100_000, 1_000_000)
    axis = scaling.Axis("N", "tokens", "phase1_k1", "an iteration of phase 1", values)
    made = points(values, [1e-3, 1.1e-2, 0.1, 1.2], [500 + 4e-3 * value for value in values])
    summary = {"N": scaling.summarise(axis, made)}
    assert summary["N"]["memory"]["bytes_a_unit"] == pytest.approx(4000)
    assert scaling.per_token(made)["ratio"] == pytest.approx(1.2)
    (line,) = scaling.sentences(summary)
    assert "time ~ N^1.0" in line
    assert "4,000 bytes more for each of N" in line
    assert len(scaling.table(summary).rows) == 4
    scaling_figure.save(summary, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")
    top, bottom = scaling_figure.figure(summary).axes
    assert top.get_ylabel() == "time (s)\nan iteration of phase 1"
    assert (bottom.get_xlabel(), bottom.get_ylabel()) == ("training tokens N", "peak memory (GB)")


def test_what_does_not_fit_is_left_out_politely():
    axis = scaling.axes(quick=False)[0]
    base = dataclasses.replace(Workload(), tokens=60_000)
    assert scaling.fitting(axis, base, None) == (axis, "")
    assert scaling.fitting(axis, base, 10**12) == (axis, "")
    shrunk, note = scaling.fitting(axis, base, 8 * 10**9)
    assert shrunk.values[:3] == (60_000, 200_000, 600_000)
    assert 600_000 < shrunk.values[3] < 2_000_000
    assert scaling.expected_bytes(dataclasses.replace(base, tokens=shrunk.values[3])) <= 8 * 10**9
    assert f"the largest N is {shrunk.values[3]:,}" in note
    assert scaling.fitting(axis, base, 10**9)[0].values == ()


def test_every_axis_has_four_points():
    for quick in (False, True):
        made = scaling.axes(quick)
        assert [axis.letter for axis in made] == list("NDKV")
        assert all(len(axis.values) == 4 for axis in made)


def test_numbers_that_are_no_numbers_are_not_taken():
    with pytest.raises(argparse.ArgumentTypeError):
        flags.positive("²")
    assert math.isfinite(flags.positive("12"))


def test_generation_is_measured_beside_a_plain_read(tmp_path, capsys, quick_compilation):
    generation.main([*TINY_FLAGS, "--repeats=1", f"--json={tmp_path / 'generation.json'}"])
    rows = json.loads((tmp_path / "generation.json").read_text())
    assert [(row["precision"], row["samples"]) for row in rows] == [
        ("f32", 1), ("f32", 8), ("bf16", 1), ("bf16", 8),
    ]  # fmt: skip
    for row in rows:
        assert row["share_of_read"] == pytest.approx(row["read_seconds"] / row["step_seconds"])
        assert row["tokens_per_second"] == pytest.approx(row["samples"] / row["step_seconds"])
    assert "tokens/s" in capsys.readouterr().out
