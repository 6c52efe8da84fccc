"""Losses of the four numbers of a confusion matrix, one value per image and class, `[*b k]`.

The notation is that of `unet_jax.losses.overlap`. Unlike overlap losses they count true negatives, so they also judge
images without the class.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unet_jax.losses._inputs import Weight, full_weight, to_float32
from unet_jax.losses.dice import pixel_sum
from unet_jax.losses.overlap import TINY, Logits, Scalar, ratio


def sensitivity_specificity_loss(
    logits: Logits,
    labels: Logits,
    *,
    sensitivity_weight: Scalar = 0.05,
    smooth: Scalar = 1.0,
    weight: Weight = None,
    num_subpixels: int = 1,
) -> Float[Array, "*b k"]:
    """Compute the squared error inside and outside the class, each divided by its own number of pixels.

    Formula: r sum (t - p)^2 t / (sum t + smooth) + (1 - r) sum (t - p)^2 (1 - t) / (sum (1 - t) + smooth), with
    r = sensitivity_weight.

    Args:
      logits: `[*b h w k]`, any float dtype.
      labels: `[*b h w k]`, membership in [0, 1].
      sensitivity_weight: share of the error inside the class, in [0, 1].
      smooth: number added to the denominators.
      weight: None, or an array that broadcasts to the logits; 0 = ignored.
      num_subpixels: number of pixels in a block if packed; 1 = not packed.

    Returns:
      Float32 `[*b k]`.

    Reference:
      Brosch et al., Deep convolutional encoder networks for multiple sclerosis lesion segmentation, 2015
      (doi:10.1007/978-3-319-24574-4_1).

    Example:
      >>> import jax.numpy as jnp
      >>> from unet_jax import losses
      >>> logits = jnp.array([20.0, 20.0, -20.0]).reshape(1, 3, 1)  # one hit, one false positive
      >>> labels = jnp.array([1.0, 0.0, 0.0]).reshape(1, 3, 1)
      >>> print(f"{losses.sensitivity_specificity_loss(logits, labels).item():.3f}")  # 0.95 * 1 / (2 + 1)
      0.317
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
    """Compute 1 - Matthews correlation coefficient of probabilities and labels.

    Formula: 1 - (TP TN - FP FN) / sqrt((TP + FP)(TP + FN)(TN + FP)(TN + FN)), `smooth` added to each count.

    Args:
      logits: `[*b h w k]`, any float dtype.
      labels: `[*b h w k]`, membership in [0, 1].
      smooth: number added to each of TP, TN, FP and FN.
      weight: None, or an array that broadcasts to the logits; 0 = ignored.
      num_subpixels: number of pixels in a block if packed; 1 = not packed.

    Returns:
      Float32 `[*b k]`.

    Reference:
      Abhishek and Hamarneh, 2020 (arXiv:2010.13454).

    Example:
      >>> import jax.numpy as jnp
      >>> from unet_jax import losses
      >>> logits = jnp.array([20.0, 20.0, -20.0]).reshape(1, 3, 1)  # one hit, one false positive
      >>> labels = jnp.array([1.0, 0.0, 0.0]).reshape(1, 3, 1)
      >>> print(f"{losses.mcc_loss(logits, labels).item():.3f}")  # 1 - (2 * 2 - 2 * 1) / sqrt(4 * 3 * 4 * 3)
      0.833
    """
    x, t = to_float32(logits, labels)
    w, p, q = full_weight(weight, x.shape, num_subpixels), jax.nn.sigmoid(x), jax.nn.sigmoid(-x)
    cells = (p * t, q * (1.0 - t), p * (1.0 - t), q * t)
    tp, tn, fp, fn = (pixel_sum(w * cell, num_subpixels) + smooth for cell in cells)
    # Two roots of two factors each: the product of all four overflows float32 from 10^9.5 pixels on.
    factors = (tp + fp) * (tn + fn), (tp + fn) * (tn + fp)
    scale = math.prod(jnp.sqrt(jnp.maximum(factor, TINY)) for factor in factors)
    return 1.0 - (tp * tn - fp * fn) / scale
