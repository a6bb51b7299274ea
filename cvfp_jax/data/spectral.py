"""Token vectors from a text's own co-occurrences: positive pointwise mutual information and its SVD."""

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg

from cvfp_jax.data import cache
from cvfp_jax.data.stream import distinct_ids
from cvfp_jax.errors import UserError

ROW_NORM = 3.96  # the mean of GPT-2's rows
WINDOW = 5  # tokens on either side
_CHUNK = 4 << 20  # tokens counted at a time


def cooccurrences(ids: np.ndarray, vocab_size: int, window: int = WINDOW) -> sp.csr_array:
    """Counts how often two tokens stand within a window of each other.

    Args:
      ids: int [N].
      vocab_size: V.
      window: the largest distance that counts.

    Returns:
      Symmetric float64 [V, V].

    >>> cooccurrences(np.array([0, 1, 1]), vocab_size=2, window=1).toarray().tolist()
    [[0.0, 1.0], [1.0, 2.0]]
    """
    total = sp.csr_array((vocab_size, vocab_size))
    for start in range(0, len(ids), _CHUNK):
        part = sp.csr_array(total.shape)
        for distance in range(1, window + 1):
            stop = max(start, min(start + _CHUNK, len(ids) - distance))
            left, right = ids[start:stop], ids[start + distance : stop + distance]
            # The conversion adds up the pairs that occur more than once.
            part = part + sp.coo_array((np.ones(len(left)), (left, right)), total.shape).tocsr()
        total = total + part
    return (total + total.T).tocsr()


def positive_pmi(counts: sp.csr_array) -> sp.csr_array:
    """Weighs co-occurrence counts by how far they exceed chance.

    ``max(0, ln(P(w, c) / (P(w) P(c))))``.

    Args:
      counts: symmetric [V, V].

    Returns:
      Float64 [V, V] without stored zeros.

    References:
      Levy, Goldberg and Dagan, Improving Distributional Similarity with Lessons Learned from Word
      Embeddings, 2015.

    >>> counts = sp.csr_array(np.array([[0.0, 1.0], [1.0, 0.0]]))
    >>> positive_pmi(counts).toarray().round(4).tolist()
    [[0.0, 0.6931], [0.6931, 0.0]]
    """
    pairs = counts.tocoo()
    of_token = counts.sum(axis=1)
    row, column = pairs.coords
    pmi = np.log(pairs.data) + np.log(of_token.sum()) - np.log(of_token[row]) - np.log(of_token[column])
    positive = sp.coo_array((np.maximum(pmi, 0.0), pairs.coords), counts.shape).tocsr()
    positive.eliminate_zeros()
    return positive


def spectral_table(ids: np.ndarray, vocab_size: int, embed_dim: int) -> np.ndarray:
    """Returns token vectors ``U_E sqrt(S_E)`` of the truncated SVD of the text's positive PMI.

    The sign of every column is fixed by its largest entry, and every row is scaled to the mean norm
    of GPT-2's. Tokens that the text does not hold, of which it tells nothing, have rows of zeros.

    Args:
      ids: int [N], the training tokens.
      vocab_size: V.
      embed_dim: E.

    Returns:
      Float32 [V, E].

    Raises:
      UserError: the text holds too few different tokens for E dimensions.

    References:
      Levy, Goldberg and Dagan, Improving Distributional Similarity with Lessons Learned from Word
      Embeddings, 2015.
    """
    present = distinct_ids(ids)
    if len(present) <= embed_dim:
        raise UserError(
            f"embedding spectral needs more than {embed_dim} different tokens, but the training text holds"
            f" {len(present)}: use more text, --embedding=random, or fewer dimensions with"
            " --config.model.embed_dim."
        )

    def make() -> dict[str, np.ndarray]:
        pmi = positive_pmi(cooccurrences(ids, vocab_size)[present][:, present])
        start = np.random.default_rng(0).standard_normal(len(present))
        left, values, _ = scipy.sparse.linalg.svds(pmi, k=embed_dim, v0=start)
        order = np.argsort(-values)
        rows = left[:, order] * np.sqrt(values[order])
        rows *= np.sign(rows[np.abs(rows).argmax(axis=0), np.arange(embed_dim)])
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        table = np.zeros((vocab_size, embed_dim), np.float32)
        # A token without positive PMI has no direction either.
        table[present] = np.divide(ROW_NORM * rows, norms, out=np.zeros_like(rows), where=norms > 0)
        return {"table": table}

    key: list[cache.Part] = [
        f"{vocab_size} {embed_dim} {WINDOW} {ROW_NORM}",
        np.ascontiguousarray(ids, np.int32).data,
    ]
    return cache.cached_arrays("spectral", {"table"}, key, make)["table"]
