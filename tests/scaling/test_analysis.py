import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvfp_jax.scaling.analysis import analyse_group, lack_of_fit
from cvfp_jax.scaling.fitting import fit_law
from cvfp_jax.scaling.laws import LAWS
from cvfp_jax.scaling.line import log_line
from cvfp_jax.scaling.objectives import OBJECTIVES
from cvfp_jax.scaling.points import Group
from tests.tiers import cases

X = (100.0, 200.0, 400.0, 800.0, 1600.0)
PPL = (321.4, 253.1, 186.0, 155.8, 134.7)  # R5
REQUIRED = {
    "group", "law", "status", "k", "n", "params", "std_errors", "intervals", "r2", "r2_log", "rss", "aic",
    "aicc", "loo_log_rmse", "holdout_log_rmse", "predictions",
}  # fmt: skip


@pytest.mark.parametrize("objective", cases(OBJECTIVES, fast=["log"]))
def test_rows_are_json_and_say_what_is_undefined(objective):
    rows = analyse_group(Group("r5", X, PPL), objective=objective, predict=[3200.0, 1e6], draws=60).rows
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    assert [row["law"] for row in rows] == list(LAWS)
    for row in rows:
        assert row.keys() >= REQUIRED
        assert row["params"].keys() == row["std_errors"].keys() == row["intervals"].keys()
        assert [point["x"] for point in row["predictions"]] == [3200.0, 1e6]
    by_law = {row["law"]: row for row in rows}
    assert by_law["exponential_decay"]["aicc"] is None
    assert by_law["power"]["aicc"] is not None
    assert len({row["verdict"] for row in rows}) == 1


def test_predictions_have_the_exact_intervals_of_a_power_law():
    (row,) = analyse_group(Group("r5", X, PPL), ["power"], predict=[1e4], draws=0).rows
    line = log_line(X, np.log(PPL).tolist())
    (found,) = row["predictions"]
    assert found["y"] == pytest.approx(line.predict(1e4))
    assert found["interval"] == pytest.approx(line.interval(1e4, new=False), rel=1e-4)
    assert found["run_interval"] == pytest.approx(line.interval(1e4), rel=1e-4)


def test_a_linear_fits_prediction_has_its_scatter_in_y():
    (row,) = analyse_group(Group("r5", X, PPL), ["log_linear"], "linear", [1000.0], draws=0).rows
    (found,) = row["predictions"]
    u = np.log(X) - np.log(X).mean()
    s = math.sqrt(row["rss"] / 3)
    half = 3.182446 * s * math.sqrt(1 + 1 / 5 + (math.log(1000) - np.log(X).mean()) ** 2 / (u @ u))
    assert found["run_interval"] == pytest.approx([found["y"] - half, found["y"] + half], rel=1e-4)


def test_hubers_loss_has_an_interval_for_one_more_run():
    random = np.random.default_rng(2)
    x = np.geomspace(100, 1e5, 60)
    y = 1e4 * x**-0.5 * np.exp(0.05 * random.normal(size=60))
    (row,) = analyse_group(Group("h", tuple(x), tuple(y)), ["power"], "huber", [1e6], draws=100).rows
    (found,) = row["predictions"]
    low, high = np.log(found["y"] / np.array(found["run_interval"]))
    # Normal noise of 5 % has 95 % within 1.96 of it.
    assert 0.07 < low < 0.14
    assert 0.07 < -high < 0.14
    assert found["run_interval"][0] < found["interval"][0] < found["interval"][1] < found["run_interval"][1]


def test_many_points_have_intervals_without_draws():
    random = np.random.default_rng(2)
    x = np.geomspace(100, 1e5, 2100)
    y = 1e4 * x**-0.5 * np.exp(0.05 * random.normal(size=2100))
    for objective in ("log", "huber"):
        (row,) = analyse_group(Group("h", tuple(x), tuple(y)), ["power"], objective).rows
        low, high = row["intervals"]["a"]
        error = 0.05 / math.sqrt(2100 * np.var(np.log(x)))
        assert (high - low) / 2 == pytest.approx(
            1.96 * error * (1.25 if objective == "huber" else 1), rel=0.15
        )
        assert (row["bootstrap_intervals"] is None) == (objective == "log")


def test_points_that_are_held_out_test_a_law():
    group = Group("t", X, tuple(1000 * np.array(X) ** -0.5), tests=((1e4, 11.0), (1e6, 1.0)))
    (row,) = analyse_group(group, ["power"], draws=0).rows
    assert row["test_log_rmse"] == pytest.approx(math.log(1.1) / math.sqrt(2), rel=1e-6)


def test_too_few_points_have_a_status_and_no_numbers():
    (row,) = analyse_group(Group("few", X[:3], PPL[:3]), ["exponential_decay"], predict=[1e4]).rows
    assert row["status"] == "too few points: 3 sizes, 5 or more are needed"
    assert row["params"] == row["intervals"] == {}
    assert row["predictions"] == [{"x": 1e4, "y": None, "interval": None, "run_interval": None}]
    assert row["loo_log_rmse"] is row["r2"] is row["bootstrap_intervals"] is None


def test_each_law_is_named_before_it_is_fitted():
    said = []
    analysis = analyse_group(Group("a", X, PPL), ["power", "constant"], draws=0, progress=said.append)
    assert said == ["a: power", "a: constant"]
    assert [(row["group"], row["law"]) for row in analysis.rows] == [("a", "power"), ("a", "constant")]


def test_replicates_tell_a_wrong_law_from_noise():
    random = np.random.default_rng(0)
    x = np.repeat(np.geomspace(100, 1e5, 8), 3)
    noise = np.exp(0.02 * random.normal(size=24))
    bent = LAWS["saturating"].value({"ppl_min": 80.0, "A": 4e4, "a": 0.9}, x) * noise
    assert lack_of_fit(fit_law("power", x, bent)) < 1e-6
    assert lack_of_fit(fit_law("saturating", x, bent)) > 0.01
    assert math.isnan(lack_of_fit(fit_law("power", X, PPL)))


def test_the_lack_of_fits_probability_is_evenly_spread_where_the_law_holds():
    random = np.random.default_rng(1)
    x = np.repeat(np.geomspace(100, 1e5, 6), 2)
    probabilities = [
        lack_of_fit(fit_law("power", x, 1e4 * x**-0.5 * np.exp(0.05 * random.normal(size=12)), starts=2))
        for _ in range(200)
    ]
    assert 0.4 < np.mean(probabilities) < 0.6
    assert 0.02 < np.mean(np.array(probabilities) < 0.1) < 0.18


@pytest.mark.parametrize("objective", OBJECTIVES)
@settings(max_examples=6, deadline=None)
@given(
    points=st.lists(
        st.tuples(st.floats(1e-300, 1e300), st.floats(1e-300, 1e300) | st.floats(0.1, 10)),
        min_size=2,
        max_size=6,
        unique_by=lambda point: point[0],
    ).map(sorted)
)
def test_any_points_have_rows_without_a_warning(objective, points):
    x, y = zip(*points, strict=True)
    rows = analyse_group(Group("any", x, y), objective=objective, predict=[1e-3, 1e300], draws=20).rows
    json.dumps(rows, allow_nan=False)
    for row in rows:
        assert row["status"] == "converged" or ":" in row["status"]


def test_what_spans_more_than_data_can_is_not_fitted():
    (row,) = analyse_group(Group("wide", (1e-300, 1.0, 1e300), (1.0, 2.0, 3.0)), ["power"]).rows
    assert row["status"] == "not defined: sizes over 600 orders of magnitude, 40 or fewer are data"
