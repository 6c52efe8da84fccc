"""Estimates for many combinations of batch size, packing and rematerialisation, and the best of them."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from etils import epath

from unet_jax._types import InputError
from unet_jax.config import Config
from unet_jax.config.dicts import replace
from unet_jax.plan.estimate import DoesNotFitError, Estimate, estimate
from unet_jax.plan.targets import Target

Row = tuple[dict[str, Any], Estimate | str]
"""A variant (`images_per_device`, `packing`, `remat`), and its estimate or the reason why there is none."""


def sweep(
    config: Config,
    num_classes: int,
    target: Target,
    *,
    images_per_device: Sequence[int],
    packings: Sequence[str],
    remats: Sequence[str],
    num_channels: int = 3,
    cache: epath.Path | None = None,
    on_variant: Callable[[dict[str, Any]], None] = lambda variant: None,
) -> list[Row]:
    """Estimate the training step for combinations of images per device, packing and rematerialisation.

    Args:
      config: settings of the run; the combinations replace `train.batch_size`, `model.packing` and `model.remat`.
      num_classes: number of output channels.
      target: devices to compile for, from `tpu_target`, `gpu_target` or `local_target`.
      images_per_device: numbers of images on each device.
      packings: values of `model.packing`.
      remats: values of `model.remat`, in the order of more and more recomputation. Recomputation costs cycles, so a
        value is compiled only if those before it do not fit into the device's memory. If the size of that memory is
        not known, all values are compiled.
      cache: folder of finished estimates. With it, an interrupted sweep continues where it stopped.
      on_variant: function that is called with each variant before it is compiled.

    Returns:
      The variants with their estimates, in the order of compilation.
    """
    rows: list[Row] = []
    for images, packing in itertools.product(images_per_device, packings):
        for remat in remats:
            variant = {"images_per_device": images, "packing": packing, "remat": remat}
            on_variant(variant)
            changed = replace(config, overrides_of(variant, len(target.devices)))
            try:
                result = estimate(changed, num_classes, target, num_channels=num_channels, cache=cache)
            except DoesNotFitError:
                rows.append((variant, "does not fit"))
                continue
            rows.append((variant, result))
            if result.fits:
                break
    return rows


def overrides_of(variant: dict[str, Any], num_devices: int) -> dict[str, Any]:
    """Return a variant as settings of a config, by dotted name.

    Example:
      >>> overrides_of({"images_per_device": 8, "packing": "2", "remat": "none"}, num_devices=4)
      {'train.batch_size': 32, 'model.packing': '2', 'model.remat': 'none'}
    """
    return {
        "train.batch_size": variant["images_per_device"] * num_devices,
        "model.packing": variant["packing"],
        "model.remat": variant["remat"],
    }


def recommend(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the variant with the fewest cycles per image among those that fit into the device's memory.

    Bytes accessed per image are compared instead if the compiler estimates no cycles. A variant counts as fitting if
    the size of the memory is not known.

    Raises:
      InputError: no variant fits.
    """

    def cost(row: Row) -> float:
        result = row[1]
        assert isinstance(result, Estimate)
        return (result.cycles or result.bytes_accessed) / result.images_per_device

    fitting = [row for row in rows if isinstance(row[1], Estimate) and row[1].fits is not False]
    if not fitting:
        raise InputError(
            "none of the variants fits the device: use fewer images per device, --model.remat full, or "
            "--train.accumulation."
        )
    return min(fitting, key=cost)[0]
