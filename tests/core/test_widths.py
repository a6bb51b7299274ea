import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from cvfp_jax.config.settings import ModelConfig
from cvfp_jax.core.model import LanguageModel
from cvfp_jax.core.widths import context_widths, num_params, token_context_widths, token_widths
from cvfp_jax.errors import UserError

UNTIED_3 = {"num_layers": 3, "use_weight_tying": False}
UNTIED_6 = {"num_layers": 6, "use_weight_tying": False}
REPORTS = {  # SPEC 1.4, as the reports print them: context block, token block, total, trained in phase 2
    "r1": (UNTIED_3, False, 3_545_856, 3_545_856, 84_338_257, 42_193_489),
    "r1_6l": (UNTIED_6, False, 7_091_712, 7_091_712, 91_429_969, 45_739_345),
    "r2": (
        UNTIED_6 | {"token_input_all_layers": False},
        True, 15_394_304, 8_566_272, 101_207_121, 47_215_441,
    ),
    "r3 768": ({}, True, 1_181_952, 1_181_952, 40_962_816, 1_183_488),
    "r3 1200": ({"context_dim": 1200}, True, 2_365_200, 1_513_728, 42_477_840, 1_515_264),
    "r3 1537": ({"context_dim": 1537}, True, 3_547_396, 1_772_544, 43_918_852, 1_774_080),
    "r3 v3": ({"num_input_tokens": 2}, True, 1_771_776, 2_952_192, 43_322_880, 2_953_728),
    "r4 500": ({"context_dim": 500}, True, 635_500, 976_128, 40_210_540, 977_664),
    "r4 1000": (
        {"context_dim": 1000, "ffn_num_layers": 2},
        True, 19_585_368, 17_943_968, 76_128_248, 17_945_504,
    ),
    "r4 flexible": (
        {"context_dim": 500, "ffn_num_layers": 2},
        True, 8_973_868, 10_333_968, 57_906_748, 10_335_504,
    ),
    "r5 256": ({"context_dim": 256}, False, 262_912, 788_736, 39_650_560, 788_736),
    "r5 320": ({"context_dim": 320}, False, 349_120, 837_888, 39_785_920, 837_888),
}  # fmt: skip


@pytest.mark.parametrize("report", REPORTS)
def test_parameter_counts_are_the_reports(report):
    fields, count_embed_norm, context, token, total, trained = REPORTS[report]
    counts = num_params(ModelConfig(**fields), 50257, count_embed_norm=count_embed_norm)
    names = ("params_context_block", "params_token_block", "params_total", "params_trainable_phase2")
    assert [counts[name] for name in names] == [context, token, total, trained]


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_counts_are_those_of_a_model(data):
    draw = data.draw
    fields = {
        "context_dim": draw(st.integers(1, 6)),
        "embed_dim": draw(st.integers(1, 6)),
        "num_layers": draw(st.integers(1, 3)),
        "num_input_tokens": draw(st.integers(1, 3)),
        "num_token_layers": draw(st.integers(0, 3)),
        "token_input_all_layers": draw(st.booleans()),
        "context_mode": draw(st.sampled_from("EAFG")),
        "ffn_num_layers": draw(st.integers(1, 2)),
        "use_weight_tying": draw(st.booleans()),
        "num_blocks": draw(st.integers(1, 2)),
        "prev_context_steps": draw(st.integers(0, 2)),
    }
    try:
        config = ModelConfig(**fields)
    except UserError:
        return
    V = 7
    model = nnx.eval_shape(lambda: LanguageModel(config, jnp.zeros((V, config.embed_dim)), rngs=nnx.Rngs(0)))

    def count(module):
        return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))

    counts = num_params(config, V)
    assert counts["params_total"] == count(model)
    assert counts["params_context_block"] == sum(map(count, model.context_blocks))
    assert counts["params_token_block"] == count(model.token_block)
    assert counts["params_head"] == (0 if model.head is None else count(model.head))


def test_a_trained_table_is_counted():
    frozen = num_params(ModelConfig(8, 4), 100)["params_trainable_phase2"]
    trained = num_params(ModelConfig(8, 4), 100, freeze_embedding=False)["params_trainable_phase2"]
    assert trained == frozen + 400


def test_equal_decrease_as_the_original_has_it():
    config = ModelConfig(16, 16, 3, 2, token_input_all_layers=False)
    assert context_widths(config) == [16, 38, 27, 16]
    assert token_widths(config) == [32, 27, 22, 16]
    assert token_context_widths(config) == [38, 27, 16]


@given(L=st.integers(2, 9), K=st.integers(1, 4), D=st.integers(1, 40), E=st.integers(1, 40))
def test_equal_decrease_falls_to_the_context_width(L, K, D, E):
    widths = context_widths(ModelConfig(D, E, L, K, token_input_all_layers=False))[1:]
    assert widths[-1] == D
    falls = np.diff(widths)
    assert (falls <= 0).all()
    assert np.ptp(falls) <= 1


@pytest.mark.parametrize(
    ("mode", "expected"), [("E", [8, 8, 8]), ("A", [8, 8, 8]), ("F", [8, 0, 0]), ("G", [8, 0, 8])]
)
def test_modes_give_each_token_layer_its_context(mode, expected):
    assert token_context_widths(dataclasses.replace(ModelConfig(8, 4, 3), context_mode=mode)) == expected
