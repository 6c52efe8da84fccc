"""The values that travel through the library, and the one exception that means "your input, not our code"."""

from typing import Any, NamedTuple

import numpy as np

PyTree = Any


class InputError(ValueError):
    """Something the user gave cannot be used: the message names it, the value found and the remedy.

    The command line prints it without a traceback; from Python it is an ordinary `ValueError`.
    """


class Sample(NamedTuple):
    """One image with its stacked class masks, on the host.

    Masks are membership in 256 steps: 0 is outside, 255 is inside, values between appear only where soft
    masks were asked for. Classes are independent channels and may overlap.
    """

    image: np.ndarray  # [h w 3] uint8, RGB
    mask: np.ndarray  # [h w k] uint8


class Batch(NamedTuple):
    """What one step consumes; the same container on the host (NumPy) and on the devices (`jax.Array`)."""

    image: Any  # [b h w 3] uint8, RGB
    label: Any  # [b h w k] uint8, 0 to 255
    weight: Any  # [b] float32: 1 for a sample, 0 for padding
