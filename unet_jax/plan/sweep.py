"""Many variants of a config compiled, and the one to use."""

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
"""A variant, and its estimate or why there is none."""


def sweep(
    config: Config,
    num_classes: int,
    target: Target,
    *,
    images_per_device: Sequence[int],
    packings: Sequence[str],
    remats: Sequence[str],
    cache: epath.Path | None = None,
    on_variant: Callable[[dict[str, Any]], None] = lambda variant: None,
) -> list[Row]:
    """The training step of the combinations; with a cache, an interrupted sweep continues where it was.

    Of `remats`, which compute more and more again, the next is compiled only where those before do not fit: it would
    cost more cycles. (Where the device's memory is not known, all are.) `on_variant` is called before each.
    """
    rows: list[Row] = []
    for images, packing in itertools.product(images_per_device, packings):
        for remat in remats:
            variant = {"images_per_device": images, "packing": packing, "remat": remat}
            on_variant(variant)
            changed = replace(config, overrides_of(variant, len(target.devices)))
            try:
                found = estimate(changed, num_classes, target, cache=cache)
            except DoesNotFitError:
                rows.append((variant, "does not fit"))
                continue
            rows.append((variant, found))
            if found.fits:
                break
    return rows


def overrides_of(variant: dict[str, Any], num_devices: int) -> dict[str, Any]:
    """A variant as settings of a config."""
    return {
        "train.batch_size": variant["images_per_device"] * num_devices,
        "model.packing": variant["packing"],
        "model.remat": variant["remat"],
    }


def recommend(rows: Sequence[Row]) -> dict[str, Any]:
    """The variant with the fewest cycles per image (bytes, where a compiler gives no cycles) among those that fit.

    Raises:
      InputError: none fits.
    """

    def cost(row: Row) -> float:
        found = row[1]
        assert isinstance(found, Estimate)
        return (found.cycles or found.bytes_accessed) / found.images_per_device

    fitting = [row for row in rows if isinstance(row[1], Estimate) and row[1].fits is not False]
    if not fitting:
        raise InputError(
            "none of the variants fits the device: use fewer images per device, --model.remat full, or "
            "--train.accumulation."
        )
    return min(fitting, key=cost)[0]
