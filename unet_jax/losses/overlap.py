"""Soft Dice in its three reductions: one value per image and class, per class, or for the whole batch.

All use 1 - (2 I + smooth) / (P + T + smooth) with I = sum p t, P = sum p, T = sum t and p = sigmoid(logits), after
Milletari et al., V-Net, 2016 (arXiv:1606.04797), with P and T not squared. They differ in what the sums run over, and
so in what a rare class or a nearly empty image weighs. `weight` is one number per image; an image of weight 0 takes
no part in sums that run over the batch.

With `num_subpixels` above 1 the arrays are packed (`unet_jax.model.packing`): their channels are (sub-pixel, class),
and the sums run over sub-pixels too.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def _sums(
    logits: Float[Array, "*b h w c"], labels: Float[Array, "*b h w c"], num_subpixels: int
) -> tuple[Float[Array, "*b k"], Float[Array, "*b k"]]:
    """I and P + T per image and class."""
    probs = jax.nn.sigmoid(logits)
    return sum_of_pixels(probs * labels, num_subpixels), sum_of_pixels(probs + labels, num_subpixels)


def sum_of_pixels(x: Float[Array, "*b h w c"], num_subpixels: int = 1) -> Float[Array, "*b k"]:
    """Sums per image and class, where c = num_subpixels * k."""
    sums = jnp.sum(x, axis=(-3, -2))
    return jnp.sum(sums.reshape(*sums.shape[:-1], num_subpixels, -1), axis=-2)


def _ratio_loss(intersection: Array, total: Array, smooth: float) -> Array:
    return 1.0 - (2.0 * intersection + smooth) / (total + smooth)


def soft_dice_loss(
    logits: Float[Array, "*b h w c"], labels: Float[Array, "*b h w c"], *, smooth: float = 1.0, num_subpixels: int = 1
) -> Float[Array, "*b k"]:
    """Soft Dice loss of each image and class; sums run over height and width."""
    return _ratio_loss(*_sums(logits, labels, num_subpixels), smooth)


def class_soft_dice_loss(
    logits: Float[Array, "b h w c"],
    labels: Float[Array, "b h w c"],
    weight: Float[Array, " b"],
    *,
    smooth: float = 1.0,
    num_subpixels: int = 1,
) -> Float[Array, " k"]:
    """Soft Dice loss of each class; sums run over batch, height and width."""
    intersection, total = (jnp.sum(s * weight[:, None], axis=0) for s in _sums(logits, labels, num_subpixels))
    return _ratio_loss(intersection, total, smooth)


def batch_soft_dice_loss(
    logits: Float[Array, "b h w c"],
    labels: Float[Array, "b h w c"],
    weight: Float[Array, " b"],
    *,
    smooth: float = 1.0,
    num_subpixels: int = 1,
) -> Float[Array, ""]:
    """One soft Dice loss; sums run over batch, height, width and classes, as in the Keras original."""
    intersection, total = (jnp.sum(s * weight[:, None]) for s in _sums(logits, labels, num_subpixels))
    return _ratio_loss(intersection, total, smooth)
