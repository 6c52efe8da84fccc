"""How steps are compiled, and where compiled programs are kept for later processes."""

import functools

import jax

from unet_jax._files import user_cache

_CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}
_MIN_COMPILE_S = 0.3  # jax's own 1.0 leaves out many programs of small networks


def compiler_options(backend: str | None = None) -> dict[str, str]:
    """Of XLA, for steps on a kind of device ("cpu", "gpu", "tpu"; by default the one that jax uses).

    On CPUs sums stay with the library that XLA would give convolutions and products to as well, whose own are faster
    (docs/cpu.md). A version of XLA without that option is not given it.
    """
    return dict(_CPU_OPTIONS) if (backend or jax.default_backend()) == "cpu" and _are_known() else {}


@functools.cache
def _are_known() -> bool:
    try:
        jax.jit(lambda: 0, compiler_options=_CPU_OPTIONS).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def enable_compilation_cache() -> None:
    """For commands only: keeps what this process compiles in the user's cache folder.

    Unless the user wants another folder (JAX_COMPILATION_CACHE_DIR), or none (JAX_ENABLE_COMPILATION_CACHE=0), or the
    folder cannot be made. The folder may be removed at any time. A file in it that a kill cut off is a warning of jax's
    and a compilation.
    """
    if not jax.config.jax_enable_compilation_cache or jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
        return
    folder = user_cache() / "compiled"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # a home that cannot be written
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _MIN_COMPILE_S)
