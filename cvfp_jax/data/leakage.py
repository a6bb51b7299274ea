"""What training holds of validation: samples that are the same, and runs of tokens.

Shapes: N training tokens, M validation tokens.
"""

import hashlib
import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from cvfp_jax.data import mapped
from cvfp_jax.data.stream import TokenizedText
from cvfp_jax.data.tokenizer import VOCAB_SIZE

RUN = 13  # tokens
_SEED = 0x13
_FILTER_BITS = 22


class Leakage(NamedTuple):
    """What the training tokens hold of the validation tokens."""

    copies: int | None  # validation samples equal to a training sample
    val_samples: int | None  # those that lie in the validation tokens as a whole
    shared_runs: float | None  # share of the validation tokens' runs of 13; None if there is no run

    def as_numbers(self) -> list[float]:
        """Returns it as numbers for a file, NaN for None."""
        return [math.nan if value is None else float(value) for value in self]

    @classmethod
    def of_numbers(cls, numbers: np.ndarray) -> "Leakage":
        """Returns what ``as_numbers`` was called on.

        >>> Leakage.of_numbers(np.array(Leakage(1, 2, None).as_numbers()))
        Leakage(copies=1, val_samples=2, shared_runs=None)
        """
        copies, samples, shared = (None if math.isnan(value) else float(value) for value in numbers)
        return cls(None if copies is None else int(copies), None if samples is None else int(samples), shared)


UNMEASURED = Leakage(None, None, None)


def measure_leakage(train: TokenizedText, val: TokenizedText) -> Leakage:
    """Counts what training holds of validation.

    The share is ``|{t : v_t..v_{t+12} occurs in training}| / (M - 12)``, of the flat streams, as studies of
    benchmarks in training sets count it. Runs are compared by 64-bit hashes.

    Args:
      train: N training tokens, and where samples begin.
      val: M validation tokens, and where samples begin.

    Returns:
      The number of equal samples, and the share of runs.

    References:
      Brown et al., Language Models are Few-Shot Learners, 2020 (appendix C: 13-grams).

    >>> ids = np.arange(40, dtype=np.int32)
    >>> train = TokenizedText(ids, np.array([0, 20, 40]), "")
    >>> measure_leakage(train, TokenizedText(ids[20:], np.array([0, 20]), ""))
    Leakage(copies=1, val_samples=1, shared_runs=1.0)
    """
    val_hashes = list(_sample_hashes(val))
    wanted = set(val_hashes)
    found = {digest for digest in _sample_hashes(train) if digest in wanted} if wanted else set()
    copies = sum(digest in found for digest in val_hashes)
    return Leakage(copies, len(val_hashes), _shared_runs(train.ids, val.ids))


def _sample_hashes(text: TokenizedText) -> Iterator[bytes]:
    """Yields a hash a sample that has tokens."""
    ends = text.boundaries.tolist()
    for start, end in itertools.pairwise(ends):
        if end > start:
            yield hashlib.blake2b(np.ascontiguousarray(text.ids[start:end]).data, digest_size=16).digest()


def _shared_runs(train_ids: np.ndarray, val_ids: np.ndarray) -> float | None:
    if len(val_ids) < RUN:
        return None
    runs, places = np.unique(np.concatenate(list(_run_hashes(val_ids))), return_inverse=True)
    # Most runs of training are none of validation's: a table of few bits a run passes them over.
    shift = np.uint64(64 - _FILTER_BITS)
    maybe = np.zeros(1 << _FILTER_BITS, bool)
    maybe[runs >> shift] = True
    seen = np.zeros(len(runs), bool)
    for hashes in _run_hashes(train_ids):
        hashes = hashes[maybe[hashes >> shift]]
        at = np.minimum(np.searchsorted(runs, hashes), len(runs) - 1)
        seen[at[runs[at] == hashes]] = True
    return float(seen[places].mean())


def _run_hashes(ids: np.ndarray) -> Iterator[np.ndarray]:
    """Yields the hashes of all runs of a stream, uint64, some of them at a time."""
    rng = np.random.default_rng(_SEED)
    words = rng.integers(0, 2**64, VOCAB_SIZE, np.uint64)
    odd = int(rng.integers(0, 2**63)) * 2 + 1
    powers = {span: np.uint64(pow(odd, span, 2**64)) for span in (1, 2, 4)}
    for start in range(0, len(ids) - RUN + 1, mapped.CHUNK):
        one = words[ids[start : start + mapped.CHUNK + RUN - 1]]
        two = one[:-1] * powers[1] + one[1:]
        four = two[:-2] * powers[2] + two[2:]
        eight = four[:-4] * powers[4] + four[4:]
        # A run of 13 is one of 8, one of 4 and one token.
        count = len(one) - RUN + 1
        twelve = eight[:count] * powers[4] + four[8 : 8 + count]
        yield twelve * powers[1] + one[12:]
