"""Reading of TIFF files with tifffile: any number of channels and any depth, but one image per file."""

import io
from typing import Any, NamedTuple

import cv2
import numpy as np
import tifffile
from etils import epath

from unet_jax.data.memory import refuse_beyond_memory
from unet_jax.data.orientation import turned
from unet_jax.data.pixels import BadSampleError, read_bytes
from unet_jax.data.whole_files import check_num_pages

# Compressions that OpenCV decodes bit for bit as imagecodecs does, for the photometric interpretations below. Others,
# such as JPEG 2000, it accepts and decodes wrongly.
_OPENCV_COMPRESSIONS = (tifffile.COMPRESSION.LZW, tifffile.COMPRESSION.JPEG)
_OPENCV_PHOTOMETRICS = (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB, tifffile.PHOTOMETRIC.YCBCR)
_READ_PHOTOMETRICS = (
    *_OPENCV_PHOTOMETRICS,
    tifffile.PHOTOMETRIC.MINISWHITE,
    tifffile.PHOTOMETRIC.PALETTE,
)
# Pixel scale, tie points, transformation, and the directory of GeoTIFF keys with their numbers and texts.
_GEO_TAGS = (33550, 33922, 34264, 34735, 34736, 34737)
_MEANINGS = {"Z": "depths", "T": "times"}


GeoTags = list[tuple[int, int, int, Any, bool]]
"""Tags as `tifffile.imwrite` takes them (`extratags`): code, type, count, value, and whether on the first page only."""
TIFF_SUFFIXES = (".tif", ".tiff")


class TiffHeader(NamedTuple):
    """Facts about the image in a TIFF file, known before it is decoded."""

    height: int
    width: int
    channels: int
    dtype: np.dtype
    is_rotated: bool  # the orientation tag asks for a rotation or a mirroring


class TiffPlan(NamedTuple):
    """The series of a TIFF file to decode, and what to do with its axes."""

    series: Any
    axes: str
    alpha: int | None  # position of the alpha sample
    is_premultiplied: bool
    pages_are_channels: bool


def read_tiff(path: object, data: bytes, *, pages: str) -> np.ndarray:
    """Read the image of a TIFF file, with the numbers that it holds.

    Alpha is dropped, a palette becomes 8-bit RGB, MinIsWhite is inverted, and the orientation is applied.

    Args:
      path: name of the file, for messages.
      data: content of the file.
      pages: "channels" takes pages whose meaning the file does not say for channels; "error" refuses them.

    Returns:
      `[h w c]` of the file's dtype.

    Raises:
      BadSampleError: the file is damaged, holds several images, or needs a codec that is not installed.
    """
    with open_tiff(path, data) as tif:
        plan = plan_tiff(path, tif, pages)
        pixels = _decode(path, data, plan)
        page = plan.series.keyframe
        pixels = channels_last(pixels, plan)
        if plan.alpha is not None:
            alpha = pixels[..., plan.alpha]
            if plan.is_premultiplied and (alpha != alpha.max()).any():
                raise BadSampleError(
                    f"{path}: its colours are multiplied by an alpha channel that is not the same everywhere. Save it "
                    f"without alpha."
                )
            pixels = np.delete(pixels, plan.alpha, axis=-1)
        if page.photometric == tifffile.PHOTOMETRIC.PALETTE:
            pixels = (np.asarray(page.colormap) >> 8).astype(np.uint8).T[pixels[..., 0]]
        elif page.photometric == tifffile.PHOTOMETRIC.MINISWHITE and pixels.dtype != np.bool_:
            pixels = _inverted(path, pixels)
        elif page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
            pixels = ~pixels
        return np.ascontiguousarray(turned(pixels, orientation(page)))


def tiff_header(path: object, data: bytes, *, pages: str) -> TiffHeader:
    """Return size, channels and dtype of the image in a TIFF file without decoding it; raises as `read_tiff`."""
    with open_tiff(path, data) as tif:
        plan = plan_tiff(path, tif, pages)
        page = plan.series.keyframe
        sizes = dict(zip(plan.series.axes, plan.series.shape, strict=True))
        channels = int(np.prod([size for axis, size in sizes.items() if axis not in "YX"], dtype=int))
        if page.photometric == tifffile.PHOTOMETRIC.PALETTE:
            channels = 3
        channels -= plan.alpha is not None
        dtype = np.dtype(np.uint8 if page.bitspersample <= 8 and page.dtype.kind in "ub" else plan.series.dtype)
        return TiffHeader(sizes["Y"], sizes["X"], channels, dtype.newbyteorder("="), orientation(page) != 1)


def read_geo_tags(path: epath.Path) -> GeoTags:
    """Return the georeferencing tags of an image file; empty if it is no TIFF or has none."""
    if path.suffix.lower() not in TIFF_SUFFIXES:
        return []
    with open_tiff(path, read_bytes(path) if "://" in str(path) else path) as tif:
        tags = (tif.pages.first.tags.get(code) for code in _GEO_TAGS)
        return [(tag.code, int(tag.dtype), tag.count, tag.value, True) for tag in tags if tag is not None]


def open_tiff(path: object, source: bytes | epath.Path) -> tifffile.TiffFile:
    """Open a TIFF file; the caller closes it.

    Args:
      path: name of the file, for messages.
      source: content of the file, or its path, of which only what is needed is then read.

    Raises:
      BadSampleError: it cannot be read.
    """
    try:
        tif = tifffile.TiffFile(io.BytesIO(source) if isinstance(source, bytes) else str(source))
        check_num_pages(path, tif)
        return tif
    except BadSampleError:
        raise
    except Exception as error:  # tifffile raises errors of many types for damaged files
        size = f"; {len(source)} bytes" if isinstance(source, bytes) else ""
        raise BadSampleError(
            f"{path}: is not a TIFF file that tifffile can read ({error}{size}). Replace it."
        ) from error


def plan_tiff(path: object, tif: tifffile.TiffFile, pages: str) -> TiffPlan:
    """Choose the series to decode, and understand its axes; raise BadSampleError where the file is not one image."""
    try:
        series = [s for s in tif.series if "X" in s.axes and "Y" in s.axes]
    except Exception as error:  # damaged tags
        raise BadSampleError(f"{path}: its TIFF tags cannot be read ({error}). Replace it.") from error
    if not series:
        raise BadSampleError(f"{path}: holds no image. Replace it.")
    main = series[0]
    same = [s for s in series if s.shape == main.shape]
    if len(same) > 1:
        raise BadSampleError(f"{path}: holds {len(same)} images of one size. Save each one as a file of its own.")
    page = main.keyframe
    if page.photometric not in _READ_PHOTOMETRICS:
        name = getattr(page.photometric, "name", page.photometric)
        raise BadSampleError(f"{path}: has the colours {name}, which are not read. Convert it to gray or RGB.")
    others = [(axis, size) for axis, size in zip(main.axes, main.shape, strict=True) if axis not in "YXSC" and size > 1]
    pages_are_channels = False
    for axis, size in others:
        if axis in _MEANINGS:
            raise BadSampleError(
                f"{path}: holds {size} {_MEANINGS[axis]} (axis {axis} of {main.axes}), not one image. Save each one as "
                f"a file of its own."
            )
        if pages == "error" or len(others) > 1 or "C" in main.axes:
            raise BadSampleError(
                f"{path}: holds {size} pages and does not say whether they are channels, depths or times. If they are "
                f"channels, use --data.pages channels; otherwise save each one as a file of its own."
            )
        pages_are_channels = True
    alpha, is_premultiplied = None, False
    kinds = [int(kind) for kind in page.extrasamples or ()]
    if "S" in main.axes:
        num_colors = page.samplesperpixel - len(kinds)
        for i, kind in enumerate(kinds):
            if kind in (tifffile.EXTRASAMPLE.ASSOCALPHA, tifffile.EXTRASAMPLE.UNASSALPHA):
                alpha, is_premultiplied = num_colors + i, kind == tifffile.EXTRASAMPLE.ASSOCALPHA
    axes = "".join(axis if axis in "YX" else "C" for axis in main.axes)
    return TiffPlan(main, axes, alpha, is_premultiplied, pages_are_channels)


def _decode(path: object, data: bytes, plan: TiffPlan) -> np.ndarray:
    page = plan.series.keyframe
    refuse_beyond_memory(path, plan.series.nbytes, len(data))
    try:
        return np.asarray(plan.series.asarray())
    except Exception as error:
        needs_codec = "imagecodecs" in str(error) or isinstance(error, ModuleNotFoundError)
        if not needs_codec:
            raise BadSampleError(f"{path}: cannot be decoded ({error}). Replace it.") from error
        # Without imagecodecs, OpenCV serves for the two compressions that everybody writes.
        simple = len(plan.series.pages) == 1 and page.planarconfig == 1 and page.samplesperpixel in (1, 3)
        if simple and page.compression in _OPENCV_COMPRESSIONS and page.photometric in _OPENCV_PHOTOMETRICS:
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
            if pixels is not None and pixels.shape == plan.series.shape and pixels.dtype == plan.series.dtype:
                return pixels[..., ::-1] if pixels.ndim == 3 else pixels
        compression = getattr(page.compression, "name", page.compression)
        raise BadSampleError(
            f"{path}: is compressed with {compression}, which needs the package imagecodecs: "
            f"pip install imagecodecs (or 'unet_jax[tiff]')."
        ) from error


def channels_last(pixels: np.ndarray, plan: TiffPlan) -> np.ndarray:
    """Return pixels with the axes of the series as `[h w c]`, in the byte order of the machine."""
    order = [i for i, axis in enumerate(plan.axes) if axis == "C"]
    height, width = (plan.axes.index(axis) for axis in "YX")
    moved = np.transpose(pixels, (height, width, *order))
    moved = moved.reshape(*moved.shape[:2], -1)
    return np.ascontiguousarray(moved.astype(moved.dtype.newbyteorder("="), copy=False))


def _inverted(path: object, pixels: np.ndarray) -> np.ndarray:
    """Turn MinIsWhite into MinIsBlack."""
    if pixels.dtype.kind != "u":
        raise BadSampleError(f"{path}: is MinIsWhite with {pixels.dtype} values. Save it as MinIsBlack.")
    return np.iinfo(pixels.dtype).max - pixels


def orientation(page: Any) -> int:
    """Return the orientation tag of a page, 1 to 8; 1 if there is none."""
    value = getattr(page.tags.get("Orientation"), "value", 1)
    return value if value in range(1, 9) else 1
