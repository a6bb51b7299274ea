import logging

import jax
import jax.numpy as jnp
import pytest
from tqdm import tqdm

from cvfp_jax import compile_log
from cvfp_jax.compile_log import Compilation, told


def test_each_compilation_is_told_once():
    @jax.jit
    def twice(x, y):
        return 2 * x + y

    small, large = (jnp.ones((size, 2)) for size in (3, 4))
    found = []
    with told(found.append):
        for argument in (small, large, small):
            twice(argument, 1.0)
    assert [(c.name, c.arguments) for c in found] == [
        ("twice", ("float32[3,2]", "float32[]")),
        ("twice", ("float32[4,2]", "float32[]")),
    ]
    assert all(0 < c.seconds < 10 for c in found)
    twice(jnp.ones((5, 2)), 1.0)
    assert len(found) == 2, "nothing is told outside the block"


def test_a_program_that_compiling_another_takes_has_its_own_line():
    def constant(x):
        with jax.ensure_compile_time_eval():
            return x + jnp.sort(jnp.ones(7))[0]

    found, x = [], jnp.ones(2)
    with told(found.append):
        jax.jit(constant)(x)
    assert found[-1].arguments == ("float32[2]",)
    assert found[-1].name == "constant"
    assert ("sort", ("float32[7]",)) in [(c.name, c.arguments) for c in found]


def test_what_was_loaded_is_told_apart():
    found = []
    with told(found.append):
        jax.monitoring.record_event(compile_log._LOADED)
        for name in ("first", "second"):
            jax.monitoring.record_event_duration_secs(compile_log._COMPILING, 0.5, fun_name=f"jit({name})")
    assert found == [Compilation("first", (), 0.5, True), Compilation("second", (), 0.5, False)]


def test_jax_says_nothing_more_than_before(caplog):
    logger = logging.getLogger(compile_log._LOGGER)
    level, x = logger.level, jnp.ones(11)
    with caplog.at_level(logging.DEBUG, logger="jax"), told(lambda compilation: None):
        jax.jit(lambda x: x * 3)(x)
        logger.warning("worth knowing")
    assert [record.message for record in caplog.records if record.name == logger.name] == ["worth knowing"]
    assert (logger.level, logger.filters) == (level, [])


def test_a_line_is_brief():
    line = Compilation("f", tuple(f"float32[{n},2]" for n in range(1, 100)), 1.0, False).line()
    assert line.startswith("compiled f in 1.00 s for float32[99,2], float32[98,2]")
    assert line.endswith(", ...")
    assert len(line) < 150


@pytest.mark.parametrize("shape", ["float32[]", "key<fry>[]", "bool[2,3]"])
def test_lines_stand_above_the_bar(capsys, shape):
    with tqdm(total=2, desc="bar", mininterval=0) as bar:
        compile_log.show(Compilation("f", (shape,), 1.0, False))
        bar.update(1)
    out, err = capsys.readouterr()
    assert out == ""
    assert f"\rcompiled f in 1.00 s for {shape}\n" in err
