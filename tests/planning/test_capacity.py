import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvfp_jax.config.overrides import replace
from cvfp_jax.config.settings import RunConfig
from cvfp_jax.data.tokenizer import VOCAB_SIZE
from cvfp_jax.planning import memory_model
from cvfp_jax.planning.capacity import largest_count, plan_capacity
from cvfp_jax.planning.memory_model import Share
from cvfp_jax.planning.plan import MOST_COUNTED, expected_memory
from cvfp_jax.planning.roofline import Machine
from cvfp_jax.report.formats import amount
from cvfp_jax.report.plans import capacity_text

CONFIG = RunConfig()
MACHINE = Machine(64, 80 * 10**9, 4e14, 3.35e12, 5e10, 2.5e10)


@pytest.mark.parametrize(
    ("num_tokens", "devices", "tokens", "micro_batch"),
    [
        (100, 1, 100, 100),
        (64_001, 1, 72_000, 8000),  # whole micro-batches
        (64_000, 8, 8000, 8000),
        (64_001, 8, 16_000, 8000),  # the first of them has two
        (64_000, 16, 4000, 4000),  # two share one
        (64_000, 20, 4000, 4000),  # as four of them have nothing to do
        (1000, 16, 63, 63),  # one for all
    ],
)
def test_each_device_has_whole_micro_batches_or_a_part_of_one(num_tokens, devices, tokens, micro_batch):
    share = Share.of_devices(CONFIG, 50257, num_tokens, devices)
    assert (share.tokens, share.micro_batch) == (tokens, micro_batch)
    assert share.distinct == min(num_tokens, VOCAB_SIZE)
    assert share.batch == -(-min(8192, num_tokens) // devices)


CONFIGS = st.builds(
    lambda batch, contexts, dtype, blocks: replace(
        CONFIG,
        {
            "phase1.batch_size": batch,
            "phase2.train_contexts": "sequential" if blocks > 1 else contexts,
            "phase1.context_dtype": dtype,
            "model.context_mode": "A",
            "model.num_blocks": blocks,
        },
    ),
    st.sampled_from([0, 1, 700, 8000, 10**6]),
    st.sampled_from(["parallel", "sequential"]),
    st.sampled_from(["float32", "bfloat16"]),
    st.integers(1, 3),
)


@given(CONFIGS, st.integers(1, 300), st.floats(2, 100))
def test_the_largest_n_fits_and_one_more_does_not(config, devices, memory_gb):
    machine = Machine(devices, int(memory_gb * 1e9), 4e14, 3.35e12, 5e10, 2.5e10)
    largest = plan_capacity(config, machine).largest_tokens
    assert largest > 0
    assert plan_capacity(config, machine, largest).fits
    assert not plan_capacity(config, machine, largest + 1).fits


@given(CONFIGS, st.integers(1, 300), st.integers(1, 10**9), st.integers(1, 10**8))
def test_more_tokens_never_take_less(config, devices, few, more):
    """Which the search for the largest N rests on."""
    peaks = [
        memory_model.peak(
            memory_model.cell_arrays(config, VOCAB_SIZE, Share.of_devices(config, 50257, count, devices))
        )
        for count in (few, few + more)
    ]
    assert peaks[0] <= peaks[1]


@given(st.integers(0, 10**18))
def test_the_search_finds_the_last_that_fits(limit):
    assert largest_count(lambda count: count <= limit) == limit


def test_without_tokens_the_largest_n_is_planned():
    plan = plan_capacity(CONFIG, MACHINE)
    assert plan.num_tokens == plan.largest_tokens == plan_capacity(CONFIG, MACHINE, 10**12).largest_tokens
    assert plan.num_tokens % (64 * 8000) == 0
    tiny = Machine(1, 10**6, 4e14, 3.35e12, 5e10, 2.5e10)
    plan = plan_capacity(CONFIG, tiny)
    assert (plan.largest_tokens, plan.num_tokens, plan.fits) == (0, 2, False)


def test_bytes_of_a_device_fall_as_their_number_grows():
    def contexts(devices):
        machine = Machine(devices, 80 * 10**9, 4e14, 3.35e12, 5e10, 2.5e10)
        return plan_capacity(CONFIG, machine, 64_000_000).arrays["phase 1"]["contexts"]

    assert contexts(1) == 64_000_000 * 768 * 4
    assert contexts(1) == 8 * contexts(8) == 80 * contexts(80)


def test_one_device_needs_what_the_plan_of_a_sweep_says():
    plan = plan_capacity(CONFIG, Machine(1, 80 * 10**9, 4e14, 3.35e12, 5e10, 2.5e10), 80_000)
    assert plan.peak_bytes == expected_memory(CONFIG, VOCAB_SIZE, 80_000, host=False)


def test_what_breaks_first_is_named():
    plan = plan_capacity(CONFIG, MACHINE, 10**12)
    assert not plan.fits
    assert plan.peak_stage == "contexts"
    name, size = plan.largest_array
    assert (name, size) == ("new contexts and a copy, or lanes", 2 * plan.share.tokens * 768 * 4)
    text = capacity_text([plan])
    assert f"a device needs {amount(plan.peak_bytes)} and has 80 GB" in " ".join(text.split())
    assert name in text
    whole_stream = replace(CONFIG, {"phase1.batch_size": 0})
    assert plan_capacity(whole_stream, MACHINE, 10**9).largest_array[0] == "a micro-batch's rows"
    pairs = replace(CONFIG, {"phase1.diversity": "UNIF", "phase1.batch_size": 100_000})
    assert plan_capacity(pairs, MACHINE, 10**7).largest_array[0] == "a micro-batch's rows"


def test_notes_say_what_the_numbers_do_not():
    def notes(changes, num_tokens=10**6):
        return plan_capacity(replace(CONFIG, changes), MACHINE, num_tokens).notes()

    assert notes({}) == []
    assert "2,147,483,647" in notes({}, MOST_COUNTED + 1)[0]
    assert notes({}, MOST_COUNTED) == []
    assert "50,257" in notes({"data.vocabulary": "corpus"})[0]
    assert "ODCM" in notes({"phase1.diversity": "ODCM"})[0]
    assert "token by token" in notes({"phase2.train_contexts": "recomputed"})[0]


def test_files_ids_and_totals():
    plan = plan_capacity(CONFIG, MACHINE, 240_000_000)
    assert plan.contexts_bytes == 240_000_000 * 768 * 4
    assert plan.streamed_seconds == 2 * plan.contexts_bytes / 64 / 2.5e10
    assert plan.token_ids_bytes == 960_000_000
    steps = {step.name: step for step in plan.steps}
    total = sum(step.count * step.roofline_seconds for step in steps.values())
    assert plan.cell_seconds() == pytest.approx(total)
    assert plan.cell_seconds(calibrated=True) is None


def test_text_fits_a_narrow_terminal_and_several_series_have_a_table():
    wide = replace(CONFIG, {"model.context_dim": 1200, "phase2.train_contexts": "sequential"})
    plans = [plan_capacity(config, MACHINE, 10**12) for config in (CONFIG, wide)]
    text = capacity_text(plans)
    assert max(map(len, text.splitlines())) <= 72
    assert text.splitlines()[0].split() == ["cell", "a", "device", "largest", "N", "iteration", "epoch"]
    assert "1L_1200d_1tok: N = 1,000,000,000,000 on 64 devices" in text  # which needs more
    assert "largest N  " not in capacity_text(plans[:1])
