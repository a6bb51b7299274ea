"""A trained model as people use it: text in; contexts, predictions, scores and text out.

Shapes: N tokens, D context width, V vocabulary.
"""

import codecs
import dataclasses
import functools
import itertools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cvfp_jax.config.settings import RunConfig
from cvfp_jax.core.model import LanguageModel
from cvfp_jax.data.stream import Vocabulary
from cvfp_jax.data.tokenizer import gpt2_encoding
from cvfp_jax.errors import UserError
from cvfp_jax.generation import saved
from cvfp_jax.generation.continuation import Continuation
from cvfp_jax.generation.find import find_model
from cvfp_jax.generation.sampling import Sampling
from cvfp_jax.generation.score import Score, contexts_of, logits_of, score
from cvfp_jax.report.display import Display

Text = str | Sequence[int] | np.ndarray
_MOST_NAMED = 5  # unknown tokens in a message


class NextToken(NamedTuple):
    """A token that may come next."""

    text: str
    probability: float
    id: int  # the model's


class TokenRate:
    """How fast tokens come, without the first, for which programs are compiled.

    Args:
      num_samples: how many come at a time.
    """

    def __init__(self, num_samples: int = 1) -> None:
        self._num_samples, self._first, self._last = num_samples, math.nan, math.nan
        self.steps = 0

    def tick(self) -> None:
        """Notes that a token of each sample has come."""
        self.steps += 1
        self._last = time.perf_counter()
        if self.steps == 1:
            self._first = self._last

    @property
    def per_second(self) -> float:
        """Tokens a second of all samples; NaN before the second."""
        if self.steps < 2:
            return math.nan
        return self._num_samples * (self.steps - 1) / (self._last - self._first)


@dataclasses.dataclass(frozen=True, repr=False)
class Generated(Display):
    """What continues a prompt."""

    prompt: str
    texts: list[str]  # one a sample, without the prompt
    ids: np.ndarray  # int32 [samples, tokens], the model's
    tokens_per_second: float  # of all samples, without the first, for which programs are compiled

    @property
    def text(self) -> str:
        """The first sample."""
        return self.texts[0]

    def __str__(self) -> str:
        """The prompt and what continues it, a line between samples."""
        return "\n\n".join(self.prompt + text for text in self.texts)

    def facts(self) -> list[tuple[str, str]]:
        """Returns what a table says of it."""
        shown = [(f"sample {index}", text) for index, text in enumerate(self.texts, 1)]
        return [("prompt", self.prompt), *shown, ("tokens/s", f"{self.tokens_per_second:,.0f}")]


class TrainedModel(Display):
    """A trained model.

    Args:
      model: its weights.
      config: what it was trained by.
      vocabulary: the tokens that it knows.
      facts: what is said of it beside, such as its validation perplexity.
    """

    def __init__(
        self,
        model: LanguageModel,
        config: RunConfig,
        vocabulary: Vocabulary,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self.model, self.config, self.vocabulary = model, config, vocabulary
        self._facts = dict(facts or {})
        for block in model.context_blocks:  # whatever products the training had, contexts are exact
            block.to_single_precision()

    @classmethod
    def load(
        cls, folder: Path | str, cell: str | None = None, *, embedding: str | None = None
    ) -> "TrainedModel":
        """Reads a model from its folder, or from a sweep's.

        Args:
          folder: what ``save`` was given, or the folder of a sweep.
          cell: the name of a cell of the sweep, or enough of its beginning; by default the one with the
            lowest validation loss.
          embedding: where its embedding table is now, ``file:PATH`` or ``gpt2``, if that has changed.

        Raises:
          UserError: there is no such model, a file is missing or has changed, or the table is another one.
        """
        path = find_model(Path(folder), cell)
        trained = saved.load(path, embedding)
        facts = {"cell": path.name, **trained.facts}
        return cls(trained.model, trained.config, trained.vocabulary, facts)

    def save(self, folder: Path | str, tables: Path | None = None) -> None:
        """Writes the model; ``load`` gives it back bit for bit.

        Args:
          folder: where it goes; made if it is missing.
          tables: where a table goes that was learned from the training text; beside it by default.

        Raises:
          UserError: a file cannot be written.
        """
        saved.save(saved.Trained(self.model, self.config, self.vocabulary, self._facts), Path(folder), tables)

    def facts(self) -> list[tuple[str, str]]:
        """Returns what a table says of it."""
        config = self.config
        known = [
            (name, f"{value:,.6g}" if isinstance(value, float) else str(value))
            for name, value in self._facts.items()
        ]
        return [
            ("architecture", config.config_name),
            ("vocabulary", f"{self.vocabulary.size:,} tokens"),
            ("embedding", f"{config.data.embedding}, {config.model.embed_dim} wide"),
            ("corpus", f"{config.data.corpus}, {config.num_samples:,} samples"),
            *known,
        ]

    def encode(self, text: Text) -> np.ndarray:
        """Returns a text as the model's token ids; ids are checked and returned as they are.

        Args:
          text: any text, or int [N], ids below V.

        Returns:
          Int32 [N].

        Raises:
          UserError: the model does not know a token of it.
        """
        if not isinstance(text, str):
            ids = np.asarray(text)
            if (
                ids.ndim != 1
                or ids.dtype.kind not in "iu"
                or np.any((ids < 0) | (ids >= self.vocabulary.size))
            ):
                raise UserError(
                    f"these are not the model's token ids: they must be whole numbers from 0 to"
                    f" {self.vocabulary.size - 1} in a row."
                )
            return ids.astype(np.int32)
        encoding = gpt2_encoding()
        ids = np.array(encoding.encode_ordinary(text), np.int32)
        unknown = ids[~self.vocabulary.knows(ids)]
        if len(unknown):
            named = [
                encoding.decode_single_token_bytes(int(id_)).decode(errors="replace")
                for id_ in dict.fromkeys(unknown.tolist())
            ]
            more = f" and {len(named) - _MOST_NAMED} more" if len(named) > _MOST_NAMED else ""
            raise UserError(
                f"the model does not know {len(unknown)} of the {len(ids)} tokens of this text"
                f" ({', '.join(map(repr, named[:_MOST_NAMED]))}{more}): its vocabulary is the"
                f" {self.vocabulary.size:,} tokens of its corpus; leave them out, or train with"
                " --config.data.vocabulary=full."
            )
        return self.vocabulary.renumber(ids)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Returns the text of the model's token ids."""
        return gpt2_encoding().decode(self.vocabulary.token_ids[np.asarray(ids)].tolist())

    def contexts(self, text: Text) -> np.ndarray:
        """Returns the exact context after each token, ``c_t = block(c_{t-1}, w_t)``, float32 [N, D].

        Args:
          text: a text, or the model's ids, one token or more.
        """
        ids_N = self._some(text)
        return np.asarray(contexts_of(self.model, ids_N))[: len(ids_N)]

    def logits(self, text: Text) -> np.ndarray:
        """Returns the logits of the token after each one of a text, float32 [N, V]: mind the memory.

        Args:
          text: a text, or the model's ids, one token or more.
        """
        return np.asarray(logits_of(self.model, self._some(text)))

    def next_tokens(self, prompt: Text, k: int = 10) -> list[NextToken]:
        """Returns the k tokens that most likely come after a prompt, the likeliest first."""
        ids_N = self._some(prompt)
        logits_V = self._continuation.logits(ids_N).astype(np.float64)
        p_V = np.exp(logits_V - logits_V.max())
        p_V /= p_V.sum()
        best = np.argsort(-p_V, kind="stable")[:k]
        return [NextToken(self.decode([id_]), float(p_V[id_]), int(id_)) for id_ in best]

    def score(self, text: Text) -> Score:
        """Returns how well the model predicts each token of a text from those before it.

        Args:
          text: a text, or the model's ids, two tokens or more.

        Raises:
          UserError: the model does not know a token of it, or there is nothing to predict.
        """
        ids_N = self.encode(text)
        if len(ids_N) < 2:
            raise UserError(f"a text of {len(ids_N)} tokens has nothing to predict: give two or more.")
        return score(self.model, ids_N)

    def generate(
        self,
        prompt: Text,
        max_tokens: int = 100,
        *,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        num_samples: int = 1,
    ) -> Generated:
        """Continues a prompt.

        What is kept of the text is one context, so memory does not grow with its length. Sample i of a seed
        is the same however many there are.

        Args:
          prompt: a text, or the model's ids, one token or more.
          max_tokens: how many tokens to add.
          temperature: 0 takes the likeliest token each time; 1 draws by the model's own probabilities.
          top_k: draw from the k likeliest tokens only; 0: from all.
          top_p: draw from the likeliest tokens that have this share of the probability; 1: from all.
          seed: of the random numbers.
          num_samples: how many continuations to make, together.

        Returns:
          The texts.

        Raises:
          UserError: the model does not know a token of the prompt, or a value is not allowed.
        """
        ids_N = self._some(prompt)
        sampling = Sampling(temperature, top_k, top_p)
        if max_tokens < 0:
            raise UserError(f"max_tokens={max_tokens} is not allowed: it must be 0 or more.")
        tokens, pace = self._tokens(ids_N, sampling, seed, num_samples), TokenRate(num_samples)
        ids = np.zeros((num_samples, max_tokens), np.int32)
        for index, row_B in enumerate(itertools.islice(tokens, max_tokens)):
            ids[:, index] = row_B
            pace.tick()
        return Generated(self.decode(ids_N), [self.decode(row) for row in ids], ids, pace.per_second)

    def stream(self, prompt: Text, sampling: Sampling, seed: int = 0) -> Iterator[str]:
        """Yields what continues a prompt as it is made, whole characters at a time, without an end."""
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        encoding = gpt2_encoding()
        for row_B in self._tokens(self._some(prompt), sampling, seed, 1):
            token = encoding.decode_single_token_bytes(int(self.vocabulary.token_ids[row_B[0]]))
            yield decoder.decode(token)

    def _tokens(
        self, ids_N: np.ndarray, sampling: Sampling, seed: int, num_samples: int
    ) -> Iterator[np.ndarray]:
        if not 0 <= seed < 2**32:
            raise UserError(f"seed={seed} is not allowed: it must be a whole number from 0 to 4294967295.")
        if num_samples < 1:
            raise UserError(f"num_samples={num_samples} is not allowed: it must be 1 or more.")
        return self._continuation.tokens(ids_N, sampling, seed, num_samples)

    def _some(self, text: Text) -> np.ndarray:
        ids_N = self.encode(text)
        if len(ids_N) == 0:
            raise UserError("the prompt is empty: a model continues one token or more.")
        return ids_N

    @functools.cached_property
    def _continuation(self) -> Continuation:
        return Continuation(self.model)
