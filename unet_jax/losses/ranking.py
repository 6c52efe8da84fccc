"""Losses that sort the pixels: the hardest pixels, and the Lovasz extension of Jaccard. One value per image and class.

For the hardest pixels of a class in the whole batch, or one Lovasz hinge over it, see `unet_jax.losses.stack_images`.
"""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from unet_jax.losses._inputs import Weight, full_weight, to_float32

Logits = Float[Array, "*b h w k"]
Scalar = Float[Array, ""] | float


def _pixels_last(x: Logits) -> Float[Array, "*b k n"]:
    """Return the values with all pixels of an image and class along the last axis."""
    return jnp.moveaxis(x.reshape(*x.shape[:-3], -1, x.shape[-1]), -1, -2)


def topk_bce_loss(
    logits: Logits, labels: Logits, *, fraction: Scalar = 0.1, weight: Weight = None
) -> Float[Array, "*b k"]:
    """Compute the mean binary cross entropy of the hardest pixels of each image and class.

    Formula: mean bce of the n pixels where it is largest; n = floor(fraction N), at least 1.

    N is the number of pixels with a positive weight. Pixels whose loss equals that of the n-th share the places that
    are left among the n.

    Args:
      logits: `[*b h w k]`, any float dtype.
      labels: `[*b h w k]`, membership in [0, 1].
      fraction: share of the pixels to keep, in (0, 1].
      weight: None, or an array that broadcasts to the logits; 0 = ignored.

    Returns:
      Float32 `[*b k]`.

    Reference:
      Wu et al., Bridging category-level and instance-level semantic image segmentation, 2016 (arXiv:1605.06885).

    Example:
      >>> import jax.numpy as jnp
      >>> from unet_jax import losses
      >>> logits, labels = jnp.array([0.0, 1.0, 2.0, 3.0]).reshape(1, 4, 1), jnp.zeros((1, 4, 1))
      >>> print(f"{losses.topk_bce_loss(logits, labels, fraction=0.5).item():.3f}")  # (2.127 + 3.049) / 2
      2.588
    """
    loss = _pixels_last(optax.sigmoid_binary_cross_entropy(*to_float32(logits, labels)))
    w = _pixels_last(full_weight(weight, logits.shape))
    key = jax.lax.stop_gradient(jnp.where(w > 0.0, loss, -jnp.inf))
    allowed = jnp.sum(w > 0.0, axis=-1, keepdims=True)
    # Without 1e-6, 0.3 of 10 pixels, which is 2.9999999 in binary, would be 2 pixels.
    count = jnp.clip(jnp.floor(fraction * allowed + 1e-6).astype(jnp.int32), 1, loss.shape[-1])
    hardest = -jnp.sort(-key, axis=-1)
    limit = jnp.take_along_axis(hardest, count - 1, axis=-1)
    above, at = key > limit, (key == limit) & (w > 0.0)
    rest = count - jnp.sum(above, axis=-1, keepdims=True)
    chosen = w * (above + at * (rest / jnp.maximum(jnp.sum(at, axis=-1, keepdims=True), 1)))
    return jnp.sum(chosen * loss, axis=-1) / jnp.maximum(jnp.sum(chosen, axis=-1), 1e-12)


def lovasz_hinge_loss(logits: Logits, labels: Logits, *, weight: Weight = None) -> Float[Array, "*b k"]:
    """Compute the Lovasz hinge: the Lovasz extension of the Jaccard loss on hinge margins, per image and class.

    Formula: sum_i max(m_i, 0) (J_i - J_{i-1}), where m = 1 - x (2 t - 1), sorted from the largest down.

    J_i is the Jaccard loss of a prediction that is wrong at the first i pixels. Labels count as 1 from 0.5 on. In an
    image without the class J_1 = 1, so that only the largest logit, if above -1, has a gradient. Values grow with
    logits like the cross entropy, not like Jaccard.

    Args:
      logits: `[*b h w k]`, any float dtype.
      labels: `[*b h w k]`, membership in [0, 1].
      weight: None, or an array that broadcasts to the logits; 0 = ignored.

    Returns:
      Float32 `[*b k]`.

    Reference:
      Berman et al., The Lovasz-softmax loss, 2017 (arXiv:1705.08790).

    Example:
      >>> import jax.numpy as jnp
      >>> from unet_jax import losses
      >>> logits = jnp.array([2.0, -1.0, -3.0]).reshape(1, 3, 1)
      >>> labels = jnp.array([1.0, 1.0, 0.0]).reshape(1, 3, 1)
      >>> print(losses.lovasz_hinge_loss(logits, labels))  # margin 2 times J_1 = 1/2: one of two mask pixels is missed
      [1.]
    """
    x, t = to_float32(logits, labels)
    t = (t >= 0.5).astype(jnp.float32)
    margins = _pixels_last(1.0 - x * (2.0 * t - 1.0))
    true, w = _pixels_last(t), _pixels_last(full_weight(weight, x.shape))
    order = jnp.argsort(-jax.lax.stop_gradient(jnp.where(w > 0.0, margins, -jnp.inf)), axis=-1)
    margins, true, w = (jnp.take_along_axis(y, order, axis=-1) for y in (margins, true, w))
    # With the first i pixels wrong, `missed` mask pixels are lost and `claimed` background pixels are added:
    # J_i = 1 - (total - missed) / (total + claimed), so running sums give all J_i at once. The order is a constant of
    # the gradient, because the loss is piecewise linear in the margins.
    missed, claimed = jnp.cumsum(w * true, axis=-1), jnp.cumsum(w * (1.0 - true), axis=-1)
    total = missed[..., -1:]
    before = claimed - w * (1.0 - true)
    # J_i - J_{i-1} written out: as a difference it would lose most digits in images of many pixels.
    union, union_before = jnp.maximum(total + claimed, 1e-12), jnp.maximum(total + before, 1e-12)
    steps = w * jnp.where(true > 0.0, 1.0 / union, (total - missed) / union / union_before)
    absent = ((claimed > 0.0) & (before <= 0.0)).astype(jnp.float32)
    return jnp.sum(jax.nn.relu(margins) * jnp.where(total > 0.0, steps, absent), axis=-1)
