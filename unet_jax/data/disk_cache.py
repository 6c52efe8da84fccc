"""Cache of decoded samples in files: built once, then memory-mapped by every epoch, run and worker process.

One folder holds arrays (`cache_files`: images, and masks with 8 values in a byte where they are hard) and `meta.json`,
which records the settings and the files that the cache was built from. The folder appears under its name by one rename,
when it is complete: a build that was killed leaves nothing that looks finished, and of two builds at once the first to
finish wins.

The cache is used only while the files it was built from have the same content. Their size and time of change are
compared first; the content is read again where only the time differs, as after a copy.
"""

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from etils import epath

from unet_jax._files import unfinished_folder, user_cache
from unet_jax._types import InputError
from unet_jax.config import DataConfig
from unet_jax.data.cache_check import CACHE_FORMAT, check_cache
from unet_jax.data.cache_files import CacheFiles, files_of_images, files_of_samples, sample_digests
from unet_jax.data.cache_sources import DiskImages, DiskSource, while_replaced
from unet_jax.data.file_identity import content_digest, stat_of
from unet_jax.data.images.format import RGB8
from unet_jax.data.layout import Layout
from unet_jax.data.masks.index_values import listed
from unet_jax.data.pixels import BadSampleError
from unet_jax.data.sources import FileSource, ResizedSource
from unet_jax.data.threads import one_thread_opencv

_MASK_READER = 2  # to be raised when equal mask files are read in another way: caches are then built again
_Folder = TypeVar("_Folder", DiskSource, DiskImages)


def cache_root(config: DataConfig) -> Path:
    """Return the folder that holds all caches: data.cache_dir, or our folder in the user's cache folder.

    Raises:
      InputError: data.cache_dir is a bucket, or it is empty and the user has no home folder.
    """
    if "://" in config.cache_dir:
        raise InputError(
            f"data.cache_dir is {config.cache_dir!r}, but must be on a local disk, because its files are memory-mapped."
        )
    if config.cache_dir:
        return Path(config.cache_dir).expanduser().absolute()
    try:
        return user_cache()
    except OSError as error:
        raise InputError(f"{error} Or name a folder with --data.cache-dir, or use --data.cache memory.") from error


def free_bytes(config: DataConfig) -> int:
    """Return the free space on the disk that the cache would be written to, in bytes."""
    folder = cache_root(config)
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def disk_source(
    source: FileSource,
    config: DataConfig,
    *,
    num_threads: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> DiskSource:
    """Open the cache of these samples at data.image_size; build it first if there is none. See `disk_images`."""
    classes, has_valid = source.layout.class_names, source.layout.has_ignored
    files = files_of_samples(len(source), config, len(classes), source.image_format, has_valid=has_valid)
    return _opened(DiskSource, source, config, files, num_threads, on_progress)


def disk_images(
    source: FileSource,
    config: DataConfig,
    sizes: Sequence[tuple[int, int]],
    *,
    num_threads: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> DiskImages:
    """Open the cache of these whole images at data.scale; build it first if there is none or data.rebuild_cache is on.

    Args:
      source: samples at their own size.
      config: settings of the data set.
      sizes: height and width of each image at data.scale.
      num_threads: number of threads that decode during a build.
      on_progress: called with (samples done, all samples) during a build.

    Raises:
      InputError: the existing cache cannot be used (the message says why), a sample cannot be read, or the disk has
        not enough free space.
    """
    classes, has_valid = source.layout.class_names, source.layout.has_ignored
    files = files_of_images(sizes, config, len(classes), source.image_format, has_valid=has_valid)
    return _opened(DiskImages, source, config, files, num_threads, on_progress)


def _opened(
    kind: type[_Folder],
    source: FileSource,
    config: DataConfig,
    files: CacheFiles,
    num_threads: int,
    on_progress: Callable[[int, int], None],
) -> _Folder:
    """Find or build the cache folder, check it, and return it opened."""
    settings = _settings(source, config)
    text = json.dumps([settings, os.path.abspath(config.root) if "://" not in config.root else config.root])
    root = cache_root(config)
    folder = root / f"{Path(config.root).name or 'data'}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    if config.rebuild_cache or not folder.exists():
        num_bytes, free = files.num_bytes, free_bytes(config)
        if num_bytes > free:
            raise InputError(
                f"{root}: has {free / 2**20:,.1f} MiB free, but the cache needs {num_bytes / 2**20:,.1f} MiB. Make "
                f"room, name another folder with --data.cache-dir, or use --data.cache none."
            )
        try:
            with unfinished_folder(folder, replace=config.rebuild_cache) as new:
                _build(new, source, config, files, settings, num_threads, on_progress)
        except OSError as error:
            name = "Make room there, name" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "Name"
            raise InputError(
                f"{root}: the cache cannot be written there ({error}). {name} "
                f"another folder with --data.cache-dir, or use --data.cache memory or none."
            ) from error

    def checked() -> _Folder:
        check_cache(folder, settings, source, files)
        return kind(folder, tuple(source.ids), files)

    return while_replaced(folder, checked)


def _settings(source: FileSource, config: DataConfig) -> dict[str, Any]:
    """Return everything that the arrays depend on, except the content of the files, as JSON values."""
    layout, image_format = source.layout, source.image_format
    # Only formats that earlier versions did not have are named, so that their caches are still found.
    pixels: dict[str, Any] = {}
    if image_format is not None and image_format != RGB8:
        # The types of the files change no array: they only say what is refused.
        pixels["image_format"] = dataclasses.replace(image_format, types=()).to_dict()
    return {
        "ids": list(source.ids),
        "classes": list(layout.class_names),
        **_size_settings(config),
        "mask_interpolation": config.mask_interpolation,
        "soft_masks": config.soft_masks,
        "index_values": [listed(ranges, colors=layout.has_colors) for ranges in layout.index_values],
        "opencv": cv2.__version__,
        "mask_reader": _MASK_READER,
        **json.loads(json.dumps(pixels)),
        **({"instance_masks": True} if layout.has_objects else {}),
        **({"mask_threshold": layout.mask_threshold} if layout.mask_threshold else {}),
        **({"mask_orientation": "stored"} if layout.mask_orientation == "stored" else {}),
        **(_ignored_settings(layout) if layout.has_ignored else {}),
    }


def _ignored_settings(layout: Layout) -> dict[str, Any]:
    """Return what decides, besides the files, which pixels are ignored."""
    return {
        "ignore_values": listed(layout.ignore_values, colors=layout.has_colors),
        "missing_is_unknown": layout.missing_is_unknown,
    }


def _identity(path: epath.Path) -> list[Any]:
    """Return size in bytes, time of the last change in ns, digest of the content, and time of any change in ns."""
    size, changed, any_change = stat_of(path)
    return [size, changed, content_digest(path), any_change]


def _size_settings(config: DataConfig) -> dict[str, Any]:
    """Return what decides the size of the samples. Crops of all sizes share a cache."""
    if config.fit == "crop":
        return {"fit": "crop", "scale": float(config.scale)}
    fit = {"fit": "pad"} if config.fit == "pad" else {}
    return fit | {"image_size": config.image_size if isinstance(config.image_size, int) else list(config.image_size)}


def _build(
    new: Path,
    source: FileSource,
    config: DataConfig,
    files: CacheFiles,
    settings: dict[str, Any],
    num_threads: int,
    on_progress: Callable[[int, int], None],
) -> None:
    """Write the arrays and, last, `meta.json` into the folder `new`."""
    resized = ResizedSource(source, config)
    with contextlib.ExitStack() as stack:
        opened = {name: stack.enter_context(open(new / f"{name}.npy", "wb")) for name in files.headers}
        starts = {}
        for name, file in opened.items():
            shape, dtype = files.headers[name]
            header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            file.flush()
            starts[name] = file.tell()

        def write(index: int) -> list[list[Any] | None]:
            one_thread_opencv()
            record = source.records[index]
            identities = [_identity(path) if path else None for path in record.files]
            sample = resized[index]
            height, width = sample.image.shape[:2]
            if (height, width) != files.sizes[index]:
                raise BadSampleError(
                    f"{record.images[0]}: has another size than when the run began ({width}x{height} pixels at "
                    f"data.scale, but it was {files.sizes[index][1]}x{files.sizes[index][0]}). Restore the file, or "
                    f"begin another run."
                )
            encoded = files.encode(index, sample)
            if not files.by_rows:
                digests[index] = sample_digests(*(array for array, _ in encoded.values()))
            for name, (array, offset) in encoded.items():
                _write_at(opened[name].fileno(), array, starts[name] + offset)
            return identities

        identities, digests = [], np.zeros((len(source), 2), np.uint32)
        with ThreadPoolExecutor(num_threads) as pool:
            try:
                for done, of_sample in enumerate(pool.map(write, range(len(source))), start=1):
                    identities.append(of_sample)
                    on_progress(done, len(source))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        for file in opened.values():
            os.fsync(file.fileno())
        if not files.by_rows:  # else rows have theirs
            np.save(new / "digests.npy", digests)
        with open(new / "meta.json", "w") as file:
            json.dump({"format": CACHE_FORMAT, "settings": settings, "files": identities}, file)
            file.flush()
            os.fsync(file.fileno())


def _write_at(descriptor: int, array: np.ndarray, offset: int) -> None:
    """Write the array's bytes at an offset of a file.

    This is not done through a memory map, where a full disk would kill the process instead of raising an error.
    """
    view = np.ascontiguousarray(array).data.cast("B")
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
