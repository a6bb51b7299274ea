"""A baseline trained and evaluated, on what phase 2 is and by its settings.

Shapes: B lanes, S tokens of a segment, N tokens of a stream, E embedding width, V vocabulary.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from cvfp_jax.baselines.gru import GRU
from cvfp_jax.baselines.network import Carry, Dropout, Network
from cvfp_jax.baselines.recurrence import Recurrence
from cvfp_jax.baselines.transformer import Transformer
from cvfp_jax.baselines.widths import gru_shape, transformer_shape
from cvfp_jax.config.settings import Phase2Config, RunConfig
from cvfp_jax.contexts.runtime import Phase2Progress, Runtime
from cvfp_jax.core.matmul import as_kept, operand
from cvfp_jax.core.optimizer import adam, clip_by_global_norm
from cvfp_jax.kernels.cross_entropy import Losses, frozen_head_losses
from cvfp_jax.phase2.epochs import AfterBatch, Course, Measure, on_host, run_epochs

PART = "baseline"  # the name under which training is saved
# The host waits for the device every so many batches, so that progress tells of work done.
_BATCHES_BETWEEN_REPORTS = 16


def make_network(config: RunConfig, rngs: nnx.Rngs) -> Network:
    """Returns an untrained network of the config's architecture and the size of CVFP's blocks.

    >>> from cvfp_jax.config.settings import ModelConfig
    >>> network = make_network(RunConfig(architecture="gru", model=ModelConfig(8, 6)), nnx.Rngs(0))
    >>> network.stream(jnp.ones((5, 6))).shape
    (5, 6)
    """
    model, baseline, precision = config.model, config.baseline, config.precision
    match config.architecture:
        case "gru":
            return GRU(model.embed_dim, gru_shape(config), precision, rngs=rngs)
        case "transformer":
            shape = transformer_shape(config)
            return Transformer(model.embed_dim, shape, baseline.segment, precision, rngs=rngs)
        case "bptt":
            return Recurrence(model, precision, rngs=rngs)
    raise ValueError(f"no baseline {config.architecture!r}")


class Segment(NamedTuple):
    """What a training step reads: a token of each lane and place, and the one after it."""

    ids_BxS: Any  # int32
    targets_BxS: Any
    valid_BxS: Any  # bool: those beyond the stream or a lane's end do not count


def segments(ids_N: np.ndarray, lanes: int, length: int) -> list[Segment]:
    """Cuts a stream into lanes of consecutive tokens, and these into segments.

    With ``T = ceil((N - 1) / B)``, lane b predicts the tokens ``b T + 1`` to ``(b + 1) T``; each token but
    the first is predicted once. What is known at a segment's end is carried over to the next one of its lane.

    Args:
      ids_N: int.
      lanes: B.
      length: S.

    Returns:
      The segments in order; the last one, and the last lanes, are filled up.

    >>> first, second = segments(np.arange(8), lanes=2, length=3)
    >>> first.ids_BxS.tolist(), first.targets_BxS.tolist(), second.valid_BxS.tolist()
    ([[0, 1, 2], [4, 5, 6]], [[1, 2, 3], [5, 6, 7]], [[True, False, False], [False, False, False]])
    """
    num_rows = len(ids_N) - 1
    of_lane = -(-num_rows // lanes)
    places_T = np.arange(-(-of_lane // length) * length)
    places_BxT = np.arange(lanes)[:, None] * of_lane + places_T[None, :]
    valid_BxT = (places_T < of_lane)[None, :] & (places_BxT < num_rows)
    places_BxT = np.minimum(places_BxT, num_rows - 1)
    ids = np.asarray(ids_N, np.int32)
    cuts = [slice(start, start + length) for start in range(0, len(places_T), length)]
    return [Segment(ids[places_BxT[:, cut]], ids[places_BxT[:, cut] + 1], valid_BxT[:, cut]) for cut in cuts]


def num_lanes(config: RunConfig) -> int:
    """Returns how many segments are a batch of about as many tokens as ``phase2.batch_size`` says."""
    return max(1, config.phase2.batch_size // config.baseline.segment)


def batches(ids_N: np.ndarray, config: RunConfig) -> list[Segment]:
    """Returns the segments of an epoch, each a batch of ``num_lanes`` lanes."""
    return segments(ids_N, num_lanes(config), config.baseline.segment)


class TrainState(NamedTuple):
    """What a step changes."""

    params: Any
    optimizer: Any
    carry: Carry  # what is known at the segment's start


class Frozen(NamedTuple):
    """What a step reads and does not change."""

    vectors_VxE: jax.Array
    head_VxE: jax.Array  # the table, kept for the head's products


class Rates(NamedTuple):
    """Numbers that a compiled step takes, so that those that a search tries share one program."""

    learning: np.float32
    dropout: np.float32


@dataclasses.dataclass(frozen=True)
class BaselineSpec:
    """What the compiled steps depend on beside the shapes of arrays."""

    network: nnx.GraphDef
    gradient_clip: float
    weight_decay: float
    drops: bool  # whether anything is dropped
    precision: str

    def optimizer(self, learning_rate: Any) -> optax.GradientTransformation:
        """The optimizer of what is trained: phase 2's."""
        return adam(learning_rate, clip_by_global_norm(self.gradient_clip), self.weight_decay)


def _losses(
    hidden_RxE: jax.Array, frozen: Frozen, targets_R: jax.Array, valid_R: jax.Array, precision: str
) -> Losses:
    return frozen_head_losses(hidden_RxE, frozen.head_VxE, targets_R, valid_R, precision, None)


def segment_loss(
    network: Network,
    carry: Carry,
    frozen: Frozen,
    segment: Segment,
    dropout: Dropout | None = None,
    precision: str = "f32",
) -> tuple[jax.Array, Carry]:
    """Returns the mean cross-entropy of a segment's next tokens, and what is known at its end.

    ``-mean ln softmax(table h)[x_{t+1}]`` over the places that count, as in phase 2.

    Args:
      network: the model.
      carry: what is known at its start, which is constant.
      frozen: the token vectors and the head.
      segment: the tokens.
      dropout: thins out what the network passes on; None while it is evaluated.
      precision: of the head's products.
    """
    E = frozen.vectors_VxE.shape[1]
    carry, hidden_BxSxE = network.segment(carry, frozen.vectors_VxE[segment.ids_BxS], dropout)
    valid_R = segment.valid_BxS.reshape(-1)
    targets_R = segment.targets_BxS.reshape(-1)
    loss = _losses(hidden_BxSxE.reshape(-1, E), frozen, targets_R, valid_R, precision).loss
    return loss / valid_R.sum(dtype=jnp.int32).astype(loss.dtype), carry


def _train_step(
    state: TrainState, frozen: Frozen, segment: Segment, key: jax.Array, rates: Rates, spec: BaselineSpec
) -> tuple[TrainState, jax.Array, jax.Array]:
    """One optimizer step on one segment; returns its mean loss before the step and its gradient norm."""

    def mean_loss(params: Any) -> tuple[jax.Array, Carry]:
        network: Any = nnx.merge(spec.network, params)
        dropout = Dropout(key, rates.dropout) if spec.drops else None  # type: ignore[arg-type]
        return segment_loss(network, state.carry, frozen, segment, dropout, spec.precision)

    (loss, carry), gradient = jax.value_and_grad(mean_loss, has_aux=True)(state.params)
    updates, optimizer = spec.optimizer(rates.learning).update(gradient, state.optimizer, state.params)
    params = optax.apply_updates(state.params, updates)
    return TrainState(params, optimizer, carry), loss, optax.tree.norm(gradient)


def _evaluate(
    params: Any, frozen: Frozen, ids_N: jax.Array, num_tokens: jax.Array, spec: BaselineSpec
) -> Losses:
    """The sums over a stream, read once from its start, in which every token but the first is predicted."""
    network: Any = nnx.merge(spec.network, params)
    valid_R = jnp.arange(len(ids_N) - 1, dtype=jnp.int32) < num_tokens - 1
    hidden_RxE = network.stream(frozen.vectors_VxE[ids_N[:-1]])
    return _losses(hidden_RxE, frozen, ids_N[1:], valid_R, spec.precision)


@functools.cache
def compile_steps(spec: BaselineSpec) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Returns the training and the evaluation step, compiled."""
    train = jax.jit(functools.partial(_train_step, spec=spec), donate_argnums=0)
    return train, jax.jit(functools.partial(_evaluate, spec=spec))


@dataclasses.dataclass(frozen=True, eq=False)
class Tokens:
    """What a baseline learns from and is validated on.

    Args:
      train_ids: int32 [N].
      val_ids: int32 [M].
      val_capacity: the least number of validation tokens to compile for.
    """

    train_ids: np.ndarray
    val_ids: np.ndarray
    val_capacity: int = 0


def learn_baseline(
    network: Network,
    vectors_VxE: jax.Array,
    table_VxE: jax.Array,
    tokens: Tokens,
    config: RunConfig,
    key: jax.Array,
    *,
    runtime: Runtime | None = None,
) -> Course:
    """Trains a network to predict the next token through a frozen head.

    A step is clipped Adam on a segment of each lane, ``phase2.batch_size`` tokens together, with phase 2's
    settings; ``EarlyStopping`` says which epoch is the best and which the last.

    Args:
      network: the untrained network; it is left as it is.
      vectors_VxE: float32, the token vectors that it reads.
      table_VxE: float32, the embedding table, which is the head.
      tokens: what it learns from, and what validates it.
      config: gives ``phase2``, ``baseline.segment`` and the precision.
      key: draws what dropout leaves out.
      runtime: what saves and watches training; it runs on the process's first device.

    Returns:
      The course, with the parameters of the best epoch and of the last.

    References:
      Williams and Peng, An Efficient Gradient-Based Algorithm for On-Line Training of Recurrent Network
      Trajectories, 1990 (truncated back-propagation through time).
    """
    runtime = runtime or Runtime()
    trainer, state = _begin(network, Frozen(vectors_VxE, table_VxE), tokens, config, key)
    trainer.show = runtime.progress.phase2(len(tokens.train_ids))
    return run_epochs(trainer, state, config.phase2, runtime)


def _begin(
    network: Network, frozen: Frozen, tokens: Tokens, config: RunConfig, key: jax.Array
) -> tuple["_Trainer", TrainState]:
    phase2, precision = config.phase2, config.precision
    frozen = frozen._replace(head_VxE=as_kept(operand(frozen.head_VxE, precision)))
    graphdef, params = nnx.split(network)
    spec = BaselineSpec(graphdef, phase2.gradient_clip, phase2.weight_decay, phase2.dropout > 0, precision)
    cut, lanes = batches(tokens.train_ids, config), num_lanes(config)
    trainer = _Trainer(spec, frozen, cut, tokens, phase2, key)
    # Each step donates its state, which must not share arrays with the caller's network.
    params = jax.tree.map(jnp.copy, params)
    return trainer, TrainState(params, spec.optimizer(0.0).init(params), network.start(lanes))


class _Trainer:
    """A network, segment by segment."""

    part = PART

    def __init__(
        self,
        spec: BaselineSpec,
        frozen: Frozen,
        cut: list[Segment],
        tokens: Tokens,
        config: Phase2Config,
        key: jax.Array,
    ) -> None:
        self._spec, self._frozen, self._segments, self._key = spec, frozen, cut, key
        self._rates = Rates(np.float32(config.learning_rate), np.float32(config.dropout))
        val_ids = np.asarray(tokens.val_ids, np.int32)
        self._num_val = np.int32(len(val_ids))
        self._val_ids = jnp.asarray(np.pad(val_ids, (0, max(0, tokens.val_capacity - len(val_ids)))))
        self.show: Phase2Progress = lambda epoch, rows, loss: None
        self.rows = [int(segment.valid_BxS.sum()) for segment in cut]
        self.dtype = frozen.vectors_VxE.dtype

    def params(self, state: TrainState) -> Any:
        return state.params

    def place(self, tree: Any) -> Any:
        return jax.tree.map(jnp.asarray, tree)

    def train(
        self, state: TrainState, epoch: int, done: Sequence[Measure], after_batch: AfterBatch
    ) -> tuple[TrainState, list[Measure]]:
        step, _ = compile_steps(self._spec)
        measures: list[Any] = list(done)
        if not measures:  # a stream begins with nothing known
            state = state._replace(carry=jax.tree.map(jnp.zeros_like, state.carry))
        key, rows = jax.random.fold_in(self._key, epoch), sum(self.rows[: len(measures)])
        for number in range(len(measures), len(self._segments)):
            segment = self._segments[number]
            own_key = jax.random.fold_in(key, number)
            state, loss, norm = step(state, self._frozen, segment, own_key, self._rates)
            measures.append((loss, norm))
            rows += self.rows[number]
            if len(measures) % _BATCHES_BETWEEN_REPORTS == 0:
                if not math.isfinite(float(loss)):
                    break
                self.show(epoch, rows, float(loss))
            after_batch(state, measures)
        return state, on_host(measures)

    def evaluate(self, params: Any) -> tuple[float, float]:
        _, step = compile_steps(self._spec)
        sums = jax.device_get(step(params, self._frozen, self._val_ids, self._num_val))
        count = int(self._num_val) - 1
        return float(sums.loss) / count, int(sums.hits) / count
