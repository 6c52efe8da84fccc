"""The two numbers that the seed's program prints beside its loss, computed as Keras does; `docs/metrics.md` compares.

Both average over batches when Keras averages them over an epoch, so they depend on the batch size. Neither thresholds
class by class. Use `unet_jax.metrics` to compare networks, and these to compare with a Keras log.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def dice_coef(
    probs: Float[Array, "*b h w k"], labels: Float[Array, "*b h w k"], *, smooth: float = 1.0
) -> Float[Array, ""]:
    """(2 I + smooth) / (P + T + smooth), I = sum p t, P = sum p, T = sum t over batch, pixels and classes together.

    Soft: a network that is right everywhere but says 0.9 does not score 1, nor does one that repeats soft labels.
    """
    intersection = jnp.sum(probs * labels)
    return (2.0 * intersection + smooth) / (jnp.sum(probs) + jnp.sum(labels) + smooth)


def accuracy(probs: Float[Array, "*b h w k"], labels: Float[Array, "*b h w k"]) -> Float[Array, ""]:
    """What `metrics=["accuracy"]` means for an output of k channels, in Keras 2 (with the seed's own loss) and Keras 3.

    With one channel it is the binary accuracy: the share of pixels where the label equals `p > 0.5`, so a soft label is
    never met. With more it is the categorical one, which suits a softmax: the share of pixels where label and output
    have their largest value in the same channel, the first of equals. Where no class is present (all labels 0), that is
    channel 0.
    """
    if probs.shape[-1] == 1:
        return jnp.mean((labels == (probs > 0.5)).astype(jnp.float32))
    return jnp.mean((jnp.argmax(labels, axis=-1) == jnp.argmax(probs, axis=-1)).astype(jnp.float32))
