"""Every setting of a run: frozen dataclasses and their validation."""

import dataclasses
import math

from cvfp_jax.errors import UserError

CONTEXT_MODES = ("E", "A", "F", "G")
ACTIVATIONS = ("relu", "gelu")
CONTEXT_DTYPES = ("float32", "bfloat16")
PRECISIONS = ("f32", "bf16")
INITIALISERS = ("normal", "xavier")
INITIAL_CONTEXTS = ("random", "sequential")
FIRST_CONTEXTS = ("last", "zero")
STOPS = ("rate", "val_effective_rank", "improvement")
DIVERSITIES = (
    "MCDL", "ODCM", "OACD", "SDL", "NUC", "CTM", "DUE", "UDEL", "UNIF", "DECORR", "HSIC", "InfoNCE", "WMSE",
)  # fmt: skip
TRAIN_CONTEXTS = ("parallel", "sequential", "recomputed")
SMALL_GAINS = ("dropped", "kept")
VOCABULARIES = ("full", "corpus")
TURNS = ("all", "first")
SEPARATORS = ("newline", "space")
CORPORA = "pydocs, ultrachat, ultrachat:FOLDER (a local copy) or text:PATH"
EMBEDDINGS = "gpt2, file:PATH, spectral or random"
_LARGEST = 1_000_000_000
_MOST_STEPS = 1_000_000  # a trace of each is kept


def _require(condition: bool, field: str, value: object, allowed: str) -> None:
    """Raises a one-line error naming the field, its value and what is allowed."""
    if not condition:
        raise UserError(f"config.{field}={value} is not allowed: it must be {allowed}.")


def _positive(section: str, config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _require(math.isfinite(value) and value > 0, f"{section}.{name}", value, "a finite number above 0")


def _not_negative(section: str, config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _require(
            math.isfinite(value) and value >= 0, f"{section}.{name}", value, "a finite number, 0 or more"
        )


def _share(section: str, config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _require(0.0 <= value <= 1.0, f"{section}.{name}", value, "between 0 and 1")


def _at_least(least: int, section: str, config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        most = _MOST_STEPS if name == "max_iterations" else _LARGEST
        field = f"{section}.{name}".removeprefix(".")
        _require(least <= value <= most, field, value, f"a whole number from {least} to {most}")


def _one_of(choices: tuple[str, ...], section: str, config: object, name: str) -> None:
    value = getattr(config, name)
    _require(value in choices, f"{section}.{name}", value, f"{', '.join(choices[:-1])} or {choices[-1]}")


def _place(kind: str, name: str, alone: tuple[str, ...], with_place: tuple[str, ...], choices: str) -> None:
    """Refuses a source that is no known name, and no known kind with a place behind a colon."""
    head, _, place = name.partition(":")
    if name not in alone and not (head in with_place and place):
        raise UserError(f"unknown {kind} {name!r}: choose {choices}.")


def _refuse(both: bool, field: str, value: object, other: str, other_value: object, why: str) -> None:
    """Refuses two values that mean nothing together."""
    if both:
        raise UserError(f"config.{field}={value} and config.{other}={other_value} do not go together: {why}.")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The architecture (D, E, L and K of the equations in ``core.model``)."""

    context_dim: int = 768
    embed_dim: int = 768
    num_layers: int = 1  # context layers
    num_input_tokens: int = 1
    num_token_layers: int = 0  # 0: as many as context layers
    token_input_all_layers: bool = True  # else only the first layer reads tokens, and widths fall to D
    context_mode: str = "E"  # which contexts token layers read: E each its own layer's, A the final one,
    # F the final one in the first token layer only, G the previous one first and the current one last
    activation: str = "relu"  # gelu is the exact one
    ffn_num_layers: int = 1  # linear maps of a layer: 2 have four times the input's width between them
    init: str = "normal"  # weights N(0, 0.1^2) and biases N(0, 0.01^2); xavier: uniform, and zero
    use_weight_tying: bool = True  # the head is the embedding table; else trained from zero, with a bias
    num_blocks: int = 1  # context blocks, each of width D and learned on its own share of the tokens
    prev_context_steps: int = 0  # token layers also read the contexts of so many tokens before

    def __post_init__(self) -> None:
        """Validates the fields and what they mean together."""
        least_one = ("context_dim", "embed_dim", "num_layers", "num_input_tokens", "num_blocks")
        _at_least(1, "model", self, *least_one)
        _at_least(0, "model", self, "num_token_layers", "prev_context_steps")
        _one_of(CONTEXT_MODES, "model", self, "context_mode")
        _one_of(ACTIVATIONS, "model", self, "activation")
        _one_of(INITIALISERS, "model", self, "init")
        _require(self.ffn_num_layers in (1, 2), "model.ffn_num_layers", self.ffn_num_layers, "1 or 2")
        mode, depth = self.context_mode, self.token_depth
        _refuse(
            mode == "E" and depth != self.num_layers,
            "model.context_mode", mode, "model.num_token_layers", depth,
            f"E gives each token layer the context layer of its number, and there are {self.num_layers}",
        )  # fmt: skip
        _refuse(
            mode in "FG" and depth == 1,
            "model.context_mode", mode, "model.num_token_layers", depth,
            "with one token layer it is mode A",
        )  # fmt: skip
        _refuse(
            mode == "E" and self.num_blocks > 1,
            "model.context_mode", mode, "model.num_blocks", self.num_blocks,
            "several blocks give their final contexts only; use mode A",
        )  # fmt: skip
        _refuse(
            mode != "A" and self.prev_context_steps > 0,
            "model.context_mode", mode, "model.prev_context_steps", self.prev_context_steps,
            "previous contexts are added to the final one; use mode A",
        )  # fmt: skip
        _refuse(
            not self.token_input_all_layers and self.num_layers == 1,
            "model.token_input_all_layers", False, "model.num_layers", 1,
            "the only layer must read the tokens",
        )  # fmt: skip

    @property
    def token_depth(self) -> int:
        """The number of token layers."""
        return self.num_token_layers or self.num_layers

    @property
    def reads_every_layer(self) -> bool:
        """Whether token layers read contexts from between the context layers."""
        return self.context_mode == "E" and self.num_layers > 1


@dataclasses.dataclass(frozen=True)
class Phase1Config:
    """The fixed-point iteration that learns the context block."""

    learning_rate: float = 0.002
    max_iterations: int = 60  # counts the start as iteration 1, as the reports do
    initial_contexts: str = "random"  # N(0, 0.01^2), or sequential: those of the untrained block
    first_context: str = "last"  # before the first token: the last token's, wrapped around, or zero
    context_noise: float = 0.0  # standard deviation
    context_dtype: str = "float32"  # of contexts between iterations; bfloat16 halves their memory
    batch_size: int = 8000  # tokens a loss is taken over; 0: one loss over all tokens
    gradient_clip: float = 1.0  # global norm
    diversity: str = "MCDL"
    dist_reg_weight: float = 0.9  # weight of the diversity loss; 1 - weight is the CVFP loss's
    convergence_threshold: float = 0.03  # a token has converged below this mean squared change
    stop: str = "rate"  # see ``stop_rules.py``
    min_iterations: int = 5  # of stop=rate
    min_converged_ratio: float = 0.99  # of stop=rate and stop=improvement
    min_convergence_improvement: float = 0.01  # of stop=improvement, as a share of the tokens
    no_improvement_patience: int = 2  # of stop=improvement, in iterations
    val_frequency: int = 5  # of stop=val_effective_rank, in iterations
    val_patience: int = 1  # of stop=val_effective_rank, in checks
    val_sample_size: int = 10_000  # of stop=val_effective_rank, in validation tokens
    compat_stale_clip: bool = False  # earlier blocks' old gradients count in the norm, as in the original

    def __post_init__(self) -> None:
        """Validates the fields."""
        _positive("phase1", self, "learning_rate", "convergence_threshold", "gradient_clip")
        _not_negative("phase1", self, "context_noise")
        _share("phase1", self, "min_converged_ratio", "dist_reg_weight", "min_convergence_improvement")
        _at_least(2, "phase1", self, "max_iterations", "val_sample_size")
        ones = ("min_iterations", "no_improvement_patience", "val_frequency", "val_patience")
        _at_least(1, "phase1", self, *ones)
        _at_least(0, "phase1", self, "batch_size")
        _one_of(INITIAL_CONTEXTS, "phase1", self, "initial_contexts")
        _one_of(CONTEXT_DTYPES, "phase1", self, "context_dtype")
        _one_of(FIRST_CONTEXTS, "phase1", self, "first_context")
        _one_of(DIVERSITIES, "phase1", self, "diversity")
        _one_of(STOPS, "phase1", self, "stop")


@dataclasses.dataclass(frozen=True)
class Phase2Config:
    """Next-token prediction with the contexts frozen."""

    learning_rate: float = 0.001
    epochs: int = 20
    patience: int = 1  # epochs without enough gain before training stops
    batch_size: int = 8192  # tokens
    gradient_clip: float = 1.0  # global norm
    freeze_embedding: bool = True
    train_contexts: str = "parallel"  # or sequential (exact), or recomputed: batch by batch, the
    # embedding's LayerNorm being trained along
    min_ppl_improvement: float = 0.0  # what the validation perplexity must gain on the best to count
    small_gain: str = "dropped"  # an epoch that gains less is not the best; kept: it is
    weight_decay: float = 0.0  # decoupled from the gradient (AdamW)
    dropout: float = 0.0  # of what token layers add to their input
    count_embed_norm: bool = True  # params_trainable_phase2 counts that LayerNorm, trained or not

    def __post_init__(self) -> None:
        """Validates the fields."""
        _positive("phase2", self, "learning_rate", "gradient_clip")
        _not_negative("phase2", self, "min_ppl_improvement", "weight_decay")
        _at_least(1, "phase2", self, "epochs", "patience", "batch_size")
        _require(0.0 <= self.dropout < 1.0, "phase2.dropout", self.dropout, "at least 0 and below 1")
        _one_of(TRAIN_CONTEXTS, "phase2", self, "train_contexts")
        _one_of(SMALL_GAINS, "phase2", self, "small_gain")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which text, which part of it validates, and which frozen embedding table."""

    corpus: str = "pydocs"
    val_samples: str = "1000:1020"  # START:STOP, sample indices, or tail:SHARE of the training tokens
    turns: str = "all"  # of a conversation; first: the first message only
    turn_separator: str = "newline"  # between the turns
    max_sample_tokens: int = 0  # a sample is cut to its first so many tokens; 0 keeps it whole
    embedding: str = "spectral"
    vocabulary: str = "full"

    def __post_init__(self) -> None:
        """Validates the fields."""
        _one_of(VOCABULARIES, "data", self, "vocabulary")
        _one_of(TURNS, "data", self, "turns")
        _one_of(SEPARATORS, "data", self, "turn_separator")
        cut = self.max_sample_tokens
        _require(cut >= 0, "data.max_sample_tokens", cut, "0 (whole samples) or a number of tokens")
        _place("corpus", self.corpus, ("pydocs", "ultrachat"), ("ultrachat", "text"), CORPORA)
        _place("embedding", self.embedding, ("gpt2", "spectral", "random"), ("file",), EMBEDDINGS)
        if self.val_tail is None:
            self.val_range()

    @property
    def val_tail(self) -> float | None:
        """The share of each cell's own tokens that validates, cut from their end; None if samples do.

        >>> DataConfig(val_samples="tail:0.1").val_tail
        0.1
        """
        kind, colon, text = self.val_samples.partition(":")
        if kind != "tail":
            return None
        try:
            share = float(text)
        except ValueError:
            share = math.nan
        if not (colon and 0 < share < 1):
            raise UserError(
                f"val_samples={self.val_samples!r} is not a share: write tail:SHARE with a number between"
                " 0 and 1, for example --val_samples=tail:0.1."
            )
        return share

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
                " for example --val_samples=1000:1020, or tail:SHARE."
            )
        return int(start), int(stop)


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """One cell: everything that decides its numbers."""

    experiment: str = "context_dim"
    preset: str = "v2"
    num_samples: int = 50
    seed: int = 42
    precision: str = "f32"  # of what matrix products read, of both phases; bf16 is faster and rounds it
    effective_rank_rows: int = 0  # rows drawn for the effective rank; 0 takes all
    val_convergence_trials: int = 4  # passes over the validation tokens, each from the last one's end
    model: ModelConfig = ModelConfig()
    phase1: Phase1Config = Phase1Config()
    phase2: Phase2Config = Phase2Config()
    data: DataConfig = DataConfig()

    def __post_init__(self) -> None:
        """Validates the fields against each other."""
        _at_least(1, "", self, "num_samples", "val_convergence_trials")
        _require(self.precision in PRECISIONS, "precision", self.precision, "f32 or bf16")
        _require(0 <= self.seed < 2**32, "seed", self.seed, "a whole number from 0 to 4294967295")
        _require(self.effective_rank_rows >= 0, "effective_rank_rows", self.effective_rank_rows, "0 or more")
        model, contexts = self.model, self.phase2.train_contexts
        _refuse(
            model.num_blocks > 1 and contexts != "sequential",
            "model.num_blocks", model.num_blocks, "phase2.train_contexts", contexts,
            "each block has learned contexts of its own share only; use sequential",
        )  # fmt: skip
        _refuse(
            self.phase1.compat_stale_clip and model.num_blocks == 1,
            "phase1.compat_stale_clip", True, "model.num_blocks", 1,
            "there is no earlier block whose gradients could be left over",
        )  # fmt: skip
        _refuse(
            contexts == "recomputed" and model.context_mode != "E",
            "phase2.train_contexts", contexts, "model.context_mode", model.context_mode,
            "contexts are recomputed for mode E only",
        )  # fmt: skip
        _refuse(
            contexts == "recomputed" and not self.phase2.freeze_embedding,
            "phase2.train_contexts", contexts, "phase2.freeze_embedding", False,
            "the table would have to be learned through the recurrence",
        )  # fmt: skip
        _refuse(
            not model.use_weight_tying and not self.phase2.freeze_embedding,
            "model.use_weight_tying", False, "phase2.freeze_embedding", False,
            "the table learns through the tied head only",
        )  # fmt: skip
        if self.data.val_tail is None:
            self._check_overlap()

    def _check_overlap(self) -> None:
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
