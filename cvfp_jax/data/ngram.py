"""The ordinary baseline: n-gram models with Kneser-Ney smoothing, counted on the same training tokens.

Shapes: N training tokens, G different n-grams, M targets, V vocabulary.
"""

import dataclasses

import numpy as np

ORDERS = (2, 3, 4)
_BITS = 16  # of a token in an n-gram's key, the newest in the lowest
_MOST_TOKENS = 1 << _BITS
# Where too few n-grams occur once to four times to estimate discounts, as other toolkits have them.
_FALLBACK = (0.5, 1.0, 1.5)


def _keys(ids: np.ndarray, order: int) -> np.ndarray:
    """The n-grams of a stream as numbers, uint64 [N - order + 1]; none if it is shorter."""
    count = max(len(ids) - order + 1, 0)
    keys = np.zeros(count, np.uint64)
    for place in range(order):
        keys <<= np.uint64(_BITS)
        keys |= ids[place : place + count].astype(np.uint64)
    return keys


def _discounts(counts: np.ndarray) -> np.ndarray:
    """What is taken off counts of one, two, and three or more, from how many n-grams have each count."""
    n1, n2, n3, n4 = (float(np.count_nonzero(counts == count)) for count in (1, 2, 3, 4))
    if min(n1, n2, n3) == 0:
        return np.array(_FALLBACK)
    y = n1 / (n1 + 2 * n2)
    discounts = np.array([1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
    # Counts of few n-grams can ask for more than there is, or for less than nothing.
    return np.where((discounts > 0) & (discounts <= (1, 2, 3)), discounts, _FALLBACK)


def _find(keys: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where keys stand in a sorted list, and whether they do."""
    if len(keys) == 0:
        return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), bool)
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return places, keys[places] == wanted


@dataclasses.dataclass(frozen=True)
class _Level:
    """The n-grams of one order with their counts, discounted."""

    keys_G: np.ndarray  # uint64, sorted
    kept_G: np.ndarray  # of each n-gram's count, what is left after the discount, over its context's total
    contexts: np.ndarray  # uint64, sorted: the n-grams without their last token
    back_off: np.ndarray  # of each context, the share that the lower order gets

    @classmethod
    def of(cls, keys: np.ndarray, counts: np.ndarray) -> "_Level":
        """Discounts the counts of sorted n-grams."""
        discounts = _discounts(counts)[np.minimum(counts, 3) - 1]
        contexts, starts, sizes = np.unique(keys >> np.uint64(_BITS), return_index=True, return_counts=True)
        if len(keys) == 0:
            return cls(keys, discounts, contexts, np.zeros(0))
        totals = np.add.reduceat(counts.astype(np.float64), starts)
        kept = (counts - discounts) / np.repeat(totals, sizes)
        return cls(keys, kept, contexts, np.add.reduceat(discounts, starts) / totals)

    def interpolate(self, grams_M: np.ndarray, lower_M: np.ndarray) -> np.ndarray:
        """The probabilities of n-grams' last tokens, given those of the lower order."""
        contexts, seen = _find(self.contexts, grams_M >> np.uint64(_BITS))
        if not seen.any():
            return lower_M
        places, found = _find(self.keys_G, grams_M)
        kept = np.where(found, self.kept_G[places], 0)
        return np.where(seen, kept + self.back_off[contexts] * lower_M, lower_M)


class KneserNey:
    """Interpolated modified Kneser-Ney models of orders up to four, all counted at once.

    ``p_n(w | u) = (c(u w) - d(c(u w))) / c(u) + b(u) p_{n-1}(w | u')``, u' being u without its oldest token
    and b(u) what the discounts of all n-grams u . have taken off, over c(u). The highest order counts how
    often an n-gram occurs, lower ones how many different tokens stand before it. Below single tokens is the
    uniform distribution. The discounts of counts of one, two, and three or more follow from how many n-grams
    have them. After a context that was never seen the lower order speaks alone.

    Args:
      train_ids: int [N], the training tokens, below V.
      vocab_size: V, at most 65,536.

    References:
      Chen and Goodman, An Empirical Study of Smoothing Techniques for Language Modeling, 1999.

    >>> model = KneserNey(np.array([0, 1, 0, 1, 0, 2]), vocab_size=3)
    >>> p = [model.probabilities(np.array([0, token]), 2)[0] for token in range(3)]
    >>> [round(float(value), 4) for value in p], round(float(sum(p)), 12)
    ([0.1667, 0.5, 0.3333], 1.0)
    """

    def __init__(self, train_ids: np.ndarray, vocab_size: int) -> None:
        if vocab_size > _MOST_TOKENS:
            raise ValueError(f"a vocabulary of {vocab_size} is too large: at most {_MOST_TOKENS}")
        self._vocab_size = vocab_size
        self._highest: dict[int, _Level] = {}  # by order
        self._lower: dict[int, _Level] = {}
        for order in ORDERS:
            keys, counts = np.unique(_keys(train_ids, order), return_counts=True)
            self._highest[order] = _Level.of(keys, counts)
            newest = np.uint64((1 << _BITS * (order - 1)) - 1)
            self._lower[order - 1] = _Level.of(*np.unique(keys & newest, return_counts=True))

    def probabilities(self, ids: np.ndarray, order: int) -> np.ndarray:
        """Returns the probability of each token of a stream but the first.

        Args:
          ids: int [M + 1]; before a token stand as many of them as the order reads, and fewer at the start.
          order: 2, 3 or 4.

        Returns:
          Float64 [M].
        """
        p_M = np.full(len(ids) - 1, 1 / self._vocab_size)
        for level in range(1, order + 1):
            table = self._highest[level] if level == order else self._lower[level]
            # The first tokens have a shorter past, and keep what that says.
            first = max(level - 2, 0)
            grams = _keys(ids[1:] if level == 1 else ids, level)
            p_M[first:] = table.interpolate(grams, p_M[first:])
        return p_M


def ngram_losses(train_ids: np.ndarray, val_ids: np.ndarray, vocab_size: int) -> list[float]:
    """Returns the mean cross-entropy of Kneser-Ney models on validation tokens but the first.

    Args:
      train_ids: int [N], the training tokens.
      val_ids: int [M + 1], the validation tokens.
      vocab_size: V.

    Returns:
      The mean of ``-ln p``, in nats a token, of each of ``ORDERS``.

    >>> [round(loss, 4) for loss in ngram_losses(np.arange(8) % 2, np.arange(6) % 2, 2)]
    [0.2397, 0.1644, 0.123]
    """
    model = KneserNey(train_ids, vocab_size)
    return [float(-np.log(model.probabilities(val_ids, order)).mean()) for order in ORDERS]
