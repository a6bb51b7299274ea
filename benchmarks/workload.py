"""The sizes of a benchmark and the data of those sizes, the same for every implementation."""

import dataclasses

import numpy as np

# Zipf's law with this exponent has about as many distinct tokens as text has: 6,000 among 62,891.
_EXPONENT, _OFFSET = 1.35, 2.7


@dataclasses.dataclass(frozen=True)
class Workload:
    """Sizes; those of R3 v2 at 50 samples if none are given."""

    tokens: int = 62_891
    context_dim: int = 768
    embed_dim: int = 768
    vocab: int = 50_257
    input_tokens: int = 1
    seed: int = 0

    def ids(self) -> np.ndarray:
        """Returns token ids drawn by Zipf's law, int32 [tokens]."""
        rng = np.random.default_rng(self.seed)
        weights = (np.arange(1, self.vocab + 1) + _OFFSET) ** -_EXPONENT
        ranks = rng.choice(self.vocab, self.tokens, p=weights / weights.sum())
        return rng.permutation(self.vocab)[ranks].astype(np.int32)

    def distinct_tokens(self) -> int:
        """Returns how many different ids there are."""
        return len(np.unique(self.ids()))

    def table(self) -> np.ndarray:
        """Returns an embedding table with the spread of GPT-2's, float32 [vocab, embed_dim]."""
        table_VxE = np.random.default_rng(self.seed + 1).standard_normal(
            (self.vocab, self.embed_dim), np.float32
        )
        table_VxE *= 0.14  # in place: a second table would count in the peak of memory
        return table_VxE

    def contexts(self, rows: int) -> np.ndarray:
        """Returns rows of the spread that LayerNorm leaves, float32 [rows, context_dim]."""
        return np.random.default_rng(self.seed + 2).standard_normal((rows, self.context_dim), np.float32)
