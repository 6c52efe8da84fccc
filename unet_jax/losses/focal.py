"""Focal loss and its relatives, which weigh pixels by how well they are predicted: `[*b h w k]` in and out.

The notation is that of `unet_jax.losses.pixel`; p_t = p t + (1 - p)(1 - t) is the probability of what is true.
"""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from unet_jax.losses._inputs import Weight, safe_power, to_float32
from unet_jax.losses.pixel import Scalar, weighted


def _miss(x: Array, t: Array) -> Array:
    """Return 1 - p_t = p (1 - t) + (1 - p) t without the cancellation of 1 - p."""
    return jax.nn.sigmoid(x) * (1.0 - t) + jax.nn.sigmoid(-x) * t


def focal_loss(
    logits: Float[Array, "*b h w k"],
    labels: Float[Array, "*b h w k"],
    *,
    gamma: Scalar = 2.0,
    pos_weight: Scalar = 1.0,
    neg_weight: Scalar = 1.0,
    weight: Weight = None,
) -> Float[Array, "*b h w k"]:
    """Compute the focal loss, which plays down pixels that are predicted well.

    Formula: a (1 - p_t)^gamma bce, with p_t = p t + (1 - p)(1 - t) and a = pos_weight t + neg_weight (1 - t).

    Args:
      logits: `[*b h w k]`, any float dtype.
      labels: `[*b h w k]`, membership in [0, 1].
      gamma: exponent; larger values play easy pixels down more, and 0 is the cross entropy.
      pos_weight, neg_weight: factors of positive and negative labels; the paper's alpha of 0.25 is 0.25 and 0.75.
      weight: None, or an array that broadcasts to the logits; 0 = ignored.

    Returns:
      Float32 `[*b h w k]`, multiplied by `weight`.

    Reference:
      Lin et al., Focal loss for dense object detection, 2017 (arXiv:1708.02002).

    Example:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from unet_jax import losses
      >>> logits, labels = jnp.array([2.0, -2.0]).reshape(1, 2, 1), jnp.ones((1, 2, 1))
      >>> print(np.asarray(losses.focal_loss(logits, labels).ravel()).round(3))
      [0.002 1.65 ]
    """
    x, t = to_float32(logits, labels)
    balance = pos_weight * t + neg_weight * (1.0 - t)
    return weighted(balance * optax.losses.sigmoid_focal_loss(x, t, gamma=gamma), weight)  # type: ignore[arg-type]


def poly1_bce_loss(
    logits: Float[Array, "*b h w k"], labels: Float[Array, "*b h w k"], *, epsilon: Scalar = 1.0, weight: Weight = None
) -> Float[Array, "*b h w k"]:
    """Compute the Poly-1 cross entropy: the first coefficient of the expansion in powers of 1 - p_t is changed.

    Formula: bce + epsilon (1 - p_t), with p_t = p t + (1 - p)(1 - t).

    Args:
      logits: `[*b h w k]`, any float dtype.
      labels: `[*b h w k]`, membership in [0, 1].
      epsilon: number added to the first coefficient.
      weight: None, or an array that broadcasts to the logits; 0 = ignored.

    Returns:
      Float32 `[*b h w k]`, multiplied by `weight`.

    Reference:
      Leng et al., PolyLoss, 2022 (arXiv:2204.12511).

    Example:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from unet_jax import losses
      >>> logits, labels = jnp.array([2.0, -2.0]).reshape(1, 2, 1), jnp.ones((1, 2, 1))
      >>> print(np.asarray(losses.poly1_bce_loss(logits, labels).ravel()).round(3))
      [0.246 3.008]
    """
    x, t = to_float32(logits, labels)
    return weighted(optax.sigmoid_binary_cross_entropy(x, t) + epsilon * _miss(x, t), weight)


def poly1_focal_loss(
    logits: Float[Array, "*b h w k"],
    labels: Float[Array, "*b h w k"],
    *,
    gamma: Scalar = 2.0,
    epsilon: Scalar = 1.0,
    pos_weight: Scalar = 1.0,
    neg_weight: Scalar = 1.0,
    weight: Weight = None,
) -> Float[Array, "*b h w k"]:
    """Compute the Poly-1 focal loss: the focal loss plus a multiple of its next power of 1 - p_t.

    Formula: a ((1 - p_t)^gamma bce + epsilon (1 - p_t)^(gamma + 1)), with p_t and a as in `focal_loss`.

    Args:
      logits: `[*b h w k]`, any float dtype.
      labels: `[*b h w k]`, membership in [0, 1].
      gamma: exponent of the focal loss.
      epsilon: factor of the added power; 0 is `focal_loss`.
      pos_weight, neg_weight: factors of positive and negative labels.
      weight: None, or an array that broadcasts to the logits; 0 = ignored.

    Returns:
      Float32 `[*b h w k]`, multiplied by `weight`.

    Reference:
      Leng et al., PolyLoss, 2022 (arXiv:2204.12511).

    Example:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from unet_jax import losses
      >>> logits, labels = jnp.array([2.0, -2.0]).reshape(1, 2, 1), jnp.ones((1, 2, 1))
      >>> print(np.asarray(losses.poly1_focal_loss(logits, labels).ravel()).round(3))
      [0.003 2.333]
    """
    x, t = to_float32(logits, labels)
    balance = pos_weight * t + neg_weight * (1.0 - t)
    focal = optax.losses.sigmoid_focal_loss(x, t, gamma=gamma)  # type: ignore[arg-type]
    return weighted(balance * (focal + epsilon * safe_power(_miss(x, t), gamma + 1.0)), weight)


def asymmetric_loss(
    logits: Float[Array, "*b h w k"],
    labels: Float[Array, "*b h w k"],
    *,
    gamma_pos: Scalar = 1.0,
    gamma_neg: Scalar = 4.0,
    clip: Scalar = 0.05,
    weight: Weight = None,
) -> Float[Array, "*b h w k"]:
    """Compute the asymmetric loss (ASL): a focal loss with one exponent for positives and one for negatives.

    Formula: -(1 - q)^g (t log p + (1 - t) log n), n = min(1 - p + clip, 1), q = p t + n (1 - t).

    g = gamma_pos t + gamma_neg (1 - t), and no gradient passes through the factor (1 - q)^g, as in the authors' code.
    Negatives with p < clip cost nothing. The authors add up all elements where others take the mean.

    Args:
      logits: `[*b h w k]`, any float dtype.
      labels: `[*b h w k]`, membership in [0, 1].
      gamma_pos, gamma_neg: exponents for positive and negative labels.
      clip: probability below which a negative costs nothing, in [0, 1).
      weight: None, or an array that broadcasts to the logits; 0 = ignored.

    Returns:
      Float32 `[*b h w k]`, multiplied by `weight`.

    Reference:
      Ben-Baruch et al., Asymmetric loss for multi-label classification, 2020 (arXiv:2009.14119).

    Example:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from unet_jax import losses
      >>> logits, labels = jnp.array([-4.0, 0.0, 3.0]).reshape(1, 3, 1), jnp.zeros((1, 3, 1))
      >>> print(np.asarray(jnp.abs(losses.asymmetric_loss(logits, labels)).ravel()).round(3))  # p is 0.02, 0.5, 0.95
      [0.    0.025 1.545]
    """
    x, t = to_float32(logits, labels)
    log_pos = jax.nn.log_sigmoid(x)
    log_clip = jnp.log(jnp.asarray(clip, jnp.float32))
    log_neg = jnp.minimum(jnp.logaddexp(jax.nn.log_sigmoid(-x), log_clip), 0.0)
    # 1 - q = (1 - p) t + max(p - clip, 0) (1 - t)
    miss = jax.nn.sigmoid(-x) * t + jnp.maximum(jax.nn.sigmoid(x) - clip, 0.0) * (1.0 - t)
    focus = jax.lax.stop_gradient(safe_power(miss, gamma_pos * t + gamma_neg * (1.0 - t)))
    return weighted(-focus * (t * log_pos + (1.0 - t) * log_neg), weight)
