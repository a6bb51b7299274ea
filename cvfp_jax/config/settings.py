"""Every setting of a run: frozen dataclasses and their validation."""

import dataclasses
from typing import Any

from cvfp_jax.config.baseline import ARCHITECTURES, CVFP, BaselineConfig
from cvfp_jax.config.checks import (
    at_least,
    not_negative,
    one_of,
    positive,
    refuse,
    require,
    share_of_one,
)
from cvfp_jax.config.data import DataConfig
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
CONTEXTS = ("trained", "untrained", "zero", "shuffled")
TOKEN_BLOCKS = ("untrained", "phase1")


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
    lagged_task_weight: float = 0.0
    """Weight of the next-token loss of a token block that reads each iteration's contexts and is learned with
    them; 0: none, as in the reports."""
    lagged_task_places: int = 512
    """Places of a micro-batch, drawn anew in each iteration, that this loss is taken over."""
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
        not_negative("phase1", self, "context_noise", "lagged_task_weight")
        share_of_one("phase1", self, "min_converged_ratio", "dist_reg_weight", "min_convergence_improvement")
        at_least(2, "phase1", self, "max_iterations", "val_sample_size")
        ones = ("min_iterations", "no_improvement_patience", "val_frequency", "val_patience")
        at_least(1, "phase1", self, *ones, "lagged_task_places")
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
    contexts: str = "trained"
    """Which contexts the token layers read, in training and validation: trained (phase 1's), untrained (those
    of the block as it was drawn), zero, or shuffled (the trained block's, of the same tokens in another
    order)."""
    min_ppl_improvement: float = 0.0
    """Validation perplexity by which an epoch must be better than the best one to be a gain; 0: any gain."""
    small_gain: str = "dropped"
    """Whether an epoch that is better by less than min_ppl_improvement becomes the best: dropped or kept."""
    weight_decay: float = 0.0
    """Weight decay, decoupled from the gradient (AdamW)."""
    token_block: str = "untrained"
    """Token block that training starts from: untrained, or phase1, the one that phase1.lagged_task_weight has
    learned."""
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
        one_of(CONTEXTS, "phase2", self, "contexts")
        one_of(SMALL_GAINS, "phase2", self, "small_gain")
        one_of(TOKEN_BLOCKS, "phase2", self, "token_block")


@documented
@dataclasses.dataclass(frozen=True)
class RunConfig:
    """One cell: everything that decides its numbers."""

    experiment: str = "context_dim"
    """Name of the experiment."""
    preset: str = "v2"
    """Name of its preset."""
    arm: str = ""
    """Name of its arm, in an experiment that compares changes of one setting each."""
    architecture: str = "cvfp"
    """What is trained: cvfp (phase 1 and phase 2), or an ordinary model of as many parameters: gru,
    transformer, or bptt (CVFP's own blocks, learned together with gradients that go back through time)."""
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
    baseline: BaselineConfig = BaselineConfig()  # noqa: RUF009 (immutable)
    """An ordinary model in the place of both phases."""
    data: DataConfig = DataConfig()  # noqa: RUF009
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
        self._check_architecture()
        self._check_contexts()
        self._check_lagged_task()
        if self.data.val_tail is None and not self.data.val_corpus:
            self._check_overlap()
        if self.data.dev_samples:
            self.check_development()

    def _check_architecture(self) -> None:
        one_of(ARCHITECTURES, "", self, "architecture")
        if self.architecture == CVFP:
            return
        model, phase2 = self.model, self.phase2
        frozen, alone = "it predicts through the frozen table", "it learns one block's last context"
        needs: list[tuple[str, Any, Any, str]] = [
            ("model.use_weight_tying", model.use_weight_tying, True, frozen),
            ("phase2.freeze_embedding", phase2.freeze_embedding, True, frozen),
            ("phase2.contexts", phase2.contexts, "trained", "it has no contexts of phase 1"),
            ("phase2.token_block", phase2.token_block, "untrained", "it has no phase 1"),
        ]
        if self.architecture == "bptt":
            needs.append(("model.num_blocks", model.num_blocks, 1, alone))
            needs.append(("model.prev_context_steps", model.prev_context_steps, 0, alone))
        for name, value, needed, why in needs:
            refuse(value != needed, "architecture", self.architecture, name, value, why)
        refuse(
            self.baseline.segment > phase2.batch_size,
            "baseline.segment", self.baseline.segment, "phase2.batch_size", phase2.batch_size,
            "a batch consists of whole segments",
        )  # fmt: skip

    def _check_contexts(self) -> None:
        contexts, model = self.phase2.contexts, self.model
        if contexts == "trained":
            return
        refuse(
            self.phase2.train_contexts == "recomputed",
            "phase2.contexts", contexts, "phase2.train_contexts", "recomputed",
            "contexts are made again of the trained block",
        )  # fmt: skip
        refuse(
            self.phase2.token_block == "phase1" and contexts != "shuffled",
            "phase2.contexts", contexts, "phase2.token_block", "phase1",
            "phase 1, which learns that block, is not run",
        )  # fmt: skip
        refuse(
            model.reads_every_layer,
            "phase2.contexts", contexts, "model.num_layers", model.num_layers,
            "mode E makes the contexts between its layers again; use --config.model.context_mode=A",
        )  # fmt: skip

    def on_development(self) -> "RunConfig":
        """Returns the same cell with the development samples in the place of those that validate.

        >>> RunConfig().on_development().data.val_samples
        '980:1000'
        """
        self.check_development()
        start, stop = self.data.dev_range()
        data = dataclasses.replace(self.data, val_samples=f"{start}:{stop}", val_corpus="", dev_samples="")
        return dataclasses.replace(self, data=data)

    def check_development(self) -> None:
        """Refuses development samples that the cell trains on."""
        start, stop = self.data.dev_range()
        if self.num_samples > start or start == stop:
            raise UserError(
                f"training samples 0:{self.num_samples} leave no room for development samples {start}:{stop}"
                f" before validation samples {self.data.val_samples}: use at most"
                f" {start} samples, or move the ranges, --val_samples and --dev_samples."
            )

    def _check_lagged_task(self) -> None:
        """Refuses models whose token layers read what a lagged task has not."""
        model, weight = self.model, self.phase1.lagged_task_weight
        refuse(
            self.phase2.token_block == "phase1" and weight == 0,
            "phase2.token_block", "phase1", "phase1.lagged_task_weight", weight,
            "only with a weight above 0 does phase 1 learn a token block",
        )  # fmt: skip
        others = {
            "num_blocks": model.num_blocks > 1,
            "context_mode": model.reads_every_layer or model.context_mode == "G",
            "prev_context_steps": model.prev_context_steps > 0,
            "use_weight_tying": not model.use_weight_tying,
        }
        for name, is_other in others.items():
            refuse(
                weight > 0 and is_other,
                "phase1.lagged_task_weight", weight, f"model.{name}", getattr(model, name),
                "it needs one block, final contexts (mode A, or F) and a tied head",
            )  # fmt: skip

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
        """The reports' short name of an architecture, behind that of a baseline of as many parameters.

        >>> RunConfig().config_name, RunConfig(architecture="gru").config_name
        ('1L_768d_1tok', 'gru_1L_768d_1tok')
        """
        m = self.model
        name = f"{m.num_layers}L_{m.context_dim}d_{m.num_input_tokens}tok"
        return name if self.architecture == CVFP else f"{self.architecture}_{name}"
