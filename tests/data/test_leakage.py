import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cvfp_jax.data import mapped
from cvfp_jax.data.leakage import RUN, UNMEASURED, Leakage, measure_leakage
from cvfp_jax.data.stream import TokenizedText


def text(*samples):
    ids = np.array([token for sample in samples for token in sample], np.int32)
    return TokenizedText(ids, np.cumsum([0, *map(len, samples)]), "")


def runs(sequence):
    return [tuple(sequence[start : start + RUN]) for start in range(len(sequence) - RUN + 1)]


tokens = st.lists(st.lists(st.integers(0, 2), max_size=12), max_size=6)


@given(tokens, tokens)
def test_it_counts_what_two_loops_count(train, val):
    measured = measure_leakage(text(*train), text(*val))
    held = [sample for sample in val if sample]
    assert (measured.copies, measured.val_samples) == (sum(sample in train for sample in held), len(held))
    seen = set(runs(list(itertools.chain(*train))))
    wanted = runs(list(itertools.chain(*val)))
    share = sum(run in seen for run in wanted) / len(wanted) if wanted else None
    assert measured.shared_runs == share


def test_runs_across_the_pieces_of_a_long_stream(monkeypatch):
    monkeypatch.setattr(mapped, "CHUNK", 32)
    ids = np.random.default_rng(0).integers(0, 50257, 100, dtype=np.int32)
    for start in range(len(ids) - RUN + 1):
        run = ids[start : start + RUN].copy()
        assert measure_leakage(text(ids), text(run)).shared_runs == 1.0, start
        place = start % RUN
        run[place] = (run[place] + 1) % 50257
        assert measure_leakage(text(ids), text(run)).shared_runs == 0.0


def test_as_numbers_and_back():
    for leakage in (UNMEASURED, Leakage(0, 3, 0.25), Leakage(1, 1, None)):
        assert Leakage.of_numbers(np.array(leakage.as_numbers())) == leakage
