"""The shapes of the batches that a config's training step takes, and the devices that they can be divided over."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from unet_jax._types import Batch, InputError
from unet_jax.config import Config
from unet_jax.config.packing import Factor, Packing, num_subpixels
from unet_jax.devices.mesh import batch_shardings, check_batch_size, check_rows


def check_divisible(config: Config, mesh: Mesh) -> None:
    """Raise `InputError` if batches, micro-batches or rows of images cannot be divided evenly over the devices."""
    check_batch_size(config.train.batch_size, mesh)
    shares, num_parts = mesh.shape["data"], config.train.accumulation
    unit = shares * num_parts
    if config.train.batch_size % unit:
        raise InputError(
            f"train.batch_size is {config.train.batch_size}, but must be a multiple of {unit}, so that each of the "
            f"{num_parts} micro-batches (train.accumulation) has images for each of the {shares} devices: "
            f"use --train.batch-size {-(-config.train.batch_size // unit) * unit}, or a smaller --train.accumulation."
        )
    check_rows(config.data.height_and_width[0], config.model.size_multiple, mesh)


def batch_shapes(
    config: Config,
    num_classes: int,
    packing: Packing,
    mesh: Mesh,
    *,
    num_channels: int = 3,
    image_dtype: Any = np.uint8,
    has_valid: bool = False,
) -> Batch:
    """Return the shapes, dtypes and shardings of the batch that a training step takes.

    Image and label are packed, the label is uint8, and the weights are float32.

    Args:
      config: settings of the run.
      num_classes: output channels.
      packing: factors that images and labels are packed by.
      mesh: devices.
      num_channels: channels of the images.
      image_dtype: type of their pixels, uint8 or uint16.
      has_valid: whether the batches say which pixels are ignored.

    Raises:
      InputError: the batch cannot be divided evenly over micro-batches and devices, or the images' rows over devices.
    """
    check_divisible(config, mesh)
    shardings = batch_shardings(mesh)
    (height, width), batch_size = config.data.height_and_width, config.train.batch_size

    def pixels(channels: int, factor: Factor, dtype: Any) -> jax.ShapeDtypeStruct:
        shape = (batch_size, height // factor[0], width // factor[1], num_subpixels(factor) * channels)
        return jax.ShapeDtypeStruct(shape, dtype, sharding=shardings.image)

    weight = jax.ShapeDtypeStruct((batch_size,), np.float32, sharding=shardings.weight)
    image = pixels(num_channels, packing.image, image_dtype)
    label = pixels(num_classes, packing.label, np.uint8)
    return Batch(image, label, weight, label if has_valid else None)
