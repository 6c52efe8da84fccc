"""One sample of a data set from annotations: its masks drawn, its image copied or linked."""

import dataclasses
import functools
import io
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from etils import epath
from PIL import Image

from unet_jax._types import InputError
from unet_jax.data.images.files import read_pixels
from unet_jax.data.listing import is_read, stem_and_ending
from unet_jax.data.orientation import read_orientation
from unet_jax.data.pixels import BadSampleError, pillow_formats
from unet_jax.interop.annotations.pixel_runs import count, fill, from_bitmap, union, without
from unet_jax.interop.annotations.regions import AnnotatedImage, Drawn, Region

_ENDINGS = {"mpo": "jpeg", "jpeg2000": "jp2"}  # by Pillow's name of the format, where they are not the same
_ROUNDING = 0.01  # pixels that percents and fractions may be beyond the border without being said
_TURNS = {  # by EXIF orientation: how a stored picture becomes the one that is shown
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPPING = tuple(_TURNS[orientation] for orientation in (5, 6, 7, 8))  # height becomes width


@dataclasses.dataclass
class SampleJob:
    """Image of the data set to make, with all that is annotated in it."""

    id: str
    path: Path | None  # None: the annotation file contains the image
    sources: list[AnnotatedImage] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class SampleCounts:
    """Facts about one sample whose files have been written."""

    num_pixels: int
    num_objects: tuple[int, ...]  # per class
    pixels: tuple[int, ...]  # per class
    beyond: tuple[tuple[float, str], ...]  # distance outside of the image and place, of objects that were cut off
    outside: tuple[str, ...]  # places of objects that are wholly outside
    without_pixel: tuple[str, ...]  # places of objects that cover no centre of a pixel
    orientation: str = ""  # "turned" or "unsure" if EXIF data rotate the image, see `_turn`


def write_sample(
    job: SampleJob,
    out: Path,
    class_names: Sequence[str],
    class_of: Mapping[str, str],
    leave_out: Sequence[str],
    *,
    link: bool,
) -> SampleCounts:
    """Write `out/images/ID.ext`, `out/masks/CLASS/ID.png` for every class, and masks in `out/ignore` where needed.

    Args:
      job: image and regions.
      out: folder of the data set.
      class_names: classes, each of which has a folder.
      class_of: class of each class name in the annotations; regions of others are left out, and those of the class ""
        are ignored pixels of all classes.
      leave_out: kinds of shapes that are left out.
      link: make a symbolic link to the image instead of a copy.

    Raises:
      BadSampleError: the image cannot be read or has another size than stated, or an object cannot be drawn.
    """
    image_file = job.path or _unpack(job.sources[0], out / "images" / job.id)
    try:
        height, width = _size(job, image_file)
        drawn = _draw_all(job, image_file, height, width, class_of, leave_out)
    except BadSampleError:
        if job.path is None:
            image_file.unlink()
        raise
    if job.path is not None:
        _copy(job.path, out / "images" / job.id, link=link)
    united = {name: union(drawn.runs.get(name, [])) for name in class_names}
    for name, pixels in united.items():
        _write_mask(out / "masks" / name / f"{job.id}.png", pixels, height, width)
    for name, runs in drawn.ignored.items():
        pixels = without(union(runs), united[name]) if name else union(runs)  # what is known to be inside counts
        if len(pixels):
            _write_mask(out / "ignore" / name / f"{job.id}.png", pixels, height, width)
    return SampleCounts(
        height * width,
        tuple(len(drawn.runs.get(name, ())) for name in class_names),
        tuple(count(united[name]) for name in class_names),
        tuple(drawn.beyond),
        tuple(drawn.outside),
        tuple(drawn.without_pixel),
        drawn.orientation,
    )


def _size(job: SampleJob, image_file: Path) -> tuple[int, int]:
    """Return the height and width of an image as the library reads it: as shown, not as stored."""
    try:
        height, width = read_pixels(epath.Path(image_file), pages="channels").shape[:2]
    except BadSampleError as error:
        if job.path is not None:
            raise
        raise BadSampleError(f"{job.sources[0].where}: the image in it ('imageData') cannot be read.") from error
    return height, width


@dataclasses.dataclass
class _DrawnSample:
    """Objects of one image, and facts about them as in `SampleCounts`."""

    runs: dict[str, list[np.ndarray]] = dataclasses.field(default_factory=dict)  # by class
    ignored: dict[str, list[np.ndarray]] = dataclasses.field(default_factory=dict)  # by class; "": of all
    beyond: list[tuple[float, str]] = dataclasses.field(default_factory=list)
    outside: list[str] = dataclasses.field(default_factory=list)
    without_pixel: list[str] = dataclasses.field(default_factory=list)
    orientation: str = ""


def _draw_all(
    job: SampleJob, image_file: Path, height: int, width: int, class_of: Mapping[str, str], leave_out: Sequence[str]
) -> _DrawnSample:
    """Draw all objects of an image of this size; raise BadSampleError if one of them cannot be drawn."""
    sample = _DrawnSample()
    for source in job.sources:
        turn, sureness = _turn(image_file, source.size, (height, width), source.where)
        sample.orientation = sureness or sample.orientation
        regions = [r for r in source.regions if r.class_name in class_of and r.draw and r.kind not in leave_out]
        num_outside = len(sample.outside)
        for region in regions:
            drawn = _draw(region, height, width, turn)
            name = class_of[region.class_name]
            (sample.ignored if region.is_ignored or not name else sample.runs).setdefault(name, []).append(drawn.runs)
            if drawn.is_outside:
                sample.outside.append(region.where)
            elif not len(drawn.runs):
                sample.without_pixel.append(region.where)
            if drawn.beyond > _ROUNDING and not drawn.is_outside:
                sample.beyond.append((drawn.beyond, region.where))
        if regions and len(sample.outside) - num_outside == len(regions):
            raise BadSampleError(
                f"{regions[0].where}: lies wholly outside of {image_file.name} ({width}x{height}), as all "
                f"{len(regions)} objects of this image do. Is it another image than the annotated one, or another size?"
            )
    return sample


def _copy(path: Path, new_without_ending: Path, *, link: bool) -> None:
    """Copy or link an image to a new name with its own ending."""
    ending = path.name[len(stem_and_ending(path.name)[0]) :]
    new = new_without_ending.with_name(new_without_ending.name + ending)
    new.parent.mkdir(parents=True, exist_ok=True)
    if link:
        os.symlink(path.resolve(), new)
    else:
        shutil.copyfile(path, new)


def _unpack(source: AnnotatedImage, new_without_ending: Path) -> Path:
    """Write the image that an annotation file contains, and return the file."""
    assert source.embedded
    data = source.embedded()
    new = new_without_ending.with_name(new_without_ending.name + _ending_of(data, source.where))
    new.parent.mkdir(parents=True, exist_ok=True)
    new.write_bytes(data)
    return new


def _ending_of(data: bytes, where: str) -> str:
    """Return the ending of the file format that the bytes are in."""
    try:
        with Image.open(io.BytesIO(data), formats=pillow_formats()) as picture:
            name = (picture.format or "").lower()
    except Exception as error:  # Pillow's decoders raise errors of many types for broken files
        raise BadSampleError(f"{where}: the image in it ('imageData') cannot be read ({error}).") from error
    ending = f".{_ENDINGS.get(name, name)}"
    if not is_read(ending):
        raise BadSampleError(f"{where}: the image in it ('imageData') is of the format {name!r}, which is not read.")
    return ending


def _turn(
    image_file: Path, stated: tuple[int, int] | None, size: tuple[int, int], where: str
) -> tuple[Image.Transpose | None, str]:
    """Return how masks must be turned to fit an image, which may be stored rotated and shown upright (EXIF).

    Args:
      image_file: image.
      stated: height and width that the annotation file states.
      size: height and width as shown, which is how the library reads the image.
      where: file and place in it, for messages.

    Returns:
      The turn, or None; and "turned" if there is one, "unsure" if the sizes do not tell which of the two was annotated.

    Raises:
      BadSampleError: the stated size is neither of the two.
    """
    turn = _TURNS.get(_orientation(image_file))
    stored = size[::-1] if turn in _SWAPPING else size
    if stated is None or stated == size:
        return None, "unsure" if turn is not None and (stated is None or stored == size) else ""
    if turn is not None and stated == stored:
        return turn, "turned"
    raise BadSampleError(
        f"{where}: says that the image has {stated[1]}x{stated[0]} pixels, but {image_file.name} has "
        f"{size[1]}x{size[0]}. Use the image that was annotated, or scale the annotations."
    )


def _orientation(image_file: Path) -> int:
    with open(image_file, "rb") as file:
        return read_orientation(file) or 1


def _draw(region: Region, height: int, width: int, turn: Image.Transpose | None) -> Drawn:
    """Draw one object in the image as it is shown."""
    assert region.draw
    stored = (width, height) if turn in _SWAPPING else (height, width)
    try:
        drawn = region.draw(*stored)
    except InputError:
        raise
    except ValueError as error:
        raise BadSampleError(f"{region.where}: {error}.") from error
    if turn is None:
        return drawn
    shown = Image.fromarray(fill(drawn.runs, *stored)).transpose(turn)
    return drawn._replace(runs=from_bitmap(np.asarray(shown) > 0))


def _write_mask(path: Path, runs: np.ndarray, height: int, width: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_encode(fill(runs, height, width)) if len(runs) else _black(height, width))


@functools.lru_cache(maxsize=64)
def _black(height: int, width: int) -> bytes:
    """Return the PNG file of an empty mask; a data set has many of few sizes."""
    return _encode(np.zeros((height, width), np.uint8))


def _encode(mask: np.ndarray) -> bytes:
    ok, data = cv2.imencode(".png", mask)
    if not ok:
        raise OSError(f"OpenCV could not encode a PNG of shape {mask.shape}.")
    return data.tobytes()
