"""Siblings of soft Dice: other ratios of the same sums, one value per image and class, `[*b k]`.

p = sigmoid(logits), t = labels; I = sum p t, P = sum p, T = sum t, FP = P - I, FN = T - I over the pixels of one image
and class, each weighted. `smooth` s is added to both sides of a ratio; it is what an image without the class is judged
by: the loss is then 1 - s / (FP + s) or the like, and its gradient shrinks with FP^2. Losses of overlap alone hardly
push false positives out of images without the class; add a pixel loss. `num_subpixels` is explained in
`unet_jax.losses.dice`. For one ratio per class over the whole batch, see `unet_jax.losses.stack_images`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unet_jax.losses._inputs import Weight, full_weight, safe_power, to_float32
from unet_jax.losses.dice import overlap_sums, pixel_sum

Logits = Float[Array, "*b h w k"]
Scalar = Float[Array, ""] | float
_TINY = 1e-12  # for sums of pixels


def ratio(above: Float[Array, "..."], below: Float[Array, "..."]) -> Float[Array, "..."]:
    """above / below, and 0 for 0 / 0."""
    return above / jnp.maximum(below, _TINY)


Sums = tuple[Float[Array, "*b k"], Float[Array, "*b k"], Float[Array, "*b k"]]
"""I, P and T."""


def one_minus_dice(sums: Sums, smooth: Scalar) -> Float[Array, "*b k"]:
    """1 - (2 I + smooth) / (P + T + smooth)."""
    intersection, positive, true = sums
    return 1.0 - ratio(2.0 * intersection + smooth, positive + true + smooth)


def _one_minus_jaccard(sums: Sums, smooth: Scalar) -> Float[Array, "*b k"]:
    intersection, positive, true = sums
    return 1.0 - ratio(intersection + smooth, positive + true - intersection + smooth)


def _one_minus_tversky(sums: Sums, fp_weight: Scalar, fn_weight: Scalar, smooth: Scalar) -> Float[Array, "*b k"]:
    intersection, positive, true = sums
    wrong = fp_weight * (positive - intersection) + fn_weight * (true - intersection)
    return ratio(wrong, intersection + wrong + smooth)  # without the cancellation of 1 - TI


def squared_dice_loss(
    logits: Logits, labels: Logits, *, smooth: Scalar = 1.0, weight: Weight = None, num_subpixels: int = 1
) -> Float[Array, "*b k"]:
    """1 - (2 I + smooth) / (sum p^2 + sum t^2 + smooth).

    Milletari et al., V-Net, 2016 (arXiv:1606.04797), as printed there.
    """
    x, t = to_float32(logits, labels)
    w, p = full_weight(weight, x.shape, num_subpixels), jax.nn.sigmoid(x)
    intersection = pixel_sum(w * p * t, num_subpixels)
    total = pixel_sum(w * (jnp.square(p) + jnp.square(t)), num_subpixels)
    return 1.0 - ratio(2.0 * intersection + smooth, total + smooth)


def log_dice_loss(
    logits: Logits, labels: Logits, *, smooth: Scalar = 1.0, weight: Weight = None, num_subpixels: int = 1
) -> Float[Array, "*b k"]:
    """-log((2 I + smooth) / (P + T + smooth)), after Wong et al., 2018 (arXiv:1809.00076), with exponent 1."""
    intersection, positive, true = overlap_sums(logits, labels, weight, num_subpixels)
    above, below = 2.0 * intersection + smooth, positive + true + smooth
    return jnp.log(jnp.maximum(below, _TINY)) - jnp.log(jnp.maximum(above, _TINY))


def log_cosh_dice_loss(
    logits: Logits, labels: Logits, *, smooth: Scalar = 1.0, weight: Weight = None, num_subpixels: int = 1
) -> Float[Array, "*b k"]:
    """log cosh(1 - (2 I + smooth) / (P + T + smooth)).

    Jadon, A survey of loss functions for semantic segmentation, 2020 (arXiv:2006.14822).
    """
    dice = one_minus_dice(overlap_sums(logits, labels, weight, num_subpixels), smooth)
    return jnp.log1p(2.0 * jnp.square(jnp.sinh(0.5 * dice)))  # cosh d = 1 + 2 sinh^2(d / 2)


def generalized_dice_loss(
    logits: Logits,
    labels: Logits,
    *,
    smooth: Scalar = 1.0,
    volume_power: Scalar = 2.0,
    weight: Weight = None,
    num_subpixels: int = 1,
) -> Float[Array, "*b"]:
    """1 - (2 sum_k v I + smooth) / (sum_k v (P + T) + smooth) for each image: sums over its classes.

    v = T^-volume_power, divided by the largest of the image, so that `smooth` counts pixels of the rarest class. A
    class absent from the image has v = 1, as the rarest present. Sudre et al., 2017 (arXiv:1707.03237), with 2.
    """
    intersection, positive, true = overlap_sums(logits, labels, weight, num_subpixels)
    present = true > 0.0
    smallest = jnp.min(jnp.where(present, true, jnp.inf), axis=-1, keepdims=True)
    share = jnp.where(present, smallest, 1.0) / jnp.where(present, true, 1.0)  # 1 for absent classes
    volume = share**volume_power
    above = jnp.sum(volume * intersection, axis=-1)
    below = jnp.sum(volume * (positive + true), axis=-1)
    return 1.0 - ratio(2.0 * above + smooth, below + smooth)


def jaccard_loss(
    logits: Logits, labels: Logits, *, smooth: Scalar = 1.0, weight: Weight = None, num_subpixels: int = 1
) -> Float[Array, "*b k"]:
    """1 - (I + smooth) / (P + T - I + smooth): intersection over union.

    Rahman and Wang, Optimizing intersection-over-union, 2016 (doi:10.1007/978-3-319-50835-1_22).
    """
    return _one_minus_jaccard(overlap_sums(logits, labels, weight, num_subpixels), smooth)


def tversky_loss(
    logits: Logits,
    labels: Logits,
    *,
    fp_weight: Scalar = 0.3,
    fn_weight: Scalar = 0.7,
    smooth: Scalar = 1.0,
    weight: Weight = None,
    num_subpixels: int = 1,
) -> Float[Array, "*b k"]:
    """1 - TI, TI = (I + smooth) / (I + fp_weight FP + fn_weight FN + smooth).

    Salehi et al., 2017 (arXiv:1706.05721). 0.5 and 0.5 are Dice with twice the smooth; 1 and 1 are Jaccard. Which of
    the two an `alpha` multiplies differs from program to program.
    """
    return _one_minus_tversky(overlap_sums(logits, labels, weight, num_subpixels), fp_weight, fn_weight, smooth)


def focal_tversky_loss(
    logits: Logits,
    labels: Logits,
    *,
    fp_weight: Scalar = 0.3,
    fn_weight: Scalar = 0.7,
    gamma: Scalar = 0.75,
    smooth: Scalar = 1.0,
    weight: Weight = None,
    num_subpixels: int = 1,
) -> Float[Array, "*b k"]:
    """(1 - TI)^gamma for each image and class, TI as in `tversky_loss`.

    Abraham and Khan, 2018 (arXiv:1810.07842), whose gamma is the inverse, 4 / 3. Below 1 the gradient grows without
    limit towards a perfect prediction; exactly there it is 0.
    """
    sums = overlap_sums(logits, labels, weight, num_subpixels)
    return safe_power(jnp.maximum(_one_minus_tversky(sums, fp_weight, fn_weight, smooth), 0.0), gamma)


def _l1_sums(logits: Logits, labels: Logits, weight: Weight, num_subpixels: int) -> Sums:
    """(P + T - sum |p - t|) / 2 in the place of I, P and T."""
    x, t = to_float32(logits, labels)
    w, p = full_weight(weight, x.shape, num_subpixels), jax.nn.sigmoid(x)
    distance = pixel_sum(w * jnp.abs(p - t), num_subpixels)
    positive, true = pixel_sum(w * p, num_subpixels), pixel_sum(w * t, num_subpixels)
    return 0.5 * (positive + true - distance), positive, true


def l1_dice_loss(
    logits: Logits, labels: Logits, *, smooth: Scalar = 1.0, weight: Weight = None, num_subpixels: int = 1
) -> Float[Array, "*b k"]:
    """1 - (2 I' + smooth) / (P + T + smooth) with I' = (P + T - sum |p - t|) / 2, so that p = t costs nothing.

    For labels between 0 and 1, where sum p t is smaller than sum t even if p = t. Equal to `soft_dice_loss` for labels
    0 and 1. Wang et al., Dice semimetric losses, 2023 (arXiv:2303.16296).
    """
    return one_minus_dice(_l1_sums(logits, labels, weight, num_subpixels), smooth)


def l1_jaccard_loss(
    logits: Logits, labels: Logits, *, smooth: Scalar = 1.0, weight: Weight = None, num_subpixels: int = 1
) -> Float[Array, "*b k"]:
    """1 - (I' + smooth) / (P + T - I' + smooth) with I' = (P + T - sum |p - t|) / 2.

    Wang et al., Jaccard metric losses, 2023 (arXiv:2302.05666).
    """
    return _one_minus_jaccard(_l1_sums(logits, labels, weight, num_subpixels), smooth)


def l1_tversky_loss(
    logits: Logits,
    labels: Logits,
    *,
    fp_weight: Scalar = 0.3,
    fn_weight: Scalar = 0.7,
    smooth: Scalar = 1.0,
    weight: Weight = None,
    num_subpixels: int = 1,
) -> Float[Array, "*b k"]:
    """`tversky_loss` with I' = (P + T - sum |p - t|) / 2 for I. Wang et al., 2023 (arXiv:2303.16296)."""
    return _one_minus_tversky(_l1_sums(logits, labels, weight, num_subpixels), fp_weight, fn_weight, smooth)


def sensitivity_specificity_loss(
    logits: Logits,
    labels: Logits,
    *,
    sensitivity_weight: Scalar = 0.05,
    smooth: Scalar = 1.0,
    weight: Weight = None,
    num_subpixels: int = 1,
) -> Float[Array, "*b k"]:
    """r sum (t - p)^2 t / (sum t + smooth) + (1 - r) sum (t - p)^2 (1 - t) / (sum (1 - t) + smooth).

    r = sensitivity_weight. Brosch et al., Deep convolutional encoder networks for multiple sclerosis lesion
    segmentation, 2015 (doi:10.1007/978-3-319-24574-4_1).
    """
    x, t = to_float32(logits, labels)
    w = full_weight(weight, x.shape, num_subpixels)
    error = jnp.square(t - jax.nn.sigmoid(x))
    sums = (pixel_sum(w * y, num_subpixels) for y in (error * t, t, error * (1.0 - t), 1.0 - t))
    missed, true, claimed, false = sums
    sensitivity, specificity = ratio(missed, true + smooth), ratio(claimed, false + smooth)
    return sensitivity_weight * sensitivity + (1.0 - sensitivity_weight) * specificity


def mcc_loss(
    logits: Logits, labels: Logits, *, smooth: Scalar = 1.0, weight: Weight = None, num_subpixels: int = 1
) -> Float[Array, "*b k"]:
    """1 - (TP TN - FP FN) / sqrt((TP + FP)(TP + FN)(TN + FP)(TN + FN)), `smooth` > 0 added to each of the four.

    Matthews's correlation coefficient. Abhishek and Hamarneh, 2020 (arXiv:2010.13454).
    """
    x, t = to_float32(logits, labels)
    w, p, q = full_weight(weight, x.shape, num_subpixels), jax.nn.sigmoid(x), jax.nn.sigmoid(-x)
    cells = (p * t, q * (1.0 - t), p * (1.0 - t), q * t)
    tp, tn, fp, fn = (pixel_sum(w * cell, num_subpixels) + smooth for cell in cells)
    # Two roots of two factors each: the product of all four overflows float32 from 10^9.5 pixels on.
    scale = jnp.sqrt((tp + fp) * (tn + fn)) * jnp.sqrt((tp + fn) * (tn + fp))
    return 1.0 - (tp * tn - fp * fn) / scale
