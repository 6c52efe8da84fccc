"""Losses of public Carvana programs that give pixels near a mask's border more weight, with the programs' constants.

x is a logit, t a label in [0, 1], p = sigmoid(x). Each function returns one number for the batch, as the originals do:
sums run over batch, height, width and classes unless the docstring says otherwise. The neighbourhood of a pixel is a
square window of `border_size` pixels in the same image and class. The programs in Keras clip p to [1e-7, 1 - 1e-7]
before they compute its logit again; here x is used as it is, which makes a difference only beyond |x| = 16.

None of these losses is recommended over `bce_dice_loss`: they exist to compare numbers from those programs.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from unet_jax.losses._inputs import to_float32
from unet_jax.losses.pixel import bce_loss

BORDER_SIZES: dict[int, int] = {128: 11, 256: 21, 512: 21, 1024: 41, 1280: 51}
"""Window size in pixels by height of the image in petrosgk (up to 1024) and asanakoy; both refuse other heights."""


def _window_sum(x: Float[Array, "b h w k"], size: int, axis: int) -> Float[Array, "b h w k"]:
    """Return the sum over a window of `size` pixels along one axis; pixels outside the image count as 0."""
    window, padding = [1] * 4, [(0, 0)] * 4
    # A window of even size reaches one pixel further down and to the right.
    window[axis], padding[axis] = size, ((size - 1) // 2, size // 2)
    return jax.lax.reduce_window(x, 0.0, jax.lax.add, tuple(window), (1, 1, 1, 1), padding)


def _num_inside(length: int, size: int) -> Float[np.ndarray, " n"]:
    """Return how many pixels of each window of `_window_sum` lie inside the image, along an axis of `length` pixels."""
    at = np.arange(length)
    return (np.minimum(at + size // 2, length - 1) - np.maximum(at - (size - 1) // 2, 0) + 1).astype(np.float32)


def _local_mean(x: Float[Array, "b h w k"], size: int, *, count_padding: bool) -> Float[Array, "b h w k"]:
    """Return the mean over the window; pixels outside the image are left out, or count as 0 if `count_padding`."""
    total = _window_sum(_window_sum(x, size, 1), size, 2)
    if count_padding:
        return total / size**2
    rows, columns = (_num_inside(length, size) for length in x.shape[1:3])
    return total / (rows[:, None] * columns)[None, :, :, None]


def _local_max(x: Float[Array, "b h w k"], size: int) -> Float[Array, "b h w k"]:
    """Return the maximum over the part of the window that lies inside the image."""
    padding = ((0, 0), ((size - 1) // 2, size // 2), ((size - 1) // 2, size // 2), (0, 0))
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, size, size, 1), (1, 1, 1, 1), padding)


def _mean_one(weight: Float[Array, "b h w k"]) -> Float[Array, "b h w k"]:
    """Return the weights divided by their mean."""
    return weight / jnp.mean(weight)


def _soft_dice_loss(probs: Array, labels: Array, weight: Array | float = 1.0) -> Float[Array, ""]:
    """Return 1 - (2 sum(w p t) + 1) / (sum(w p) + sum(w t) + 1) over the whole batch."""
    intersection = jnp.sum(weight * probs * labels)
    return 1.0 - (2.0 * intersection + 1.0) / (jnp.sum(weight * probs) + jnp.sum(weight * labels) + 1.0)


def petrosgk_border_loss(
    logits: Float[Array, "b h w k"], labels: Float[Array, "b h w k"], *, border_size: int
) -> Float[Array, ""]:
    """Compute `weighted_bce_dice_loss` of petrosgk/Kaggle-Carvana-Image-Masking-Challenge, model/losses.py.

    a = mean of t in the window (the part of it inside the image); w = 3 where 0.005 < a < 0.995, else 1, then divided
    by its mean. Formula:

        sum((1 - t) x + (1 + (w - 1) t) softplus(-x)) / sum(w)
        + 1 - (2 sum(w^2 p t) + 1) / (sum(w^2 p) + sum(w^2 t) + 1)

    The original means to weight all pixels at the border, but passes w to the cross entropy as the weight of positive
    labels, so background pixels at the border have no more weight than any others. This is kept. Its Dice term squares
    the weights.

    Args:
      logits: `[b h w k]`, float32.
      labels: `[b h w k]`, membership in [0, 1].
      border_size: side of the window in pixels; `BORDER_SIZES` has the original's.

    Returns:
      Float32 scalar `[]`.

    Raises:
      ValueError: logits and labels differ in shape.

    Reference:
      petrosgk/Kaggle-Carvana-Image-Masking-Challenge on GitHub.

    Example:
      >>> import jax.numpy as jnp
      >>> from unet_jax import losses
      >>> labels = jnp.zeros((1, 32, 32, 1)).at[:, 8:24, 8:24].set(1.0)
      >>> print(f"{float(losses.petrosgk_border_loss(0.0 * labels, labels, border_size=11)):.3f}")
      1.332
    """
    logits, labels = to_float32(logits, labels)
    mean = _local_mean(labels, border_size, count_padding=False)
    weight = _mean_one(1.0 + 2.0 * ((mean > 0.005) & (mean < 0.995)))
    terms = (1.0 - labels) * logits + (1.0 + (weight - 1.0) * labels) * jax.nn.softplus(-logits)
    dice = _soft_dice_loss(jax.nn.sigmoid(logits), labels, jnp.square(weight))
    return jnp.sum(terms) / jnp.sum(weight) + dice


def asanakoy_border_loss(
    logits: Float[Array, "b h w k"], labels: Float[Array, "b h w k"], *, border_size: int
) -> Float[Array, ""]:
    """Compute `CombinedLoss` of asanakoy/kaggle_carvana_segmentation, asanakoy/losses.py, where k = 1.

    a = mean of t in the window, where pixels outside the image count as 0; w = 3 where 0.01 <= a <= 0.99, else 1, then
    divided by its mean. Formula:

        sum(w bce) / sum(w)
        + 1 - mean over images of 2 (sum(w^2 p t) + 1) / (sum(w^2 p) + sum(w^2 t) + 1)

    Two properties of the original look unintended, and are kept: a mask that covers the whole image has a border all
    around, and since the numerator ends in + 2, an empty mask that is predicted empty has the loss -1.

    Args:
      logits: `[b h w k]`, float32.
      labels: `[b h w k]`, membership in [0, 1].
      border_size: side of the window in pixels; `BORDER_SIZES` has the original's.

    Returns:
      Float32 scalar `[]`.

    Raises:
      ValueError: logits and labels differ in shape.

    Reference:
      asanakoy/kaggle_carvana_segmentation on GitHub.

    Example:
      >>> import jax.numpy as jnp
      >>> from unet_jax import losses
      >>> logits, labels = jnp.full((1, 32, 32, 1), -30.0), jnp.zeros((1, 32, 32, 1))  # empty, and predicted empty
      >>> print(f"{float(losses.asanakoy_border_loss(logits, labels, border_size=11)):.3f}")
      -1.000
    """
    logits, labels = to_float32(logits, labels)
    mean = _local_mean(labels, border_size, count_padding=True)
    weight = _mean_one(1.0 + 2.0 * ((mean >= 0.01) & (mean <= 0.99)))
    bce = jnp.sum(weight * bce_loss(logits, labels)) / jnp.sum(weight)
    probs, squared = jax.nn.sigmoid(logits), jnp.square(weight)
    intersection, total = (
        jnp.sum(x, axis=(-3, -2, -1)) for x in (squared * probs * labels, squared * (probs + labels))
    )
    return bce + 1.0 - jnp.mean(2.0 * (intersection + 1.0) / (total + 1.0))


def lyakaap_border_loss(logits: Float[Array, "b h w k"], labels: Float[Array, "b h w k"]) -> Float[Array, ""]:
    """Compute `weighted_bce_dice_loss` of lyakaap/Kaggle-Carvana-3rd-Place-Solution, losses.py.

    a = mean of t in a window of 50 (the part of it inside the image); w = exp(-5 |a - 0.5|), divided by its mean.
    Formula:

        sum(w bce) / sum(w) + 1 - (2 sum(p t) + 1) / (sum(p) + sum(t) + 1)

    The Dice term is not weighted. The window has an even size, so its centre is half a pixel to the lower right.

    Args:
      logits: `[b h w k]`, float32.
      labels: `[b h w k]`, membership in [0, 1].

    Returns:
      Float32 scalar `[]`.

    Raises:
      ValueError: logits and labels differ in shape.

    Reference:
      lyakaap/Kaggle-Carvana-3rd-Place-Solution on GitHub.

    Example:
      >>> import jax.numpy as jnp
      >>> from unet_jax import losses
      >>> labels = jnp.zeros((1, 32, 32, 1)).at[:, 8:24, 8:24].set(1.0)
      >>> print(f"{float(losses.lyakaap_border_loss(0.0 * labels, labels)):.3f}")
      1.359
    """
    logits, labels = to_float32(logits, labels)
    mean = _local_mean(labels, 50, count_padding=False)
    weight = jnp.exp(-5.0 * jnp.abs(mean - 0.5))
    bce = jnp.sum(weight * bce_loss(logits, labels)) / jnp.sum(weight)
    return bce + _soft_dice_loss(jax.nn.sigmoid(logits), labels)


def _killthekitten_border(labels: Float[Array, "b h w k"]) -> Float[Array, "b h w k"]:
    """Return 1 where the window of 21 pixels holds both mask and background: max(t) max(1 - t) > 0.5; else 0."""
    return (_local_max(labels, 21) * _local_max(1.0 - labels, 21) > 0.5).astype(labels.dtype)


def killthekitten_dice_border_loss(
    logits: Float[Array, "b h w k"], labels: Float[Array, "b h w k"]
) -> Float[Array, ""]:
    """Compute `dice_coef_loss_border` of killthekitten/kaggle-carvana-2017, losses.py.

    Formula:

        0.05 D(pixels of the border) + 0.95 D(all pixels)

    with D = 1 - (2 sum(p t) + 1) / (sum(p) + sum(t) + 1). For masks without a border the first D is 0.

    Args:
      logits: `[b h w k]`, float32.
      labels: `[b h w k]`, membership in [0, 1].

    Returns:
      Float32 scalar `[]`.

    Raises:
      ValueError: logits and labels differ in shape.

    Reference:
      killthekitten/kaggle-carvana-2017 on GitHub.

    Example:
      >>> import jax.numpy as jnp
      >>> from unet_jax import losses
      >>> labels = jnp.zeros((1, 32, 32, 1)).at[:, 8:24, 8:24].set(1.0)
      >>> print(f"{float(losses.killthekitten_dice_border_loss(0.0 * labels, labels)):.3f}")
      0.666
    """
    logits, labels = to_float32(logits, labels)
    probs = jax.nn.sigmoid(logits)
    border = _killthekitten_border(labels)
    return 0.05 * _soft_dice_loss(probs, labels, border) + 0.95 * _soft_dice_loss(probs, labels)


def killthekitten_bce_border_loss(logits: Float[Array, "b h w k"], labels: Float[Array, "b h w k"]) -> Float[Array, ""]:
    """Compute `bce_dice_loss_border` of killthekitten/kaggle-carvana-2017, losses.py.

    Formula:

        0.05 mean of bce over the border's pixels + 0.95 (1 - (2 sum(p t) + 1) / (sum(p) + sum(t) + 1))

    For masks without a border the original is NaN; here the first term is 0 then.

    Args:
      logits: `[b h w k]`, float32.
      labels: `[b h w k]`, membership in [0, 1].

    Returns:
      Float32 scalar `[]`.

    Raises:
      ValueError: logits and labels differ in shape.

    Reference:
      killthekitten/kaggle-carvana-2017 on GitHub.

    Example:
      >>> import jax.numpy as jnp
      >>> from unet_jax import losses
      >>> labels = jnp.zeros((1, 32, 32, 1)).at[:, 8:24, 8:24].set(1.0)
      >>> print(f"{float(losses.killthekitten_bce_border_loss(0.0 * labels, labels)):.3f}")
      0.667
    """
    logits, labels = to_float32(logits, labels)
    border = _killthekitten_border(labels)
    bce = jnp.sum(border * bce_loss(logits, labels)) / jnp.maximum(jnp.sum(border), 1.0)
    return 0.05 * bce + 0.95 * _soft_dice_loss(jax.nn.sigmoid(logits), labels)
