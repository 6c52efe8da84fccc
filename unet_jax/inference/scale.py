"""The scale that a run was trained at, and images whose scale is far from it."""

import math

from unet_jax.runs.info import RunInfo

FAR = 2.0
"""Factor by which a scale may differ from that of training before it is said."""
_SAME = 1.1  # scales nearer to 1 than this factor are taken for 1: resampling would cost more than it brings


def sizes_of_training(info: RunInfo) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Return the smallest and the largest (height, width) of the images of train and val; None if not recorded."""
    smallest, largest = info.audit.get("smallest"), info.audit.get("largest")
    if not smallest or not largest or min(*smallest, *largest) < 1:
        return None
    return (smallest[0], smallest[1]), (largest[0], largest[1])


def scale_of_training(info: RunInfo, size: tuple[int, int]) -> float | None:
    """Return the scale, relative to the files, at which the network saw objects in training.

    It is 1 if it lies within 10 % of it. If images were resized to one size, it is that of an image of middle size.

    Args:
      info: facts of the run, whose audit has the sizes of the training images.
      size: height and width that images were resized to.

    Returns:
      The scale with three digits, or None if the sizes of the training images were not recorded.
    """
    if trained_fit(info) == "crop":
        return float(info.config.data.scale)
    sizes = sizes_of_training(info)
    if sizes is None:
        return None
    (low_h, low_w), (high_h, high_w) = sizes
    middle = math.sqrt(low_h * high_h), math.sqrt(low_w * high_w)
    if trained_fit(info) == "pad":
        scale = min(size[0] / middle[0], size[1] / middle[1])
        return 1.0 if 1 / _SAME < scale < _SAME else float(f"{scale:.3g}")
    scale = math.sqrt(size[0] / middle[0] * size[1] / middle[1])
    return 1.0 if 1 / _SAME < scale < _SAME else float(f"{scale:.3g}")


def trained_fit(info: RunInfo) -> str:
    """Return the fit that a run was trained with."""
    return info.config.data.fit


def scale_warning(info: RunInfo, fit: str, scale: float, size: tuple[int, int], height: int, width: int) -> str:
    """Say that the network sees an image at another scale than the images that it was trained on.

    Args:
      info: facts of the run.
      fit: way of the image to the network: stretch, pad, crop or whole.
      scale: size at which crop and whole look at the image, as a multiple of its own.
      size: height and width of the network's input.
      height: the image's own height.
      width: the image's own width.

    Returns:
      What is different and what to do, as a continuation of the image's name; empty if the scale is near that of
      training, or if it is not known.
    """
    sizes, trained = sizes_of_training(info), scale_of_training(info, size)
    if sizes is None or trained is None:
        return ""
    (low_h, low_w), (high_h, high_w) = sizes
    known = f"{low_w}x{low_h}" if sizes[0] == sizes[1] else f"{low_w}x{low_h} to {high_w}x{high_h}"
    found = f"is {width}x{height} pixels (width x height), but the images that the run was trained on are {known}"
    if fit in ("stretch", "pad"):
        tiles = "--fit crop, which keeps the scale of training"
        remedy = tiles if trained_fit(info) != "crop" else "--fit crop, as in training"
        too_large, too_small = max(height / high_h, width / high_w), max(low_h / height, low_w / width)
        if fit == "pad":  # one scale for both sides; the largest and the smallest that training may have had
            seen_at = min(size[0] / height, size[1] / width)
            too_large = min(size[0] / high_h, size[1] / high_w) / seen_at
            too_small = seen_at / min(size[0] / low_h, size[1] / low_w)
        seen = f"resized to {size[1]}x{size[0]}, its objects become"
        if too_large > FAR and too_large >= too_small:
            return f"{found}: {seen} {too_large:.3g} times smaller than any that it knows. Use {remedy}."
        if too_small > FAR:
            return f"{found}: {seen} {too_small:.3g} times larger than any that it knows. Use {remedy}."
        return ""
    ratio = scale / trained
    if not 1 / FAR < ratio < FAR:
        change = f"{ratio:.3g} times larger" if ratio > 1 else f"{1 / ratio:.3g} times smaller"
        return (
            f"is looked at with --scale {scale:g}, but the network was trained at {trained:g}: its objects become "
            f"{change} than those that it knows. Use --scale {trained:g}."
        )
    reduced = min(low_h / height, low_w / width)
    if reduced > FAR:
        return (
            f"{found}: if it is a reduced picture of as much, its objects are {reduced:.3g} times smaller than those "
            f"that the network knows. Then use --scale {scale * reduced:.3g}."
        )
    return ""
