"""Losses that judge every pixel of every class by itself: `[*b h w k]` in, `[*b h w k]` out.

x is a logit, t a label in [0, 1], p = sigmoid(x). `weight` multiplies the values, so their mean is
`sum(values) / sum(weight)` with the weight broadcast to the logits: ignored pixels must not count in the denominator.
"""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from unet_jax.losses._inputs import Weight, full_weight, to_float32

Scalar = Float[Array, ""] | float


def weighted(values: Float[Array, "*b h w k"], weight: Weight) -> Float[Array, "*b h w k"]:
    """Return the values multiplied by the weight."""
    return values if weight is None else values * full_weight(weight, values.shape)


def bce_loss(
    logits: Float[Array, "*b h w k"], labels: Float[Array, "*b h w k"], *, weight: Weight = None
) -> Float[Array, "*b h w k"]:
    """Compute the binary cross entropy of independent classes.

    Formula: softplus(x) - x t, for a logit x and a label t in [0, 1].

    It is computed from logits, so it is exact where probabilities would round to 0 or 1. It is not reduced.

    Args:
      logits: `[*b h w k]`, any float dtype.
      labels: `[*b h w k]`, membership in [0, 1].
      weight: None, or an array that broadcasts to the logits; 0 = ignored.

    Returns:
      Float32 `[*b h w k]`, multiplied by `weight`.

    Example:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from unet_jax import losses
      >>> logits, labels = jnp.array([2.0, -2.0]).reshape(1, 2, 1), jnp.ones((1, 2, 1))
      >>> print(np.asarray(losses.bce_loss(logits, labels).ravel()).round(3))
      [0.127 2.127]
    """
    return weighted(optax.sigmoid_binary_cross_entropy(*to_float32(logits, labels)), weight)


def weighted_bce_loss(
    logits: Float[Array, "*b h w k"],
    labels: Float[Array, "*b h w k"],
    *,
    pos_weight: Scalar | Float[Array, " k"] = 1.0,
    label_smoothing: Scalar = 0.0,
    weight: Weight = None,
) -> Float[Array, "*b h w k"]:
    """Compute the binary cross entropy with a factor for positive labels and with label smoothing.

    Formula: pos_weight t' softplus(-x) + (1 - t') softplus(x) with t' = t (1 - label_smoothing) + label_smoothing / 2.

    Args:
      logits: `[*b h w k]`, any float dtype.
      labels: `[*b h w k]`, membership in [0, 1].
      pos_weight: factor of positive labels, one for all classes or `[k]`.
      label_smoothing: strength of the smoothing, in [0, 1]; with 0.1, t' is 0.05 or 0.95.
      weight: None, or an array that broadcasts to the logits; 0 = ignored.

    Returns:
      Float32 `[*b h w k]`, multiplied by `weight`.

    Reference:
      Label smoothing for two outcomes after Szegedy et al., 2015 (arXiv:1512.00567).

    Example:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from unet_jax import losses
      >>> logits, labels = jnp.zeros((1, 2, 1)), jnp.array([1.0, 0.0]).reshape(1, 2, 1)
      >>> print(np.asarray(losses.weighted_bce_loss(logits, labels, pos_weight=3.0).ravel()).round(3))
      [2.079 0.693]
    """
    x, t = to_float32(logits, labels)
    t = t * (1.0 - label_smoothing) + 0.5 * label_smoothing
    return weighted(full_weight(pos_weight, x.shape) * t * jax.nn.softplus(-x) + (1.0 - t) * jax.nn.softplus(x), weight)


def balanced_bce_loss(
    logits: Float[Array, "*b h w k"], labels: Float[Array, "*b h w k"], *, weight: Weight = None
) -> Float[Array, "*b h w k"]:
    """Compute the binary cross entropy in which positive and negative pixels have the same total weight.

    Formula: n t softplus(-x) + (1 - n) (1 - t) softplus(x), n = share of the negatives in each image and class.

    In an image without the class n = 1, so nothing is learnt from it: add `bce_loss`.

    Args:
      logits: `[*b h w k]`, any float dtype.
      labels: `[*b h w k]`, membership in [0, 1].
      weight: None, or an array that broadcasts to the logits; 0 = ignored.

    Returns:
      Float32 `[*b h w k]`, multiplied by `weight`.

    Reference:
      Xie and Tu, Holistically-nested edge detection, 2015 (arXiv:1504.06375).

    Example:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from unet_jax import losses
      >>> logits, labels = jnp.zeros((1, 4, 1)), jnp.array([1.0, 0.0, 0.0, 0.0]).reshape(1, 4, 1)
      >>> print(np.asarray(losses.balanced_bce_loss(logits, labels).ravel()).round(3))
      [0.52  0.173 0.173 0.173]
    """
    x, t = to_float32(logits, labels)
    w = full_weight(weight, x.shape)
    total = jnp.sum(w, axis=(-3, -2), keepdims=True)
    negative = jnp.sum(w * (1.0 - t), axis=(-3, -2), keepdims=True) / jnp.maximum(total, 1e-12)
    return w * (negative * t * jax.nn.softplus(-x) + (1.0 - negative) * (1.0 - t) * jax.nn.softplus(x))


def soft_bootstrapped_bce_loss(
    logits: Float[Array, "*b h w k"],
    labels: Float[Array, "*b h w k"],
    *,
    label_weight: Scalar = 0.95,
    weight: Weight = None,
) -> Float[Array, "*b h w k"]:
    """Compute the binary cross entropy to a mixture of the label and the predicted probability, for noisy labels.

    Formula: softplus(x) - x t' with t' = label_weight t + (1 - label_weight) p; the gradient passes through t' too.

    Args:
      logits: `[*b h w k]`, any float dtype.
      labels: `[*b h w k]`, membership in [0, 1].
      label_weight: share of the label in t', in [0, 1]; 1 is `bce_loss`.
      weight: None, or an array that broadcasts to the logits; 0 = ignored.

    Returns:
      Float32 `[*b h w k]`, multiplied by `weight`.

    Reference:
      Reed et al., Training deep neural networks on noisy labels with bootstrapping, 2014 (arXiv:1412.6596).

    Example:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from unet_jax import losses
      >>> logits, labels = jnp.array([2.0, -2.0]).reshape(1, 2, 1), jnp.ones((1, 2, 1))
      >>> print(np.asarray(losses.soft_bootstrapped_bce_loss(logits, labels).ravel()).round(3))
      [0.139 2.039]
    """
    x, t = to_float32(logits, labels)
    return weighted(jax.nn.softplus(x) - x * (label_weight * t + (1.0 - label_weight) * jax.nn.sigmoid(x)), weight)


def hard_bootstrapped_bce_loss(
    logits: Float[Array, "*b h w k"],
    labels: Float[Array, "*b h w k"],
    *,
    label_weight: Scalar = 0.8,
    weight: Weight = None,
) -> Float[Array, "*b h w k"]:
    """Compute the binary cross entropy to a mixture of the label and the predicted mask, for noisy labels.

    Formula: softplus(x) - x t' with t' = label_weight t + (1 - label_weight) [p > 1/2].

    Args:
      logits: `[*b h w k]`, any float dtype.
      labels: `[*b h w k]`, membership in [0, 1].
      label_weight: share of the label in t', in [0, 1]; 1 is `bce_loss`.
      weight: None, or an array that broadcasts to the logits; 0 = ignored.

    Returns:
      Float32 `[*b h w k]`, multiplied by `weight`.

    Reference:
      Reed et al., Training deep neural networks on noisy labels with bootstrapping, 2014 (arXiv:1412.6596).

    Example:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from unet_jax import losses
      >>> logits, labels = jnp.array([2.0, -2.0]).reshape(1, 2, 1), jnp.ones((1, 2, 1))
      >>> print(np.asarray(losses.hard_bootstrapped_bce_loss(logits, labels).ravel()).round(3))
      [0.127 1.727]
    """
    x, t = to_float32(logits, labels)
    return weighted(jax.nn.softplus(x) - x * (label_weight * t + (1.0 - label_weight) * (x > 0.0)), weight)
