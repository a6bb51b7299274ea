"""Compiling quickly, for tests that compile much and compute little."""

import functools

import jax

# XLA's older way to make code of fused operations on CPUs: another third off the time to compile.
_OPTION = "xla_cpu_use_fusion_emitters"


@functools.cache
def _is_known():
    """Says whether this version of XLA has the option; another compiles, if not as quickly."""
    try:
        jax.jit(lambda x: x + 1).lower(1.0).compile(compiler_options={_OPTION: False})
    except jax.errors.JaxRuntimeError:
        return False
    return True


def switch(on):
    """Has this process compile quickly from here on, or in full again."""
    jax.config.update("jax_disable_most_optimizations", on)
    if on and _is_known():
        _patch_options()
    # What was compiled one way is not used the other way.
    jax.clear_caches()


@functools.cache
def _patch_options():
    """Adds the option to what JAX compiles by, for which it has no setting while a process runs."""
    try:
        from jax._src import compiler

        make = compiler.get_compile_options
    except (ImportError, AttributeError):
        return

    @functools.wraps(make)
    def with_option(*arguments, **named):
        options = make(*arguments, **named)
        if jax.config.read("jax_disable_most_optimizations"):
            options.env_option_overrides = [*options.env_option_overrides, (_OPTION, False)]
        return options

    compiler.get_compile_options = with_option


def environment(devices=1):
    """Returns what has a process compile quickly, for so many virtual devices."""
    flags = [f"--{_OPTION}=false"] if _is_known() else []
    flags += [f"--xla_force_host_platform_device_count={devices}"] if devices > 1 else []
    return {
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_FLAGS": " ".join(flags),
    }
