"""Choice of the cache that keeps decoded samples between epochs: memory, disk or none."""

import math
from collections.abc import Callable, Sequence

from unet_jax.config import DataConfig
from unet_jax.data.cache_files import CacheFiles, files_of_images, files_of_samples
from unet_jax.data.crops import DecodedImages, WholeImages
from unet_jax.data.disk_cache import disk_images, disk_source, free_bytes
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
    classes, has_valid = source.layout.class_names, source.layout.has_ignored
    files = files_of_samples(len(source), config, len(classes), source.image_format, has_valid=has_valid)
    match cache_kind(files, config):
        case "disk":
            return disk_source(source, config, num_threads=num_threads, on_progress=on_progress)
        case "memory":
            return MemorySource(ResizedSource(source, config))
        case _:
            return ResizedSource(source, config)


def whole_images(
    source: FileSource,
    config: DataConfig,
    sizes: Sequence[tuple[int, int]],
    *,
    num_threads: int = 1,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> WholeImages:
    """Return whole images at data.scale, cached as data.cache says. From a disk cache only the rows of a crop are read.

    Args:
      source: samples at their own size.
      config: settings of the data set.
      sizes: height and width of each image at data.scale.
      num_threads, on_progress: as for `training_source`.

    Raises:
      InputError: the disk cache cannot be built or used.
    """
    classes, has_valid = source.layout.class_names, source.layout.has_ignored
    files = files_of_images(sizes, config, len(classes), source.image_format, has_valid=has_valid)
    match cache_kind(files, config):
        case "disk":
            return disk_images(source, config, sizes, num_threads=num_threads, on_progress=on_progress)
        case "memory":
            return MemorySource(DecodedImages(source, config))
        case _:
            return DecodedImages(source, config)


def cache_kind(files: CacheFiles, config: DataConfig) -> str:
    """Return "memory", "disk" or "none": data.cache, or for "auto" the choice made here.

    That is memory below 2 GiB of samples, else disk if the cache takes less than 90 % of the free space, else none.
    """
    if config.cache != "auto":
        return config.cache
    pixel_bytes = files.num_channels * files.dtype.itemsize + files.num_classes * (2 if files.has_valid else 1)
    if sum(map(math.prod, files.sizes)) * pixel_bytes < _AUTO_MEMORY_BYTES:
        return "memory"
    return "disk" if files.num_bytes < 0.9 * free_bytes(config) else "none"
