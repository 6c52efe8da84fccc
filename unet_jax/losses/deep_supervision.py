"""An objective at several resolutions, for networks with outputs of their own at lower ones."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from unet_jax._types import InputError
from unet_jax.losses._inputs import batch_weight
from unet_jax.losses.objective import Objective


def deep_supervision(objective: Objective, scale_weights: Sequence[float]) -> Objective:
    """Apply an objective to logits at several resolutions and return the weighted mean over the resolutions.

    Labels and weights of a coarser resolution are means over blocks of pixels, so labels may lie between 0 and 1 there.
    Terms are named NAME/0, NAME/1, ... by resolution.

    Args:
      objective: objective of one resolution, not packed.
      scale_weights: one factor per resolution, finest first; they are divided by their sum.

    Returns:
      `supervised(logits, labels, weight=None, step=None) -> (scalar, {term: value})`, where logits are a sequence of
      `[b h w k]`, finest first, and labels are `[b h w k]` at the images' size.

    Raises:
      InputError: the returned function raises it if it does not get one array of logits per factor, or if the height
        and width of the labels are not multiples of those of the logits.

    Example:
      >>> import jax.numpy as jnp
      >>> from unet_jax.losses import Term, deep_supervision, make_objective
      >>> objective = deep_supervision(make_objective([Term("bce")]), (1.0, 0.5))
      >>> total, values = objective([jnp.zeros((1, 8, 8, 1)), jnp.zeros((1, 4, 4, 1))], jnp.zeros((1, 8, 8, 1)))
      >>> print(f"{float(total):.3f}", list(values))
      0.693 ['bce/0', 'bce/1']
    """

    def supervised(
        logits: Sequence[Float[Array, "b h w k"]],
        labels: Float[Array, "b h w k"],
        weight: Float[Array, "..."] | None = None,
        step: Any = None,
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        if len(logits) != len(scale_weights):
            raise InputError(f"there are {len(logits)} resolutions, but {len(scale_weights)} scale_weights.")
        full = batch_weight(weight, labels.shape, 1)
        total, values = jnp.float32(0.0), {}
        for i, (scale_logits, scale_weight) in enumerate(zip(logits, scale_weights, strict=True)):
            scale_full = _block_mean(full, scale_logits.shape)
            known = jnp.where(scale_full > 0.0, scale_full, 1.0)
            scale_labels = _block_mean(full * labels, scale_logits.shape) / known
            value, terms = objective(scale_logits, scale_labels, scale_full, step)
            total = total + value * (scale_weight / sum(scale_weights))
            values |= {f"{name}/{i}": term for name, term in terms.items()}
        return total, values

    return supervised


def _block_mean(x: Float[Array, "b h w k"], shape: tuple[int, ...]) -> Float[Array, "b h2 w2 k"]:
    """Return means over blocks of pixels, so that the result has height and width of `shape`."""
    (b, height, width, k), (_, rows, columns, _) = x.shape, shape
    if height % rows or width % columns:
        raise InputError(
            f"logits of {rows}x{columns} pixels do not divide labels of {height}x{width}: height and width of the "
            "labels must be multiples of theirs."
        )
    return jnp.mean(x.reshape(b, rows, height // rows, columns, width // columns, k), axis=(2, 4))
