"""The files of one predicted image, written in blocks of rows aside and renamed when all of them are complete."""

import contextlib
import os
import pathlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Bool, Float, UInt8

from unet_jax._types import InputError
from unet_jax.config.predict import OutputConfig
from unet_jax.data.fit import scaled_size
from unet_jax.data.images.rows import ImageRows
from unet_jax.data.images.scaling import scaled
from unet_jax.data.images.tiff import GeoTags
from unet_jax.data.pixels import write_png
from unet_jax.metrics.object_rules import ObjectRules, apply_rules
from unet_jax.metrics.objects import ObjectFinder, Objects
from unet_jax.program.tile_stream import Patch
from unet_jax.report.pictures import render_overlay, to_rgb
from unet_jax.report.row_files import NpyRows, PngRows, TiffRows

LARGEST_OVERLAY = 4096
"""Longest side of an overlay in pixels; larger images are reduced."""
LARGEST_WHOLE = 2**29
"""Largest number of pixels of an image whose masks are finished as a whole, by rules for objects. About 8 bytes of
memory are needed for each."""
_WHITE = 65535
_BLOCK_ROWS = 512


class Job(NamedTuple):
    """An image to predict."""

    id: str
    image: ImageRows
    tags: GeoTags  # georeferencing of the file
    seen: ImageRows  # the same image for the networks: of an ensemble, in each of its formats


class Finish(NamedTuple):
    """Thresholds and rules that make masks of probabilities."""

    threshold: Float[np.ndarray, " k"]
    """Probability above which a pixel is in a class."""
    rules: tuple[ObjectRules, ...]
    """Rules for the objects of each class, which need whole masks; or none."""
    seen_area: int
    """Number of pixels at the size at which the network sees the image."""


def check_whole(path: epath.Path, height: int, width: int) -> None:
    """Raise `InputError` if an image is too large for rules that need whole masks."""
    if height * width > LARGEST_WHOLE:
        raise InputError(
            f"{path}: has {width}x{height} pixels, but the calibration has rules for objects, which need whole masks: "
            f"at most {LARGEST_WHOLE} pixels. Cut the image, calibrate without --objects, or leave out --calibrated."
        )


def mask_paths(out: epath.Path, class_name: str, id_: str) -> tuple[epath.Path, epath.Path]:
    """Return the two possible paths of a mask: PNG, and TIFF for images with georeferencing, which PNG cannot hold."""
    return out / class_name / f"{id_}.png", out / class_name / f"{id_}.tif"


def probs_paths(out: epath.Path, class_names: Sequence[str], id_: str, kind: str) -> list[epath.Path]:
    """Return the paths of an image's probabilities."""
    if kind == "npy":
        return [out / "probs" / f"{id_}.npy"]
    return [out / "probs" / name / f"{id_}.tif" for name in class_names] if kind == "tiff" else []


class ImageWriter:
    """Writer of the masks, probabilities and overlay of one image. It computes and writes in a pool of threads.

    Args:
      job: image, which the overlay reads again.
      class_names: names of the classes.
      finish: thresholds, and rules for objects. With rules, the masks are kept in memory, a bit per class and pixel,
        and written when the image is complete.
      outputs: what to write beside masks.
      out: folder of the finished files.
      scratch: empty local folder for the unfinished ones.
      pool: threads.
    """

    def __init__(
        self,
        job: Job,
        class_names: Sequence[str],
        finish: Finish,
        outputs: OutputConfig,
        out: epath.Path,
        scratch: pathlib.Path,
        pool: Executor,
    ):
        self._job, self._names, self._how, self._out = job, class_names, finish, out
        self._scratch, self._pool, self._outputs = scratch, pool, outputs
        self._files: list[tuple[Any, pathlib.Path, epath.Path]] = []  # writer, unfinished path, final path
        self._finders = [ObjectFinder() for _ in class_names] if outputs.csv else []
        height, width = job.image.height, job.image.width
        factor = min(1.0, LARGEST_OVERLAY / max(height, width))
        self._small = scaled_size(height, width, factor)
        self._overlay_scale = factor
        self._overlay_mask = np.zeros((*self._small, len(class_names)), bool) if outputs.overlay else None
        self._mask_band = self._probs_band = None
        self._bands: list[np.ndarray] = []  # of masks that wait for their last rows, where rules need whole masks
        self._writing: Future[None] | None = None
        self._last: Future[Any] = pool.submit(self._open)

    def add(self, patch: Patch[Any]) -> None:
        """Take the probabilities of a rectangle."""
        rows, columns, num_classes = patch.values.shape
        width = self._job.image.width
        if patch.x == 0:
            self._mask_band = np.empty((rows, width, -(-num_classes // 8)), np.uint8)  # a bit for each class
            self._probs_band = self._new_probs(num_classes, rows)
        band, end = self._mask_band, patch.x + columns
        assert band is not None
        band[:, patch.x : end] = as_bits(patch.values, self._how.threshold)
        if self._outputs.probs == "npy":
            self._probs_band[:, patch.x : end] = patch.values  # type: ignore[index]
        elif self._outputs.probs == "tiff":
            self._probs_band[:, :, patch.x : end] = np.moveaxis(np.rint(patch.values * _WHITE), -1, 0)  # type: ignore
        if end == width:
            if self._writing is not None:
                self._writing.result()  # one band is written while the next one is computed, and no more wait
            self._writing = self._then(self._write, patch.y, band, self._probs_band)
            self._mask_band = self._probs_band = None

    def finish(self) -> "Future[list[Objects]]":
        """Complete the files and give them their names; return the objects of each class (none without a table)."""
        return self._then(self._finish)

    def discard(self) -> None:
        """Remove the unfinished files of an image that cannot be completed."""
        self._then(self._discard).result()

    def _then(self, work: Any, *arguments: Any) -> Future[Any]:
        """Do something in the pool after everything that was asked before."""

        def after(before: Future[Any] = self._last) -> Any:
            before.result()  # began earlier, as the pool keeps the order: no thread waits for one that cannot begin
            return work(*arguments)

        self._last = self._pool.submit(after)
        return self._last

    def _new_probs(self, num_classes: int, rows: int) -> np.ndarray | None:
        width = self._job.image.width
        if self._outputs.probs == "npy":
            return np.empty((rows, width, num_classes), np.float32)
        return np.empty((num_classes, rows, width), np.uint16) if self._outputs.probs == "tiff" else None

    def _open(self) -> None:
        """Open the unfinished files."""
        (height, width), tags, id_ = self._job.image[:2], self._job.tags, self._job.id
        with told(self._out / self._names[0] / id_):
            self._scratch.mkdir()
            for k, name in enumerate(self._names):
                png, tif = mask_paths(self._out, name, id_)
                path = self._scratch / f"mask{k}"
                file = TiffRows(path, height, width, np.uint8, tags) if tags else PngRows(path, height, width)
                self._files.append((file, path, tif if tags else png))
            finals = probs_paths(self._out, self._names, id_, self._outputs.probs)
            for k, final in enumerate(finals):
                path = self._scratch / f"probs{k}"
                shape = (height, width, len(self._names))
                one = self._outputs.probs == "npy"
                file = NpyRows(path, shape, np.float32) if one else TiffRows(path, height, width, np.uint16, tags)
                self._files.append((file, path, final))

    def _write(self, y: int, masks: UInt8[np.ndarray, "h w bytes"], probs: np.ndarray | None) -> None:
        """Write some rows, from row y on; masks that rules must see as a whole are kept."""
        count = len(self._names)
        if self._how.rules:
            self._bands.append(masks)
        else:
            for k in range(count):
                self._write_mask(k, y, masks[..., k // 8] & (128 >> k % 8) != 0)
        for k, (file, _, final) in enumerate(self._files[count:]):
            assert probs is not None
            with told(final):
                file.write(probs if self._outputs.probs == "npy" else probs[k])

    def _write_mask(self, k: int, y: int, mask: Bool[np.ndarray, "h w"]) -> None:
        """Write some rows of the mask of a class."""
        file, _, final = self._files[k]
        with told(final):
            file.write(mask.view(np.uint8) * np.uint8(255))
        if self._finders:
            self._finders[k].add(mask)
        if self._overlay_mask is not None:
            _add_reduced(self._overlay_mask[..., k], y, mask, (self._job.image.height, self._job.image.width))

    def _write_whole_masks(self) -> None:
        """Apply the rules to whole masks, one class at a time, and write them."""
        for k, rules in enumerate(self._how.rules):
            mask = np.concatenate([band[..., k // 8] & (128 >> k % 8) != 0 for band in self._bands])
            mask = apply_rules(mask, rules, self._how.seen_area)
            for y in range(0, len(mask), _BLOCK_ROWS):
                self._write_mask(k, y, mask[y : y + _BLOCK_ROWS])
        self._bands.clear()

    def _finish(self) -> list[Objects]:
        self._write_whole_masks()
        for file, _, final in self._files:
            with told(final):
                file.close()
        if self._overlay_mask is not None:
            final, path = self._out / "overlay" / f"{self._job.id}.png", self._scratch / "overlay.png"
            image = to_rgb(scaled(self._job.image, self._overlay_scale).whole())
            with told(final):
                write_png(epath.Path(path), render_overlay(image, self._overlay_mask))
            self._files.append((None, path, final))
        for _, path, final in self._files:
            with told(final):
                publish(path, final)
        self._discard()
        return [finder.objects() for finder in self._finders]

    def abandon(self) -> None:
        """Close the unfinished files where they are. Nothing may run in the pool any more."""
        for file, _, _ in self._files:
            with contextlib.suppress(OSError):  # of a full disk, again
                if file is not None:
                    file.abandon()

    def _discard(self) -> None:
        self.abandon()
        for path in self._scratch.iterdir():
            path.unlink()
        self._scratch.rmdir()


def as_bits(probs: Float[np.ndarray, "h w k"], threshold: Float[np.ndarray, " k"]) -> UInt8[np.ndarray, "h w bytes"]:
    """Return the masks of probabilities with a bit for each class, the first one the highest of a byte.

    `np.packbits` along an axis of a few classes takes several times as long as here, where it packs whole bytes.
    """
    height, width, num_classes = probs.shape
    masks = np.zeros((height, width, -(-num_classes // 8) * 8), bool)
    if num_classes < 8:
        for k in range(num_classes):
            np.greater(probs[..., k], threshold[k], out=masks[..., k])
    else:
        np.greater(probs, threshold, out=masks[..., :num_classes])
    return np.packbits(masks.reshape(-1)).reshape(height, width, -1)


def publish(path: pathlib.Path, final: epath.Path) -> None:
    """Move a complete local file to its final name, on the disk or in a bucket."""
    final.parent.mkdir(parents=True, exist_ok=True)
    if "://" in str(final):
        final.write_bytes(path.read_bytes())
    else:
        os.replace(path, final)


@contextlib.contextmanager
def told(final: epath.Path) -> Iterator[None]:
    """Turn an error of the file system into an `InputError` that names the file and what to do."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{final}: cannot be written ({error.strerror or error}). Make room or correct the folder; the same "
            f"command with --skip-existing then continues."
        ) from error


def _add_reduced(
    reduced: Bool[np.ndarray, "h2 w2"], y: int, mask: Bool[np.ndarray, "h w"], size: tuple[int, int]
) -> None:
    """Mark the pixels of a reduced mask that some rows of the mask, from row y on, have a pixel in."""
    height, width = size
    if reduced.shape == size:
        reduced[y : y + len(mask)] = mask
        return
    rows = np.arange(y, y + len(mask)) * reduced.shape[0] // height
    row_starts = np.flatnonzero(np.diff(rows, prepend=-1))
    column_starts = -(-np.arange(reduced.shape[1]) * width // reduced.shape[1])
    of_rows = np.logical_or.reduceat(mask, row_starts, axis=0)
    reduced[rows[row_starts]] |= np.logical_or.reduceat(of_rows, column_starts, axis=1)
