"""A token stream as the equations read it: which tokens follow one another, and what their vectors are."""

import dataclasses

import jax
import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class TokenStream:
    """Tokens and their vectors, with the sizes that programs are compiled for.

    Streams of one capacity share their compiled programs: arrays are padded to it, which changes no number.

    Args:
      vectors_VxE: float32, the vector of each token of the vocabulary.
      ids_N: int, the tokens.
      capacity: the least number of tokens to compile for.
      distinct_capacity: the least number of distinct tokens to compile for.

    >>> stream = TokenStream(np.eye(3, dtype=np.float32), np.array([2, 0, 2]), capacity=5)
    >>> len(stream), stream.num_rows, len(stream[:-1])
    (3, 5, 2)
    """

    vectors_VxE: jax.Array
    ids_N: np.ndarray
    capacity: int = 0
    distinct_capacity: int = 0

    def __len__(self) -> int:
        """N."""
        return len(self.ids_N)

    def __getitem__(self, part: slice) -> "TokenStream":
        """Returns some of the tokens in a row, to be compiled for the same sizes."""
        return dataclasses.replace(self, ids_N=self.ids_N[part])

    @property
    def num_rows(self) -> int:
        """The rows of arrays of its contexts: the larger of N and the capacity."""
        return max(self.capacity, len(self.ids_N))
