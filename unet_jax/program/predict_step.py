"""Jitted steps of prediction: probabilities of whole images, or logits of tiles, averaged over symmetries."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from unet_jax._types import PyTree
from unet_jax.program.steps import ApplyFn, PredictStep, unit_range
from unet_jax.program.symmetries import Augmentation, symmetries_of

LogitsStep = Callable[[PyTree, PyTree, Array], Array]
"""Function `(params, batch_stats, images) -> logits`."""


def make_predict_step(apply_fn: ApplyFn, *, size_multiple: int, tta: Augmentation = "none") -> PredictStep:
    """Make the jitted prediction step, for images of any height and width.

    If the network cannot take a size, images are padded at the bottom and on the right by mirroring, and the
    probabilities are cropped. Each new shape of images is compiled once.

    Args:
      apply_fn: network, as `(variables, images, train) -> logits`.
      size_multiple: number that height and width must be multiples of (`ModelConfig.size_multiple`).
      tta: test-time augmentation, as in `make_logits_step`.

    Returns:
      A function `(params, batch_stats, images) -> probabilities`, from `[b h w 3]` uint8 RGB to `[b h w k]` float32 in
      [0, 1].

    Example:
      >>> import jax.numpy as jnp
      >>> from unet_jax.program.predict_step import make_predict_step
      >>> network = lambda variables, images, train: images[..., :2]
      >>> step = make_predict_step(network, size_multiple=16)
      >>> step({}, {}, jnp.zeros((1, 5, 18, 3), jnp.uint8)).shape
      (1, 5, 18, 2)
    """
    logits_of = _make_logits(apply_fn, size_multiple, tta)

    def predict_step(params: PyTree, batch_stats: PyTree, images: UInt8[Array, "b h w c"]) -> Float[Array, "b h w k"]:
        return jax.nn.sigmoid(logits_of(params, batch_stats, images))

    return jax.jit(predict_step)


def make_logits_step(apply_fn: ApplyFn, *, size_multiple: int, tta: Augmentation = "none") -> LogitsStep:
    """Make the jitted step that computes logits, which can be blended with those of overlapping tiles.

    Args:
      apply_fn, size_multiple: the same as in `make_predict_step`.
      tta: symmetries of the images; logits are transformed back and averaged over them in float32. All of them are
        computed as one batch. "d4" needs square images.

    Returns:
      A function `(params, batch_stats, images) -> logits`, from `[b h w c]` uint8 or uint16 to `[b h w k]` float32.

    Example:
      >>> import jax.numpy as jnp
      >>> from unet_jax.program.predict_step import make_logits_step
      >>> network = lambda variables, images, train: images * jnp.arange(2.0).reshape(1, 1, 2, 1)  # right half only
      >>> step = make_logits_step(network, size_multiple=1, tta="flips")
      >>> step({}, {}, jnp.full((1, 1, 2, 1), 255, jnp.uint8)).ravel().tolist()
      [0.5, 0.5]
    """
    return jax.jit(_make_logits(apply_fn, size_multiple, tta))


def _make_logits(apply_fn: ApplyFn, size_multiple: int, tta: Augmentation) -> LogitsStep:
    """Make the function that pads images, computes logits, averages them over symmetries, and crops them."""
    symmetries = symmetries_of(tta)

    def logits_step(params: PyTree, batch_stats: PyTree, images: UInt8[Array, "b h w c"]) -> Float[Array, "b h w k"]:
        batch, height, width = images.shape[:3]
        pad_h, pad_w = -height % size_multiple, -width % size_multiple
        padded = jnp.pad(images, ((0, 0), (0, pad_h), (0, pad_w), (0, 0)), mode="symmetric")
        variables = {"params": params, "batch_stats": batch_stats}
        if len(symmetries) == 1:
            return apply_fn(variables, unit_range(padded), False)[:, :height, :width, :]
        # One after the other in the second axis: so each device keeps its images if the first axis is divided.
        views = jnp.stack([symmetry.apply(padded) for symmetry in symmetries], axis=1)
        logits = apply_fn(variables, unit_range(views.reshape(-1, *padded.shape[1:])), False)
        logits = logits.reshape(batch, len(symmetries), *logits.shape[1:])
        upright = [symmetry.undo(logits[:, i]) for i, symmetry in enumerate(symmetries)]
        return (sum(upright[1:], upright[0]) / len(symmetries))[:, :height, :width, :]

    return logits_step
