"""Published sums of a cross entropy and an overlap ratio, one value per image and class, `[*b k]`.

The notation is that of `unet_jax.losses.overlap`; `mean` is the weighted mean over the pixels of one image and class.
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
    """Compute the Combo loss: a weighted cross entropy plus the soft Dice loss.

    Formula: ce_weight C + (1 - ce_weight)(1 - dice).

    C = mean(pos_weight t softplus(-x) + (1 - pos_weight)(1 - t) softplus(x)).
    dice = (2 I + smooth) / (P + T + smooth).

    The paper subtracts (1 - ce_weight) dice: the same up to the constant that makes a perfect prediction cost 0.

    Args:
      logits: `[*b h w k]`, any float dtype.
      labels: `[*b h w k]`, membership in [0, 1].
      ce_weight: share of the cross entropy in the sum, in [0, 1].
      pos_weight: share of the positive labels in the cross entropy, in [0, 1].
      smooth: number added to numerator and denominator of the Dice ratio.
      weight: None, or an array that broadcasts to the logits; 0 = ignored.
      num_subpixels: number of pixels in a block if packed (`unet_jax.losses.dice`); 1 = not packed.

    Returns:
      Float32 `[*b k]`.

    Reference:
      Taghanaei et al., Combo loss, 2018 (arXiv:1805.02798).

    Example:
      >>> import jax.numpy as jnp
      >>> from unet_jax import losses
      >>> logits = jnp.array([20.0, 20.0, -20.0]).reshape(1, 3, 1)  # one hit, one false positive
      >>> labels = jnp.array([1.0, 0.0, 0.0]).reshape(1, 3, 1)
      >>> print(f"{losses.combo_loss(logits, labels).item():.3f}")
      1.792
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
    """Return w, both probabilities, both cross entropies times their labels, and 1 - Tversky index of both sides."""
    x, t = to_float32(logits, labels)
    w, p, q = full_weight(weight, x.shape, num_subpixels), jax.nn.sigmoid(x), jax.nn.sigmoid(-x)
    positive, negative = t * jax.nn.softplus(-x), (1.0 - t) * jax.nn.softplus(x)
    cells = (p * t, q * (1.0 - t), p * (1.0 - t), q * t)
    tp, tn, fp, fn = (pixel_sum(w * cell, num_subpixels) for cell in cells)
    # The background is treated as a second class: a false positive of one side is a false negative of the other.
    miss_positive = ratio(delta * fn + (1.0 - delta) * fp, tp + delta * fn + (1.0 - delta) * fp + smooth)
    miss_negative = ratio(delta * fp + (1.0 - delta) * fn, tn + delta * fp + (1.0 - delta) * fn + smooth)
    return w, p, q, positive, negative, miss_positive, miss_negative


def _mixed(w: Array, focal: Array, tversky: Array, focal_weight: Scalar, num_subpixels: int) -> Float[Array, "*b k"]:
    """Return focal_weight times the weighted mean of `focal` over pixels, plus (1 - focal_weight) times `tversky`."""
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
    """Compute the symmetric unified focal loss: focal cross entropy plus focal Tversky loss of both sides.

    Formula: focal_weight F + (1 - focal_weight) (M_1^(1 - gamma) + M_0^(1 - gamma)) / 2.

    F = mean(delta t (1 - p)^gamma softplus(-x) + (1 - delta)(1 - t) p^gamma softplus(x)).
    M_1 = 1 - (I + smooth) / (I + delta FN + (1 - delta) FP + smooth). M_0 is the same for the background: p and t are
    replaced by 1 - p and 1 - t.

    Args:
      logits: `[*b h w k]`, any float dtype.
      labels: `[*b h w k]`, membership in [0, 1].
      delta: weight of positive labels in F and of false negatives in the ratios, in [0, 1]; 1 - delta is that of
        negative labels and false positives.
      gamma: exponent of the focal factor in F, in [0, 1); the ratios have the exponent 1 - gamma.
      focal_weight: share of F in the sum, in [0, 1].
      smooth: number added to numerator and denominator of the ratios. The paper's 1e-7 is too small to learn from
        images without the class.
      weight: None, or an array that broadcasts to the logits; 0 = ignored.
      num_subpixels: number of pixels in a block if packed (`unet_jax.losses.dice`); 1 = not packed.

    Returns:
      Float32 `[*b k]`.

    Reference:
      Yeung et al., Unified focal loss, 2021 (arXiv:2102.04525).

    Example:
      >>> import jax.numpy as jnp
      >>> from unet_jax import losses
      >>> logits = jnp.array([2.0, 2.0, -2.0]).reshape(1, 3, 1)
      >>> labels = jnp.array([1.0, 0.0, 0.0]).reshape(1, 3, 1)
      >>> print(f"{losses.symmetric_unified_focal_loss(logits, labels).item():.3f}")
      0.376
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
    """Compute the asymmetric unified focal loss, which focuses on the class and plays down easy background.

    Formula: focal_weight F + (1 - focal_weight) (M_1^(1 - gamma) + M_0) / 2.

    F = mean(delta t softplus(-x) + (1 - delta)(1 - t) p^gamma softplus(x)); M_1 and M_0 are as in
    `symmetric_unified_focal_loss`. Only easy background is played down, and only the class's own ratio is enhanced.

    Args:
      logits: `[*b h w k]`, any float dtype.
      labels: `[*b h w k]`, membership in [0, 1].
      delta: weight of positive labels in F and of false negatives in the ratios, in [0, 1]; 1 - delta is that of
        negative labels and false positives.
      gamma: exponent of the focal factor in F, in [0, 1); the ratio M_1 has the exponent 1 - gamma.
      focal_weight: share of F in the sum, in [0, 1].
      smooth: number added to numerator and denominator of the ratios.
      weight: None, or an array that broadcasts to the logits; 0 = ignored.
      num_subpixels: number of pixels in a block if packed (`unet_jax.losses.dice`); 1 = not packed.

    Returns:
      Float32 `[*b k]`.

    Reference:
      Yeung et al., Unified focal loss, 2021 (arXiv:2102.04525).

    Example:
      >>> import jax.numpy as jnp
      >>> from unet_jax import losses
      >>> logits = jnp.array([2.0, 2.0, -2.0]).reshape(1, 3, 1)
      >>> labels = jnp.array([1.0, 0.0, 0.0]).reshape(1, 3, 1)
      >>> print(f"{losses.asymmetric_unified_focal_loss(logits, labels).item():.3f}")
      0.322
    """
    parts = _unified_parts(logits, labels, delta, smooth, weight, num_subpixels)
    w, p, _, positive, negative, miss_positive, miss_negative = parts
    focal = delta * positive + (1.0 - delta) * safe_power(p, gamma) * negative
    tversky = 0.5 * (safe_power(miss_positive, 1.0 - gamma) + miss_negative)
    return _mixed(w, focal, tversky, focal_weight, num_subpixels)
