"""The operations of the matrix products that a cell's parts cannot do without, counted from its widths.

2 for a multiplication and an addition. With one layer of one linear map, which most reports have, they are,
for N tokens of which U are distinct, B rows of a batch, R rows of a matrix, D context width, E embedding
width, K input tokens, V vocabulary:

- phase 1, an iteration: ``2 * 2 N D D`` (the state's product and its gradient) and ``2 * 2 U K E D`` (the
  tokens').
- exact contexts: ``2 N D D``.
- one parallel pass: ``2 N D D + 2 U K E D``.
- phase 2, a training step: ``2 * 2 B E V`` (the head), ``2 * 2 B (D + K E) E`` (the token layer), and
  ``2 * 2 B K E E`` for what the layer keeps where K > 1; evaluation: half of it.
- effective rank: ``2 R D D + 2 D D D`` (bidiagonalisation by way of a triangular factor; Golub and
  Van Loan, Matrix Computations, 2013).

Those of a diversity loss, of validation and of the embedding are not counted.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cvfp_jax.baselines.widths import gru_shape, transformer_shape
from cvfp_jax.config.settings import ModelConfig, Phase2Config, RunConfig
from cvfp_jax.core.widths import FFN_EXPANSION, context_widths, num_params, token_context_widths, token_widths


class _Layer(NamedTuple):
    """Multiplications of one row, forward."""

    state: int  # of what the layer reads and gives a gradient to: the state, and what is kept of it
    constant: int  # of what it reads and never gives a gradient to
    inside: int  # of a second map, whose input always needs a gradient


def _layer(state: int, constant: int, kept: int, out: int, num_linear: int) -> _Layer:
    width = state + constant
    first = FFN_EXPANSION * width if num_linear == 2 else out
    residual = kept * out if kept != out else 0
    return _Layer(state * first + residual, constant * first, first * out if num_linear == 2 else 0)


def _context_layers(model: ModelConfig) -> list[_Layer]:
    """A context block's layers: contexts are the state, tokens the constants."""
    window = model.num_input_tokens * model.embed_dim
    layers = []
    for number, (before, after) in enumerate(itertools.pairwise(context_widths(model))):
        token = window if number == 0 or model.token_input_all_layers else 0
        layers.append(_layer(before, token, before, after, model.ffn_num_layers))
    return layers


def _token_layers(model: ModelConfig) -> list[_Layer]:
    """The token block's layers: tokens are the state, contexts the constants."""
    widths = zip(token_context_widths(model), itertools.pairwise(token_widths(model)), strict=True)
    return [_layer(a, context, a, b, model.ffn_num_layers) for context, (a, b) in widths]


def _input_gradients(layers: Sequence[_Layer], of_first: bool = False) -> int:
    """Multiplications of one row that carry a gradient back through layers, perhaps to the first's input."""
    through = layers if of_first else layers[1:]
    return sum(layer.state for layer in through) + sum(layer.inside for layer in layers)


def phase1_iteration(model: ModelConfig, num_tokens: int, distinct: int) -> int:
    """Returns the operations of one iteration of phase 1, of each block once.

    Args:
      model: the architecture.
      num_tokens: N, of all blocks together.
      distinct: U, of each block's tokens.

    >>> phase1_iteration(ModelConfig(context_dim=3, embed_dim=5), num_tokens=7, distinct=2)
    372
    """
    layers = _context_layers(model)
    row = sum(layer.state + layer.inside for layer in layers)
    row = 2 * row + _input_gradients(layers)
    return 2 * num_tokens * row + 2 * token_terms(model, distinct)


def token_terms(model: ModelConfig, distinct: int) -> int:
    """Returns the operations that make the tables of the distinct tokens, or their gradient, of each block.

    >>> token_terms(ModelConfig(context_dim=3, embed_dim=5), distinct=2)
    60
    """
    return 2 * model.num_blocks * distinct * sum(layer.constant for layer in _context_layers(model))


def exact_contexts(model: ModelConfig, num_tokens: int) -> int:
    """Returns the operations of exact contexts, given their token terms; every block reads all tokens.

    >>> exact_contexts(ModelConfig(context_dim=3), num_tokens=7)
    126
    """
    row = sum(layer.state + layer.inside for layer in _context_layers(model))
    return 2 * model.num_blocks * num_tokens * row


def parallel_pass(model: ModelConfig, num_tokens: int, distinct: int) -> int:
    """Returns the operations of one more parallel pass over all tokens.

    >>> parallel_pass(ModelConfig(context_dim=3, embed_dim=5), num_tokens=7, distinct=2)
    186
    """
    return exact_contexts(model, num_tokens) + token_terms(model, distinct)


def phase2_forward(model: ModelConfig, vocab_size: int, rows: int) -> int:
    """Returns the operations of evaluating a batch.

    >>> phase2_forward(ModelConfig(context_dim=3, embed_dim=5), vocab_size=7, rows=2)
    300
    """
    row = sum(sum(layer) for layer in _token_layers(model)) + model.embed_dim * vocab_size
    if model.reads_every_layer:
        row += _context_layers_made(model)
    return 2 * rows * row


def phase2_training(model: ModelConfig, phase2: Phase2Config, vocab_size: int, rows: int) -> int:
    """Returns the operations of a training step.

    A frozen head takes two products; a trained one makes its logits twice and has two gradients.

    >>> phase2_training(ModelConfig(context_dim=3, embed_dim=5), Phase2Config(), vocab_size=7, rows=2)
    600
    """
    layers = _token_layers(model)
    recomputed = phase2.train_contexts == "recomputed"
    row = 2 * sum(sum(layer) for layer in layers) + _input_gradients(layers, of_first=recomputed)
    frozen = phase2.freeze_embedding and model.use_weight_tying
    row += (2 if frozen else 4) * model.embed_dim * vocab_size
    if recomputed or model.reads_every_layer:
        row += _context_layers_made(model)
    return 2 * rows * row


def _context_layers_made(model: ModelConfig) -> int:
    """Multiplications of one row that make all context layers of a place, token terms included."""
    return sum(sum(layer) for layer in _context_layers(model))


def effective_rank(rows: int, width: int) -> int:
    """Returns the operations of the singular values of a matrix.

    >>> effective_rank(rows=10, width=3)
    234
    """
    return 2 * rows * width**2 + 2 * width**3


def cvfp_training(
    config: RunConfig, train_ids: np.ndarray, vocab_size: int, iterations: int, epochs: int
) -> float:
    """Returns the operations that have trained a cell: iterations, the contexts of phase 2, and epochs.

    Args:
      config: the cell.
      train_ids: int [N].
      vocab_size: V.
      iterations: of phase 1, the start counted as one; 0 if it was not run.
      epochs: of phase 2.

    >>> config = RunConfig(model=ModelConfig(context_dim=3, embed_dim=5))
    >>> cvfp_training(config, np.array([0, 1, 1]), vocab_size=7, iterations=3, epochs=2)
    1770.0
    """
    model, phase2, N = config.model, config.phase2, len(train_ids)
    distinct = len(np.unique(train_ids))
    iteration = phase1_iteration(model, N, distinct)
    if config.phase1.lagged_task_weight > 0:
        iteration += _lagged_task(config, vocab_size, N)
    total = max(0, iterations - 1) * iteration
    if phase2.contexts != "zero" and phase2.train_contexts != "recomputed":
        total += parallel_pass(model, N, distinct)  # exact contexts need as many
    return float(total + epochs * phase2_training(model, phase2, vocab_size, N - 1))


def _lagged_task(config: RunConfig, vocab_size: int, num_tokens: int) -> int:
    """Operations of an iteration's next-token loss: a step of phase 2 by which contexts learn too."""
    size = config.phase1.batch_size or num_tokens
    places = -(-num_tokens // size) * config.phase1.lagged_task_places
    to_contexts = 2 * places * sum(layer.constant for layer in _token_layers(config.model))
    return phase2_training(config.model, config.phase2, vocab_size, places) + to_contexts


def baseline_training(config: RunConfig, vocab_size: int, rows: int) -> float:
    """Returns the operations of a baseline's training step, or of an epoch.

    Each product has two gradients, but what reads token vectors has only that of its weights, and the frozen
    head only that of its input. A transformer's attention is counted in full windows, as it is computed.

    Args:
      config: the cell.
      vocab_size: V.
      rows: predictions.

    >>> from cvfp_jax.config.baseline import BaselineConfig
    >>> config = RunConfig(architecture="gru", model=ModelConfig(3, 5), baseline=BaselineConfig(4))
    >>> baseline_training(config, vocab_size=7, rows=2)
    784.0
    """
    E, baseline = config.model.embed_dim, config.baseline
    match config.architecture:
        case "gru":
            H, layers = gru_shape(config)
            reads, others = 3 * E * H, 3 * H * H * (2 * layers - 1) + H * E
        case "transformer":
            M, inner, layers, _ = transformer_shape(config)
            attention = 2 * baseline.segment * M
            reads, others = E * M, layers * (4 * M * M + 2 * M * inner + attention) + M * E
        case _:
            contexts, tokens = _context_layers(config.model), _token_layers(config.model)
            reads = sum(layer.constant for layer in contexts) + tokens[0].state
            others = sum(layer.state + layer.inside for layer in contexts)
            others += sum(sum(layer) for layer in tokens) - tokens[0].state
    return float(2 * rows * (2 * reads + 3 * others + 2 * E * vocab_size))


def params_trained(config: RunConfig, vocab_size: int) -> int:
    """Returns how many parameters both phases train; an embedding's LayerNorm that nothing trains is none.

    >>> params_trained(RunConfig(model=ModelConfig(96, 96)), vocab_size=1000)
    37440
    """
    model, phase2 = config.model, config.phase2
    learned = phase2.train_contexts == "recomputed"
    counts = num_params(model, vocab_size, phase2.freeze_embedding, count_embed_norm=learned)
    trained = phase2.contexts in ("trained", "shuffled")
    return counts["params_trainable_phase2"] + (counts["params_context_block"] if trained else 0)
