"""Losses that judge every pixel of every class by itself: `[*b h w k]` in, `[*b h w k]` out.

x is a logit, t a label in [0, 1], p = sigmoid(x). `weight` multiplies the values, so their mean is
`sum(values) / sum(weight)`, with the weight broadcast: ignored pixels must not stay in the denominator.
"""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from unet_jax.losses._inputs import Weight, full_weight, safe_power, to_float32

Scalar = Float[Array, ""] | float


def _weighted(values: Float[Array, "*b h w k"], weight: Weight) -> Float[Array, "*b h w k"]:
    return values if weight is None else values * full_weight(weight, values.shape)


def bce_loss(
    logits: Float[Array, "*b h w k"], labels: Float[Array, "*b h w k"], *, weight: Weight = None
) -> Float[Array, "*b h w k"]:
    """Binary cross entropy of independent classes, softplus(x) - x t for a logit x and a target t in [0, 1].

    Unreduced; computed from logits, so it is exact where probabilities would round to 0 or 1.
    """
    return _weighted(optax.sigmoid_binary_cross_entropy(*to_float32(logits, labels)), weight)


def weighted_bce_loss(
    logits: Float[Array, "*b h w k"],
    labels: Float[Array, "*b h w k"],
    *,
    pos_weight: Scalar | Float[Array, " k"] = 1.0,
    label_smoothing: Scalar = 0.0,
    weight: Weight = None,
) -> Float[Array, "*b h w k"]:
    """pos_weight t' softplus(-x) + (1 - t') softplus(x) with t' = t (1 - label_smoothing) + label_smoothing / 2.

    Label smoothing after Szegedy et al., 2015 (arXiv:1512.00567), for two outcomes: t' is 0.05 or 0.95 for 0.1.

    Args:
      pos_weight: factor of positive labels, one for all or one per class.
      label_smoothing: from 0 to 1.
    """
    x, t = to_float32(logits, labels)
    t = t * (1.0 - label_smoothing) + 0.5 * label_smoothing
    return _weighted(
        full_weight(pos_weight, x.shape) * t * jax.nn.softplus(-x) + (1.0 - t) * jax.nn.softplus(x), weight
    )


def balanced_bce_loss(
    logits: Float[Array, "*b h w k"], labels: Float[Array, "*b h w k"], *, weight: Weight = None
) -> Float[Array, "*b h w k"]:
    """n t softplus(-x) + (1 - n) (1 - t) softplus(x), n = share of the negatives, of each image and class.

    Xie and Tu, Holistically-nested edge detection, 2015 (arXiv:1504.06375). Both kinds of pixels weigh the same in
    sum. In an image without the class n = 1, so nothing is learnt from it: add `bce_loss`.
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
    """softplus(x) - x t' with t' = label_weight t + (1 - label_weight) p; the gradient goes through t' too.

    Reed et al., Training deep neural networks on noisy labels with bootstrapping, 2014 (arXiv:1412.6596).
    """
    x, t = to_float32(logits, labels)
    return _weighted(jax.nn.softplus(x) - x * (label_weight * t + (1.0 - label_weight) * jax.nn.sigmoid(x)), weight)


def hard_bootstrapped_bce_loss(
    logits: Float[Array, "*b h w k"],
    labels: Float[Array, "*b h w k"],
    *,
    label_weight: Scalar = 0.8,
    weight: Weight = None,
) -> Float[Array, "*b h w k"]:
    """softplus(x) - x t' with t' = label_weight t + (1 - label_weight) [p > 1/2].

    Reed et al., Training deep neural networks on noisy labels with bootstrapping, 2014 (arXiv:1412.6596).
    """
    x, t = to_float32(logits, labels)
    return _weighted(jax.nn.softplus(x) - x * (label_weight * t + (1.0 - label_weight) * (x > 0.0)), weight)


def _miss(x: Array, t: Array) -> Array:
    """1 - p_t = p (1 - t) + (1 - p) t without the cancellation of 1 - p."""
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
    """a (1 - p_t)^gamma bce, with p_t = p t + (1 - p)(1 - t) and a = pos_weight t + neg_weight (1 - t).

    Lin et al., Focal loss for dense object detection, 2017 (arXiv:1708.02002). Its alpha of 0.25 is pos_weight 0.25
    and neg_weight 0.75.
    """
    x, t = to_float32(logits, labels)
    balance = pos_weight * t + neg_weight * (1.0 - t)
    return _weighted(balance * optax.losses.sigmoid_focal_loss(x, t, gamma=gamma), weight)  # type: ignore[arg-type]


def poly1_bce_loss(
    logits: Float[Array, "*b h w k"], labels: Float[Array, "*b h w k"], *, epsilon: Scalar = 1.0, weight: Weight = None
) -> Float[Array, "*b h w k"]:
    """bce + epsilon (1 - p_t), with p_t = p t + (1 - p)(1 - t).

    Leng et al., PolyLoss, 2022 (arXiv:2204.12511).
    """
    x, t = to_float32(logits, labels)
    return _weighted(optax.sigmoid_binary_cross_entropy(x, t) + epsilon * _miss(x, t), weight)


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
    """a ((1 - p_t)^gamma bce + epsilon (1 - p_t)^(gamma + 1)), with p_t and a as in `focal_loss`.

    Leng et al., PolyLoss, 2022 (arXiv:2204.12511).
    """
    x, t = to_float32(logits, labels)
    balance = pos_weight * t + neg_weight * (1.0 - t)
    focal = optax.losses.sigmoid_focal_loss(x, t, gamma=gamma)  # type: ignore[arg-type]
    return _weighted(balance * (focal + epsilon * safe_power(_miss(x, t), gamma + 1.0)), weight)


def asymmetric_loss(
    logits: Float[Array, "*b h w k"],
    labels: Float[Array, "*b h w k"],
    *,
    gamma_pos: Scalar = 1.0,
    gamma_neg: Scalar = 4.0,
    clip: Scalar = 0.05,
    weight: Weight = None,
) -> Float[Array, "*b h w k"]:
    """-(1 - q)^g (t log p + (1 - t) log n), n = min(1 - p + clip, 1), q = p t + n (1 - t).

    g = gamma_pos t + gamma_neg (1 - t), and no gradient passes through the factor (1 - q)^g, as in the authors' code.
    Negatives with p < clip cost nothing. Ben-Baruch et al., Asymmetric loss for multi-label classification (ASL), 2020
    (arXiv:2009.14119). The authors add over all elements where others take the mean.
    """
    x, t = to_float32(logits, labels)
    log_pos = jax.nn.log_sigmoid(x)
    log_clip = jnp.log(jnp.asarray(clip, jnp.float32))
    log_neg = jnp.minimum(jnp.logaddexp(jax.nn.log_sigmoid(-x), log_clip), 0.0)
    # 1 - q = (1 - p) t + max(p - clip, 0) (1 - t)
    miss = jax.nn.sigmoid(-x) * t + jnp.maximum(jax.nn.sigmoid(x) - clip, 0.0) * (1.0 - t)
    focus = jax.lax.stop_gradient(safe_power(miss, gamma_pos * t + gamma_neg * (1.0 - t)))
    return _weighted(-focus * (t * log_pos + (1.0 - t) * log_neg), weight)
