"""Every fit that the reports printed, by their own procedures, to the digits that they printed."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import optimize

from cvfp_jax.reproduction import compat
from cvfp_jax.scaling.derived import reduction_per_doubling
from cvfp_jax.scaling.line import log_line
from tests.reproduction.rounding import line_weights, linear_range, power_law_range

REPORTS = json.loads((Path(__file__).parents[2] / "cvfp_jax/reproduction/data/reports.json").read_text())
R1, R2, R3, R4, R5 = (REPORTS[name] for name in ("R1", "R2", "R3", "R4", "R5"))
SWEEPS = [
    (f"{version} {name}", sweep)
    for version in ("v1", "v2", "v3")
    for name, sweep in R3[version]["sweeps"].items()
]
LAWS = compat.printed_laws(
    [point["samples"] for point in R5["points"]], [point["val_ppl"] for point in R5["points"]]
)


def columns(points, x="tokens"):
    return [point[x] for point in points], [point["val_ppl"] for point in points]


def rounds_to(value, printed, digits=None):
    """Whether a value shows as printed; the reports kept zeros that JSON drops, so digits may be given."""
    if digits is None:
        digits = len(repr(printed).split(".")[1]) if "." in repr(printed) else 0
    return f"{value:.{digits}f}" == f"{printed:.{digits}f}"


def test_r1_to_its_digits():
    printed, law = R1["printed_fit"], compat.printed_power_law(*columns(R1["points"]))
    assert rounds_to(law.alpha, printed["alpha"], 4)
    assert rounds_to(law.log_A, printed["log_A"], 4)
    assert rounds_to(law.A, printed["A"], 0)
    assert rounds_to(law.r2, printed["r2"], 4)
    assert rounds_to(law.p_value, printed["p_value"], 4)
    assert rounds_to(law.std_err, printed["std_err"], 4)
    for size, ppl in R1["printed_predictions"].items():
        assert rounds_to(law.predict(int(size)), ppl), size


def test_r2_to_its_digits():
    law = compat.printed_power_law(*columns(R2["points"]))
    assert rounds_to(law.alpha, R2["printed_fit"]["alpha"], 3)
    assert rounds_to(law.r2, R2["printed_fit"]["r2"], 3)


@pytest.mark.parametrize(("name", "sweep"), SWEEPS, ids=[name for name, _ in SWEEPS])
def test_r3_to_its_digits_or_to_what_rounding_its_perplexities_can_do(name, sweep):
    """R3 fitted unrounded perplexities and printed one decimal of them."""
    tokens, ppl = columns(sweep["points"])
    printed, law = sweep["printed_fit"], compat.printed_power_law(tokens, ppl)
    assert rounds_to(law.r2, printed["r2"], 3)
    alphas, scales = power_law_range(tokens, ppl, 0.05)
    # The printed digits and the digits that unrounded perplexities allow have a number in common.
    assert alphas[0] <= printed["alpha"] + 5e-5
    assert printed["alpha"] - 5e-5 <= alphas[1]
    half = 500 if name.startswith("v2") else 0.5  # v2's A has three digits
    assert scales[0] <= printed["A"] + half
    assert printed["A"] - half <= scales[1]
    assert alphas[1] - alphas[0] < 4e-4  # the bound is no excuse: four digits of alpha are all but fixed


def unrounded(sweep, digits_of_A):
    """One table that rounds to a printed one and has all its fits to their digits, by linear programming."""
    tokens, ppl = columns(sweep["points"])
    rows, lows, highs = [], [], []

    def ask(weights, low, high):
        rows.append(weights)
        lows.append(low)
        highs.append(high)

    slopes = []
    for fit, inside in [
        (sweep["printed_fit"], np.ones(len(tokens), bool)),
        *[
            (each, (np.array(tokens) >= each["tokens"][0]) & (np.array(tokens) <= each["tokens"][1]))
            for each in sweep.get("printed_windows", [])
        ],
    ]:
        slope, intercept = np.zeros(len(tokens)), np.zeros(len(tokens))
        slope[inside], intercept[inside] = line_weights(np.array(tokens)[inside].tolist())
        slopes.append(slope)
        digits = digits_of_A if fit is sweep["printed_fit"] else 3
        half = 0.5 * 10 ** (len(str(round(fit["A"]))) - digits)
        ask(slope, fit["alpha"] - 5e-5, fit["alpha"] + 5e-5)
        ask(intercept, math.log(fit["A"] - half), math.log(fit["A"] + half))
    if "printed_window_change" in sweep:
        delta = sweep["printed_window_change"]["delta"]
        ask(slopes[2] - slopes[1], delta - 5e-5, delta + 5e-5)
    # In units of what rounding allows, so that the solver's tolerance is small against each; a margin keeps
    # the digits clear of their rounding, and the perplexities clear of theirs.
    low, high = np.array(lows), np.array(highs)
    matrix = np.array(rows) / (high - low)[:, None]
    low, high = low / (high - low) + 0.1, high / (high - low) - 0.1
    found = optimize.linprog(
        np.zeros(len(ppl)),
        A_ub=np.concatenate([matrix, -matrix]),
        b_ub=np.concatenate([high, -low]),
        bounds=[(math.log(y - 0.0499), math.log(y + 0.0499)) for y in ppl],
    )
    assert found.success
    return tokens, np.exp(found.x).tolist()


@pytest.mark.parametrize(("name", "sweep"), SWEEPS, ids=[name for name, _ in SWEEPS])
def test_r3_to_all_its_digits_from_perplexities_that_print_as_its_own(name, sweep):
    """A table printed with one decimal determines no fifth digit; one that prints alike has them all."""
    digits_of_A = 3 if name.startswith("v2") else len(str(round(sweep["printed_fit"]["A"])))
    tokens, ppl = unrounded(sweep, digits_of_A)
    assert [round(y, 1) for y in ppl] == columns(sweep["points"])[1]
    printed, law = sweep["printed_fit"], compat.printed_power_law(tokens, ppl)
    assert rounds_to(law.alpha, printed["alpha"], 4)
    assert f"{law.A:.{digits_of_A}g}" == f"{printed['A']:.{digits_of_A}g}"
    assert rounds_to(law.r2, printed["r2"], 3)
    alphas = []
    for window in sweep.get("printed_windows", []):
        inside = [i for i, size in enumerate(tokens) if window["tokens"][0] <= size <= window["tokens"][1]]
        part = compat.printed_power_law([tokens[i] for i in inside], [ppl[i] for i in inside])
        assert rounds_to(part.alpha, window["alpha"], 4)
        assert f"{part.A:.3g}" == f"{window['A']:.3g}"
        assert rounds_to(part.r2, window["r2"], 3)
        alphas.append(part.alpha)
    if alphas:
        change = sweep["printed_window_change"]
        assert rounds_to(alphas[1] - alphas[0], change["delta"], 4)
        assert rounds_to(100 * (alphas[1] - alphas[0]) / abs(alphas[0]), change["percent"], 1)


def test_which_last_digits_of_r3_the_printed_perplexities_do_not_give():
    """The exact gaps: only these exponents, each by one unit, and v1's and v3's A."""
    off = {}
    for name, sweep in SWEEPS:
        law = compat.printed_power_law(*columns(sweep["points"]))
        if not rounds_to(law.alpha, sweep["printed_fit"]["alpha"], 4):
            off[name] = round(round(law.alpha, 4) - sweep["printed_fit"]["alpha"], 4)
    assert off == {
        "v1 1L_768d_1tok": -1e-4,
        "v1 1L_1537d_1tok": 1e-4,
        "v2 1L_768d_1tok": 1e-4,
        "v2 1L_1200d_1tok": 1e-4,
    }
    gaps = [
        round(compat.printed_power_law(*columns(sweep["points"])).A) - sweep["printed_fit"]["A"]
        for name, sweep in SWEEPS
        if not name.startswith("v2")
    ]
    assert gaps == [281, -117, -219, -13]
    for name, sweep in SWEEPS:
        if name.startswith("v2"):
            law = compat.printed_power_law(*columns(sweep["points"]))
            assert f"{law.A:.3g}" == f"{sweep['printed_fit']['A']:.3g}"


def test_r3s_windows_and_their_change():
    sweep = R3["v3"]["sweeps"]["1L_768d_2tok"]
    tokens, ppl = columns(sweep["points"])
    slopes = []
    for window in sweep["printed_windows"]:
        inside = [
            point
            for point in sweep["points"]
            if window["tokens"][0] <= point["tokens"] <= window["tokens"][1]
        ]
        law = compat.printed_power_law(*columns(inside))
        assert f"{law.A:.3g}" == f"{window['A']:.3g}"
        assert rounds_to(law.r2, window["r2"], 3)
        low, high = power_law_range(*columns(inside), 0.05)[0]
        assert low <= window["alpha"] + 5e-5
        assert window["alpha"] - 5e-5 <= high
        slopes.append(law.alpha)
    change = slopes[1] - slopes[0]
    assert round(change, 4) - 0.0722 == pytest.approx(-1e-4)
    contrast = np.append(0.0, line_weights(tokens[1:])[0]) - np.append(line_weights(tokens[:4])[0], 0.0)
    low, high = linear_range(contrast.tolist(), ppl, 0.05)
    assert low <= R3["v3"]["sweeps"]["1L_768d_2tok"]["printed_window_change"]["delta"] + 5e-5
    assert high >= 0.0722 - 5e-5
    assert rounds_to(100 * change / abs(slopes[0]), sweep["printed_window_change"]["percent"], 1)


def test_r4_to_its_digits():
    fitted = {
        name: compat.printed_power_law(*columns(found["points"])).alpha
        for name, found in R4["algorithms"].items()
    }
    assert rounds_to(fitted["ODCM"], R4["algorithms"]["ODCM"]["printed_alpha"], 3)
    assert rounds_to(fitted["OACD"], R4["algorithms"]["OACD"]["printed_alpha"], 3)
    mcdl = R4["algorithms"]["MCDL"]
    two = compat.printed_power_law(*columns(mcdl["points"][1:]))
    assert rounds_to(two.alpha, mcdl["printed_alpha_from_two_points"], 3)
    assert two.r2 == pytest.approx(1.0)
    assert rounds_to(fitted["MCDL"], -0.513, 3)
    for alpha, percent in R4["doubling_reduction_percent"].items():
        assert rounds_to(100 * reduction_per_doubling(float(alpha)), percent, 0)


@pytest.mark.parametrize("printed", R5["printed_fits"], ids=lambda printed: printed["law"])
def test_r5s_five_laws_to_their_digits(printed):
    law = LAWS[printed["law"]]
    assert law.k == printed["k"]
    assert rounds_to(law.r2, printed["r2"], 4)
    assert rounds_to(law.rss, printed["rss"], 2)
    assert rounds_to(law.aic, printed["aic"], 2)
    digits = {"ppl_min": 1, "A": 1, "a": 3, "b": 4, "c": 1, "a0": 3, "a1": 3}
    for name in law.params.keys() & printed.keys():
        assert rounds_to(law.params[name], printed[name], digits[name]), name


def test_the_rest_that_r5_prints():
    for size, ppl in R5["printed_exponential_predictions"].items():
        assert rounds_to(LAWS["exponential_decay"].predict(int(size)), ppl, 1)
    for size, ppl in R5["printed_saturating_extrapolation"].items():
        assert rounds_to(LAWS["saturating"].predict(int(size)), ppl, 1)
    for size, exponent in R5["printed_variable_exponent_values"].items():
        assert rounds_to(compat.printed_exponent(LAWS["variable_exponent"], int(size)), exponent, 3)
    for span, exponent in R5["printed_interval_exponents"].items():
        first, last = map(int, span.split("-"))
        inside = [point for point in R5["points"] if first <= point["samples"] <= last]
        assert rounds_to(-compat.printed_power_law(*columns(inside, "samples")).alpha, exponent, 3)


def test_the_local_exponent_is_the_laws_derivative():
    law = LAWS["variable_exponent"]
    for size in (100.0, 400.0, 1600.0):
        step = 1e-5
        slope = math.log(law.predict(size * math.exp(step)) / law.predict(size * math.exp(-step))) / (
            2 * step
        )
        assert law.local_exponent(size) == pytest.approx(-slope, abs=1e-8)
    bottom = compat.turning_point(law)
    assert law.predict(bottom) < min(law.predict(0.9 * bottom), law.predict(1.1 * bottom))


def test_the_original_procedure_and_ours_agree_where_both_apply():
    tokens, ppl = columns(R1["points"])
    theirs, ours = compat.printed_power_law(tokens, ppl), log_line(tokens, np.log(ppl).tolist())
    for field in ("alpha", "log_A", "r2", "p_value", "std_err", "A"):
        assert getattr(theirs, field) == pytest.approx(getattr(ours, field), rel=1e-10)
    with pytest.raises(ValueError, match="two sizes"):
        compat.printed_power_law([5, 5], [1.0, 2.0])
