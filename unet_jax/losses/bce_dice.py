"""The training objective: weighted sum of the reduced terms."""

from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from unet_jax.losses.dice import batch_soft_dice_loss, class_soft_dice_loss, soft_dice_loss
from unet_jax.losses.pixel import bce_loss


class BceDice(NamedTuple):
    """Constants of `bce_dice_loss` with one Dice ratio for the whole batch."""

    bce_weight: float
    dice_weight: float
    dice_smooth: float

    def kwargs(self) -> dict[str, float]:
        """Arguments of `bce_dice_loss`."""
        return self._asdict()


PUBLIC_BCE_DICE: dict[str, BceDice] = {
    "petrosgk": BceDice(1.0, 1.0, 1.0),
    "killthekitten": BceDice(0.2, 0.8, 1.0),
    "selimsef": BceDice(0.5, 0.5, 1e-3),
}
"""What 'bce_dice' means in three public programs; the seed names it without saying which.

petrosgk/Kaggle-Carvana-Image-Masking-Challenge is where the seed's network comes from; `make_loss('bce_dice')` is a
function of killthekitten/kaggle-carvana-2017 and of selimsef/dsb2018_topcoders. The values of different programs cannot
be compared.
"""


def _weighted_mean(per_image: Float[Array, "b ..."], weight: Float[Array, " b"]) -> Float[Array, ""]:
    """Mean over images of positive weight; 0 when there is none."""
    per_image = jnp.mean(per_image, axis=tuple(range(1, per_image.ndim)))
    return jnp.sum(per_image * weight) / jnp.maximum(jnp.sum(weight), 1e-12)


def bce_dice_loss(
    logits: Float[Array, "b h w c"],
    labels: Float[Array, "b h w c"],
    weight: Float[Array, " b"],
    step: Any = None,
    *,
    bce_weight: float = 1.0,
    dice_weight: float = 1.0,
    dice_reduction: Literal["batch", "class", "image"] = "batch",
    dice_smooth: float = 1.0,
    num_subpixels: int = 1,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """bce_weight * mean BCE + dice_weight * mean soft Dice loss, and both terms by name.

    Args:
      logits: float32, one per class and pixel.
      labels: membership in [0, 1].
      weight: one per image; 0 leaves an image (padding) out.
      step: not used; here because objectives take it.
      bce_weight, dice_weight: factors of the two terms; `PUBLIC_BCE_DICE` has those of public programs.
      dice_reduction: what one Dice ratio is taken over; see `unet_jax.losses.dice`.
      dice_smooth: added to both sides of the Dice ratio.
      num_subpixels: pixels in a block, where logits and labels are packed.

    Returns:
      The scalar to minimise, and `{"bce": ..., "dice_loss": ...}`, all float32.
    """
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
            raise ValueError(f"dice_reduction is {dice_reduction!r}, but must be 'batch', 'class' or 'image'.")
    return bce_weight * bce + dice_weight * dice, {"bce": bce, "dice_loss": dice}
