"""Compiled programs that later processes find again, by jax's persistent cache: for commands only."""

import jax

from unet_jax.data.cache import user_cache

_MIN_COMPILE_S = 0.3  # jax's own 1.0 leaves out many programs of small networks


def keep_compiled() -> None:
    """Keeps what this process compiles in the user's cache folder.

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
