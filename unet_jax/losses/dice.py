"""Soft Dice in three reductions: one value per image and class, per class, or for the whole batch.

Every overlap loss adds pixels up in `pixel_sum` and nowhere else. With `num_subpixels=s`, logits and labels are packed:
`[*b h w s*k]`, with channels in the order (sub-pixel, class), as in packed activations (docs/packing.md). A `weight`
per pixel must be packed in the same way; one with k channels is repeated.

All three use 1 - (2 I + smooth) / (P + T + smooth) with I = sum p t, P = sum p, T = sum t and p = sigmoid(logits),
after Milletari et al., V-Net, 2016 (arXiv:1606.04797), but with P and T not squared. They differ in what the sums run
over, and therefore in how much a rare class or a nearly empty image counts. In the two that sum over the batch, a
`weight` with one axis is one number per image; an image of weight 0 takes no part in the sums.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unet_jax.losses._inputs import Weight, full_weight, to_float32

_TINY = 1e-12  # far below any sum of weighted pixels


def pixel_sum(x: Float[Array, "*b h w s*k"], num_subpixels: int = 1) -> Float[Array, "*b k"]:
    """Return the sums over height and width, and over sub-pixels where channels are (sub-pixel, class)."""
    total = jnp.sum(x, axis=(-3, -2))
    if num_subpixels == 1:
        return total
    return jnp.sum(total.reshape(*total.shape[:-1], num_subpixels, -1), axis=-2)


def overlap_sums(
    logits: Float[Array, "*b h w k"], labels: Float[Array, "*b h w k"], weight: Weight = None, num_subpixels: int = 1
) -> tuple[Float[Array, "*b k"], Float[Array, "*b k"], Float[Array, "*b k"]]:
    """Return I, P and T (see the module's docstring) per image and class."""
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
    """Return I and P + T per image and class."""
    intersection, positive, true = overlap_sums(logits, labels, weight, num_subpixels)
    return intersection, positive + true


def _split_weight(weight: Weight) -> tuple[Weight, Float[Array, "b 1"] | float]:
    """Return the factor of each pixel and the factor of each image: a weight with one axis is one number per image."""
    if weight is not None and jnp.ndim(weight) == 1:
        return None, jnp.asarray(weight, jnp.float32)[:, None]
    return weight, 1.0


def _ratio_loss(intersection: Array, total: Array, smooth: float) -> Array:
    """Return 1 - (2 I + smooth) / (P + T + smooth), where `total` is P + T; 1 for 0 / 0."""
    return 1.0 - (2.0 * intersection + smooth) / jnp.maximum(total + smooth, _TINY)


def soft_dice_loss(
    logits: Float[Array, "*b h w k"],
    labels: Float[Array, "*b h w k"],
    *,
    smooth: float = 1.0,
    weight: Weight = None,
    num_subpixels: int = 1,
) -> Float[Array, "*b k"]:
    """Compute the soft Dice loss of each image and class.

    Formula: 1 - (2 I + smooth) / (P + T + smooth); the sums run over height and width.

    Args:
      logits: `[*b h w k]`, any float dtype.
      labels: `[*b h w k]`, membership in [0, 1].
      smooth: number added to numerator and denominator.
      weight: None, or an array that broadcasts to the logits; 0 = ignored.
      num_subpixels: number of pixels in a block if packed (see the module's docstring); 1 = not packed.

    Returns:
      Float32 `[*b k]`.

    Reference:
      Milletari et al., V-Net, 2016 (arXiv:1606.04797), with P and T not squared.

    Example:
      >>> import jax.numpy as jnp
      >>> from unet_jax import losses
      >>> logits = jnp.array([20.0, 20.0, -20.0]).reshape(1, 3, 1)  # one hit, one false positive
      >>> labels = jnp.array([1.0, 0.0, 0.0]).reshape(1, 3, 1)
      >>> print(f"{losses.soft_dice_loss(logits, labels).item():.3f}")  # 1 - (2 + 1) / (2 + 1 + 1)
      0.250
    """
    return _ratio_loss(*_sums(logits, labels, weight, num_subpixels), smooth)


def class_soft_dice_loss(
    logits: Float[Array, "b h w k"],
    labels: Float[Array, "b h w k"],
    weight: Weight = None,
    *,
    smooth: float = 1.0,
    num_subpixels: int = 1,
) -> Float[Array, " k"]:
    """Compute the soft Dice loss of each class over the whole batch.

    Formula: 1 - (2 I + smooth) / (P + T + smooth); the sums run over batch, height and width.

    Args:
      logits: `[b h w k]`, any float dtype.
      labels: `[b h w k]`, membership in [0, 1].
      weight: None; `[b]`, one number per image; or an array of more axes that broadcasts to the logits. 0 = ignored.
      smooth: number added to numerator and denominator.
      num_subpixels: number of pixels in a block if packed (see the module's docstring); 1 = not packed.

    Returns:
      Float32 `[k]`.

    Reference:
      Milletari et al., V-Net, 2016 (arXiv:1606.04797), with P and T not squared.

    Example:
      >>> import jax.numpy as jnp
      >>> from unet_jax import losses
      >>> logits = jnp.array([20.0, 20.0, -20.0]).reshape(3, 1, 1, 1)  # three images of one pixel
      >>> labels = jnp.array([1.0, 0.0, 0.0]).reshape(3, 1, 1, 1)
      >>> print(f"{losses.class_soft_dice_loss(logits, labels).item():.3f}")
      0.250
    """
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
    """Compute one soft Dice loss for the whole batch, as in the Keras original.

    Formula: 1 - (2 I + smooth) / (P + T + smooth); the sums run over batch, height, width and classes.

    Args:
      logits: `[b h w k]`, any float dtype.
      labels: `[b h w k]`, membership in [0, 1].
      weight: None; `[b]`, one number per image; or an array of more axes that broadcasts to the logits. 0 = ignored.
      smooth: number added to numerator and denominator.
      num_subpixels: number of pixels in a block if packed (see the module's docstring); 1 = not packed.

    Returns:
      Float32 scalar `[]`.

    Reference:
      Milletari et al., V-Net, 2016 (arXiv:1606.04797), with P and T not squared.

    Example:
      >>> import jax.numpy as jnp
      >>> from unet_jax import losses
      >>> logits = jnp.array([20.0, 20.0, -20.0, -20.0]).reshape(2, 1, 1, 2)
      >>> labels = jnp.array([1.0, 0.0, 0.0, 0.0]).reshape(2, 1, 1, 2)
      >>> print(f"{float(losses.batch_soft_dice_loss(logits, labels)):.3f}")
      0.250
    """
    pixels, images = _split_weight(weight)
    intersection, total = (jnp.sum(s * images) for s in _sums(logits, labels, pixels, num_subpixels))
    return _ratio_loss(intersection, total, smooth)
