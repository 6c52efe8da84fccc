"""The default training objective: the weighted sum of binary cross entropy and soft Dice loss, each reduced."""

from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from unet_jax.losses._inputs import at_pixels, cell_weight, full_weight
from unet_jax.losses.dice import batch_soft_dice_loss, class_soft_dice_loss, soft_dice_loss
from unet_jax.losses.pixel import bce_loss

_TINY = 1e-12


class BceDice(NamedTuple):
    """Constants of `bce_dice_loss` for `dice_reduction="batch"`: one Dice ratio for the whole batch."""

    bce_weight: float
    """Factor of the binary cross entropy."""
    dice_weight: float
    """Factor of the Dice loss."""
    dice_smooth: float
    """Number added to numerator and denominator of the Dice ratio."""

    def kwargs(self) -> dict[str, float]:
        """Return the constants as keyword arguments of `bce_dice_loss`."""
        return self._asdict()


PUBLIC_BCE_DICE: dict[str, BceDice] = {
    "petrosgk": BceDice(1.0, 1.0, 1.0),
    "killthekitten": BceDice(0.2, 0.8, 1.0),
    "selimsef": BceDice(0.5, 0.5, 1e-3),
}
"""Constants of the loss called 'bce_dice' in three public programs. The Keras original names it and does not show it.

The network of the Keras original comes from petrosgk/Kaggle-Carvana-Image-Masking-Challenge; `make_loss('bce_dice')` is
a function of killthekitten/kaggle-carvana-2017 and of selimsef/dsb2018_topcoders. Loss values of different programs
cannot be compared."""


def _weighted_mean(per_image: Float[Array, "b ..."], weight: Float[Array, " b"]) -> Float[Array, ""]:
    """Return the weighted mean over images of each image's own mean; 0 if all weights are 0."""
    per_image = jnp.mean(per_image, axis=tuple(range(1, per_image.ndim)))
    return jnp.sum(per_image * weight) / jnp.maximum(jnp.sum(weight), _TINY)


def _dice_of_pixels(
    logits: Float[Array, "b h w c"],
    labels: Float[Array, "b h w c"],
    weight: Float[Array, "b h w c"],
    reduction: str,
    smooth: float,
    num_subpixels: int,
) -> Float[Array, ""]:
    """Return the mean Dice loss with a weight for each pixel; a ratio counts with the largest weight of its pixels."""
    options = {"smooth": smooth, "num_subpixels": num_subpixels}
    if reduction == "batch":
        return batch_soft_dice_loss(logits, labels, weight, **options)
    if reduction not in ("class", "image"):
        raise _unknown(reduction)
    cell = cell_weight(weight, num_subpixels)
    cell = jnp.max(cell, axis=0) if reduction == "class" else cell
    own = weight / at_pixels(jnp.where(cell > 0.0, cell, 1.0), weight.shape, num_subpixels)
    loss = class_soft_dice_loss if reduction == "class" else soft_dice_loss
    return jnp.sum(cell * loss(logits, labels, weight=own, **options)) / jnp.maximum(jnp.sum(cell), _TINY)


def _unknown(reduction: str) -> ValueError:
    return ValueError(f"dice_reduction is {reduction!r}, but must be 'batch', 'class' or 'image'.")


def bce_dice_loss(
    logits: Float[Array, "b h w c"],
    labels: Float[Array, "b h w c"],
    weight: Float[Array, " b"] | Float[Array, "b h w c"],
    step: Any = None,
    *,
    bce_weight: float = 1.0,
    dice_weight: float = 1.0,
    dice_reduction: Literal["batch", "class", "image"] = "batch",
    dice_smooth: float = 1.0,
    num_subpixels: int = 1,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Compute the default objective: binary cross entropy plus soft Dice loss, and both terms by name.

    Formula: bce_weight * mean(softplus(x) - x t) + dice_weight * mean(1 - (2 I + dice_smooth) / (P + T + dice_smooth)),
    with x = logits, t = labels, and I, P, T as in `unet_jax.losses.dice`.

    Args:
      logits: `[b h w c]`, one per class and pixel (and sub-pixel, if packed), any float dtype.
      labels: `[b h w c]`, membership in [0, 1].
      weight: `[b]`, one number per image; 0 leaves an image (padding) out. With more axes it broadcasts to the logits;
        0 = ignored. Classes, or images and classes, without a pixel of positive weight have no part in a mean.
      step: unused; accepted because objectives are called with the step.
      bce_weight, dice_weight: factors of the two terms; `PUBLIC_BCE_DICE` has those of public programs.
      dice_reduction: what one Dice ratio is taken over: "batch" (all pixels and classes of the batch), "class" (one
        ratio per class over the batch) or "image" (one per image and class). Several ratios are averaged.
      dice_smooth: number added to numerator and denominator of the Dice ratio.
      num_subpixels: number of pixels in a block if logits and labels are packed, so that c = num_subpixels * k.

    Returns:
      The scalar to minimise, and `{"bce": ..., "dice_loss": ...}` with the two terms before their factors. All are
      float32 of shape `[]`.

    Raises:
      ValueError: `dice_reduction` is unknown, or logits and labels differ in shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from unet_jax import losses
      >>> logits = jnp.array([20.0, 20.0, -20.0]).reshape(1, 1, 3, 1)  # one hit, one false positive
      >>> labels = jnp.array([1.0, 0.0, 0.0]).reshape(1, 1, 3, 1)
      >>> loss, terms = losses.bce_dice_loss(logits, labels, jnp.ones(1))
      >>> print(f"{float(loss):.3f} = {float(terms['bce']):.3f} + {float(terms['dice_loss']):.3f}")
      6.917 = 6.667 + 0.250
    """
    if jnp.ndim(weight) > 1:
        full = full_weight(weight, logits.shape, num_subpixels)
        bce = jnp.sum(bce_loss(logits, labels, weight=full)) / jnp.maximum(jnp.sum(full), _TINY)
        dice = _dice_of_pixels(logits, labels, full, dice_reduction, dice_smooth, num_subpixels)
        return bce_weight * bce + dice_weight * dice, {"bce": bce, "dice_loss": dice}
    bce = _weighted_mean(bce_loss(logits, labels), weight)
    match dice_reduction:
        case "batch":
            dice = batch_soft_dice_loss(logits, labels, weight, smooth=dice_smooth, num_subpixels=num_subpixels)
        case "class":
            dice = jnp.mean(
                class_soft_dice_loss(logits, labels, weight, smooth=dice_smooth, num_subpixels=num_subpixels)
            )
        case "image":
            dice = _weighted_mean(
                soft_dice_loss(logits, labels, smooth=dice_smooth, num_subpixels=num_subpixels), weight
            )
        case _:
            raise _unknown(dice_reduction)
    return bce_weight * bce + dice_weight * dice, {"bce": bce, "dice_loss": dice}
