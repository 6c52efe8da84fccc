"""Published sums of a cross entropy and a ratio, one value per image and class, `[*b k]`.

Notation as in `unet_jax.losses.overlap`; `mean` is over the pixels of one image and class, weighted.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unet_jax.losses._inputs import Weight, full_weight, safe_power, to_float32
from unet_jax.losses.dice import pixel_sum
from unet_jax.losses.overlap import one_minus_dice, ratio

Logits = Float[Array, "*b h w k"]
Scalar = Float[Array, ""] | float


def combo_loss(
    logits: Logits,
    labels: Logits,
    *,
    ce_weight: Scalar = 0.5,
    pos_weight: Scalar = 0.5,
    smooth: Scalar = 1.0,
    weight: Weight = None,
    num_subpixels: int = 1,
) -> Float[Array, "*b k"]:
    """ce_weight mean(pos_weight t softplus(-x) + (1 - pos_weight)(1 - t) softplus(x)) + (1 - ce_weight)(1 - dice).

    dice = (2 I + smooth) / (P + T + smooth). Taghanaei et al., Combo loss, 2018 (arXiv:1805.02798), who subtract
    (1 - ce_weight) dice: the same up to the constant that makes a perfect prediction cost 0.
    """
    x, t = to_float32(logits, labels)
    w, p = full_weight(weight, x.shape, num_subpixels), jax.nn.sigmoid(x)
    cross_entropy = pos_weight * t * jax.nn.softplus(-x) + (1.0 - pos_weight) * (1.0 - t) * jax.nn.softplus(x)
    sums = (pixel_sum(w * y, num_subpixels) for y in (jnp.ones_like(x), cross_entropy, p * t, p, t))
    count, entropy, intersection, positive, true = sums
    dice = one_minus_dice((intersection, positive, true), smooth)
    return ce_weight * ratio(entropy, count) + (1.0 - ce_weight) * dice


def _unified_parts(
    logits: Logits, labels: Logits, delta: Scalar, smooth: Scalar, weight: Weight, num_subpixels: int
) -> tuple[Array, Array, Array, Array, Array, Array, Array]:
    """w, both probabilities, both cross entropies times their labels, and 1 - Tversky index of both sides."""
    x, t = to_float32(logits, labels)
    w, p, q = full_weight(weight, x.shape, num_subpixels), jax.nn.sigmoid(x), jax.nn.sigmoid(-x)
    positive, negative = t * jax.nn.softplus(-x), (1.0 - t) * jax.nn.softplus(x)
    cells = (p * t, q * (1.0 - t), p * (1.0 - t), q * t)
    tp, tn, fp, fn = (pixel_sum(w * cell, num_subpixels) for cell in cells)
    # The background is a class of its own: what is a false positive of one side is a false negative of the other.
    miss_positive = ratio(delta * fn + (1.0 - delta) * fp, tp + delta * fn + (1.0 - delta) * fp + smooth)
    miss_negative = ratio(delta * fp + (1.0 - delta) * fn, tn + delta * fp + (1.0 - delta) * fn + smooth)
    return w, p, q, positive, negative, miss_positive, miss_negative


def _mixed(w: Array, focal: Array, tversky: Array, focal_weight: Scalar, num_subpixels: int) -> Float[Array, "*b k"]:
    """focal_weight times the weighted mean of `focal` over pixels, plus the rest times `tversky`."""
    mean = ratio(pixel_sum(w * focal, num_subpixels), pixel_sum(w, num_subpixels))
    return focal_weight * mean + (1.0 - focal_weight) * tversky


def symmetric_unified_focal_loss(
    logits: Logits,
    labels: Logits,
    *,
    delta: Scalar = 0.6,
    gamma: Scalar = 0.5,
    focal_weight: Scalar = 0.5,
    smooth: Scalar = 1.0,
    weight: Weight = None,
    num_subpixels: int = 1,
) -> Float[Array, "*b k"]:
    """focal_weight F + (1 - focal_weight) (M_1^(1 - gamma) + M_0^(1 - gamma)) / 2.

    F = mean(delta t (1 - p)^gamma softplus(-x) + (1 - delta)(1 - t) p^gamma softplus(x));
    M_1 = 1 - (I + smooth) / (I + delta FN + (1 - delta) FP + smooth), and M_0 the same of the background, with p and t
    exchanged for 1 - p and 1 - t. Yeung et al., Unified focal loss, 2021 (arXiv:2102.04525), whose smooth is 1e-7:
    too small to learn from images without the class.
    """
    parts = _unified_parts(logits, labels, delta, smooth, weight, num_subpixels)
    w, p, q, positive, negative, miss_positive, miss_negative = parts
    focal = delta * safe_power(q, gamma) * positive + (1.0 - delta) * safe_power(p, gamma) * negative
    tversky = 0.5 * (safe_power(miss_positive, 1.0 - gamma) + safe_power(miss_negative, 1.0 - gamma))
    return _mixed(w, focal, tversky, focal_weight, num_subpixels)


def asymmetric_unified_focal_loss(
    logits: Logits,
    labels: Logits,
    *,
    delta: Scalar = 0.6,
    gamma: Scalar = 0.5,
    focal_weight: Scalar = 0.5,
    smooth: Scalar = 1.0,
    weight: Weight = None,
    num_subpixels: int = 1,
) -> Float[Array, "*b k"]:
    """focal_weight F + (1 - focal_weight) (M_1^(1 - gamma) + M_0) / 2.

    F = mean(delta t softplus(-x) + (1 - delta)(1 - t) p^gamma softplus(x)), M_1 and M_0 as in
    `symmetric_unified_focal_loss`: only easy background is played down, only the class's own ratio enhanced.
    Yeung et al., Unified focal loss, 2021 (arXiv:2102.04525).
    """
    parts = _unified_parts(logits, labels, delta, smooth, weight, num_subpixels)
    w, p, _, positive, negative, miss_positive, miss_negative = parts
    focal = delta * positive + (1.0 - delta) * safe_power(p, gamma) * negative
    tversky = 0.5 * (safe_power(miss_positive, 1.0 - gamma) + miss_negative)
    return _mixed(w, focal, tversky, focal_weight, num_subpixels)
