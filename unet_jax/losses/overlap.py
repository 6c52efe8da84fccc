"""Relatives of soft Dice: other ratios of the same sums, one value per image and class, `[*b k]`.

p = sigmoid(logits), t = labels; I = sum p t, P = sum p, T = sum t, FP = P - I, FN = T - I over the pixels of one image
and class, each weighted. `smooth` s is added to numerator and denominator of a ratio.

`smooth` decides how an image without the class is judged: its loss is then 1 - s / (FP + s) or similar, and its
gradient shrinks with FP^2. Overlap losses alone hardly push false positives out of images without the class; add a
pixel loss.

`num_subpixels` is explained in `unet_jax.losses.dice`. For one ratio per class over the whole batch, see
`unet_jax.losses.stack_images`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unet_jax.losses._inputs import Weight, full_weight, safe_power, to_float32
from unet_jax.losses.dice import overlap_sums, pixel_sum

Logits = Float[Array, "*b h w k"]
Scalar = Float[Array, ""] | float
TINY = 1e-12  # far below any sum of weighted pixels


def ratio(above: Float[Array, "..."], below: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return above / below, and 0 for 0 / 0."""
    return above / jnp.maximum(below, TINY)


Sums = tuple[Float[Array, "*b k"], Float[Array, "*b k"], Float[Array, "*b k"]]
"""The sums I, P and T."""


def one_minus_dice(sums: Sums, smooth: Scalar) -> Float[Array, "*b k"]:
    """Return 1 - (2 I + smooth) / (P + T + smooth)."""
    intersection, positive, true = sums
    return 1.0 - ratio(2.0 * intersection + smooth, positive + true + smooth)


def one_minus_jaccard(sums: Sums, smooth: Scalar) -> Float[Array, "*b k"]:
    """Return 1 - (I + smooth) / (P + T - I + smooth)."""
    intersection, positive, true = sums
    return 1.0 - ratio(intersection + smooth, positive + true - intersection + smooth)


def one_minus_tversky(sums: Sums, fp_weight: Scalar, fn_weight: Scalar, smooth: Scalar) -> Float[Array, "*b k"]:
    """Return 1 - (I + smooth) / (I + fp_weight FP + fn_weight FN + smooth)."""
    intersection, positive, true = sums
    wrong = fp_weight * (positive - intersection) + fn_weight * (true - intersection)
    return ratio(wrong, intersection + wrong + smooth)  # without the cancellation of 1 - TI


def squared_dice_loss(
    logits: Logits, labels: Logits, *, smooth: Scalar = 1.0, weight: Weight = None, num_subpixels: int = 1
) -> Float[Array, "*b k"]:
    """Compute the soft Dice loss with squares in the denominator, as printed in the V-Net paper.

    Formula: 1 - (2 I + smooth) / (sum p^2 + sum t^2 + smooth).

    Args:
      logits: `[*b h w k]`, any float dtype.
      labels: `[*b h w k]`, membership in [0, 1].
      smooth: number added to numerator and denominator.
      weight: None, or an array that broadcasts to the logits; 0 = ignored.
      num_subpixels: number of pixels in a block if packed; 1 = not packed.

    Returns:
      Float32 `[*b k]`.

    Reference:
      Milletari et al., V-Net, 2016 (arXiv:1606.04797).

    Example:
      >>> import jax.numpy as jnp
      >>> from unet_jax import losses
      >>> logits, labels = jnp.zeros((1, 2, 1)), jnp.array([1.0, 0.0]).reshape(1, 2, 1)  # p = 0.5
      >>> print(f"{losses.squared_dice_loss(logits, labels).item():.3f}")  # 1 - (1 + 1) / (0.5 + 1 + 1)
      0.200
    """
    x, t = to_float32(logits, labels)
    w, p = full_weight(weight, x.shape, num_subpixels), jax.nn.sigmoid(x)
    intersection = pixel_sum(w * p * t, num_subpixels)
    total = pixel_sum(w * (jnp.square(p) + jnp.square(t)), num_subpixels)
    return 1.0 - ratio(2.0 * intersection + smooth, total + smooth)


def log_dice_loss(
    logits: Logits, labels: Logits, *, smooth: Scalar = 1.0, weight: Weight = None, num_subpixels: int = 1
) -> Float[Array, "*b k"]:
    """Compute the logarithmic Dice loss.

    Formula: -log((2 I + smooth) / (P + T + smooth)).

    Args:
      logits: `[*b h w k]`, any float dtype.
      labels: `[*b h w k]`, membership in [0, 1].
      smooth: number added to numerator and denominator.
      weight: None, or an array that broadcasts to the logits; 0 = ignored.
      num_subpixels: number of pixels in a block if packed; 1 = not packed.

    Returns:
      Float32 `[*b k]`.

    Reference:
      Wong et al., 2018 (arXiv:1809.00076), with exponent 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from unet_jax import losses
      >>> logits = jnp.array([20.0, 20.0, -20.0]).reshape(1, 3, 1)  # one hit, one false positive
      >>> labels = jnp.array([1.0, 0.0, 0.0]).reshape(1, 3, 1)
      >>> print(f"{losses.log_dice_loss(logits, labels).item():.3f}")  # -log(3 / 4)
      0.288
    """
    intersection, positive, true = overlap_sums(logits, labels, weight, num_subpixels)
    above, below = 2.0 * intersection + smooth, positive + true + smooth
    return jnp.log(jnp.maximum(below, TINY)) - jnp.log(jnp.maximum(above, TINY))


def log_cosh_dice_loss(
    logits: Logits, labels: Logits, *, smooth: Scalar = 1.0, weight: Weight = None, num_subpixels: int = 1
) -> Float[Array, "*b k"]:
    """Compute the log-cosh Dice loss, which is smoother than the Dice loss near its minimum.

    Formula: log cosh(1 - (2 I + smooth) / (P + T + smooth)).

    Args:
      logits: `[*b h w k]`, any float dtype.
      labels: `[*b h w k]`, membership in [0, 1].
      smooth: number added to numerator and denominator.
      weight: None, or an array that broadcasts to the logits; 0 = ignored.
      num_subpixels: number of pixels in a block if packed; 1 = not packed.

    Returns:
      Float32 `[*b k]`.

    Reference:
      Jadon, A survey of loss functions for semantic segmentation, 2020 (arXiv:2006.14822).

    Example:
      >>> import jax.numpy as jnp
      >>> from unet_jax import losses
      >>> logits = jnp.array([20.0, 20.0, -20.0]).reshape(1, 3, 1)  # one hit, one false positive
      >>> labels = jnp.array([1.0, 0.0, 0.0]).reshape(1, 3, 1)
      >>> print(f"{losses.log_cosh_dice_loss(logits, labels).item():.3f}")  # log cosh(0.25)
      0.031
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
    """Compute the generalised Dice loss of each image: one ratio over all its classes, small classes weighted up.

    Formula: 1 - (2 sum_k v I + smooth) / (sum_k v (P + T) + smooth), v = T^-volume_power / (its largest in the image).

    The division makes `smooth` count pixels of the rarest class. A class that is absent from the image has v = 1, like
    the rarest class that is present.

    Args:
      logits: `[*b h w k]`, any float dtype.
      labels: `[*b h w k]`, membership in [0, 1].
      smooth: number added to numerator and denominator.
      volume_power: exponent of a class's size T; the paper has 2, and 0 weights all classes equally.
      weight: None, or an array that broadcasts to the logits; 0 = ignored.
      num_subpixels: number of pixels in a block if packed; 1 = not packed.

    Returns:
      Float32 `[*b]`.

    Reference:
      Sudre et al., 2017 (arXiv:1707.03237).

    Example:
      >>> import jax.numpy as jnp
      >>> from unet_jax import losses
      >>> logits = 20.0 * jnp.array([[[1.0, 1.0], [1.0, 1.0], [1.0, -1.0]]])  # one false positive
      >>> labels = jnp.array([[[1.0, 1.0], [1.0, 0.0], [1.0, 0.0]]])
      >>> print(f"{float(losses.generalized_dice_loss(logits, labels)):.3f}")
      0.214
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
    """Compute the soft Jaccard loss: 1 - intersection over union.

    Formula: 1 - (I + smooth) / (P + T - I + smooth).

    Args:
      logits: `[*b h w k]`, any float dtype.
      labels: `[*b h w k]`, membership in [0, 1].
      smooth: number added to numerator and denominator.
      weight: None, or an array that broadcasts to the logits; 0 = ignored.
      num_subpixels: number of pixels in a block if packed; 1 = not packed.

    Returns:
      Float32 `[*b k]`.

    Reference:
      Rahman and Wang, Optimizing intersection-over-union, 2016 (doi:10.1007/978-3-319-50835-1_22).

    Example:
      >>> import jax.numpy as jnp
      >>> from unet_jax import losses
      >>> logits = jnp.array([20.0, 20.0, -20.0]).reshape(1, 3, 1)  # one hit, one false positive
      >>> labels = jnp.array([1.0, 0.0, 0.0]).reshape(1, 3, 1)
      >>> print(f"{losses.jaccard_loss(logits, labels).item():.3f}")  # 1 - (1 + 1) / (2 + 1)
      0.333
    """
    return one_minus_jaccard(overlap_sums(logits, labels, weight, num_subpixels), smooth)


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
    """Compute the Tversky loss, which weights false positives and false negatives differently.

    Formula: 1 - TI, TI = (I + smooth) / (I + fp_weight FP + fn_weight FN + smooth).

    Weights of 0.5 and 0.5 are Dice with twice the smooth; 1 and 1 are Jaccard. Programs differ in which of the two
    weights they call `alpha`.

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
      Salehi et al., 2017 (arXiv:1706.05721).

    Example:
      >>> import jax.numpy as jnp
      >>> from unet_jax import losses
      >>> logits = jnp.array([20.0, 20.0, -20.0]).reshape(1, 3, 1)  # one hit, one false positive
      >>> labels = jnp.array([1.0, 0.0, 0.0]).reshape(1, 3, 1)
      >>> print(f"{losses.tversky_loss(logits, labels).item():.3f}")  # 1 - (1 + 1) / (1 + 0.3 + 1)
      0.130
    """
    return one_minus_tversky(overlap_sums(logits, labels, weight, num_subpixels), fp_weight, fn_weight, smooth)


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
    """Compute the focal Tversky loss: a power of the Tversky loss of each image and class.

    Formula: (1 - TI)^gamma, TI as in `tversky_loss`.

    Args:
      logits: `[*b h w k]`, any float dtype.
      labels: `[*b h w k]`, membership in [0, 1].
      fp_weight: weight of false positives.
      fn_weight: weight of false negatives.
      gamma: exponent; the paper's gamma is the inverse, 4 / 3. Below 1 the gradient grows without limit towards a
        perfect prediction; at the perfect prediction itself it is 0.
      smooth: number added to numerator and denominator.
      weight: None, or an array that broadcasts to the logits; 0 = ignored.
      num_subpixels: number of pixels in a block if packed; 1 = not packed.

    Returns:
      Float32 `[*b k]`.

    Reference:
      Abraham and Khan, 2018 (arXiv:1810.07842).

    Example:
      >>> import jax.numpy as jnp
      >>> from unet_jax import losses
      >>> logits = jnp.array([20.0, 20.0, -20.0]).reshape(1, 3, 1)  # one hit, one false positive
      >>> labels = jnp.array([1.0, 0.0, 0.0]).reshape(1, 3, 1)
      >>> print(f"{losses.focal_tversky_loss(logits, labels).item():.3f}")  # 0.130^0.75
      0.217
    """
    sums = overlap_sums(logits, labels, weight, num_subpixels)
    return safe_power(jnp.maximum(one_minus_tversky(sums, fp_weight, fn_weight, smooth), 0.0), gamma)
