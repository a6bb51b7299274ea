from cvfp_jax.report import sections
from cvfp_jax.report.page import Heading
from cvfp_jax.report.summary import summarise
from tests.report.made_records import law_records, record


def facts(records):
    (block,) = sections.setting(records)
    return dict(block.pairs)


def test_what_all_cells_share_is_said_once_and_what_differs_is_listed():
    made = [
        *law_records(8, -0.3, 9.0, num_layers=3, val_tokens=4813),
        *law_records(16, -0.3, 9.0, num_layers=1, seed=43, corpus="text:y", val_tokens=4813),
    ]
    said = facts(made)
    assert said["cells"] == "6"
    assert said["layers"] == "1, 3"
    assert said["seed"] == "42, 43"
    assert said["corpus"] == "text:x, text:y"
    assert said["context width"] == "8, 16"
    assert said["training tokens"] == "5,000; 10,000; 20,000"
    assert said["validation tokens"] == "4,813"


def test_many_values_are_a_range():
    made = [record(8, n) for n in range(10, 100, 10)]
    assert facts(made)["samples"] == "10 to 90 (9 values)"
    assert facts(made)["training tokens"] == "1,000 to 9,000 (9 values)"


def test_failed_cells_are_counted():
    made = [record(), record(8, 100, None, status="failed: phase 1 was not finite at iteration 3")]
    assert facts(made)["cells"] == "2, of which 1 failed"


def test_every_section_begins_with_its_heading():
    summaries = summarise(law_records(8, -0.3, 9.0))
    for made in (
        sections.overview(summaries, {}),
        sections.conclusions(["one"], []),
        sections.cells(summaries[0]),
        sections.terms(),
    ):
        assert made[0] == Heading(2, made[0].text)


def test_what_the_text_is_like_is_said_where_it_is_known():
    unknown = dict.fromkeys(("val_samples_in_train", "val_whole_samples", "val_runs_in_train"))
    assert "validation text that training holds" not in facts([record(**unknown)])
    worst = facts([record(), record(samples=100, val_samples_in_train=2, val_runs_in_train=0.25)])
    assert worst["validation text that training holds"] == "2 of 20 samples, 25.0% of its runs of 13 tokens"
    assert "rows left out" not in worst
    assert facts([record(val_corpus="text:v"), record()])["validation corpus"] == "text:v"
    assert facts([record(skipped_rows={"blank": 2, "null": 1})])["rows left out"] == "2 blank, 1 null"
