"""The baseline that every perplexity is read against: a unigram model of the same training tokens."""

import numpy as np

from cvfp_jax.data import mapped


def unigram_loss(train_ids: np.ndarray, target_ids: np.ndarray, vocab_size: int) -> float:
    """Returns the mean cross-entropy of an add-one unigram model.

    ``p(v) = (count(v) + 1) / (N + V)``, with counts from the training tokens.

    Args:
      train_ids: int [N], the training tokens.
      target_ids: int [M], the tokens to predict.
      vocab_size: V.

    Returns:
      The mean of ``-ln p`` over the targets, in nats a token; its exponential is the perplexity.

    Raises:
      ValueError: there is no target.

    >>> round(float(np.exp(unigram_loss(np.array([0, 0, 1]), np.array([0]), vocab_size=3))), 6)
    2.0
    """
    if len(target_ids) == 0:
        raise ValueError("no target tokens")
    counts = np.ones(vocab_size)
    for chunk in mapped.chunks(train_ids):
        counts += np.bincount(chunk, minlength=vocab_size)
    return float(_sum(np.log(counts.sum()) - np.log(counts), target_ids) / len(target_ids))


def _sum(losses: np.ndarray, target_ids: np.ndarray) -> np.float64:
    """Adds the targets' losses in the order of numpy's pairwise sum of one array, without that array."""
    if len(target_ids) <= mapped.CHUNK:
        return losses[target_ids].sum()
    half = len(target_ids) // 2
    half -= half % 8
    return _sum(losses, target_ids[:half]) + _sum(losses, target_ids[half:])
