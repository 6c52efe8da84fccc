"""Overlap losses that are 0 for p = t also where labels lie between 0 and 1.

They are Dice, Jaccard and Tversky losses of I' = (P + T - sum |p - t|) / 2 in place of I = sum p t. The notation is
that of `unet_jax.losses.overlap`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unet_jax.losses._inputs import Weight, full_weight, to_float32
from unet_jax.losses.dice import pixel_sum
from unet_jax.losses.overlap import Logits, Scalar, Sums, one_minus_dice, one_minus_jaccard, one_minus_tversky


def _l1_sums(logits: Logits, labels: Logits, weight: Weight, num_subpixels: int) -> Sums:
    """Return (P + T - sum |p - t|) / 2, P and T: the sums I', P and T of the losses named l1."""
    x, t = to_float32(logits, labels)
    w, p = full_weight(weight, x.shape, num_subpixels), jax.nn.sigmoid(x)
    distance = pixel_sum(w * jnp.abs(p - t), num_subpixels)
    positive, true = pixel_sum(w * p, num_subpixels), pixel_sum(w * t, num_subpixels)
    return 0.5 * (positive + true - distance), positive, true


def l1_dice_loss(
    logits: Logits, labels: Logits, *, smooth: Scalar = 1.0, weight: Weight = None, num_subpixels: int = 1
) -> Float[Array, "*b k"]:
    """Compute a soft Dice loss that is 0 for p = t, also where labels lie between 0 and 1.

    Formula: 1 - (2 I' + smooth) / (P + T + smooth) with I' = (P + T - sum |p - t|) / 2.

    With labels between 0 and 1, sum p t is smaller than sum t even if p = t, so `soft_dice_loss` is not 0 there. With
    labels 0 and 1 the two are equal.

    Args:
      logits: `[*b h w k]`, any float dtype.
      labels: `[*b h w k]`, membership in [0, 1].
      smooth: number added to numerator and denominator.
      weight: None, or an array that broadcasts to the logits; 0 = ignored.
      num_subpixels: number of pixels in a block if packed; 1 = not packed.

    Returns:
      Float32 `[*b k]`.

    Reference:
      Wang et al., Dice semimetric losses, 2023 (arXiv:2303.16296).

    Example:
      >>> import jax.numpy as jnp
      >>> from unet_jax import losses
      >>> logits, labels = jnp.zeros((1, 1, 1)), jnp.full((1, 1, 1), 0.5)  # p = t = 0.5
      >>> print(f"{losses.l1_dice_loss(logits, labels).item():.3f} {losses.soft_dice_loss(logits, labels).item():.3f}")
      0.000 0.250
    """
    return one_minus_dice(_l1_sums(logits, labels, weight, num_subpixels), smooth)


def l1_jaccard_loss(
    logits: Logits, labels: Logits, *, smooth: Scalar = 1.0, weight: Weight = None, num_subpixels: int = 1
) -> Float[Array, "*b k"]:
    """Compute a soft Jaccard loss that is 0 for p = t, also where labels lie between 0 and 1.

    Formula: 1 - (I' + smooth) / (P + T - I' + smooth) with I' = (P + T - sum |p - t|) / 2.

    Args:
      logits: `[*b h w k]`, any float dtype.
      labels: `[*b h w k]`, membership in [0, 1].
      smooth: number added to numerator and denominator.
      weight: None, or an array that broadcasts to the logits; 0 = ignored.
      num_subpixels: number of pixels in a block if packed; 1 = not packed.

    Returns:
      Float32 `[*b k]`.

    Reference:
      Wang et al., Jaccard metric losses, 2023 (arXiv:2302.05666).

    Example:
      >>> import jax.numpy as jnp
      >>> from unet_jax import losses
      >>> logits, labels = jnp.zeros((1, 1, 1)), jnp.full((1, 1, 1), 0.5)  # p = t = 0.5
      >>> print(f"{losses.l1_jaccard_loss(logits, labels).item():.3f} {losses.jaccard_loss(logits, labels).item():.3f}")
      0.000 0.286
    """
    return one_minus_jaccard(_l1_sums(logits, labels, weight, num_subpixels), smooth)


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
    """Compute a Tversky loss that is 0 for p = t, also where labels lie between 0 and 1.

    Formula: `tversky_loss` with I' = (P + T - sum |p - t|) / 2 in place of I.

    Args:
      logits: `[*b h w k]`, any float dtype.
      labels: `[*b h w k]`, membership in [0, 1].
      fp_weight: weight of false positives.
      fn_weight: weight of false negatives.
      smooth: number added to numerator and denominator.
      weight: None, or an array that broadcasts to the logits; 0 = ignored.
      num_subpixels: number of pixels in a block if packed; 1 = not packed.

    Returns:
      Float32 `[*b k]`.

    Reference:
      Wang et al., Dice semimetric losses, 2023 (arXiv:2303.16296).

    Example:
      >>> import jax.numpy as jnp
      >>> from unet_jax import losses
      >>> logits, labels = jnp.zeros((1, 1, 1)), jnp.full((1, 1, 1), 0.5)  # p = t = 0.5
      >>> print(f"{losses.l1_tversky_loss(logits, labels).item():.3f} {losses.tversky_loss(logits, labels).item():.3f}")
      0.000 0.167
    """
    return one_minus_tversky(_l1_sums(logits, labels, weight, num_subpixels), fp_weight, fn_weight, smooth)
