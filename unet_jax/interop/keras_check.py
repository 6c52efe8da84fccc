"""Comparison of an imported network with probabilities that the Keras program computed itself."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Float, UInt8

from unet_jax._types import InputError
from unet_jax.data.images.files import read_image, read_pixels
from unet_jax.interop.keras_network import Network
from unet_jax.model import UNet
from unet_jax.program.steps import unit_range

TOLERANCE = 1e-3
"""Largest difference of probabilities at which two networks count as the same; rounding is far smaller."""


class Check(NamedTuple):
    """Image, and the probabilities that the Keras program computed for it."""

    image: epath.Path
    """Image of the size at which the network saw it."""
    probs: epath.Path
    """Array that numpy.save wrote, `[h w k]` or `[1 h w k]`."""


def check_network(network: Network, check: Check, file: epath.Path) -> float:
    """Compare a network with probabilities that the Keras program computed for the same image.

    Args:
      network: imported network.
      check: files of the image and of the probabilities.
      file: Keras file, for messages.

    Returns:
      The largest difference of two probabilities.

    Raises:
      InputError: they differ by more than `TOLERANCE`, or the two files do not fit each other or the network.
    """
    probs = _read_probs(check.probs, network.num_classes)
    gray = network.num_channels == 1
    pixels = read_pixels(check.image) if gray else read_image(check.image)
    if gray and (pixels.shape[-1] != 1 or pixels.dtype != np.uint8):
        raise InputError(
            f"{check.image}: has {pixels.shape[-1]} channels of {pixels.dtype}, but the network reads gray."
        )
    (height, width), multiple = pixels.shape[:2], network.config.size_multiple
    if probs.shape[:2] != (height, width) or height % multiple or width % multiple:
        raise InputError(
            f"{check.image}: is {width}x{height} pixels and {check.probs} is {probs.shape[1]}x{probs.shape[0]}, but "
            f"both must have the size at which the network saw the image, with sides that {multiple} divides. Save the "
            f"image after it was resized (PNG), and the probabilities as the network returned them."
        )
    apply = jax.jit(lambda x: jax.nn.sigmoid(_logits(network, x)))

    def difference(image: UInt8[np.ndarray, "h w c"]) -> Float[np.ndarray, "h w k"]:
        return np.abs(np.asarray(apply(jnp.asarray(image[None])))[0] - probs)

    found = difference(pixels)
    largest = float(found.max())
    if largest <= TOLERANCE:
        return largest
    y, x, k = np.unravel_index(int(found.argmax()), found.shape)
    others = (
        ""
        if gray or difference(pixels[..., ::-1]).max() > TOLERANCE
        else (" With the colours in the other order they agree: use the other --channels.")
    )
    raise InputError(
        f"{file}: its probabilities differ from {check.probs} by up to {largest:.3g} (row {y}, column {x}, output {k}: "
        f"{probs[y, x, k]:.4f} there).{others or _HINT} Nothing was imported."
    )


_HINT = (
    " The Keras program may connect its layers in another way, scale images other than by 1/255, or the probabilities "
    "may belong to another image."
)


def _logits(network: Network, images: jax.Array) -> jax.Array:
    variables = {"params": network.params, "batch_stats": network.batch_stats}
    return UNet(network.config, network.num_classes).apply(variables, unit_range(images), False)  # type: ignore[return-value]


def _read_probs(path: epath.Path, num_classes: int) -> Float[np.ndarray, "h w k"]:
    """Read probabilities that `numpy.save` wrote; raise `InputError` for what cannot be those of the network."""
    try:
        probs = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: is not an array that NumPy can load ({error}). Save it with numpy.save.") from error
    shape = getattr(probs, "shape", ())
    probs = probs[0] if len(shape) == 4 and shape[0] == 1 else probs
    probs = probs[..., None] if len(shape) == 2 else probs
    if not isinstance(probs, np.ndarray) or probs.ndim != 3 or probs.shape[-1] != num_classes:
        raise InputError(f"{path}: holds {shape}, but the network returns [height width {num_classes}] for an image.")
    if probs.dtype.kind != "f" or not ((probs >= 0) & (probs <= 1)).all():
        raise InputError(f"{path}: holds numbers that are no probabilities. Save what follows the sigmoid.")
    return probs
