"""Every setting of a run: frozen dataclasses and their validation."""

import dataclasses
import math

from cvfp_jax.config.checks import (
    LARGEST,
    at_least,
    known_source,
    not_negative,
    one_of,
    positive,
    refuse,
    require,
    share_of_one,
)
from cvfp_jax.config.documented import documented
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
SAMPLES = ("auto", "line", "paragraph", "file")
PREFERENCES = ("chosen", "rejected")
CORPORA = "pydocs, ultrachat, ultrachat:FOLDER (a local copy) or text:PATH"
EMBEDDINGS = "gpt2, file:PATH, spectral or random"


@documented
@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The architecture (D, E, L and K of the equations in ``core.model``)."""

    context_dim: int = 768
    """Width D of a context."""
    embed_dim: int = 768
    """Width E of a token embedding."""
    num_layers: int = 1
    """Number of context layers."""
    num_input_tokens: int = 1
    """Size K of the input window, in tokens; the last of them is the current token."""
    num_token_layers: int = 0
    """Number of token layers; 0: as many as context layers."""
    token_input_all_layers: bool = True
    """Whether every context layer reads tokens. If false, only the first one does, and the widths of the
    layers fall to D in near-equal steps."""
    context_mode: str = "E"
    """Which contexts token layers read: E (each layer the context layer of its number), A (all of them the
    final context), F (the first one the final context, the others none) or G (the first one the final context
    of the token before, the last one that of the current token)."""
    activation: str = "relu"
    """Activation function: relu or gelu (the exact one, x Phi(x))."""
    ffn_num_layers: int = 1
    """Linear maps in a layer: 1, or 2 with four times the input's width between them."""
    init: str = "normal"
    """Initial weights: normal (weights N(0, 0.1^2), biases N(0, 0.01^2)) or xavier (weights uniform, biases
    zero)."""
    use_weight_tying: bool = True
    """Whether the vocabulary head is the embedding table. If not, it is trained from zero and has a bias."""
    num_blocks: int = 1
    """Number of context blocks, each of width D and trained on its own share of the tokens."""
    prev_context_steps: int = 0
    """How many earlier tokens' contexts the token layers read too; needs context_mode=A."""

    def __post_init__(self) -> None:
        """Validates the fields and what they mean together."""
        least_one = ("context_dim", "embed_dim", "num_layers", "num_input_tokens", "num_blocks")
        at_least(1, "model", self, *least_one)
        at_least(0, "model", self, "num_token_layers", "prev_context_steps")
        one_of(CONTEXT_MODES, "model", self, "context_mode")
        one_of(ACTIVATIONS, "model", self, "activation")
        one_of(INITIALISERS, "model", self, "init")
        require(self.ffn_num_layers in (1, 2), "model.ffn_num_layers", self.ffn_num_layers, "1 or 2")
        mode, depth = self.context_mode, self.token_depth
        refuse(
            mode == "E" and depth != self.num_layers,
            "model.context_mode", mode, "model.num_token_layers", depth,
            f"E gives each token layer the context layer of its number, and there are {self.num_layers}",
        )  # fmt: skip
        refuse(
            mode in "FG" and depth == 1,
            "model.context_mode", mode, "model.num_token_layers", depth,
            "with one token layer it is mode A",
        )  # fmt: skip
        refuse(
            mode == "E" and self.num_blocks > 1,
            "model.context_mode", mode, "model.num_blocks", self.num_blocks,
            "several blocks give their final contexts only; use mode A",
        )  # fmt: skip
        refuse(
            mode != "A" and self.prev_context_steps > 0,
            "model.context_mode", mode, "model.prev_context_steps", self.prev_context_steps,
            "previous contexts are added to the final one; use mode A",
        )  # fmt: skip
        refuse(
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


@documented
@dataclasses.dataclass(frozen=True)
class Phase1Config:
    """The fixed-point iteration that learns the context block."""

    learning_rate: float = 0.002
    """Learning rate of Adam."""
    max_iterations: int = 60
    """Largest number of iterations; the initial contexts count as iteration 1, as in the reports."""
    initial_contexts: str = "random"
    """Contexts to start from: random, N(0, 0.01^2), or sequential, those of the untrained block."""
    first_context: str = "last"
    """Context before the first token: last (the last token's, wrapped around) or zero."""
    context_noise: float = 0.0
    """Standard deviation of the Gaussian noise added to each context that a step reads."""
    context_dtype: str = "float32"
    """Type of the contexts kept between iterations: float32, or bfloat16, which halves their memory."""
    batch_size: int = 8000
    """Tokens that one loss is taken over (a micro-batch); 0: one loss over all tokens."""
    gradient_clip: float = 1.0
    """Global norm to which longer gradients are scaled down."""
    diversity: str = "MCDL"
    """Diversity loss: MCDL, ODCM, OACD, SDL, NUC, CTM, DUE, UDEL, UNIF, DECORR, HSIC, InfoNCE or WMSE."""
    dist_reg_weight: float = 0.9
    """Weight of the diversity loss, from 0 to 1; the CVFP loss has 1 - weight."""
    convergence_threshold: float = 0.03
    """A token has converged if the mean squared change of its context in an iteration is below this."""
    stop: str = "rate"
    """What ends phase 1 early: rate (the share of converged tokens is high enough), improvement (it is, or it
    has stopped growing) or val_effective_rank (that of validation contexts has stopped growing)."""
    min_iterations: int = 5
    """The least number of iterations that stop=rate makes."""
    min_converged_ratio: float = 0.99
    """Share of converged tokens, from 0 to 1, at which stop=rate and stop=improvement end."""
    min_convergence_improvement: float = 0.01
    """Share of the tokens, from 0 to 1, by which the converged ones must grow in an iteration for
    stop=improvement to count it as a gain."""
    no_improvement_patience: int = 2
    """Iterations in a row without a gain after which stop=improvement ends."""
    val_frequency: int = 5
    """Iterations from one check of stop=val_effective_rank to the next."""
    val_patience: int = 1
    """Checks in a row without a higher rank after which stop=val_effective_rank ends."""
    val_sample_size: int = 10_000
    """Validation tokens that stop=val_effective_rank checks, from the first on."""
    compat_stale_clip: bool = False
    """Whether gradients left over from earlier blocks count in the norm that is clipped, as in the original;
    needs several blocks."""

    def __post_init__(self) -> None:
        """Validates the fields."""
        positive("phase1", self, "learning_rate", "convergence_threshold", "gradient_clip")
        not_negative("phase1", self, "context_noise")
        share_of_one("phase1", self, "min_converged_ratio", "dist_reg_weight", "min_convergence_improvement")
        at_least(2, "phase1", self, "max_iterations", "val_sample_size")
        ones = ("min_iterations", "no_improvement_patience", "val_frequency", "val_patience")
        at_least(1, "phase1", self, *ones)
        at_least(0, "phase1", self, "batch_size")
        one_of(INITIAL_CONTEXTS, "phase1", self, "initial_contexts")
        one_of(CONTEXT_DTYPES, "phase1", self, "context_dtype")
        one_of(FIRST_CONTEXTS, "phase1", self, "first_context")
        one_of(DIVERSITIES, "phase1", self, "diversity")
        one_of(STOPS, "phase1", self, "stop")


@documented
@dataclasses.dataclass(frozen=True)
class Phase2Config:
    """Next-token prediction with the contexts frozen."""

    learning_rate: float = 0.001
    """Learning rate of Adam."""
    epochs: int = 20
    """Largest number of epochs."""
    patience: int = 1
    """Epochs in a row without a sufficient gain after which training stops."""
    batch_size: int = 8192
    """Tokens in a training step."""
    gradient_clip: float = 1.0
    """Global norm to which longer gradients are scaled down."""
    freeze_embedding: bool = True
    """Whether the embedding table, and with it a tied head, stays as it is."""
    train_contexts: str = "parallel"
    """How training's contexts are made: parallel (one more pass over phase 1's), sequential (exact, token by
    token) or recomputed (token by token in each batch, with the embedding's LayerNorm trained along)."""
    min_ppl_improvement: float = 0.0
    """Validation perplexity by which an epoch must be better than the best one to be a gain; 0: any gain."""
    small_gain: str = "dropped"
    """Whether an epoch that is better by less than min_ppl_improvement becomes the best: dropped or kept."""
    weight_decay: float = 0.0
    """Weight decay, decoupled from the gradient (AdamW)."""
    dropout: float = 0.0
    """Share of what a token layer adds to its input that is dropped in training, from 0 to below 1."""
    count_embed_norm: bool = True
    """Whether params_trainable_phase2 counts the embedding's LayerNorm, trained or not."""

    def __post_init__(self) -> None:
        """Validates the fields."""
        positive("phase2", self, "learning_rate", "gradient_clip")
        not_negative("phase2", self, "min_ppl_improvement", "weight_decay")
        at_least(1, "phase2", self, "epochs", "patience", "batch_size")
        require(0.0 <= self.dropout < 1.0, "phase2.dropout", self.dropout, "at least 0 and below 1")
        one_of(TRAIN_CONTEXTS, "phase2", self, "train_contexts")
        one_of(SMALL_GAINS, "phase2", self, "small_gain")


@documented
@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which text, which part of it validates, and which frozen embedding table."""

    corpus: str = "pydocs"
    """Text: pydocs, ultrachat, ultrachat:FOLDER (a local copy) or text:PATH."""
    val_samples: str = "1000:1020"
    """Validation samples: START:STOP, in samples from 0, or tail:SHARE, the last share of each cell's own
    training tokens, or all (of val_corpus)."""
    val_corpus: str = ""
    """Text that validates, of the same kinds as corpus; val_samples counts its samples. Empty: the corpus."""
    turns: str = "all"
    """Messages of a conversation that are read: all or first."""
    turn_separator: str = "newline"
    """What stands between two messages: newline or space."""
    roles: bool = False
    """Whether each message begins with its role, as in 'user: Hi'."""
    sample: str = "auto"
    """What a sample of a .txt or .md file is: line, paragraph, file or auto (a file of a folder, a paragraph
    of a file given alone)."""
    text_field: str = ""
    """Field or column that is a record's text; empty: the known ones."""
    preference: str = "chosen"
    """Which answer of a preference pair is read: chosen or rejected."""
    skip_bad_rows: bool = False
    """Whether rows that cannot be used are left out and counted, instead of refused."""
    max_sample_tokens: int = 0
    """Tokens after which a sample is cut off; 0: samples are whole."""
    embedding: str = "spectral"
    """Frozen embedding table: gpt2, file:PATH, spectral or random."""
    vocabulary: str = "full"
    """Tokens that the head predicts: full (all of GPT-2's) or corpus (those that occur in the corpus)."""

    def __post_init__(self) -> None:
        """Validates the fields."""
        one_of(VOCABULARIES, "data", self, "vocabulary")
        one_of(TURNS, "data", self, "turns")
        one_of(SEPARATORS, "data", self, "turn_separator")
        one_of(SAMPLES, "data", self, "sample")
        one_of(PREFERENCES, "data", self, "preference")
        cut = self.max_sample_tokens
        require(cut >= 0, "data.max_sample_tokens", cut, "0 (whole samples) or a number of tokens")
        known_source("corpus", self.corpus, ("pydocs", "ultrachat"), ("ultrachat", "text"), CORPORA)
        if self.val_corpus:
            known_source(
                "val_corpus", self.val_corpus, ("pydocs", "ultrachat"), ("ultrachat", "text"), CORPORA
            )
        known_source("embedding", self.embedding, ("gpt2", "spectral", "random"), ("file",), EMBEDDINGS)
        if self.val_corpus and self.val_tail is not None:
            raise UserError(
                f"val_samples={self.val_samples} and val_corpus={self.val_corpus} do not go together:"
                " leave out one of them."
            )
        if self.val_tail is None and not self.val_whole:
            self.val_range()

    @property
    def val_whole(self) -> bool:
        """Whether all samples of a corpus of its own validate.

        >>> DataConfig(val_corpus="text:a.txt", val_samples="all").val_whole
        True
        """
        if self.val_samples == "all" and not self.val_corpus:
            raise UserError("val_samples=all is for a corpus of its own: give --val_corpus=text:PATH.")
        return self.val_samples == "all"

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
        digits = max(len(start), len(stop)) <= len(str(LARGEST))
        if not (colon and digits and start.isdecimal() and stop.isdecimal() and int(start) < int(stop)):
            raise UserError(
                f"val_samples={self.val_samples!r} is not a range: write START:STOP with START < STOP,"
                " for example --val_samples=1000:1020, or tail:SHARE, or all with --val_corpus."
            )
        return int(start), int(stop)


@documented
@dataclasses.dataclass(frozen=True)
class RunConfig:
    """One cell: everything that decides its numbers."""

    experiment: str = "context_dim"
    """Name of the experiment."""
    preset: str = "v2"
    """Name of its preset."""
    num_samples: int = 50
    """Number of training samples: the corpus's first."""
    seed: int = 42
    """Seed of every random number."""
    precision: str = "f32"
    """Precision of what matrix products read, in both phases: f32, or bf16, which is faster and rounds it."""
    effective_rank_rows: int = 0
    """Contexts drawn for the effective rank; 0: all."""
    val_convergence_trials: int = 4
    """Passes over the validation tokens, each from where the one before ended."""
    model: ModelConfig = ModelConfig()
    """The architecture."""
    phase1: Phase1Config = Phase1Config()
    """Phase 1, which learns the contexts."""
    phase2: Phase2Config = Phase2Config()
    """Phase 2, which learns to predict."""
    data: DataConfig = DataConfig()
    """The text and the embedding."""

    def __post_init__(self) -> None:
        """Validates the fields against each other."""
        at_least(1, "", self, "num_samples", "val_convergence_trials")
        require(self.precision in PRECISIONS, "precision", self.precision, "f32 or bf16")
        require(0 <= self.seed < 2**32, "seed", self.seed, "a whole number from 0 to 4294967295")
        require(self.effective_rank_rows >= 0, "effective_rank_rows", self.effective_rank_rows, "0 or more")
        model, contexts = self.model, self.phase2.train_contexts
        refuse(
            model.num_blocks > 1 and contexts != "sequential",
            "model.num_blocks", model.num_blocks, "phase2.train_contexts", contexts,
            "each block has learned contexts of its own share only; use sequential",
        )  # fmt: skip
        refuse(
            self.phase1.compat_stale_clip and model.num_blocks == 1,
            "phase1.compat_stale_clip", True, "model.num_blocks", 1,
            "there is no earlier block whose gradients could be left over",
        )  # fmt: skip
        refuse(
            contexts == "recomputed" and model.context_mode != "E",
            "phase2.train_contexts", contexts, "model.context_mode", model.context_mode,
            "contexts are recomputed for mode E only",
        )  # fmt: skip
        refuse(
            contexts == "recomputed" and not self.phase2.freeze_embedding,
            "phase2.train_contexts", contexts, "phase2.freeze_embedding", False,
            "the table would have to be learned through the recurrence",
        )  # fmt: skip
        refuse(
            not model.use_weight_tying and not self.phase2.freeze_embedding,
            "model.use_weight_tying", False, "phase2.freeze_embedding", False,
            "the table learns through the tied head only",
        )  # fmt: skip
        if self.data.val_tail is None and not self.data.val_corpus:
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
