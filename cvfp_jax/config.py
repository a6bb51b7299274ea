"""Every setting of a run: frozen dataclasses, their validation, JSON form and dotted overrides."""

import dataclasses
import math
from typing import Any

from cvfp_jax.errors import UserError

TRAIN_CONTEXTS = ("parallel", "sequential")
VOCABULARIES = ("full", "corpus")


CORPORA = "pydocs, ultrachat, ultrachat:FOLDER (a local copy) or text:PATH"
EMBEDDINGS = "gpt2, file:PATH, spectral or random"
_LARGEST = 1_000_000_000
_MOST_STEPS = 1_000_000  # a trace of each is kept


def _require(condition: bool, field: str, value: object, allowed: str) -> None:
    """Raises a one-line error naming the field, its value and what is allowed."""
    if not condition:
        raise UserError(f"config.{field}={value} is not allowed: it must be {allowed}.")


def _positive(field: str, value: float) -> None:
    _require(math.isfinite(value) and value > 0, field, value, "a finite number above 0")


def _at_least(least: int, field: str, value: int, most: int = _LARGEST) -> None:
    _require(least <= value <= most, field, value, f"a whole number from {least} to {most}")


def _place(kind: str, name: str, alone: tuple[str, ...], with_place: tuple[str, ...], choices: str) -> None:
    """Refuses a source that is no known name, and no known kind with a place behind a colon."""
    head, _, place = name.partition(":")
    if name not in alone and not (head in with_place and place):
        raise UserError(f"unknown {kind} {name!r}: choose {choices}.")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The architecture (D, E, L and K of the equations in ``model.py``)."""

    context_dim: int = 768
    embed_dim: int = 768
    num_layers: int = 1
    num_input_tokens: int = 1

    def __post_init__(self) -> None:
        """Validates the fields."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            _at_least(1, f"model.{field.name}", value)


@dataclasses.dataclass(frozen=True)
class Phase1Config:
    """The fixed-point iteration that learns the context block."""

    learning_rate: float = 0.002
    max_iterations: int = 60  # counts the random start as iteration 1, as the reports do
    min_iterations: int = 5
    convergence_threshold: float = 0.03  # a token has converged below this mean squared change
    min_converged_ratio: float = 0.99  # and the iteration when this share of the tokens has
    context_noise: float = 0.0  # standard deviation
    batch_size: int = 8000  # tokens a loss is taken over
    gradient_clip: float = 1.0  # global norm
    dist_reg_weight: float = 0.9  # weight of the diversity loss; 1 - weight is the CVFP loss's

    def __post_init__(self) -> None:
        """Validates the fields."""
        for name in ("learning_rate", "convergence_threshold", "gradient_clip"):
            _positive(f"phase1.{name}", getattr(self, name))
        _at_least(2, "phase1.max_iterations", self.max_iterations, _MOST_STEPS)
        for name in ("min_iterations", "batch_size"):
            _at_least(1, f"phase1.{name}", getattr(self, name))
        for name in ("min_converged_ratio", "dist_reg_weight"):
            value = getattr(self, name)
            _require(0.0 <= value <= 1.0, f"phase1.{name}", value, "between 0 and 1")
        noise = self.context_noise
        _require(
            math.isfinite(noise) and noise >= 0, "phase1.context_noise", noise, "a finite number, 0 or more"
        )


@dataclasses.dataclass(frozen=True)
class Phase2Config:
    """Next-token prediction with the contexts frozen."""

    learning_rate: float = 0.001
    epochs: int = 20
    patience: int = 1  # epochs without a lower validation loss before training stops
    batch_size: int = 8192  # tokens
    gradient_clip: float = 1.0  # global norm
    freeze_embedding: bool = True
    train_contexts: str = "parallel"

    def __post_init__(self) -> None:
        """Validates the fields."""
        for name in ("learning_rate", "gradient_clip"):
            _positive(f"phase2.{name}", getattr(self, name))
        for name in ("epochs", "patience", "batch_size"):
            value = getattr(self, name)
            _at_least(1, f"phase2.{name}", value)
        _require(
            self.train_contexts in TRAIN_CONTEXTS,
            "phase2.train_contexts",
            self.train_contexts,
            " or ".join(TRAIN_CONTEXTS),
        )


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which text, which part of it validates, and which frozen embedding table."""

    corpus: str = "pydocs"
    val_samples: str = "1000:1020"  # START:STOP, sample indices
    max_sample_tokens: int = 0  # a sample is cut to its first so many tokens; 0 keeps it whole
    embedding: str = "spectral"
    vocabulary: str = "full"

    def __post_init__(self) -> None:
        """Validates the fields."""
        _require(
            self.vocabulary in VOCABULARIES, "data.vocabulary", self.vocabulary, " or ".join(VOCABULARIES)
        )
        cut = self.max_sample_tokens
        _require(cut >= 0, "data.max_sample_tokens", cut, "0 (whole samples) or a number of tokens")
        _place("corpus", self.corpus, ("pydocs", "ultrachat"), ("ultrachat", "text"), CORPORA)
        _place("embedding", self.embedding, ("gpt2", "spectral", "random"), ("file",), EMBEDDINGS)
        self.val_range()

    def val_range(self) -> tuple[int, int]:
        """Returns the first validation sample and the one after the last.

        >>> DataConfig(val_samples="1000:1020").val_range()
        (1000, 1020)
        """
        start, colon, stop = self.val_samples.partition(":")
        digits = max(len(start), len(stop)) <= len(str(_LARGEST))
        if not (colon and digits and start.isdecimal() and stop.isdecimal() and int(start) < int(stop)):
            raise UserError(
                f"val_samples={self.val_samples!r} is not a range: write START:STOP with START < STOP,"
                " for example --val_samples=1000:1020."
            )
        return int(start), int(stop)


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """One cell: everything that decides its numbers."""

    experiment: str = "context_dim"
    preset: str = "v2"
    num_samples: int = 50
    seed: int = 42
    effective_rank_rows: int = 0  # rows drawn for the effective rank; 0 takes all
    model: ModelConfig = ModelConfig()
    phase1: Phase1Config = Phase1Config()
    phase2: Phase2Config = Phase2Config()
    data: DataConfig = DataConfig()

    def __post_init__(self) -> None:
        """Validates the fields against each other."""
        _at_least(1, "num_samples", self.num_samples)
        _require(0 <= self.seed < 2**32, "seed", self.seed, "a whole number from 0 to 4294967295")
        _require(self.effective_rank_rows >= 0, "effective_rank_rows", self.effective_rank_rows, "0 or more")
        start, stop = self.data.val_range()
        if self.num_samples > start:
            raise UserError(
                f"training samples 0:{self.num_samples} overlap validation samples {start}:{stop}:"
                f" use at most {start} samples, or move the validation range, for example"
                f" --val_samples={self.num_samples}:{self.num_samples + stop - start}."
            )

    @property
    def config_name(self) -> str:
        """The reports' short name of an architecture.

        >>> RunConfig().config_name
        '1L_768d_1tok'
        """
        m = self.model
        return f"{m.num_layers}L_{m.context_dim}d_{m.num_input_tokens}tok"


def flat_fields(config: Any, prefix: str = "") -> dict[str, Any]:
    """Returns every leaf field by its dotted name.

    >>> flat_fields(RunConfig())["phase1.max_iterations"]
    60
    """
    flat: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            flat |= flat_fields(value, f"{prefix}{field.name}.")
        else:
            flat[prefix + field.name] = value
    return flat


def _parse(name: str, text: str, kind: type) -> Any:
    """Reads the text of a field of the given type, or says which text would do."""
    if kind is bool:
        known = {"true": True, "1": True, "false": False, "0": False}
        if text.lower() in known:
            return known[text.lower()]
        raise UserError(f"config.{name}={text} is not allowed: it must be true or false.")
    try:
        return kind(text)
    except ValueError:
        what = {int: "a whole number", float: "a number"}[kind]
        raise UserError(f"config.{name}={text} is not allowed: it must be {what}.") from None


def parse_changes(config: Any, changes: dict[str, str]) -> dict[str, Any]:
    """Reads the texts of dotted fields as values of the fields' types.

    Args:
      config: the config whose fields are meant.
      changes: dotted field name to the text of its new value.

    Returns:
      Dotted field name to value, for ``replace``.

    Raises:
      UserError: a name is unknown, or a text is not of the field's type.

    >>> parse_changes(RunConfig(), {"phase1.max_iterations": "20"})
    {'phase1.max_iterations': 20}
    """
    known = flat_fields(config)
    for name in changes.keys() - known.keys():
        raise UserError(f"unknown field config.{name}: the fields are {', '.join(known)}.")
    return {name: _parse(name, text, type(known[name])) for name, text in changes.items()}


def replace(config: Any, values: dict[str, Any]) -> Any:
    """Returns a config with fields replaced by dotted name, validated once all of them are in place.

    >>> replace(RunConfig(), {"phase1.max_iterations": 20}).phase1.max_iterations
    20
    """
    top: dict[str, Any] = {}
    for name, value in values.items():
        section, dot, leaf = name.partition(".")
        if dot:
            top.setdefault(section, {})[leaf] = value
        else:
            top[section] = value
    for section, leaves in top.items():
        if isinstance(leaves, dict):
            top[section] = dataclasses.replace(getattr(config, section), **leaves)
    return dataclasses.replace(config, **top)
