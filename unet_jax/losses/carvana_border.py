"""Losses of public Carvana programs that give pixels near a mask's border more weight, with their own constants.

x is a logit, t a label in [0, 1], p = sigmoid(x). Each function returns one number for the batch, as the originals do:
sums run over batch, height, width and classes unless the docstring says otherwise. The neighbourhood of a pixel is a
square window of `border_size` pixels in the same image and class. Those in Keras clip p to [1e-7, 1 - 1e-7] before
they take its logit again; here x is used as it is, which differs beyond |x| = 16 only.

None of them is recommended over `bce_dice_loss`: they are here so that numbers from those programs can be compared.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unet_jax.losses.pixel import bce_loss

BORDER_SIZES: dict[int, int] = {128: 11, 256: 21, 512: 21, 1024: 41, 1280: 51}
"""Window of petrosgk (to 1024) and asanakoy by the height of the image; they refuse other heights."""


def _window_sum(x: Float[Array, "b h w k"], size: int, axis: int) -> Float[Array, "b h w k"]:
    window, padding = [1] * 4, [(0, 0)] * 4
    window[axis], padding[axis] = size, ((size - 1) // 2, size // 2)  # an even window reaches further to the right
    return jax.lax.reduce_window(x, 0.0, jax.lax.add, tuple(window), (1, 1, 1, 1), padding)


def _local_mean(x: Float[Array, "b h w k"], size: int, *, count_padding: bool) -> Float[Array, "b h w k"]:
    """Mean over the window; pixels outside of the image are left out, or count as 0."""
    total = _window_sum(_window_sum(x, size, 1), size, 2)
    if count_padding:
        return total / size**2
    return total / _window_sum(_window_sum(jnp.ones_like(x), size, 1), size, 2)


def _local_max(x: Float[Array, "b h w k"], size: int) -> Float[Array, "b h w k"]:
    padding = ((0, 0), ((size - 1) // 2, size // 2), ((size - 1) // 2, size // 2), (0, 0))
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, size, size, 1), (1, 1, 1, 1), padding)


def _mean_one(weight: Float[Array, "b h w k"]) -> Float[Array, "b h w k"]:
    return weight / jnp.mean(weight)


def _soft_dice_loss(probs: Array, labels: Array, weight: Array | float = 1.0) -> Float[Array, ""]:
    intersection = jnp.sum(weight * probs * labels)
    return 1.0 - (2.0 * intersection + 1.0) / (jnp.sum(weight * probs) + jnp.sum(weight * labels) + 1.0)


def petrosgk_border_loss(
    logits: Float[Array, "b h w k"], labels: Float[Array, "b h w k"], *, border_size: int
) -> Float[Array, ""]:
    """`weighted_bce_dice_loss` of petrosgk/Kaggle-Carvana-Image-Masking-Challenge, model/losses.py.

    a = mean of t in the window (of its part inside the image); w = 3 where 0.005 < a < 0.995, else 1, then divided by
    its mean.

        sum((1 - t) x + (1 + (w - 1) t) softplus(-x)) / sum(w)
        + 1 - (2 sum(w^2 p t) + 1) / (sum(w^2 p) + sum(w^2 t) + 1)

    The original means to weight all pixels at the border, but hands w to the cross entropy as the weight of positive
    labels: outside of the mask the border weighs as little as everything else. Kept. Its Dice squares the weights.
    """
    mean = _local_mean(labels, border_size, count_padding=False)
    weight = _mean_one(1.0 + 2.0 * ((mean > 0.005) & (mean < 0.995)))
    terms = (1.0 - labels) * logits + (1.0 + (weight - 1.0) * labels) * jax.nn.softplus(-logits)
    dice = _soft_dice_loss(jax.nn.sigmoid(logits), labels, jnp.square(weight))
    return jnp.sum(terms) / jnp.sum(weight) + dice


def asanakoy_border_loss(
    logits: Float[Array, "b h w k"], labels: Float[Array, "b h w k"], *, border_size: int
) -> Float[Array, ""]:
    """`CombinedLoss` of asanakoy/kaggle_carvana_segmentation, asanakoy/losses.py, for which k = 1.

    a = mean of t in the window, where pixels outside of the image count as 0; w = 3 where 0.01 <= a <= 0.99, else 1,
    divided by its mean.

        sum(w bce) / sum(w)
        + 1 - mean over images of 2 (sum(w^2 p t) + 1) / (sum(w^2 p) + sum(w^2 t) + 1)

    Two things in the original look unintended, and are kept: a mask that covers the whole image has a border all
    around, and since the numerator ends in + 2, an empty mask that is predicted empty has the loss -1.
    """
    mean = _local_mean(labels, border_size, count_padding=True)
    weight = _mean_one(1.0 + 2.0 * ((mean >= 0.01) & (mean <= 0.99)))
    bce = jnp.sum(weight * bce_loss(logits, labels)) / jnp.sum(weight)
    probs, squared = jax.nn.sigmoid(logits), jnp.square(weight)
    intersection, total = (
        jnp.sum(x, axis=(-3, -2, -1)) for x in (squared * probs * labels, squared * (probs + labels))
    )
    return bce + 1.0 - jnp.mean(2.0 * (intersection + 1.0) / (total + 1.0))


def lyakaap_border_loss(logits: Float[Array, "b h w k"], labels: Float[Array, "b h w k"]) -> Float[Array, ""]:
    """`weighted_bce_dice_loss` of lyakaap/Kaggle-Carvana-3rd-Place-Solution, losses.py.

    a = mean of t in a window of 50 (of its part inside the image); w = exp(-5 |a - 0.5|), divided by its mean.

        sum(w bce) / sum(w) + 1 - (2 sum(p t) + 1) / (sum(p) + sum(t) + 1)

    The Dice is not weighted. The window is even and so lies half a pixel to the lower right.
    """
    mean = _local_mean(labels, 50, count_padding=False)
    weight = jnp.exp(-5.0 * jnp.abs(mean - 0.5))
    bce = jnp.sum(weight * bce_loss(logits, labels)) / jnp.sum(weight)
    return bce + _soft_dice_loss(jax.nn.sigmoid(logits), labels)


def _killthekitten_border(labels: Float[Array, "b h w k"]) -> Float[Array, "b h w k"]:
    """1 where the window of 21 holds both mask and background: max(t) max(1 - t) > 0.5."""
    return (_local_max(labels, 21) * _local_max(1.0 - labels, 21) > 0.5).astype(labels.dtype)


def killthekitten_dice_border_loss(
    logits: Float[Array, "b h w k"], labels: Float[Array, "b h w k"]
) -> Float[Array, ""]:
    """`dice_coef_loss_border` of killthekitten/kaggle-carvana-2017, losses.py.

        0.05 D(pixels of the border) + 0.95 D(all pixels)

    with D = 1 - (2 sum(p t) + 1) / (sum(p) + sum(t) + 1). Masks without border have D = 0 there.
    """
    probs = jax.nn.sigmoid(logits)
    border = _killthekitten_border(labels)
    return 0.05 * _soft_dice_loss(probs, labels, border) + 0.95 * _soft_dice_loss(probs, labels)


def killthekitten_bce_border_loss(logits: Float[Array, "b h w k"], labels: Float[Array, "b h w k"]) -> Float[Array, ""]:
    """`bce_dice_loss_border` of killthekitten/kaggle-carvana-2017, losses.py.

        0.05 mean of bce over the border's pixels + 0.95 (1 - (2 sum(p t) + 1) / (sum(p) + sum(t) + 1))

    The original is NaN for masks without border; here the first term is 0 then.
    """
    border = _killthekitten_border(labels)
    bce = jnp.sum(border * bce_loss(logits, labels)) / jnp.maximum(jnp.sum(border), 1.0)
    return 0.05 * bce + 0.95 * _soft_dice_loss(jax.nn.sigmoid(logits), labels)
