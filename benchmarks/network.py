"""The U-Net as a list of its convolutions, with its number of parameters and of FLOPs.

This module imports neither the library nor JAX, so that all implementations can be compared with it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Network(NamedTuple):
    """U-Net with two or more 3x3 convolutions and batch normalisations per stage, like the Keras original."""

    widths: tuple[int, ...] = (8, 16, 32, 64, 128, 256, 512)
    center_width: int = 1024
    num_classes: int = 2
    num_convs_down: int = 2
    num_convs_up: int = 3


class Convolution(NamedTuple):
    """One convolution of the network; level 0 has the highest resolution."""

    kernel_size: int
    channels_in: int
    channels_out: int
    level: int
    normalized: bool


def convolutions(network: Network) -> list[Convolution]:
    """Return all convolutions in the order in which data flows."""
    layers, channels, center = [], 3, len(network.widths)

    def stage(channels_in: int, channels: int, count: int, level: int) -> int:
        for _ in range(count):
            layers.append(Convolution(3, channels_in, channels, level, True))
            channels_in = channels
        return channels

    for level, width in enumerate(network.widths):
        channels = stage(channels, width, network.num_convs_down, level)
    channels = stage(channels, network.center_width, network.num_convs_down, center)
    for level, width in reversed(list(enumerate(network.widths))):
        channels = stage(width + channels, width, network.num_convs_up, level)
    layers.append(Convolution(1, channels, network.num_classes, 0, False))
    return layers


Size = int | tuple[int, int]
"""Side of a square, or height and width, in pixels."""


def height_and_width(size: Size) -> tuple[int, int]:
    """Return height and width of a size."""
    return size if isinstance(size, tuple) else (size, size)


def _num_pixels(size: Size) -> int:
    height, width = height_and_width(size)
    return height * width


def forward_flops(network: Network, image_size: Size) -> float:
    """Return the FLOPs of the convolutions for one image: one multiplication and one addition per weight and pixel."""
    return sum(
        2.0 * c.kernel_size**2 * c.channels_in * c.channels_out * _num_pixels(image_size) / 4**c.level
        for c in convolutions(network)
    )


def training_flops(network: Network, image_size: Size) -> float:
    """Return the FLOPs of a training step for one image.

    They are those of the forward pass, of the gradients of the inputs (except the image) and of the gradients of the
    weights. Each of the three costs as much as the forward pass.
    """
    first = 2.0 * 9 * 3 * network.widths[0] * _num_pixels(image_size)
    return 3.0 * forward_flops(network, image_size) - first


def num_parameters(network: Network) -> int:
    """Return the number of parameters that an optimizer trains: kernels, biases, scales and offsets."""
    return sum(
        c.kernel_size**2 * c.channels_in * c.channels_out + c.channels_out * (3 if c.normalized else 1)
        for c in convolutions(network)
    )


def random_weights(network: Network, seed: int = 0) -> list[np.ndarray]:
    """Return random weights like those of a trained network, in Keras's order.

    For each convolution these are kernel (HWIO) and bias, followed by scale, offset, mean and variance of its
    normalisation. Offsets are positive, so that most inputs of a ReLU are positive. With offsets around 0, each of
    twenty normalisations would make rounding errors larger, and two correct implementations would end far apart.
    """
    rng = np.random.default_rng(seed)
    arrays: list[np.ndarray] = []
    for c in convolutions(network):
        fan_in, n = c.kernel_size**2 * c.channels_in, c.channels_out
        spread = np.sqrt(2.0 / fan_in) * (1.0 if c.normalized else 0.3)  # logits of a few units
        arrays += [rng.normal(0.0, spread, (c.kernel_size, c.kernel_size, c.channels_in, n)), rng.normal(0.0, 0.1, n)]
        if c.normalized:
            arrays += [
                rng.normal(1.0, 0.2, n),
                rng.normal(1.0, 0.2, n),
                rng.normal(0.0, 0.1, n),
                rng.uniform(0.5, 2, n),
            ]
    return [a.astype(np.float32) for a in arrays]


def random_pixels(batch_size: int, image_size: Size, num_classes: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return random images `[b h w 3]` and masks `[b h w k]` of 0 and 255, uint8."""
    rng = np.random.default_rng(seed)
    shape = (batch_size, *height_and_width(image_size))
    image = rng.integers(0, 256, (*shape, 3), np.uint8)
    return image, rng.integers(0, 2, (*shape, num_classes), np.uint8) * np.uint8(255)


def by_stage(network: Network, arrays: Sequence[np.ndarray]) -> dict[str, list[np.ndarray]]:
    """Return the arrays of each convolution by its name in the library: "down0/0", ..., "center/0", ..., "head"."""
    names = [f"down{i}/{j}" for i in range(len(network.widths)) for j in range(network.num_convs_down)]
    names += [f"center/{j}" for j in range(network.num_convs_down)]
    names += [f"up{i}/{j}" for i in range(len(network.widths)) for j in range(network.num_convs_up)]
    remaining, stages = iter(arrays), {}
    for name, c in zip([*names, "head"], convolutions(network), strict=True):
        stages[name] = [next(remaining) for _ in range(6 if c.normalized else 2)]
    return stages
