"""Compiler options of the training and evaluation steps, and the cache of compiled programs on disk."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from unet_jax._files import user_cache
from unet_jax._formulations import traced_for

_CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}
_JAX_MIN_COMPILE_S, _MIN_COMPILE_S = 1.0, 0.3  # jax's default would not cache many programs of small networks


def compiler_options(backend: str | None = None) -> dict[str, str]:
    """Return the XLA options to compile steps with, for `jax.jit(..., compiler_options=...)`.

    On CPUs, XLA hands sums, products and convolutions to the library YNNPACK. The library's sums are faster than XLA's,
    its convolutions are not (docs/cpu.md). The option leaves it the sums only. It is omitted if the installed XLA does
    not know it.

    Args:
      backend: kind of device ("cpu", "gpu", "tpu"); by default the one that jax uses.

    Returns:
      Names and values of the options; empty on other devices than CPUs.
    """
    return dict(_CPU_OPTIONS) if (backend or jax.default_backend()) == "cpu" and _cpu_options_are_known() else {}


def jit_for(backend: str, function: Callable[..., Any], **options: Any) -> Any:
    """Jit a function for one kind of device: with its compiler options, and with only its formulations traced.

    Args:
      backend: kind of device ("cpu", "gpu", "tpu").
      function: function of arrays. It may call jitted functions, which must not have compiler options of their own.
      options: further arguments of `jax.jit`.
    """

    @functools.wraps(function)
    def traced(*arguments: Any) -> Any:
        with traced_for(backend):
            return function(*arguments)

    return jax.jit(traced, compiler_options=compiler_options(backend), **options)


@functools.cache
def _cpu_options_are_known() -> bool:
    """Return whether the installed XLA accepts the CPU options, by compiling a trivial program with them."""
    try:
        jax.jit(lambda: 0, compiler_options=_CPU_OPTIONS).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def enable_compilation_cache() -> None:
    """Keep the programs that this process compiles in the user's cache folder, for later processes.

    It is a setting of jax for the whole process. `train`, `choose_config` and `load_run` make it, in commands and
    in Python. Nothing happens if the user chose another folder (`jax_compilation_cache_dir`) or no cache
    (`jax_enable_compilation_cache`), by `jax.config` or the environment, or if the folder cannot be created. The folder
    may be removed at any time. If a process was killed while it wrote a file of the cache, jax prints a warning about
    this file and compiles the program again.
    """
    if not jax.config.jax_enable_compilation_cache or jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
        return
    try:
        folder = user_cache() / "compiled"
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # no home folder, or one without write permission
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if jax.config.jax_persistent_cache_min_compile_time_secs == _JAX_MIN_COMPILE_S:  # type: ignore[attr-defined]
        jax.config.update("jax_persistent_cache_min_compile_time_secs", _MIN_COMPILE_S)
