"""Samples from the files of a disk cache: memory-mapped, and compared with their digests when they are first read."""

import contextlib
import math
import os
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np

from unet_jax._types import InputError, Sample
from unet_jax.data.cache_files import CacheFiles, row_digests, sample_digests
from unet_jax.data.crops import WholeImage
from unet_jax.data.pixels import BadSampleError

T = TypeVar("T")
REMEDY = "Rebuild it with --data.rebuild-cache, or delete the folder."


def while_replaced(folder: Path, open_folder: Callable[[], T]) -> T:
    """Return what a function returns that opens the files of a folder, although another process may replace the folder.

    The folder is absent for a moment between the two renames of that. So what was found, an error too, counts only if
    the folder (by its inode) is still the one that was looked at; otherwise the new one is tried.

    Args:
      folder: the cache folder.
      open_folder: function that opens and looks at the files.

    Raises:
      InputError: the folder stays away, or as `open_folder` does.
    """
    for _ in range(100):
        with contextlib.suppress(FileNotFoundError):
            inode = folder.stat().st_ino
            try:
                opened = open_folder()
            except (InputError, FileNotFoundError):
                if folder.stat().st_ino == inode:
                    raise
            else:
                if folder.stat().st_ino == inode:
                    return opened
        time.sleep(0.02)
    raise InputError(f"{folder}: disappeared while it was opened. Does another process delete it?")


def map_array(file: BinaryIO) -> np.ndarray:
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


def _read_digests(path: Path, num_samples: int) -> np.ndarray:
    """Return the digests of image and mask of each sample, `[n 2]` uint32."""
    try:
        with open(path, "rb") as file:
            digests = np.array(map_array(file))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: is damaged ({error}). {REMEDY}") from error
    if digests.shape != (num_samples, 2) or digests.dtype != np.uint32:
        raise InputError(f"{path}: is {digests.dtype} {digests.shape}, but must be uint32 ({num_samples}, 2). {REMEDY}")
    return digests


def _from_bits(bits: np.ndarray, count: int) -> np.ndarray:
    """Return the first `count` bits of each row as 0 and 255, uint8."""
    pixels = np.unpackbits(bits, axis=-1, count=count)
    return np.negative(pixels, out=pixels)  # 1 becomes 255


class CheckedRows:
    """Rows of pixels in a file, compared with their digests when they are first read.

    Args:
      stored: `[h w k]`, or masks `[h bytes]` of which each row is packed into bits.
      shape: height, width and channels.
      digests: digest of each row.
      checked: whether each row was compared; it is kept up to date.
      name: name of the image, for messages.
    """

    def __init__(
        self, stored: np.ndarray, shape: tuple[int, int, int], digests: np.ndarray, checked: np.ndarray, name: str
    ):
        self._stored, self.shape, self._digests, self._checked, self._name = stored, shape, digests, checked, name

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Return rows `[rows w k]`; those of masks in bits are 0 or 255."""
        stored = self._stored[rows]
        if not self._checked[rows].all():
            if not np.array_equal(row_digests(stored), self._digests[rows]):
                raise BadSampleError(f"{self._name} is damaged: its bytes are not those that were written. {REMEDY}")
            self._checked[rows] = True
        if stored.ndim == 3:
            return stored
        return _from_bits(stored, self.shape[1] * self.shape[2]).reshape(-1, *self.shape[1:])


class CacheFolder:
    """Complete cache folder, mapped; pickled as its path, so that worker processes map the same files.

    Args:
      folder: the folder.
      ids: id of each sample.
      files: what the files hold.
    """

    def __init__(self, folder: Path, ids: Sequence[str], files: CacheFiles):
        self._folder, self._ids, self._files = folder, ids, files
        self._arrays: dict[str, np.ndarray] = {}
        self._sizes: list[tuple[int, int]] = []  # file descriptor, size in bytes
        for name in files.headers:
            with open(folder / f"{name}.npy", "rb") as file:
                self._arrays[name] = map_array(file)
                descriptor = os.dup(file.fileno())
            self._sizes.append((descriptor, os.fstat(descriptor).st_size))
            weakref.finalize(self, os.close, descriptor)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return _opened_again, (type(self), self._folder, self._ids, self._files)

    @property
    def folder(self) -> Path:
        """Folder that holds the files."""
        return self._folder

    @property
    def ids(self) -> Sequence[str]:
        return self._ids

    def __len__(self) -> int:
        return len(self._ids)

    def _whole_arrays(self, index: int) -> dict[str, np.ndarray]:
        """Return the arrays; raise BadSampleError if a file is shorter than it was when it was opened."""
        for descriptor, num_bytes in self._sizes:
            left = os.fstat(descriptor).st_size
            if left < num_bytes:  # reading a map past the end of its file would kill the process
                raise BadSampleError(
                    f"{self._folder}: a file was truncated from {num_bytes} to {left} bytes before sample "
                    f"{self._ids[index]!r} was read. {REMEDY}"
                )
        return self._arrays


def _opened_again(kind: type[CacheFolder], folder: Path, ids: Sequence[str], files: CacheFiles) -> CacheFolder:
    """Open a folder in a worker process."""
    return while_replaced(folder, lambda: kind(folder, ids, files))


class DiskSource(CacheFolder):
    """Samples of one size from a cache folder; images are read-only views of the file."""

    def __init__(self, folder: Path, ids: Sequence[str], files: CacheFiles):
        super().__init__(folder, ids, files)
        digests = folder / "digests.npy"
        self._digests = _read_digests(digests, len(ids)) if digests.exists() else None  # earlier versions wrote none
        self._is_checked = bytearray(len(ids))

    def __getitem__(self, index: int) -> Sample:
        arrays = self._whole_arrays(index)
        if self._digests is not None and not self._is_checked[index]:  # once in every process, when it is first read
            if sample_digests(*(array[index] for array in arrays.values())) != tuple(self._digests[index]):
                raise BadSampleError(
                    f"{self._folder}: sample {self._ids[index]!r} is damaged: its bytes are not those that were "
                    f"written. {REMEDY}"
                )
            self._is_checked[index] = True
        shape = (*self._files.sizes[index], self._files.num_classes)

        def unpacked(name: str) -> np.ndarray:
            return _from_bits(arrays[name][index], math.prod(shape)).reshape(shape)

        mask = unpacked("masks") if self._files.as_bits else arrays["masks"][index]
        return Sample(arrays["images"][index], mask, unpacked("valid") if self._files.has_valid else None)


class DiskImages(CacheFolder):
    """Images of any size from a cache folder, of which only the rows are read that are used."""

    def __init__(self, folder: Path, ids: Sequence[str], files: CacheFiles):
        super().__init__(folder, ids, files)
        self._checked = np.zeros(self._arrays["row_digests"].shape, bool)

    def __getitem__(self, index: int) -> WholeImage:
        arrays, files = self._whole_arrays(index), self._files
        (height, width), start, row = files.sizes[index], files.first_pixel[index], files.first_row[index]
        of_pixels, of_rows = slice(start, start + height * width), slice(row, row + height)
        of_bits = slice(files.first_bits[index], files.first_bits[index + 1])
        in_bits = {"images": False, "masks": files.as_bits, "valid": True}

        def rows(column: int, name: str) -> CheckedRows:
            shape = (height, width, files.num_channels if name == "images" else files.num_classes)
            stored = arrays[name]
            stored = stored[of_bits].reshape(height, -1) if in_bits[name] else stored[of_pixels].reshape(shape)
            digests, checked = arrays["row_digests"][of_rows, column], self._checked[of_rows, column]
            return CheckedRows(stored, shape, digests, checked, f"{self._folder}: sample {self._ids[index]!r}")

        valid = rows(2, "valid") if files.has_valid else None
        return WholeImage(rows(0, "images"), rows(1, "masks"), arrays["rows"][of_rows], valid)
