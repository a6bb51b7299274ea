import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvfp_jax.config.settings import Phase1Config
from cvfp_jax.core.fixed_point import Status
from cvfp_jax.phase1.stop_rules import RankWatch, StopState, StopThresholds, check_stop, tokens_for_share


def test_the_ratio_is_taken_in_double_precision():
    for count, tokens, ratio in ((1485, 1500, 0.99), (95, 100, 0.95), (693, 700, 0.99), (665, 700, 0.95)):
        assert tokens_for_share(tokens, ratio) == count
    for tokens in range(1, 300):
        for ratio in (0.0, 0.3, 0.9, 0.95, 0.99, 1.0):
            needed = tokens_for_share(tokens, ratio)
            assert needed / tokens >= ratio
            assert needed == 0 or (needed - 1) / tokens < ratio


def play(counts, num_tokens=100, **changes):
    """The statuses that iterations 2, 3, ... of these converged counts get, up to the first that stops."""
    config = Phase1Config(**changes)
    limits, watch = StopThresholds.of(num_tokens, config), StopState.start()
    judged = jax.jit(lambda count, iteration, watch: check_stop(count, iteration, watch, limits, config))
    statuses = []
    for iteration, count in enumerate(counts, 2):
        status, watch = judged(jnp.int32(count), jnp.int32(iteration), watch)
        statuses.append(Status(int(status)))
        if statuses[-1] != Status.RUNNING:
            break
    return statuses


GO, STALLED, DONE = Status.RUNNING, Status.STALLED, Status.CONVERGED


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([100, 100, 100, 100], [GO, GO, GO, DONE]),  # not before iteration 5
        ([0, 0, 0, 98, 99], [GO, GO, GO, GO, DONE]),
        ([50] * 8, [GO] * 8),
    ],
)
def test_the_rate_with_a_least_number_of_iterations(counts, expected):
    assert play(counts, stop="rate", min_iterations=5, min_converged_ratio=0.99) == expected


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([95], [DONE]),  # there is no least number of iterations
        ([60, 60, 60], [GO, GO, STALLED]),
        ([60, 60, 61, 61, 61], [GO, GO, GO, GO, STALLED]),  # one in a hundred is a gain and counts anew
        ([49, 49, 49, 49], [GO] * 4),  # nothing is watched below one half
        ([50, 50, 49, 49, 50], [GO, GO, GO, GO, GO]),  # nor forgotten; from 49 to 50 is a gain
        ([60, 60, 40, 40, 40, 50], [GO] * 6),
        ([60, 60, 40, 39, 50, 50], [GO, GO, GO, GO, GO, GO]),
        ([60, 59, 58], [GO, GO, STALLED]),  # falling is no gain
        ([60, 60, 90], [GO, GO, DONE]),  # converging comes before stalling
    ],
)
def test_the_improvement_rule(counts, expected):
    assert play(counts, stop="improvement", min_converged_ratio=0.9) == expected


def test_the_rule_on_the_effective_rank_leaves_the_loop_alone():
    assert play([100] * 9, stop="val_effective_rank") == [GO] * 9


@settings(max_examples=60, deadline=None)
@given(
    ranks=st.lists(st.floats(1, 100, allow_subnormal=False), min_size=1, max_size=12),
    patience=st.integers(1, 3),
)
def test_checks_stop_after_patience_without_a_new_highest(ranks, patience):
    watch = RankWatch(Phase1Config(val_patience=patience))
    stopped = [watch.stops(rank) for rank in ranks]
    records = [rank > max(ranks[:place], default=0.0) for place, rank in enumerate(ranks)]
    for place, stop in enumerate(stopped):
        assert stop == (place + 1 >= patience and not any(records[place + 1 - patience : place + 1]))


@pytest.mark.parametrize(("done", "following"), [(1, 5), (4, 5), (5, 10), (9, 10), (10, 15)])
def test_checks_come_at_multiples(done, following):
    assert RankWatch(Phase1Config()).next_check(done) == following
