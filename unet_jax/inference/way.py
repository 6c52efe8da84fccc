"""The way of images to the network, resolved from the settings of prediction and the run (`PredictConfig`)."""

import dataclasses
import math
from typing import Any

from unet_jax._types import InputError
from unet_jax.config.predict import PredictConfig
from unet_jax.data.fit import scaled_size
from unet_jax.data.images.rows import ImageRows
from unet_jax.devices.mesh import check_not_forked
from unet_jax.inference.scale import scale_of_training, scale_warning, trained_fit
from unet_jax.model.receptive_field import receptive_radius
from unet_jax.program.symmetries import Augmentation
from unet_jax.program.tiles import Tiling
from unet_jax.runs.ensemble import Trained, members_of
from unet_jax.runs.load import Run


@dataclasses.dataclass(frozen=True)
class Way:
    """The way from images to probabilities for one run or ensemble, without anything left to choose."""

    fit: str
    """stretch, pad, crop or whole."""
    scale: float
    """Size at which crop and whole look at an image, as a multiple of its own."""
    tta: Augmentation
    """Test-time augmentation."""
    tiling: Tiling
    """Tiles of crop."""


def way_of(run: Trained, how: PredictConfig) -> Way:
    """Resolve the settings of prediction for a run, or for runs that predict together.

    Args:
      run: trained run, or ensemble. All of its runs see the same tiles.
      how: settings of prediction.

    Raises:
      InputError: a setting has no effect, or cannot be used with the run's image size, or the runs of an ensemble were
        trained at different scales.
    """
    check_not_forked()
    first, *others = members_of(run)
    way = _way_of_one(first, how)
    for member in others:
        other = _way_of_one(member, how)
        if way.fit in ("crop", "whole") and other.scale != way.scale:
            raise InputError(
                f"{member.path}: was trained at the scale {other.scale:g}, but {first.path} at {way.scale:g}. Choose "
                f"one scale for both: --scale {way.scale:g}."
            )
        radii = way.tiling.radius, other.tiling.radius
        tiling = dataclasses.replace(
            way.tiling,
            multiple=math.lcm(way.tiling.multiple, other.tiling.multiple),
            radius=None if radii[0] is None or radii[1] is None else max(radii[0], radii[1]),
        )
        way = dataclasses.replace(way, tiling=tiling)
    return way


def _way_of_one(run: Run, how: PredictConfig) -> Way:
    """Resolve the settings of prediction for one run."""
    data, model = run.config.data, run.config.model
    fit = trained_fit(run.info) if how.fit == "as-trained" else how.fit
    said = f"the fit is {fit}" + (" (that of the run)" if how.fit == "as-trained" else "")
    if how.scale is not None and fit not in ("crop", "whole"):
        raise InputError(f"--scale is {how.scale}, but {said}, which does not use it: add --fit crop.")
    unused = [name for name in ("overlap", "blend") if getattr(how, name) != getattr(PredictConfig(), name)]
    if unused and fit != "crop":
        raise InputError(f"--{unused[0]} is {getattr(how, unused[0])}, but {said}, which has no tiles: add --fit crop.")
    height, width = data.height_and_width
    if how.tta == "d4" and (fit == "whole" or height != width):
        what = "--fit whole keeps the shape of each image" if fit == "whole" else f"the network sees {width}x{height}"
        raise InputError(f"--tta is d4, which turns images by 90 degrees, but {what}: use --tta flips.")
    scale = how.scale if how.scale is not None else scale_of_training(run.info, (height, width)) or 1.0
    radius = None if run.own.network is not None else receptive_radius(model)
    tiling = Tiling((height, width), how.overlap, how.blend, model.size_multiple, radius)
    return Way(fit, scale, how.tta, tiling)


def far_scale(run: Trained, way: Way, height: int, width: int) -> str:
    """Say that an image comes to a network at another scale than that of training (`scale_warning`), or nothing."""
    facts = (member.info for member in members_of(run))
    texts = (scale_warning(info, way.fit, way.scale, way.tiling.size, height, width) for info in facts)
    return next(filter(None, texts), "")


def seen_size(image: ImageRows, way: Way) -> tuple[int, int]:
    """Return the height and width that an image is resized to by stretch and pad.

    With pad it is as large as fits with its aspect kept. The rest, at the bottom or on the right, is mirrored.
    """
    height, width = way.tiling.size
    if way.fit == "stretch":
        return height, width
    scale = min(height / image.height, width / image.width)
    return min(height, max(1, round(image.height * scale))), min(width, max(1, round(image.width * scale)))


def seen_area(height: int, width: int, way: Way) -> int:
    """Return the number of pixels of an image at the size at which the network sees it."""
    of_image = ImageRows(height, width, lambda: iter(()))
    size = seen_size(of_image, way) if way.fit in ("stretch", "pad") else scaled_size(height, width, way.scale)
    return size[0] * size[1]


def way_facts(way: Way) -> dict[str, Any]:
    """Return what probabilities depend on, apart from images and weights, as values for JSON."""
    tiles = {"overlap": way.tiling.overlap, "blend": way.tiling.blend} if way.fit == "crop" else {}
    scale = {"scale": way.scale} if way.fit in ("crop", "whole") else {}
    return {"fit": way.fit, **scale, **tiles, "tta": way.tta}
