"""Picture files that are written in blocks of rows, so that they need not be in memory as a whole: PNG, TIFF, .npy."""

import os
import struct
import zlib
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tifffile

from unet_jax.data.images.tiff import GeoTags

_STRIP_BYTES = 2**18  # of a strip of a TIFF file, uncompressed


class RowFile(Protocol):
    """A local file that is written from the top to the bottom."""

    def write(self, rows: np.ndarray) -> None:
        """Append rows."""
        ...

    def close(self) -> None:
        """Complete the file."""
        ...

    def abandon(self) -> None:
        """Close the file as it is."""
        ...


class PngRows:
    """A PNG file of 8-bit gray pixels.

    Args:
      path: file to write.
      height: number of rows that will be written.
      width: number of columns.
    """

    def __init__(self, path: Path, height: int, width: int):
        self._file = open(path, "wb")  # noqa: SIM115
        # Runs of equal bytes, which masks consist of, are what the RLE strategy looks for.
        self._compressor = zlib.compressobj(level=1, strategy=zlib.Z_RLE)
        self._file.write(b"\x89PNG\r\n\x1a\n")
        self._chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))

    def write(self, rows: np.ndarray) -> None:
        """Append `[rows w]` uint8 pixels."""
        filtered = np.zeros((rows.shape[0], rows.shape[1] + 1), np.uint8)  # the first byte of a row says: not filtered
        filtered[:, 1:] = rows
        self._data(self._compressor.compress(filtered.data))

    def close(self) -> None:
        """Complete the file."""
        self._data(self._compressor.flush())
        self._chunk(b"IEND", b"")
        self._file.close()

    def abandon(self) -> None:
        """Close the file as it is."""
        self._file.close()

    def _data(self, data: bytes) -> None:
        if data:
            self._chunk(b"IDAT", data)

    def _chunk(self, kind: bytes, data: bytes) -> None:
        checksum = zlib.crc32(data, zlib.crc32(kind))
        self._file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum))


class TiffRows:
    """A TIFF file of gray pixels, compressed in strips.

    The strips are kept in a file beside it until all are there, because tifffile asks for one after the other.

    Args:
      path: file to write.
      height: number of rows that will be written.
      width: number of columns.
      dtype: type of the pixels.
      tags: further tags, such as those of `read_geo_tags`.
    """

    def __init__(self, path: Path, height: int, width: int, dtype: Any, tags: GeoTags):
        self._path, self._shape, self._dtype, self._tags = path, (height, width), np.dtype(dtype), tags
        self._rows_per_strip = max(1, min(height, _STRIP_BYTES // (width * self._dtype.itemsize)))
        self._held = np.zeros((0, width), self._dtype)
        self._lengths: list[int] = []
        self._strips = open(path.with_name(path.name + ".strips"), "w+b")  # noqa: SIM115

    def write(self, rows: np.ndarray) -> None:
        """Append `[rows w]` pixels."""
        self._held = np.concatenate([self._held, rows.astype(self._dtype, copy=False)])
        while len(self._held) >= self._rows_per_strip:
            self._strip(self._held[: self._rows_per_strip])
            self._held = self._held[self._rows_per_strip :]

    def close(self) -> None:
        """Complete the file."""
        if len(self._held):
            self._strip(self._held)
        self._strips.seek(0)
        tifffile.imwrite(
            self._path,
            (self._strips.read(length) for length in self._lengths),
            shape=self._shape,
            dtype=self._dtype,
            rowsperstrip=self._rows_per_strip,
            photometric="minisblack",
            compression="zlib",
            extratags=self._tags,
            metadata=None,
        )
        self._strips.close()
        os.unlink(self._strips.name)

    def abandon(self) -> None:
        """Close the file as it is."""
        self._strips.close()

    def _strip(self, rows: np.ndarray) -> None:
        data = zlib.compress(np.ascontiguousarray(rows).data, 1)
        self._lengths.append(len(data))
        self._strips.write(data)


class NpyRows:
    """A .npy file of an array `[h w k]`.

    Args:
      path: file to write.
      shape: shape of the whole array.
      dtype: type of its numbers.
    """

    def __init__(self, path: Path, shape: tuple[int, int, int], dtype: Any):
        self._file, self._dtype = open(path, "wb"), np.dtype(dtype)  # noqa: SIM115
        header = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)

    def write(self, rows: np.ndarray) -> None:
        """Append `[rows w k]` numbers."""
        self._file.write(np.ascontiguousarray(rows, self._dtype).data)

    def close(self) -> None:
        """Complete the file."""
        self._file.close()

    def abandon(self) -> None:
        """Close the file as it is."""
        self._file.close()
