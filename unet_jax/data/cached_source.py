"""Where decoded, resized samples are kept between epochs."""

from collections.abc import Callable

from unet_jax.config import DataConfig
from unet_jax.data.disk_cache import cache_bytes, disk_source, free_bytes
from unet_jax.data.sources import FileSource, MemorySource, ResizedSource, Source

_AUTO_MEMORY_BYTES = 2 * 2**30


def training_source(
    source: FileSource,
    config: DataConfig,
    *,
    num_threads: int = 1,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Source:
    """Resized samples, kept where data.cache says."""
    match cache_kind(len(source), config, len(source.layout.class_names)):
        case "disk":
            return disk_source(source, config, num_threads=num_threads, on_progress=on_progress)
        case "memory":
            return MemorySource(ResizedSource(source, config))
        case _:
            return ResizedSource(source, config)


def cache_kind(num_samples: int, config: DataConfig, num_classes: int) -> str:
    """data.cache, with "auto" decided: memory below 2 GiB, else the disk where there is room."""
    if config.cache != "auto":
        return config.cache
    if num_samples * config.image_size**2 * (3 + num_classes) < _AUTO_MEMORY_BYTES:
        return "memory"
    return "disk" if cache_bytes(num_samples, config, num_classes) < 0.9 * free_bytes(config) else "none"
