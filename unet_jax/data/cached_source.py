"""Choice of the cache that keeps decoded, resized samples between epochs: memory, disk or none."""

import math
from collections.abc import Callable

from unet_jax.config import DataConfig
from unet_jax.data.disk_cache import cache_bytes, disk_source, free_bytes
from unet_jax.data.images.format import RGB8, ImageFormat
from unet_jax.data.sources import FileSource, MemorySource, ResizedSource, Source

_AUTO_MEMORY_BYTES = 2 * 2**30  # most bytes that data.cache "auto" keeps in memory


def training_source(
    source: FileSource,
    config: DataConfig,
    *,
    num_threads: int = 1,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Source:
    """Return resized samples, cached as data.cache says.

    Args:
      source: samples at their own size.
      config: settings of the data set.
      num_threads: number of threads that build a disk cache.
      on_progress: called with (samples done, all samples) while a disk cache is built.

    Returns:
      Samples of data.image_size: image `[h w c]` uint8 or uint16, and mask `[h w k]` uint8.

    Raises:
      InputError: the disk cache cannot be built or used.
    """
    layout = source.layout
    num_classes, has_valid = len(layout.class_names), layout.has_ignored
    match cache_kind(len(source), config, num_classes, source.image_format, has_valid=has_valid):
        case "disk":
            return disk_source(source, config, num_threads=num_threads, on_progress=on_progress)
        case "memory":
            return MemorySource(ResizedSource(source, config))
        case _:
            return ResizedSource(source, config)


def cache_kind(
    num_samples: int,
    config: DataConfig,
    num_classes: int,
    image_format: ImageFormat | None = None,
    *,
    has_valid: bool = False,
) -> str:
    """Return "memory", "disk" or "none": data.cache, or for "auto" the choice made here.

    That is memory below 2 GiB of samples, else disk if the cache takes less than 90 % of the free space, else none.
    """
    if config.cache != "auto":
        return config.cache
    seen = image_format or RGB8
    pixel_bytes = seen.num_channels * seen.dtype.itemsize + num_classes * (2 if has_valid else 1)
    if num_samples * math.prod(config.height_and_width) * pixel_bytes < _AUTO_MEMORY_BYTES:
        return "memory"
    num_bytes = cache_bytes(num_samples, config, num_classes, image_format, has_valid=has_valid)
    return "disk" if num_bytes < 0.9 * free_bytes(config) else "none"
