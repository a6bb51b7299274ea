"""When training has ended, and which of its epochs is the best."""

import math

from cvfp_jax.config.settings import Phase2Config
from cvfp_jax.phase2.epochs import EarlyStopping


def stops(losses, **changes):
    """The best epoch and the number of epochs that a rule lets run."""
    rule = EarlyStopping(Phase2Config(**changes))
    for number, ppl in enumerate(losses, 1):
        rule.is_best(number, math.log(ppl))
        if rule.is_over:
            return rule.best_epoch, number
    return rule.best_epoch, None


def test_patience_counts_epochs_without_a_lower_loss():
    assert stops([9, 8, 8, 7]) == (2, 3)
    assert stops([9, 8, 8, 7, 7.5, 7.6], patience=2) == (4, 6)
    assert stops([9, 8, 7.99999, 7]) == (4, None)


def test_a_small_gain_is_dropped_or_kept():
    small = {"min_ppl_improvement": 0.4}
    assert stops([9, 8, 7.7, 5], **small) == (2, 3)
    assert stops([9, 8, 7.7, 5], **small, small_gain="kept") == (3, 3)
    # Dropped epochs do not move what the next one must beat; kept ones do.
    assert stops([9, 8, 7.7, 7.5, 7.3], **small, patience=2) == (4, None)
    assert stops([9, 8, 7.7, 7.5, 7.3], **small, patience=2, small_gain="kept") == (4, 4)
    assert stops([1e300, 1e200, 1e100], **small) == (3, None)
