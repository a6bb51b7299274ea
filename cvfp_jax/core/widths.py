"""How wide the layers are: pure arithmetic on a config, and the parameters that follow from it."""

import itertools

from cvfp_jax.config.settings import ModelConfig

# The inside of a layer of two linear maps is so many times as wide as its input.
FFN_EXPANSION = 4


def context_widths(config: ModelConfig) -> list[int]:
    """Returns the context block's widths: D throughout, or falling to D in near-equal steps.

    Where only the first layer reads tokens, ``D_i = D + K E - floor(K E i / L)`` for i = 1..L; the
    first layer takes in a context of width D all the same.

    Args:
      config: gives D, K, E and L, and whether every layer reads tokens.

    Returns:
      L + 1 widths, from D to D.

    References:
      rato-tokyo/new-llm, report of 2025-11-29.

    >>> context_widths(ModelConfig(num_layers=6, token_input_all_layers=False))
    [768, 1408, 1280, 1152, 1024, 896, 768]
    """
    D, L, window = config.context_dim, config.num_layers, config.num_input_tokens * config.embed_dim
    if config.token_input_all_layers:
        return [D] * (L + 1)
    return [D, *(D + window - window * i // L for i in range(1, L + 1))]


def token_widths(config: ModelConfig) -> list[int]:
    """Returns the token block's widths, from the window's K E to E in near-equal steps.

    ``T_i = K E - floor((K - 1) E i / L)`` for i = 0..L, with L the number of token layers.

    Args:
      config: gives K, E and L.

    Returns:
      L + 1 widths.

    >>> token_widths(ModelConfig(num_layers=3, num_input_tokens=2))
    [1536, 1280, 1024, 768]
    """
    K, E, L = config.num_input_tokens, config.embed_dim, config.token_depth
    return [K * E - (K - 1) * E * i // L for i in range(L + 1)]


def token_context_widths(config: ModelConfig) -> list[int]:
    """Returns the width of the context that each token layer reads; zero where it reads none.

    Args:
      config: the mode, and all that decides widths.

    Returns:
      A width a token layer.

    >>> token_context_widths(ModelConfig(num_layers=2, context_mode="F"))
    [768, 0]
    >>> token_context_widths(ModelConfig(context_mode="A", num_blocks=2, prev_context_steps=1))
    [3072]
    """
    final = config.context_dim * config.num_blocks * (1 + config.prev_context_steps)
    inside = config.token_depth - 1
    match config.context_mode:
        case "E":
            return context_widths(config)[1:]
        case "A":
            return [final] * (inside + 1)
        case "F":
            return [final] + [0] * inside
        case _:  # G
            return [final] + [0] * (inside - 1) + [final]


def _layer_params(config: ModelConfig, context: int, token: int, kept: int, out: int) -> int:
    """Weights and biases of a layer's linear maps, its LayerNorm and its residual projection."""
    width = context + token
    if config.ffn_num_layers == 2:
        # The inner width of ``Layer``, which four times the input's is.
        inner = FFN_EXPANSION * width
        network = width * inner + inner + inner * out + out
    else:
        network = width * out + out
    return network + 2 * out + (kept * out + out if kept != out else 0)


def num_params(
    config: ModelConfig, vocab_size: int, freeze_embedding: bool = True, count_embed_norm: bool = True
) -> dict[str, int]:
    """Counts parameters as the reports print them.

    Args:
      config: the architecture.
      vocab_size: V.
      freeze_embedding: whether phase 2 leaves the table alone.
      count_embed_norm: whether the report counts the embedding's LayerNorm as trained in phase 2:
        R2 to R4 do, although no gradient reaches it while its outputs are cached; R1, which trains it,
        and R5 do not.

    Returns:
      ``params_context_block`` (of all blocks), ``params_token_block``, ``params_head`` (zero if tied),
      ``params_total`` (with the table and its LayerNorm) and ``params_trainable_phase2``: the token
      block, an untied head, the table unless it is frozen, and the LayerNorm if it is counted.

    References:
      rato-tokyo/new-llm, reports of 2025-11-27 to 2025-12-03.

    >>> num_params(ModelConfig(), 50257)["params_context_block"]
    1181952
    """
    E = config.embed_dim
    window = config.num_input_tokens * E
    context = 0
    for i, (a, b) in enumerate(itertools.pairwise(context_widths(config))):
        context += _layer_params(config, a, window if i == 0 or config.token_input_all_layers else 0, a, b)
    context *= config.num_blocks
    token = 0
    for c, (a, b) in zip(token_context_widths(config), itertools.pairwise(token_widths(config)), strict=True):
        token += _layer_params(config, c, a, a, b)
    head = 0 if config.use_weight_tying else vocab_size * E + vocab_size
    table, norm = vocab_size * E, 2 * E
    trained = token + head + (0 if freeze_embedding else table) + (norm if count_embed_norm else 0)
    return {
        "params_context_block": context,
        "params_token_block": token,
        "params_head": head,
        "params_total": context + token + head + table + norm,
        "params_trainable_phase2": trained,
    }
