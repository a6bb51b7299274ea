"""The baseline that every perplexity is read against: a unigram model of the same training tokens."""

import numpy as np


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
    counts = np.bincount(train_ids, minlength=vocab_size) + 1.0
    return float(np.mean(np.log(counts.sum()) - np.log(counts[target_ids])))
