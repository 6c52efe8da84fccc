"""The U-Net as a list of its convolutions: what every implementation must agree on, and how much work it is.

Knows nothing of the library and nothing of JAX, so that it can be held against all implementations.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Network(NamedTuple):
    """Two or more 3x3 convolutions with batch normalisation per stage, as in the Keras original."""

    widths: tuple[int, ...] = (8, 16, 32, 64, 128, 256, 512)
    center_width: int = 1024
    num_classes: int = 2
    num_convs_down: int = 2
    num_convs_up: int = 3


class Convolution(NamedTuple):
    kernel_size: int
    channels_in: int
    channels_out: int
    level: int
    normalized: bool


def convolutions(network: Network) -> list[Convolution]:
    """In the order in which data flows."""
    found, channels, center = [], 3, len(network.widths)

    def stage(channels_in: int, channels: int, count: int, level: int) -> int:
        for _ in range(count):
            found.append(Convolution(3, channels_in, channels, level, True))
            channels_in = channels
        return channels

    for level, width in enumerate(network.widths):
        channels = stage(channels, width, network.num_convs_down, level)
    channels = stage(channels, network.center_width, network.num_convs_down, center)
    for level, width in reversed(list(enumerate(network.widths))):
        channels = stage(width + channels, width, network.num_convs_up, level)
    found.append(Convolution(1, channels, network.num_classes, 0, False))
    return found


def forward_flops(network: Network, image_size: int) -> float:
    """Of the convolutions for one image: a multiplication and an addition for each weight and pixel."""
    return sum(
        2.0 * c.kernel_size**2 * c.channels_in * c.channels_out * (image_size / 2**c.level) ** 2
        for c in convolutions(network)
    )


def training_flops(network: Network, image_size: int) -> float:
    """Forward, and a gradient of inputs (but not of the image) and of weights, each as much as forward."""
    first = 2.0 * 9 * 3 * network.widths[0] * image_size**2
    return 3.0 * forward_flops(network, image_size) - first


def num_parameters(network: Network) -> int:
    """What an optimizer trains: kernels, biases, scales and offsets."""
    return sum(
        c.kernel_size**2 * c.channels_in * c.channels_out + c.channels_out * (3 if c.normalized else 1)
        for c in convolutions(network)
    )


def random_weights(network: Network, seed: int = 0) -> list[np.ndarray]:
    """As after some training, in Keras's order: kernel (HWIO) and bias, and scale, offset, mean and variance.

    Offsets are positive, which keeps most of what a layer computes on the sloping side of its ReLU: about 0, each of
    twenty normalisations makes rounding errors larger, and two right implementations end far apart.
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


def random_pixels(batch_size: int, image_size: int, num_classes: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """uint8 images, and masks of 0 and 255."""
    rng = np.random.default_rng(seed)
    shape = (batch_size, image_size, image_size)
    image = rng.integers(0, 256, (*shape, 3), np.uint8)
    return image, rng.integers(0, 2, (*shape, num_classes), np.uint8) * np.uint8(255)


def by_stage(network: Network, arrays: Sequence[np.ndarray]) -> dict[str, list[np.ndarray]]:
    """The arrays of each convolution under the name that the library gives it: "down0/0", ..., "center/0", "head"."""
    names = [f"down{i}/{j}" for i in range(len(network.widths)) for j in range(network.num_convs_down)]
    names += [f"center/{j}" for j in range(network.num_convs_down)]
    names += [f"up{i}/{j}" for i in range(len(network.widths)) for j in range(network.num_convs_up)]
    remaining, found = iter(arrays), {}
    for name, c in zip([*names, "head"], convolutions(network), strict=True):
        found[name] = [next(remaining) for _ in range(6 if c.normalized else 2)]
    return found
