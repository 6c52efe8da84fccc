"""Cache of decoded, resized samples in files: built once, then memory-mapped by every epoch, run and worker process.

One folder holds `images.npy`, `masks.npy` (8 mask values in a byte where masks are hard), if pixels may be ignored
`valid.npy` (as bits), `digests.npy` (of every sample, compared when it is first read) and `meta.json`, which records
the settings and the files that the cache was built from. The folder appears under its name by one rename, when it is
complete: a build that was killed leaves nothing that looks finished, and of two builds at once the first to finish
wins.

The cache is used only while the files it was built from have the same content. Their size and time of change are
compared first; the content is read again where only the time differs, as after a copy.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import shutil
import time
import weakref
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from etils import epath

from unet_jax._files import unfinished_folder, user_cache
from unet_jax._types import InputError, Sample
from unet_jax.config import DataConfig
from unet_jax.data.file_identity import content_digest, stat_of
from unet_jax.data.images.format import RGB8, ImageFormat
from unet_jax.data.layout import Layout
from unet_jax.data.masks.index_values import listed
from unet_jax.data.pixels import BadSampleError
from unet_jax.data.sources import FileSource, ResizedSource
from unet_jax.data.threads import one_thread_opencv

_MASK_READER = 2  # to be raised when equal mask files are read in another way: caches are then built again
_FORMAT = 1  # to be raised when equal files and settings lead to other arrays
_REMEDY = "Rebuild it with --data.rebuild-cache, or delete the folder."


class DiskSource:
    """Samples from a cache folder; images are read-only views of the file.

    It is pickled as the folder's path, so that worker processes map the same files instead of receiving a copy.

    Args:
      folder: complete cache folder.
      ids: id of each sample.
      size: height and width of the samples, in pixels.
      num_classes: number k of mask channels.
      as_bits: True if masks are stored as bits.
      has_valid: True if the samples say which pixels are ignored.
    """

    def __init__(
        self,
        folder: Path,
        ids: Sequence[str],
        size: tuple[int, int],
        num_classes: int,
        as_bits: bool,
        has_valid: bool = False,
    ):
        self._folder, self._ids, self._size, self._num_classes, self._as_bits = folder, ids, size, num_classes, as_bits
        self._has_valid = has_valid
        self._files: list[tuple[int, int]] = []  # file descriptor, size in bytes
        self._arrays: list[np.ndarray] = []
        for name in ("images", "masks", "valid") if has_valid else ("images", "masks"):
            with open(folder / f"{name}.npy", "rb") as file:
                self._arrays.append(_map(file))
                descriptor = os.dup(file.fileno())
            self._files.append((descriptor, os.fstat(descriptor).st_size))
            weakref.finalize(self, os.close, descriptor)
        digests = folder / "digests.npy"
        self._digests = _read_digests(digests, len(ids)) if digests.exists() else None  # earlier versions wrote none
        self._is_checked = bytearray(len(ids))

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        arguments = (self._folder, self._ids, self._size, self._num_classes, self._as_bits, self._has_valid)
        return DiskSource, arguments

    @property
    def folder(self) -> Path:
        """Folder that holds the files."""
        return self._folder

    @property
    def ids(self) -> Sequence[str]:
        return self._ids

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> Sample:
        for descriptor, num_bytes in self._files:
            left = os.fstat(descriptor).st_size
            if left < num_bytes:  # reading a map past the end of its file would kill the process
                raise BadSampleError(
                    f"{self._folder}: a file was truncated from {num_bytes} to {left} bytes before sample "
                    f"{self._ids[index]!r} was read. {_REMEDY}"
                )
        images, masks, *valid = self._arrays
        rows = [masks[index], *(part[index] for part in valid)]
        if self._digests is not None and not self._is_checked[index]:  # once in every process, when it is first read
            if _digests_of(images[index], *rows) != tuple(self._digests[index]):
                raise BadSampleError(
                    f"{self._folder}: sample {self._ids[index]!r} is damaged: its bytes are not those that were "
                    f"written. {_REMEDY}"
                )
            self._is_checked[index] = True
        mask = self._from_bits(rows[0]) if self._as_bits else rows[0]
        return Sample(images[index], mask, self._from_bits(rows[1]) if valid else None)

    def _from_bits(self, bits: np.ndarray) -> np.ndarray:
        """Return `[h w k]` uint8, 0 or 255, of a row of packed bits."""
        pixels = np.unpackbits(bits, count=math.prod(self._size) * self._num_classes)
        np.negative(pixels, out=pixels)  # 1 becomes 255
        return pixels.reshape(*self._size, self._num_classes)


def _read_digests(path: Path, num_samples: int) -> np.ndarray:
    """Return the digests of image and mask of each sample, `[n 2]` uint32."""
    try:
        with open(path, "rb") as file:
            digests = np.array(_map(file))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: is damaged ({error}). {_REMEDY}") from error
    if digests.shape != (num_samples, 2) or digests.dtype != np.uint32:
        raise InputError(
            f"{path}: is {digests.dtype} {digests.shape}, but must be uint32 ({num_samples}, 2). {_REMEDY}"
        )
    return digests


def _map(file: BinaryIO) -> np.ndarray:
    """Map a .npy file read-only; raise ValueError if it holds no array or is too short for the array's shape."""
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("another version of the npy format")
    try:
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    except Exception as error:  # NumPy parses it as Python, which fails in ways of its own
        raise ValueError(f"its header cannot be read: {type(error).__name__}") from error
    if 0 in shape:
        raise ValueError("it is empty")
    return np.memmap(file, dtype, "r", file.tell(), shape)


def _shapes(
    num_samples: int,
    size: tuple[int, int],
    num_classes: int,
    as_bits: bool,
    num_channels: int = 3,
    has_valid: bool = False,
) -> dict[str, tuple[int, ...]]:
    """Return the array shape of each file, by file name without suffix."""
    masks, bits = (num_samples, *size, num_classes), (num_samples, math.ceil(math.prod(size) * num_classes / 8))
    shapes = {"images": (num_samples, *size, num_channels), "masks": bits if as_bits else masks}
    return {**shapes, "valid": bits} if has_valid else shapes


def cache_bytes(
    num_samples: int,
    config: DataConfig,
    num_classes: int,
    image_format: ImageFormat | None = None,
    *,
    has_valid: bool = False,
) -> int:
    """Return the size of the cache's arrays on disk, in bytes."""
    seen = image_format or RGB8
    shapes = _shapes(
        num_samples, config.height_and_width, num_classes, _stores_bits(config), seen.num_channels, has_valid
    )
    return sum(math.prod(shape) * (seen.dtype.itemsize if name == "images" else 1) for name, shape in shapes.items())


def _stores_bits(config: DataConfig) -> bool:
    """Return True if masks are stored as bits, which is possible if they have no values between 0 and 255."""
    return config.mask_interpolation == "nearest" and not config.soft_masks


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
    """Open the cache of these samples; build it first if there is none or data.rebuild_cache is on.

    Args:
      source: samples at their own size.
      config: settings of the data set.
      num_threads: number of threads that decode during a build.
      on_progress: called with (samples done, all samples) during a build.

    Raises:
      InputError: the existing cache cannot be used (the message says why), a sample cannot be read, or the disk has
        not enough free space.
    """
    num_classes, as_bits = len(source.layout.class_names), _stores_bits(config)
    settings = _settings(source, config)
    text = json.dumps([settings, os.path.abspath(config.root) if "://" not in config.root else config.root])
    root = cache_root(config)
    folder = root / f"{Path(config.root).name or 'data'}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    if config.rebuild_cache or not folder.exists():
        num_bytes = cache_bytes(
            len(source), config, num_classes, source.image_format, has_valid=source.layout.has_ignored
        )
        free = free_bytes(config)
        if num_bytes > free:
            raise InputError(
                f"{root}: has {free / 2**30:.1f} GiB free, but the cache needs {num_bytes / 2**30:.1f} GiB. Make room, "
                f"name another folder with --data.cache-dir, or use --data.cache none."
            )
        try:
            with unfinished_folder(folder, replace=config.rebuild_cache) as new:
                _build(new, source, config, settings, num_threads, on_progress)
        except OSError as error:
            raise InputError(
                f"{root}: the cache cannot be written there ({error}). Name another folder with --data.cache-dir, or "
                f"use --data.cache memory or none."
            ) from error
    # Another process may be replacing the folder, which is absent for a moment between the two renames of that. So an
    # error is final only if the folder (by its inode) is still the one that was checked; otherwise try the new one.
    for _ in range(100):
        with contextlib.suppress(FileNotFoundError):
            inode = folder.stat().st_ino
            try:
                _check(folder, settings, source, config, num_classes)
                ids, has_valid = tuple(source.ids), source.layout.has_ignored
                return DiskSource(folder, ids, config.height_and_width, num_classes, as_bits, has_valid)
            except (InputError, FileNotFoundError):
                if folder.stat().st_ino == inode:
                    raise
        time.sleep(0.02)
    raise InputError(f"{folder}: disappeared while it was opened. Does another process delete it?")


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
        "image_size": config.image_size if isinstance(config.image_size, int) else list(config.image_size),
        "mask_interpolation": config.mask_interpolation,
        "soft_masks": config.soft_masks,
        "index_values": [listed(ranges, colors=layout.has_colors) for ranges in layout.index_values],
        "opencv": cv2.__version__,
        "mask_reader": _MASK_READER,
        **json.loads(json.dumps(pixels)),
        **({"instance_masks": True} if layout.has_objects else {}),
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


def _digests_of(image: np.ndarray, mask: np.ndarray, valid: np.ndarray | None = None) -> tuple[int, int]:
    """Return the digests of a sample as it is stored: of the image, and of the mask with what is ignored in it."""
    of_mask = zlib.crc32(np.ascontiguousarray(mask).data)
    if valid is not None:
        of_mask = zlib.crc32(np.ascontiguousarray(valid).data, of_mask)
    return zlib.crc32(np.ascontiguousarray(image).data), of_mask


def _build(
    new: Path,
    source: FileSource,
    config: DataConfig,
    settings: dict[str, Any],
    num_threads: int,
    on_progress: Callable[[int, int], None],
) -> None:
    """Write the arrays and, last, `meta.json` into the folder `new`."""
    resized, as_bits = ResizedSource(source, config), _stores_bits(config)
    seen = source.image_format or RGB8
    num_classes, has_valid = len(settings["classes"]), source.layout.has_ignored
    shapes = _shapes(len(source), config.height_and_width, num_classes, as_bits, seen.num_channels, has_valid)
    types = {"images": seen.dtype, "masks": np.dtype(np.uint8), "valid": np.dtype(np.uint8)}
    with contextlib.ExitStack() as stack:
        files = {name: stack.enter_context(open(new / f"{name}.npy", "wb")) for name in shapes}
        starts = {}
        for name, file in files.items():
            header = {"descr": types[name].str, "fortran_order": False, "shape": shapes[name]}
            np.lib.format.write_array_header_1_0(file, header)
            file.flush()
            starts[name] = file.tell()

        def write(index: int) -> list[list[Any] | None]:
            one_thread_opencv()
            record = source.records[index]
            identities = [_identity(path) if path else None for path in record.files]
            image, mask, valid = resized[index]
            arrays = {"images": image, "masks": np.packbits(mask >= 128) if as_bits else mask}
            if valid is not None:
                arrays["valid"] = np.packbits(valid >= 128)
            image, *rows = arrays.values()
            digests[index] = _digests_of(image, *rows)
            for name, array in arrays.items():
                _write_at(files[name].fileno(), array, starts[name] + index * array.nbytes)
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
        for file in files.values():
            os.fsync(file.fileno())
        np.save(new / "digests.npy", digests)
        with open(new / "meta.json", "w") as file:
            json.dump({"format": _FORMAT, "settings": settings, "files": identities}, file)
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


def _check(folder: Path, settings: dict[str, Any], source: FileSource, config: DataConfig, num_classes: int) -> None:
    """Raise `InputError` unless the folder holds exactly these samples."""
    try:
        meta = json.loads((folder / "meta.json").read_text())
        cache_format, kept, files = meta["format"], meta["settings"], meta["files"]
        fine = len(files) == len(source) and all(_is_identity(x) for of_sample in files for x in of_sample)
        if not fine or not isinstance(kept, dict):
            raise ValueError("it does not hold the identity of each file")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder}: is not a complete cache of unet_jax ({error!r}). {_REMEDY}") from error
    if cache_format != _FORMAT:
        raise InputError(
            f"{folder}: is a cache of format {cache_format!r}, but this version reads {_FORMAT}. {_REMEDY}"
        )
    for name, wanted in settings.items():
        if kept.get(name) != wanted:
            difference = _difference(name, kept.get(name), wanted)
            raise InputError(f"{folder}: was built from other samples or settings: {difference}. {_REMEDY}")
    seen = source.image_format or RGB8
    as_bits, has_valid = _stores_bits(config), source.layout.has_ignored
    shapes = _shapes(len(source), config.height_and_width, num_classes, as_bits, seen.num_channels, has_valid)
    for name, shape in shapes.items():
        dtype = seen.dtype if name == "images" else np.dtype(np.uint8)
        path = folder / f"{name}.npy"
        try:
            with open(path, "rb") as file:
                array = _map(file)
        except (OSError, ValueError) as error:
            size = path.stat().st_size if path.exists() else 0
            raise InputError(
                f"{path}: is truncated or damaged ({size} bytes, but {math.prod(shape) * dtype.itemsize} bytes of "
                f"pixels are needed; {error}). {_REMEDY}"
            ) from error
        if array.shape != shape or array.dtype != dtype:
            raise InputError(f"{path}: is {array.dtype} {array.shape}, but must be {dtype} {shape}. {_REMEDY}")
    for record, identities in zip(source.records, files, strict=True):
        if len(record.files) != len(identities):
            raise InputError(f"{folder}: is stale: {record.id!r} has more or fewer mask files than it had. {_REMEDY}")
        for path, kept_identity in zip(record.files, identities, strict=True):
            _check_file(folder, record.id, path, kept_identity)


def _is_identity(value: Any) -> bool:
    """Return whether a value of meta.json can be the identity of a file, or stands for no file."""
    kinds = [type(part) for part in value] if isinstance(value, list) else []
    return value is None or kinds in ([int, int, str], [int, int, str, int])


def _check_file(folder: Path, id_: str, path: epath.Path | None, kept: list[Any] | None) -> None:
    """Raise `InputError` if a file differs from the identity that the cache was built from; None means no file."""
    if path is None or kept is None:
        if (path is None) != (kept is None):
            raise InputError(
                f"{folder}: is stale: a mask of {id_!r} is {'missing' if path is None else 'there'} now, and was not "
                f"when the cache was built ({path}). {_REMEDY}"
            )
        return
    size, changed, any_change = stat_of(path)
    if [size, changed] == kept[:2] and any_change == (kept[3] if len(kept) > 3 else any_change):
        return
    if size != kept[0]:
        raise InputError(
            f"{folder}: is stale: {path} (sample {id_!r}) had {kept[0]} bytes when the cache was built, now {size}. "
            f"{_REMEDY}"
        )
    digest = content_digest(path)
    if digest != kept[2]:
        raise InputError(
            f"{folder}: is stale: the content of {path} (sample {id_!r}) changed since the cache was built (digest "
            f"{kept[2]}, now {digest}). {_REMEDY}"
        )


def _difference(name: str, kept: Any, wanted: Any) -> str:
    """Describe how a setting differs; long lists are described by their lengths and one differing entry."""
    if isinstance(kept, list) and len(str(kept)) + len(str(wanted)) > 200:
        only = sorted(set(map(str, kept)) ^ set(map(str, wanted)))
        return f"it holds other {name} ({len(kept)}, wanted {len(wanted)}; {only[0] if only else 'the order'} differs)"
    return f"{name} was {kept!r}, and is {wanted!r} now"
