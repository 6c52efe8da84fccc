"""The facts that a program needs to use an exported network, as one JSON object that every export carries."""

import dataclasses
from typing import Any, Literal

import numpy as np
from etils import epath

from unet_jax._types import InputError
from unet_jax.config.predict import PredictConfig
from unet_jax.inference.predict import AS_TRAINED
from unet_jax.inference.scale import scale_of_training, sizes_of_training
from unet_jax.inference.way import Way, way_of
from unet_jax.program.tiles import Tiling
from unet_jax.runs.info import current_versions
from unet_jax.runs.load import Run
from unet_jax.runs.own_parts import check_exportable

FORMAT = 3
"""Version of the object. Readers refuse others."""
KEY = "unet_jax"
"""Name of the object in files that hold metadata by name."""

Layout = Literal["pixels", "heads", "weights"]
"""pixels: uint8 or uint16 `[b h w c]` in, probabilities (and logits, where the kind of file has a second output)
`[b h w k]` out. heads: float32 `[b c h w]` in [0, 1] in, one
output `[b 1 h w]` per class. weights: parameters only."""


@dataclasses.dataclass(frozen=True)
class About:
    """Facts about an export that only its maker knows."""

    license: str = ""
    """Licence of the weights, as an SPDX identifier such as CC-BY-4.0."""
    authors: tuple[str, ...] = ()
    """Names of the authors."""
    description: str = ""
    """A sentence on what the network is for."""


NOTHING = About()
"""No facts."""


def checked_name(out: str | epath.Path, ending: str, example: str) -> epath.Path:
    """Return the file to write as a path.

    Args:
      out: the file.
      ending: ending that its name must have, such as ".onnx".
      example: name for the error message.

    Raises:
      InputError: the name has another ending.
    """
    out = epath.Path(out)
    if out.suffix != ending:
        raise InputError(f"{out}: does not end in {ending}. Give the file to write: --out {example}")
    return out


def make_contract(
    run: Run, layout: Layout, dtype: str, about: About, how: PredictConfig = AS_TRAINED
) -> dict[str, Any]:
    """Return the object for an export of a run.

    Args:
      run: run with the calibration that is exported, if any.
      layout: meaning of inputs and outputs.
      dtype: type of the input's numbers.
      about: facts about the export.
      how: way of images to the network.

    Raises:
      InputError: the way is test-time augmentation, or cannot be used with the run.
    """
    info, calibration = run.info, run.calibration
    check_exportable(run.path, info.own)
    return {
        "format": FORMAT,
        "layout": layout,
        "class_names": list(run.class_names),
        "thresholds": [float(value) for value in run.threshold],
        "temperatures": list(calibration.temperature) if calibration else None,
        "objects": [dataclasses.asdict(rules) for rules in calibration.rules] or None if calibration else None,
        "input": {"dtype": dtype, "channels": info.num_channels, "size_multiple": run.config.model.size_multiple},
        "fit": _fit(run, how),
        "trained": _trained(run),
        "images": _images(run),
        "step": run.step,
        "scores": run.metrics,
        "license": about.license,
        "authors": list(about.authors),
        "description": about.description,
        "versions": current_versions(),
    }


def network_size(run: Run) -> tuple[int, int]:
    """Return height and width of the images that the network was trained on."""
    return run.config.data.height_and_width


def _fit(run: Run, how: PredictConfig) -> dict[str, Any]:
    """Return how images come to the network's size, and its height and width; for crop, how tiles are cut and blended.

    The positions of tiles are multiples of `size_multiple` of the input.
    """
    if how.tta != "none":
        raise InputError(f"--tta is {how.tta}, which exported networks do not do: leave it out.")
    way = way_of(run, how)
    height, width = way.tiling.size
    fit: dict[str, Any] = {"kind": way.fit, "height": height, "width": width}
    if way.fit in ("crop", "whole"):
        fit["scale"] = way.scale
    if way.fit == "crop":
        fit |= {"overlap": way.tiling.overlap, "blend": way.tiling.blend, "radius": way.tiling.radius}
    return fit


def _trained(run: Run) -> dict[str, Any] | None:
    """Return the sizes of the images of train and val and their scale, by which far scales are noticed; or None."""
    sizes, scale = sizes_of_training(run.info), scale_of_training(run.info, network_size(run))
    if sizes is None or scale is None:
        return None
    return {"smallest": list(sizes[0]), "largest": list(sizes[1]), "scale": scale}


def way_of_contract(contract: dict[str, Any]) -> Way:
    """Return the way of images to the network that an export's contract holds."""
    fit = contract["fit"]
    tiles = {name: fit[name] for name in ("overlap", "blend", "radius") if name in fit}
    tiling = Tiling((fit["height"], fit["width"]), multiple=contract["input"]["size_multiple"], **tiles)
    return Way(fit["kind"], fit.get("scale", 1.0), "none", tiling)


def _images(run: Run) -> dict[str, Any] | None:
    """Return the run's `ImageFormat` as JSON; None is 8-bit RGB made of any file."""
    image_format = run.info.image_format
    if image_format is None:
        return None
    values = dataclasses.asdict(image_format)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def input_limits(run: Run) -> tuple[np.dtype, tuple[tuple[float, ...], tuple[float, ...]] | None]:
    """Return the data type of a graph's input, and the limits of intensity that the graph maps it from.

    Images of 8 bits are taken as they are, without limits. For deeper images with limits, the input is the numbers of
    the files: uint16 if they hold such numbers (if the run does not know it: if all limits are such numbers), otherwise
    float32. Where the limits belong to each
    image or file (`data.intensity` image-percentiles, or depth), the input is uint16 that was mapped outside.
    """
    image_format = run.info.image_format
    if image_format is None or image_format.bits == 8:
        return np.dtype(np.uint8), None
    if not image_format.high:
        return np.dtype(np.uint16), None
    limits = image_format.low, image_format.high
    if image_format.types:
        types = [image_format.types[channel] for channel in image_format.channels]
        fits = set(types) <= {"uint8", "uint16"}
    else:
        numbers = np.asarray(limits)
        fits = (numbers == np.rint(numbers)).all() and numbers.min() >= 0 and 255 < numbers.max() <= 65535
    return np.dtype(np.uint16 if fits else np.float32), limits
