"""The search for a data set's image format: channels and depth from headers, limits of intensities from pixels."""

import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from etils import epath

from unet_jax._types import InputError
from unet_jax.config import DataConfig
from unet_jax.data.images.files import ImageHeader, read_channels, read_header, read_pixels
from unet_jax.data.images.format import ImageFormat, describe_format, parse_channels, white_of
from unet_jax.data.pixels import BadSampleError

_FEWEST_LEVELS = 64
_MOST_SAMPLES = 2**22  # values per channel that percentiles are taken from, over all images
_FEWEST_PER_IMAGE, _MOST_PER_IMAGE = 2**12, 2**18


class FoundFormat(NamedTuple):
    """A data set's image format, and what to tell about it."""

    format: ImageFormat
    description: str
    rotated: tuple[str, ...]  # images whose EXIF or TIFF orientation is not upright


def find_format(
    images: Sequence[Sequence[epath.Path]],
    config: DataConfig,
    *,
    names: Sequence[str] = (),
    num_threads: int = 4,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> FoundFormat:
    """Find the image format of a data set from its training images.

    Files whose header cannot be read are left to the audit, which names them.

    Args:
      images: the file of each image; or its files, one for each channel.
      config: settings of the data set.
      names: names of the channels, if each is in a file of its own.
      num_threads: threads that read.
      on_progress: called with (images done, all images).

    Raises:
      InputError: the files have different channels or depths, or too few gray levels in the chosen limits.
    """

    def header_of(path: epath.Path) -> ImageHeader | None:
        try:
            return read_header(path, pages=config.pages)
        except BadSampleError:
            return None

    paths = [path for files in images for path in files]
    with ThreadPoolExecutor(num_threads) as pool:
        headers = dict(zip(paths, pool.map(header_of, paths), strict=True))
    known = {path: header for path, header in headers.items() if header is not None}
    images = [files for files in images if all(path in known for path in files)]
    if not images:  # the audit says what is wrong with each
        return FoundFormat(ImageFormat(pages=config.pages), "", ())
    # Files that must agree in depth: all, or those of each channel.
    alike = [{files[i]: known[files[i]] for files in images} for i in range(len(images[0]))]
    file_channels = len(names) or _common_channels(known)
    channels = parse_channels(config.channels, file_channels)
    image_format = ImageFormat(channels, file_channels, pages=config.pages, names=tuple(names))
    rotated = tuple(str(path) for path, header in known.items() if header.is_rotated)
    dtypes = {header.dtype for header in known.values()}
    is_8_bits = dtypes == {np.dtype(np.uint8)}
    kind, note = config.intensity, ""
    if kind == "auto" or (kind == "depth" and len(alike) > 1):
        for name, of_channel in zip(names or ("",), alike, strict=True):
            _check_one_depth(of_channel, name)
    if kind == "auto":
        kind = "depth" if is_8_bits else "percentiles"
    match kind:
        case "depth":
            image_format = dataclasses.replace(image_format, bits=8 if is_8_bits else 16)
            if len(alike) > 1 and len(dtypes) > 1:  # each channel by its own depth
                white = tuple(white_of(next(iter(of_channel.values())).dtype) for of_channel in alike)
                image_format = dataclasses.replace(
                    image_format, low=(0.0,) * len(white), high=white, types=_types_of(alike)
                )
        case "image-percentiles":
            image_format = dataclasses.replace(image_format, bits=16, percentiles=config.intensity_percentiles)
        case "limits":
            low, high = _given_limits(config, len(channels))
            image_format = dataclasses.replace(image_format, bits=16, low=low, high=high)
        case _:
            low, high, levels = _measured_limits(images, image_format, config, num_threads, on_progress)
            expected = _types_of(alike) * (1 if names else file_channels)
            image_format = dataclasses.replace(image_format, bits=16, low=low, high=high, types=expected)
            if config.intensity == "auto":
                _check_levels(image_format, levels, config)
            note = ", the percentiles {:g} and {:g} of the training images".format(*config.intensity_percentiles)
    types = ", ".join(sorted(str(dtype) for dtype in dtypes))
    return FoundFormat(image_format, f"{describe_format(image_format)}{note} (files: {types})", rotated)


def _types_of(alike: Sequence[dict[epath.Path, ImageHeader]]) -> tuple[str, ...]:
    """Return the data type of each set of files; none if one has several."""
    types = [{str(header.dtype) for header in headers.values()} for headers in alike]
    return tuple(next(iter(names)) for names in types) if all(len(names) == 1 for names in types) else ()


def _check_one_depth(headers: dict[epath.Path, ImageHeader], channel: str = "") -> None:
    """Raise `InputError` if the files have different depths, so that no single mapping is right by itself."""
    first: dict[np.dtype, epath.Path] = {}
    for path, header in headers.items():
        first.setdefault(header.dtype, path)
    if len(first) > 1:
        listed = ", ".join(
            f"{path} has {dtype}" for dtype, path in sorted(first.items(), key=lambda pair: str(pair[0]))
        )
        if channel:
            raise InputError(
                f"files of the channel {channel} have different depths: {listed}. Convert them to one depth."
            )
        raise InputError(
            f"the images have different depths: {listed}. Convert them to one depth, or say with --data.intensity "
            f"depth that the largest value of each depth is white."
        )


def _check_levels(image_format: ImageFormat, levels: Sequence[int], config: DataConfig) -> None:
    """Raise `InputError` if so few levels are used that the limits are probably wrong."""
    fewest = min(range(len(levels)), key=levels.__getitem__)
    if levels[fewest] >= _FEWEST_LEVELS:
        return
    percentiles = " and ".join(f"{value:g}" for value in config.intensity_percentiles)
    raise InputError(
        f"{image_format.label(fewest)} of the images has only {levels[fewest]} levels between "
        f"{image_format.low[fewest]:g} and {image_format.high[fewest]:g} (percentiles {percentiles} of the training "
        f"images). If that is all there is, say so with --data.intensity percentiles; otherwise give limits: "
        f"--data.intensity limits --data.intensity-limits LOW HIGH."
    )


def _common_channels(headers: dict[epath.Path, ImageHeader]) -> int:
    """Return the number of channels of all files; gray files among RGB files count as RGB."""
    first: dict[int, epath.Path] = {}
    for path, header in headers.items():
        first.setdefault(header.channels, path)
    if set(first) == {1, 3}:
        return 3
    if len(first) > 1:
        listed = ", ".join(f"{path} has {count}" for count, path in sorted(first.items()))
        raise InputError(f"the images have different numbers of channels: {listed}. Make them equal.")
    return next(iter(first))


def _given_limits(config: DataConfig, num_channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    limits = config.intensity_limits
    if len(limits) == 2:
        limits = limits * num_channels
    if len(limits) != 2 * num_channels:
        raise InputError(
            f"data.intensity_limits has {len(limits)} numbers, but {num_channels} channels need LOW HIGH for all, or "
            f"{2 * num_channels} numbers: LOW HIGH of each channel."
        )
    low, high = tuple(map(float, limits[::2])), tuple(map(float, limits[1::2]))
    for channel, (a, b) in enumerate(zip(low, high, strict=True)):
        if not a < b:
            raise InputError(f"data.intensity_limits of channel {channel} are {a:g} and {b:g}: LOW must be below HIGH.")
    return low, high


def _measured_limits(
    images: Sequence[Sequence[epath.Path]],
    image_format: ImageFormat,
    config: DataConfig,
    num_threads: int,
    on_progress: Callable[[int, int], None],
) -> tuple[tuple[float, ...], tuple[float, ...], list[int]]:
    """Return percentiles of all training pixels per channel, and the number of distinct values between them.

    Every image gives the same number of values, evenly spread, so that large images do not outweigh small ones.
    """

    per_image = min(max(_MOST_SAMPLES // len(images), _FEWEST_PER_IMAGE), _MOST_PER_IMAGE)

    def values_of(files: Sequence[epath.Path]) -> np.ndarray | None:
        try:
            if image_format.names:
                pixels = read_channels(files, pages=config.pages)
            else:
                pixels = read_pixels(files[0], pages=config.pages)
        except BadSampleError:
            return None
        if pixels.shape[-1] == 1 and image_format.file_channels == 3:
            pixels = np.repeat(pixels, 3, axis=-1)
        flat = pixels.reshape(-1, pixels.shape[-1])[:, list(image_format.channels)]
        return flat[:: max(1, len(flat) // per_image)].copy()

    samples: list[np.ndarray] = []
    with ThreadPoolExecutor(num_threads) as pool:
        for done, values in enumerate(pool.map(values_of, images), start=1):
            if values is not None:
                samples.append(values)
            on_progress(done, len(images))
    if not samples:
        count = image_format.num_channels
        return (0.0,) * count, (1.0,) * count, [_FEWEST_LEVELS] * count
    weights = np.concatenate([np.full(len(values), 1.0 / len(values)) for values in samples])
    together = np.concatenate(samples)
    low, high, levels = [], [], []
    for channel in range(together.shape[1]):
        values = together[:, channel]
        a, b = _weighted_percentiles(values, weights, config.intensity_percentiles)
        if not b > a:
            b = float(values.max())
        if not b > a:
            choice = "--data.image-patterns" if image_format.names else "--data.channels"
            raise InputError(
                f"{image_format.label(channel)} of the images is {a:g} nearly everywhere: leave it out with {choice}, "
                f"or give limits: --data.intensity limits --data.intensity-limits LOW HIGH."
            )
        low.append(a)
        high.append(b)
        levels.append(len(np.unique(values[(values >= a) & (values <= b)])))
    return tuple(low), tuple(high), levels


def _weighted_percentiles(values: np.ndarray, weights: np.ndarray, percentiles: Sequence[float]) -> list[float]:
    order = np.argsort(values, kind="stable")
    position = np.cumsum(weights[order]) / weights.sum()
    indices = np.searchsorted(position, np.asarray(percentiles) / 100.0).clip(0, len(values) - 1)
    return [float(values[order[i]]) for i in indices]
