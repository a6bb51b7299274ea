import math

import pytest

from cvfp_jax.report import findings as sentences
from cvfp_jax.report.findings import warnings
from cvfp_jax.report.inference import infer
from cvfp_jax.report.summary import summarise
from tests.report.made_records import law_records, record


def findings(summaries):
    return sentences.findings(summaries, infer(summaries))


def test_failed_cells_are_left_out_of_the_law_and_said_so():
    broken = record(8, 400, None, val_acc=None, status="failed: phase 2 was not finite in epoch 1")
    (summary,) = summarise([*law_records(8, -0.3, 9.0), broken])
    assert summary.law.n == 3
    said = warnings([summary])
    assert "1L_8d_1tok, 400 samples: failed: phase 2 was not finite in epoch 1." in said
    assert "1L_8d_1tok: the law leaves out the failed cells of 400 samples." in said


def test_a_failed_cell_is_never_the_best():
    broken = record(8, 400, 1.0, status="failed: phase 2 was not finite in epoch 2")
    (summary,) = summarise([*law_records(8, -0.3, 9.0), broken])
    assert summary.best["num_samples"] == 200
    (alone,) = summarise([broken])
    assert alone.best is None
    assert not any("lowest" in line for line in findings([alone]))


def test_the_best_model_is_set_beside_a_trigram():
    def said(ppl, **changes):
        return [
            line
            for line in findings(summarise([record(8, 50, math.log(ppl), **changes)]))
            if "trigram" in line
        ]

    assert said(500.0) == [
        "It loses to a Kneser-Ney trigram of the same tokens, which has 250.0, by a factor of 2.00."
    ]
    assert "It beats a Kneser-Ney trigram" in said(200.0)[0]
    assert said(200.0, kn3_ppl=None) == []


def test_what_the_numbers_do_not_bear_out_is_said():
    worse = record(8, 50, math.log(900.0))
    said = warnings(summarise([worse]))
    assert any("900.0, is no better than the unigram model's, 700.0" in w for w in said)
    noisy = [record(8, n, loss) for n, loss in ((50, 5.0), (100, 5.5), (200, 4.9))]
    said = warnings(summarise(noisy))
    assert any("3 points do not tell this law from a flat one (p = " in w for w in said)
    said = warnings(summarise(law_records(8, -2.0, 20.0)))
    assert any("below 1, which cannot be, so it does not reach to 1,000,000" in w for w in said)


def test_exponents_are_compared_only_where_they_are_told_apart():
    def said(other, error, count=2):
        made = [found for n in range(count) for found in law_records(8 * (n + 1), other if n else -0.5, 10.0)]
        summaries = summarise(made)
        for summary in summaries:
            object.__setattr__(summary.law, "std_err", error)
        return [line for line in findings(summaries) if "told from zero" in line]

    assert said(-0.52, 0.04) == []
    (line,) = said(-0.52, 0.0004)
    # Two degrees of freedom: 4.303 standard errors of the difference.
    half = 4.302653 * 0.0004 * 2**0.5
    assert "The exponent of 1L_16d_1tok less that of 1L_8d_1tok is -0.0200, told from zero (95%" in line
    assert f"interval {-0.02 - half:.4f} to {-0.02 + half:.4f})." in line
    assert len(said(-0.52, 0.0004, 4)) == 3
    assert said(-0.52, 0.0004, 5) == []


def test_findings_hold_the_numbers():
    said = findings(summarise(law_records(8, -0.5, 10.0)))
    assert any(f"multiplies the perplexity by {2**-0.5:.3f}" in line for line in said)
    (few,) = summarise(law_records(8, -0.5, 10.0, (50, 100)))
    assert "1L_8d_1tok: law not fitted: 2 points, 3 or more are needed." in findings([few])


def test_warnings_name_what_did_not_converge_or_was_cut_short():
    cut = record(phase1_status="max steps", phase1_convergence_rate=0.7)
    cut |= {"phase2_status": "max steps", "phase2_epochs": 10, "best_epoch": 10}
    said = warnings(summarise([cut]))
    assert any(
        "phase 1 ended at its last iteration, 20, with 70.0% of the tokens converged" in w for w in said
    )
    assert any(
        "phase 2 ended at its last epoch, 10, while the validation loss was still falling" in w for w in said
    )
    stalled = record(phase1_status="no improvement", phase1_convergence_rate=0.5)
    (text,) = warnings(summarise([stalled]))
    assert "stopped at iteration 20 because it no longer improved, with 50.0% of the tokens" in text
    assert warnings(summarise([record()])) == []


@pytest.mark.parametrize(
    ("copies", "runs", "said"),
    [
        (1, 0.0, "training holds 1 of 20 validation samples, so"),
        (0, 0.25, "training holds 25.0% of the runs of 13 tokens of the validation text, so"),
        (3, 0.25, "training holds 3 of 20 validation samples and 25.0% of the runs"),
        (0, 0.01, None),
        (None, None, None),
    ],
)
def test_validation_text_that_training_holds(copies, runs, said):
    changes = {"val_samples_in_train": copies, "val_runs_in_train": runs}
    lines = [
        line for line in warnings(summarise([record(8, 50, 5.0, **changes)])) if "training holds" in line
    ]
    assert len(lines) == (said is not None)
    assert all(said in line for line in lines)


def test_what_was_not_measured_is_not_compared():
    assert warnings(summarise([record(8, 50, None)])) == [
        "1L_8d_1tok: the law leaves out the failed cells of 50 samples."
    ]


@pytest.mark.parametrize("field", ["is_zero_solution", "is_global_attractor", "is_identity"])
def test_degenerate_contexts_are_named(field):
    said = warnings(summarise([record(**{field: True})]))
    assert said == ["1L_8d_1tok, 50 samples: the contexts are degenerate; see the diagnostics."]


def test_replicates_are_told_apart_and_counted_by_size():
    broken = record(8, 400, None, seed=43, status="failed: phase 1 was not finite at iteration 2")
    (summary,) = summarise(
        [*law_records(8, -0.3, 9.0, seed=42), *law_records(8, -0.3, 9.02, seed=43), broken]
    )
    said = findings([summary])
    assert any("by 1L_8d_1tok, seed 42 at 20,000 tokens" in line for line in said)
    assert any("6 points of 3 sizes and 2 seeds)" in line for line in said)
    assert warnings([summary]) == [
        "1L_8d_1tok, 400 samples, seed 43: failed: phase 1 was not finite at iteration 2.",
        "1L_8d_1tok: the law leaves out the failed cells of 400 samples, seed 43.",
    ]
