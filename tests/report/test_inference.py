import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvfp_jax.report.inference import infer, targets
from cvfp_jax.report.summary import summarise
from cvfp_jax.scaling.correlate import correlate
from tests.report.made_records import law_records, record


@given(st.floats(1.0, 1e9))
def test_targets_are_round_and_below_what_was_measured(best):
    found = targets(best)
    assert all(1 < target < best for target in found)
    assert found == sorted(found, reverse=True)
    assert all(f"{target:e}"[0] in "125" and float(f"{target:e}"[1:8]) == 0 for target in found)
    assert len(found) == 3 or best <= 10


@pytest.mark.parametrize("best", [math.nan, math.inf, 1.0, 0.5])
def test_no_perplexity_has_no_targets(best):
    assert targets(best) == []


def test_windows_hold_three_sizes_of_four_and_four_of_more():
    made = {n: law_records(8, -0.3, 9.0, (50, 100, 200, 400, 800)[:n]) for n in (3, 4, 5)}
    assert infer(summarise(made[3])).windows == []
    for n, window in ((4, 3), (5, 4)):
        (found,) = infer(summarise(made[n])).windows
        assert (found.num_sizes, len(found.windows)) == (window, 2)
    # Replicates make no more sizes.
    again = law_records(8, -0.3, 9.0, (50, 100, 200), seed=43)
    assert infer(summarise([*made[3], *again])).windows == []


def ranked(dim, n, rank, ppl, **changes):
    return record(dim, n, math.log(ppl), val_effective_rank=rank, **changes)


def test_effective_ranks_are_grouped_by_series_and_by_size():
    made = [
        ranked(dim, n, 0.7 + 0.001 * dim + 0.0001 * n, 300 + (dim - 18) ** 2 - n)
        for dim in (8, 16, 32)
        for n in (50, 100, 200)
    ]
    groups = infer(summarise(made)).rank_correlations
    assert list(groups) == [
        "all cells", "1L_8d_1tok", "1L_16d_1tok", "1L_32d_1tok",
        "at 5,000 tokens", "at 10,000 tokens", "at 20,000 tokens",
    ]  # fmt: skip
    assert [group.n for group in groups.values()] == [9, 3, 3, 3, 3, 3, 3]
    known = correlate([71.3, 72.1, 73.7], [350, 254, 446])
    assert groups["at 5,000 tokens"].pearson == pytest.approx(known.pearson)
    assert groups["at 5,000 tokens"].spearman == known.spearman == 0.5
    assert list(infer(summarise(made[:3])).rank_correlations) == ["all cells"]
    assert infer(summarise(made[:2])).rank_correlations == {}


def test_cells_that_failed_or_were_not_measured_are_in_no_group():
    made = [
        *(ranked(8, n, 0.7, 300.0 + n) for n in (50, 100, 200)),
        ranked(8, 400, 0.9, 1.5, status="failed: phase 2 was not finite in epoch 2"),
        record(8, 800, 5.0, val_effective_rank=None),
    ]
    inference = infer(summarise(made))
    (group,) = inference.rank_correlations.values()
    assert group.n == len(inference.rank_rule_errors) == 3


def test_every_number_is_there_for_a_program_to_read():
    made = [
        ranked(dim, n, 0.6 + 0.02 * at, math.exp(9 + alpha * math.log(100 * n) + 0.03 * (-1) ** at))
        for dim, alpha in ((8, -0.3), (16, -0.5))
        for at, n in enumerate((50, 100, 200, 400, 800))
    ]
    summaries = summarise(made)
    found = json.loads(json.dumps(infer(summaries).to_json(), allow_nan=False))
    first, second = (summary.law for summary in summaries)
    (difference,) = found["exponent_differences"]
    assert difference["alpha_change"] == second.alpha - first.alpha
    assert difference["crossover"]["size"] == pytest.approx(
        math.exp((second.log_A - first.log_A) / (first.alpha - second.alpha))
    )
    assert [row["target"] for row in found["targets"]] == [20.0, 10.0, 5.0] * 2
    assert len(found["windows"]) == 2
    assert found["windows"][0]["trend"]["status"] == "compared"
    assert found["windows"][0]["windows"][0]["fit"]["n"] == 4
    whole = found["rank_correlations"][0]
    assert (
        whole["pearson"]
        == correlate([100 * r["val_effective_rank"] for r in made], [r["val_ppl"] for r in made]).pearson
    )
    low, high = found["rank_rule_errors"]
    assert low < high
    assert found["ppl_per_million_context_parameters"]["1L_8d_1tok"] == summaries[0].best["val_ppl"] / 64e-6


def test_one_failed_cell_has_nothing_to_say():
    broken = record(8, 400, None, status="failed: phase 1 was not finite at iteration 3")
    found = infer(summarise([broken])).to_json()
    assert found.pop("ppl_per_million_context_parameters") == {}
    assert not any(found.values())
