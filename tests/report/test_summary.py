import math

import pytest

from cvfp_jax.report.summary import summarise
from tests.report.made_records import law_records, record


def test_records_are_grouped_and_fitted_by_configuration():
    few, many = law_records(16, -0.5, 11.0), law_records(8, -0.3, 9.0, (200, 50, 100, 400))
    first, second = summarise([*few, *many])
    assert [first.series, second.series] == ["1L_8d_1tok", "1L_16d_1tok"]
    assert [r["num_samples"] for r in first.records] == [50, 100, 200, 400]
    assert (first.law.alpha, second.law.alpha) == pytest.approx((-0.3, -0.5))
    assert (first.law.n, second.law.n) == (4, 3)
    assert first.best["num_samples"] == 400


def test_an_overflowing_perplexity_is_no_hindrance():
    overflowed = record(8, 25, 800.0, status="ok; not finite: val_ppl")
    (summary,) = summarise([overflowed, *law_records(8, -0.3, 9.0)])
    assert summary.law.n == 4


def test_replicates_are_points_of_fewer_sizes():
    (alone,) = summarise(law_records(8, -0.3, 9.0))
    assert (alone.num_sizes, alone.replicated) == (3, False)
    (summary,) = summarise([*law_records(8, -0.3, 9.0), *law_records(8, -0.3, 9.1, seed=43)])
    assert (summary.law.n, summary.num_sizes, summary.replicated) == (6, 3, True)
    assert (summary.to_json()["fit"]["n"], summary.to_json()["fit"]["num_sizes"]) == (6, 3)


def test_the_sizes_of_a_law_are_those_of_its_points():
    broken = record(8, 400, None, status="failed: phase 2 was not finite in epoch 1")
    (summary,) = summarise([*law_records(8, -0.3, 9.0), broken])
    assert summary.num_sizes == 3


def test_the_spread_between_seeds_is_that_about_each_sizes_mean():
    made = [record(8, n, loss, seed=seed)
            for n, losses in ((50, (6.0, 6.2)), (100, (5.0, 5.1, 5.2)), (200, (4.5,)))
            for seed, loss in enumerate(losses)]  # fmt: skip
    (summary,) = summarise(made)
    assert (summary.num_sizes, summary.num_seeds) == (3, 3)
    # (0.1^2 + 0.1^2 + 0.1^2 + 0.1^2) / (6 points less 3 means)
    assert summary.seed_spread == pytest.approx(math.sqrt(0.04 / 3))
    (alone,) = summarise(law_records(8, -0.3, 9.0))
    assert math.isnan(alone.seed_spread)
    assert alone.to_json()["fit"]["seed_spread"] is None


def test_the_law_stands_in_json_with_its_intervals():
    noisy = [record(8, n, loss) for n, loss in ((50, 6.0), (100, 5.5), (200, 5.3))]
    (summary,) = summarise(noisy)
    fit, law = summary.to_json()["fit"], summary.law
    assert fit["alpha_interval"] == list(law.alpha_interval())
    assert fit["reduction_per_doubling"] == 1 - 2**law.alpha
    assert fit["predictions"]["10000000"] == {
        "ppl": law.predict(1e7),
        "interval": list(law.interval(1e7)),
        "extrapolated": True,
    }
    (few,) = summarise(noisy[:2])
    assert few.to_json()["fit"]["alpha_interval"] is None
    assert few.to_json()["fit"]["predictions"]["1000000"]["ppl"] is None
