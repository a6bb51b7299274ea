import json
import math

import numpy as np
import pytest

import launch
from cvfp_jax.errors import UserError
from cvfp_jax.report import records
from cvfp_jax.report.against import compare_sweeps, ratios_table
from cvfp_jax.report.against_figures import pair_figure
from cvfp_jax.report.rebuild import rebuild_report
from cvfp_jax.report.summary import summarise
from tests.report.made_records import law_records, record

NAMES = ("v1", "v2")


def compare(first, second):
    return compare_sweeps(NAMES, summarise(first), summarise(second))


def noisy(dim, alpha, log_A, sizes=(50, 100, 200, 400), noise=0.05, **changes):
    """Cells about a power law, in turn above and below it."""
    made = law_records(dim, alpha, log_A, sizes)
    return [
        record(dim, cell["num_samples"], cell["val_loss"] + noise * (-1) ** n, **changes)
        for n, cell in enumerate(made)
    ]


def write(folder, made):
    folder.mkdir()
    for found in made:
        records.append(folder / "records.jsonl", found)
    return folder


def test_ratios_are_at_equal_sizes_interpolated_and_never_beyond():
    first = [record(8, 50, 6.0), record(8, 200, 5.0)]
    second = [record(8, 50, 5.9), record(8, 100, 5.4), record(8, 400, 4.0)]
    against = compare(first, second)
    (pair,) = against.pairs
    assert ratios_table(against, pair).rows == [
        ["5,000", "403.4", "365.0", f"{math.exp(-0.1):.4f}", "measured"],
        ["10,000", "244.7", "221.4", f"{math.exp(-0.1):.4f}", "interpolated"],
        ["20,000", "148.4", "109.9", f"{math.exp(-0.3):.4f}", "interpolated"],
        ["40,000", "-", "-", "-", "not compared"],
    ]
    assert against.findings == [
        "1L_8d_1tok: at 3 sizes from 5,000 to 20,000 tokens the perplexity of v2 is 0.741 to 0.905 times that"
        " of v1, and lower at 3 of them."
    ]
    found = json.loads(json.dumps(against.to_json(), allow_nan=False))
    assert found["pairs"][0]["ratios"][3]["ratio"] is None
    assert found["pairs"][0]["alpha_difference"] is None


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        (-0.01, "these points do not tell the exponents apart."),
        (-0.9, "the perplexity of v2 falls faster as the data grow."),
        (0.9, "the perplexity of v1 falls faster as the data grow."),
    ],
)
def test_the_exponents_say_no_more_than_their_interval(change, verdict):
    against = compare(noisy(8, -0.3, 9.0), noisy(8, -0.3 + change, 9.0, noise=-0.05))
    (pair,) = against.pairs
    moved, low, high = pair.difference
    assert moved == pytest.approx(pair.second.law.alpha - pair.first.law.alpha)
    last = against.findings[-1]
    assert last.endswith(verdict)
    assert f"is {moved:+.4f} (95% interval {low:+.4f} to {high:+.4f})" in last


def test_series_are_paired_by_name_then_by_configuration():
    first = [record(8), record(16, series="16, corpus=a"), record(32)]
    second = [record(8), record(16, series="16, corpus=b"), record(64)]
    against = compare(first, second)
    assert [pair.name for pair in against.pairs] == ["1L_8d_1tok", "16, corpus=b against 16, corpus=a"]
    assert against.unpaired == ["1L_32d_1tok of v1", "1L_64d_1tok of v2"]
    assert against.warnings == ["Without a partner, and not compared: 1L_32d_1tok of v1, 1L_64d_1tok of v2."]
    # Two of one configuration have no partner that a reader would expect.
    with pytest.raises(UserError, match="nothing to compare: v2 has the series a, b, v1 has c, d; name"):
        compare([record(series="c"), record(series="d")], [record(series="a"), record(series="b")])


def test_a_configuration_that_a_sweep_has_twice_has_no_partner():
    once, twice = [record(series="c"), record(16)], [record(series="a"), record(series="b"), record(16)]
    for first, second in ((once, twice), (twice, once)):
        assert [pair.name for pair in compare(first, second).pairs] == ["1L_16d_1tok"]


def test_the_single_series_of_each_belong_together():
    (pair,) = compare([record(8)], [record(16)]).pairs
    assert pair.name == "1L_16d_1tok against 1L_8d_1tok"


def test_what_is_measured_on_other_tokens_is_said():
    other = {"val_tokens": 5000, "corpus_sha256": "1" * 64, "vocab_size": 9}
    broken = record(8, 100, None, status="failed: phase 1")
    overflown = record(8, 400, 900.0)
    found = compare([record(8), broken], [record(8, **other), overflown]).warnings
    differ = "1L_8d_1tok: the texts, their split or the vocabulary differ, so the ratios compare these too."
    assert found[0] == differ
    assert "the number of validation tokens differs (1 in the first, 1; 5,000 in the second)" in found[1]
    assert "the size of the vocabulary differs" in found[2]
    assert found[3] == "1L_8d_1tok of v1: failed cells left out, 1."
    assert compare([record(8)], [record(8, corpus="text:y")]).warnings == [differ]
    # Each size has a hash of its own.
    more = record(8, 100, corpus_sha256="2" * 64)
    assert compare([record(8)], [record(8), more]).warnings == []
    (unknown,) = compare([record(8)], [more]).warnings
    assert "nothing tells whether both read the same texts" in unknown


def test_sizes_that_do_not_meet_are_not_compared():
    against = compare([record(8, 50), record(8, 100)], [record(8, 200), record(8, 400)])
    assert against.findings == [
        "1L_8d_1tok: at no size do both have a perplexity, measured or between two measured."
    ]
    pair_figure(against, against.pairs[0]).savefig("/dev/null", format="png")


def test_the_figure_shows_both_and_their_difference():
    against = compare(noisy(8, -0.3, 9.0), noisy(8, -0.5, 9.0, (50, 200, 400)))
    above, below = pair_figure(against, against.pairs[0]).axes
    _, first, _, second = above.get_lines()
    np.testing.assert_allclose(first.get_xdata(), [5e3, 1e4, 2e4, 4e4])
    np.testing.assert_allclose(second.get_xdata(), [5e3, 2e4, 4e4])
    line, hollow, _ = below.get_lines()
    np.testing.assert_allclose(line.get_ydata(), [100 * (r.ratio - 1) for r in against.pairs[0].ratios])
    assert list(hollow.get_xdata()) == [1e4]
    assert (below.get_xlabel(), below.get_ylabel()) == ("training tokens", "difference (%)")


def test_the_report_has_the_comparison(tmp_path, capsys):
    own = write(tmp_path / "own", noisy(8, -0.3, 9.0))
    other = write(tmp_path / "other", noisy(8, -0.5, 9.0, preset="v<2>$x^{$"))
    assert launch.main(["launch.py", "--experiment=report", f"--workdir={own}", f"--against={other}"]) == 0
    out = capsys.readouterr().out
    text, page = ((own / name).read_text() for name in ("report.md", "report.html"))
    assert "## Against context_dim, preset v&lt;2&gt;$x^{$\n" in text
    assert "figures/against-1.png" in text
    assert page.count("data:image/png;base64,") == len(list((own / "figures").iterdir()))
    against = json.loads((own / "report.json").read_text())["against"]
    assert (against["second"], len(against["pairs"][0]["ratios"])) == ("context_dim, preset quick", 4)
    for sentence in against["findings"]:
        assert sentence in out


def test_folders_that_cannot_be_compared_are_refused(tmp_path):
    own = write(tmp_path / "own", [record()])
    with pytest.raises(UserError, match=r"--against=.*none is not there: name the folder of a sweep"):
        rebuild_report(own, tmp_path / "none")
    with pytest.raises(UserError, match=r"records\.jsonl holds no records"):
        rebuild_report(own, tmp_path)
    with pytest.raises(UserError, match=r"--against=.*own is --workdir itself"):
        rebuild_report(own, own)
    other = write(tmp_path / "other", [record(16), record(32)])
    with pytest.raises(UserError, match=r"nothing to compare: .*own has the series 1L_8d_1tok, .*other has"):
        rebuild_report(own, other)
