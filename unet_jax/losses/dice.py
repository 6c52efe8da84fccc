"""Soft Dice in its three reductions: one value per image and class, per class, or for the whole batch.

All losses of overlap add pixels up in `pixel_sum` and nowhere else. With `num_subpixels=s` their logits and labels are
packed: `[*b h w s*k]`, channels in the order (sub-pixel, class), as packed activations have them (docs/packing.md). A
pixel-wise `weight` must be packed like them; one with k channels is repeated.

All use 1 - (2 I + smooth) / (P + T + smooth) with I = sum p t, P = sum p, T = sum t and p = sigmoid(logits), after
Milletari et al., V-Net, 2016 (arXiv:1606.04797), with P and T not squared. They differ in what the sums run over, and
so in what a rare class or a nearly empty image weighs. In those over the batch a `weight` with one axis is one number
per image; an image of weight 0 takes no part in the sums.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unet_jax.losses._inputs import Weight, full_weight, to_float32


def pixel_sum(x: Float[Array, "*b h w s*k"], num_subpixels: int = 1) -> Float[Array, "*b k"]:
    """Sums over height and width, and over the sub-pixels where channels are (sub-pixel, class)."""
    total = jnp.sum(x, axis=(-3, -2))
    if num_subpixels == 1:
        return total
    return jnp.sum(total.reshape(*total.shape[:-1], num_subpixels, -1), axis=-2)


def overlap_sums(
    logits: Float[Array, "*b h w k"], labels: Float[Array, "*b h w k"], weight: Weight = None, num_subpixels: int = 1
) -> tuple[Float[Array, "*b k"], Float[Array, "*b k"], Float[Array, "*b k"]]:
    """I, P and T per image and class."""
    x, t = to_float32(logits, labels)
    probs = jax.nn.sigmoid(x)
    weighted_probs, weighted_labels = probs, t
    if weight is not None:
        full = full_weight(weight, x.shape, num_subpixels)
        weighted_probs, weighted_labels = full * probs, full * t
    terms = (weighted_probs * t, weighted_probs, weighted_labels)
    intersection, positive, true = (pixel_sum(term, num_subpixels) for term in terms)
    return intersection, positive, true


def _sums(
    logits: Float[Array, "*b h w k"], labels: Float[Array, "*b h w k"], weight: Weight = None, num_subpixels: int = 1
) -> tuple[Float[Array, "*b k"], Float[Array, "*b k"]]:
    """I and P + T per image and class."""
    intersection, positive, true = overlap_sums(logits, labels, weight, num_subpixels)
    return intersection, positive + true


def _split_weight(weight: Weight) -> tuple[Weight, Float[Array, "b 1"] | float]:
    """What to multiply pixels with, and images: a weight of one axis is one number per image in the batch's sums."""
    if weight is not None and jnp.ndim(weight) == 1:
        return None, jnp.asarray(weight, jnp.float32)[:, None]
    return weight, 1.0


def _ratio_loss(intersection: Array, total: Array, smooth: float) -> Array:
    return 1.0 - (2.0 * intersection + smooth) / (total + smooth)


def soft_dice_loss(
    logits: Float[Array, "*b h w k"],
    labels: Float[Array, "*b h w k"],
    *,
    smooth: float = 1.0,
    weight: Weight = None,
    num_subpixels: int = 1,
) -> Float[Array, "*b k"]:
    """Soft Dice loss of each image and class; sums run over height and width."""
    return _ratio_loss(*_sums(logits, labels, weight, num_subpixels), smooth)


def class_soft_dice_loss(
    logits: Float[Array, "b h w k"],
    labels: Float[Array, "b h w k"],
    weight: Weight = None,
    *,
    smooth: float = 1.0,
    num_subpixels: int = 1,
) -> Float[Array, " k"]:
    """Soft Dice loss of each class; sums run over batch, height and width."""
    pixels, images = _split_weight(weight)
    intersection, total = (jnp.sum(s * images, axis=0) for s in _sums(logits, labels, pixels, num_subpixels))
    return _ratio_loss(intersection, total, smooth)


def batch_soft_dice_loss(
    logits: Float[Array, "b h w k"],
    labels: Float[Array, "b h w k"],
    weight: Weight = None,
    *,
    smooth: float = 1.0,
    num_subpixels: int = 1,
) -> Float[Array, ""]:
    """One soft Dice loss; sums run over batch, height, width and classes, as in the Keras original."""
    pixels, images = _split_weight(weight)
    intersection, total = (jnp.sum(s * images) for s in _sums(logits, labels, pixels, num_subpixels))
    return _ratio_loss(intersection, total, smooth)
