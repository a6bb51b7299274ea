import math

import pytest
from made_records import record

from cvfp_jax.record_schema import SCHEMA, misfit


def test_a_record_fits():
    assert misfit(record()) is None
    assert misfit(record(more="fields", than=[], these=None)) is None


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("val_loss", "x", "a number or null"),
        ("val_loss", True, "a number or null"),
        ("val_loss", [6.0], "a number or null"),
        ("val_loss", math.inf, "a number or null"),
        ("val_loss", 10**400, "a number or null"),
        ("unigram_loss", None, "a number"),
        ("val_ppl", 0.0, "a number above 0 or null"),
        ("train_tokens", 0, "a whole number from 1 on"),
        ("train_tokens", 100.0, "a whole number from 1 on"),
        ("train_tokens", 2**63, "a whole number from 1 on"),
        ("seed", -1, "a whole number from 0 on"),
        ("seed", False, "a whole number from 0 on"),
        ("series", None, "a text"),
        ("is_identity", 0, "true or false or null"),
        ("cell", "x", "an object"),
        ("phase1_block_iterations", [1, None], "a list of whole numbers"),
    ],
)
def test_what_does_not_fit_is_named_with_what_is_allowed(field, value, words):
    said = misfit(record(**{field: value}))
    assert said.startswith(f"{field}={value!r}"[:40])
    assert said.endswith(f" is not {words}")


def test_a_long_value_is_cut_short():
    assert len(misfit(record(val_loss="x" * 1000))) < 100


@pytest.mark.parametrize(
    ("field", "value"),
    [("val_loss", 6), ("val_loss", None), ("is_identity", None), ("seed", 0), ("val_acc", 0.0)],
)
def test_what_records_hold_fits(field, value):
    assert misfit(record(**{field: value})) is None


def test_what_a_broken_cell_has_not_may_be_null():
    names = [name for name, kind in SCHEMA.items() if kind.holds(None)]
    assert misfit(record(**dict.fromkeys(names))) is None
    for name in (
        "val_loss",
        "val_ppl",
        "train_loss",
        "val_acc",
        "rank_verdict",
        "is_identity",
        "residual_max",
    ):
        assert name in names
