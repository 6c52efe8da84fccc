"""The two metrics that the Keras original prints beside its loss, computed as Keras computes them (docs/metrics.md).

For an epoch, Keras averages their values over the batches, so the result depends on the batch size. Neither metric
applies a threshold to each class. Use `unet_jax.metrics` to compare networks, and these two to compare with a log of
Keras.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def dice_coef(
    probs: Float[Array, "*b h w k"], labels: Float[Array, "*b h w k"], *, smooth: float = 1.0
) -> Float[Array, ""]:
    """Compute the soft Dice coefficient over batch, pixels and classes together.

    Formula: (2 I + smooth) / (P + T + smooth) with I = sum p t, P = sum p, T = sum t, for probabilities p and labels t.

    Probabilities are not thresholded: a network that is right everywhere with probabilities of 0.9 and 0.1 does not
    score 1, and neither does one whose probabilities equal soft labels.

    Args:
      probs: probabilities in [0, 1].
      labels: labels in [0, 1].
      smooth: number added to numerator and denominator.

    Returns:
      A scalar in [0, 1].

    Example:
      >>> import jax.numpy as jnp
      >>> from unet_jax.interop.keras_metrics import dice_coef
      >>> probs = jnp.array([0.9, 0.2]).reshape(1, 1, 2, 1)
      >>> labels = jnp.array([1.0, 0.0]).reshape(1, 1, 2, 1)
      >>> f"{float(dice_coef(probs, labels)):.3f}"  # (2 * 0.9 + 1) / (1.1 + 1 + 1)
      '0.903'
    """
    intersection = jnp.sum(probs * labels)
    return (2.0 * intersection + smooth) / (jnp.sum(probs) + jnp.sum(labels) + smooth)


def accuracy(probs: Float[Array, "*b h w k"], labels: Float[Array, "*b h w k"]) -> Float[Array, ""]:
    """Compute what `metrics=["accuracy"]` means in Keras for an output of k channels.

    It holds for Keras 3, and for Keras 2 with the original's own loss.

    With one channel it is the binary accuracy: the share of pixels whose label equals `p > 0.5`. A soft label never
    equals it. With more channels it is the categorical accuracy, which is meant for a softmax: the share of pixels
    where label and output have their largest value in the same channel (the first one, if several are equal). Where no
    class is present (all labels are 0), the label's channel is 0.

    Args:
      probs: probabilities in [0, 1].
      labels: labels in [0, 1].

    Returns:
      A scalar in [0, 1].

    Example:
      >>> import jax.numpy as jnp
      >>> from unet_jax.interop.keras_metrics import accuracy
      >>> probs = jnp.array([0.9, 0.2]).reshape(1, 1, 2, 1)
      >>> labels = jnp.array([1.0, 1.0]).reshape(1, 1, 2, 1)
      >>> float(accuracy(probs, labels))
      0.5
    """
    if probs.shape[-1] == 1:
        return jnp.mean((labels == (probs > 0.5)).astype(jnp.float32))
    return jnp.mean((jnp.argmax(labels, axis=-1) == jnp.argmax(probs, axis=-1)).astype(jnp.float32))
