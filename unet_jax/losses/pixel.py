"""Losses that judge every pixel of every class by itself."""

import optax
from jaxtyping import Array, Float


def bce_loss(logits: Float[Array, "*b h w k"], labels: Float[Array, "*b h w k"]) -> Float[Array, "*b h w k"]:
    """Binary cross entropy of independent classes, softplus(x) - x t for a logit x and a target t in [0, 1].

    Unreduced; computed from logits, so it is exact where probabilities would round to 0 or 1.
    """
    return optax.sigmoid_binary_cross_entropy(logits, labels)
