import pytest

from cvfp_jax.config.overrides import replace
from cvfp_jax.config.settings import RunConfig
from cvfp_jax.data.tokenizer import VOCAB_SIZE
from cvfp_jax.planning.memory_model import Share
from cvfp_jax.planning.roofline import LINK, MEMORY, PRODUCTS, Calibration, Machine, Work

CONFIG = RunConfig()
PARAMS = 1_181_952  # of one layer of width 768, in either block


def machine(devices=64, **rates):
    return Machine(
        devices,
        80 * 10**9,
        **{"flops": 4e14, "memory_rate": 3e12, "link_rate": 5e10, "host_rate": 2e10, **rates},
    )


def steps(config=CONFIG, devices=64, num_tokens=240_000_000, calibration=None, **rates):
    share = Share.of_devices(config, 50257, num_tokens, devices)
    made = Work(config, machine(devices, **rates), VOCAB_SIZE, num_tokens, share, calibration).steps()
    return {step.name: step for step in made}


def test_an_iteration_is_that_of_the_busiest_device_and_of_tables_that_each_has():
    step = steps()["phase 1, iteration"]
    rows = -(-30_000 // 64) * 8000  # of the 30,000 micro-batches of 8,000
    assert step.operations == 4 * rows * 768**2 + 4 * 50_257 * 768**2
    assert step.moved_bytes == 4 * (
        3 * rows * 768 + 7 * rows * 768 + 3 * 50_257 * 768 + 7 * PARAMS
    )  # contexts read twice and written, what is kept, the tables, Adam
    assert step.count == 59


def test_what_an_iteration_sends_does_not_depend_on_the_tokens():
    sent = {N: steps(num_tokens=N)["phase 1, iteration"].sent_bytes for N in (10**7, 10**9, 10**12)}
    reduced = 2 * 63 / 64 * 4 * (PARAMS + 4)
    assert set(sent.values()) == {int(reduced + 2 * 768 * 4) + 1}
    rounded = steps(replace(CONFIG, {"phase1.context_dtype": "bfloat16"}))["phase 1, iteration"]
    assert sent[10**7] - rounded.sent_bytes == 768 * 4
    # Eight devices share a micro-batch, and sum up its mean.
    split = steps(num_tokens=64_000)["phase 1, iteration"].sent_bytes
    assert split - sent[10**7] == pytest.approx(2 * 63 / 64 * 4 * 768, abs=1)
    assert all(step.sent_bytes == 0 for step in steps(devices=1).values())


def test_a_training_step_reads_the_head_and_sends_gradients_and_rows():
    config = replace(CONFIG, {"precision": "bf16"})
    step, wide = (steps(each)["phase 2, step"] for each in (config, CONFIG))
    assert step.operations == 4 * 128 * 768 * (VOCAB_SIZE + 768 + 768)
    assert wide.moved_bytes - step.moved_bytes == VOCAB_SIZE * 768 * 2
    assert step.sent_bytes == int(2 * 63 / 64 * 4 * (PARAMS + 4 + 8192 * 768)) + 1
    assert step.per_unit == -(-(240_000_000 - 1) // 8192)
    assert step.count == 20 * step.per_unit


def test_a_step_is_as_slow_as_its_slowest_roof():
    for roof, slow in (
        (PRODUCTS, {"flops": 1e9}),
        (MEMORY, {"memory_rate": 1e9}),
        (LINK, {"link_rate": 1e3}),
    ):
        step = steps(**slow)["phase 1, iteration"]
        assert step.limit == roof
        assert step.roofline_seconds == step.seconds[roof] == max(step.seconds.values())
    step = steps(flops=1e9)["phase 1, iteration"]
    assert step.roofline_seconds == step.operations / 1e9


def test_only_the_steps_that_a_cell_makes_are_there():
    def names(contexts):
        return list(steps(replace(CONFIG, {"phase2.train_contexts": contexts})))[1:-1]

    assert names("parallel") == ["parallel contexts", "effective rank"]
    assert names("sequential") == ["exact contexts", "effective rank"]
    assert names("recomputed") == ["effective rank"]


def test_the_effective_rank_is_that_of_all_rows_or_of_those_drawn():
    rank, drawn = (
        steps(replace(CONFIG, {"effective_rank_rows": rows}))["effective rank"] for rows in (0, 10_000)
    )
    of_factors = 2 * 64 * 768**3 + 2 * 768**3
    assert rank.operations == 2 * 3_752_000 * 768**2 + 2 * 768**3 + of_factors
    assert drawn.operations == 2 * 157 * 768**2 + 2 * 768**3 + of_factors
    assert rank.sent_bytes == 63 * 768**2 * 4


def test_a_calibration_divides_the_products_by_the_share_that_was_reached():
    shares = {"phase1_k1": 0.5, "phase1_k2": 0.25, "phase2_train_512": 0.1, "phase2_train_2048": 0.2}
    calibration = Calibration("f.json", "f32", shares)
    made = steps(calibration=calibration)
    first = made["phase 1, iteration"]
    assert first.calibrated_seconds == pytest.approx(first.seconds[PRODUCTS] / 0.5 + first.seconds[LINK])
    second = made["phase 2, step"]
    assert second.calibrated_seconds == pytest.approx(second.seconds[PRODUCTS] / 0.1 + second.seconds[LINK])
    assert made["effective rank"].calibrated_seconds is None
    window = steps(replace(CONFIG, {"model.num_input_tokens": 3}), calibration=calibration)
    assert window["phase 1, iteration"].calibrated_seconds > 2 * first.calibrated_seconds
    assert calibration.nearest("phase2_train_", 1100) == 0.2  # on a scale of ratios
    assert calibration.nearest("recurrence_", 768) is None
