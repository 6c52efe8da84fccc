"""Conversions that every loss applies to its inputs, and a power whose gradient stays finite."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

Weight = Float[Array, "..."] | float | None
"""None, or an array that broadcasts to the logits as in NumPy: `[k]` per class, `[b 1 1 1]` per image, `[b 1 1 k]` for
classes that were not annotated in an image, `[b h w 1]` per pixel. A weight of 0 means ignored, whatever the logits and
labels are there."""


def to_float32(
    logits: Float[Array, "*b h w k"], labels: Float[Array, "*b h w k"]
) -> tuple[Float[Array, "*b h w k"], Float[Array, "*b h w k"]]:
    """Return logits and labels in float32, the dtype that all losses are computed in.

    Raises:
      ValueError: logits and labels differ in shape.
    """
    if logits.shape != labels.shape:
        raise ValueError(f"logits have shape {logits.shape}, but labels have {labels.shape}: the shapes must be equal.")
    return jnp.asarray(logits, jnp.float32), jnp.asarray(labels, jnp.float32)


def full_weight(weight: Weight, shape: tuple[int, ...], num_subpixels: int = 1) -> Float[Array, "..."]:
    """Return `weight` in float32, broadcast to `shape`; None counts as 1.

    A weight per class is repeated for each sub-pixel.
    """
    full = jnp.asarray(1.0 if weight is None else weight, jnp.float32)
    if full.ndim and num_subpixels > 1 and full.shape[-1] == shape[-1] // num_subpixels:
        full = jnp.tile(full, num_subpixels)
    return jnp.broadcast_to(full, shape)


def batch_weight(weight: Any, shape: tuple[int, ...], num_subpixels: int) -> Float[Array, "b h w k"]:
    """Return a weight per image (one axis), or one that broadcasts, at the shape of the logits."""
    if weight is not None and jnp.ndim(weight) == 1:
        weight = jnp.asarray(weight)[:, None, None, None]
    return full_weight(weight, shape, num_subpixels)


def cell_weight(weight: Float[Array, "*b h w k"], num_subpixels: int = 1) -> Float[Array, "*b k"]:
    """Return the largest weight among the pixels of each image and class; 0 where all pixels are ignored."""
    largest = jnp.max(weight, axis=(-3, -2))
    return jnp.max(largest.reshape(*largest.shape[:-1], num_subpixels, -1), axis=-2)


def at_pixels(cell: Float[Array, "... k"], shape: tuple[int, ...], num_subpixels: int = 1) -> Float[Array, "..."]:
    """Return the number of each class `[k]`, or of each image and class `[*b k]`, at all of its pixels."""
    cell = jnp.tile(cell, num_subpixels)
    return jnp.broadcast_to(cell if cell.ndim == 1 else cell[..., None, None, :], shape)


def safe_power(base: Float[Array, "..."], exponent: Float[Array, ""] | float) -> Float[Array, "..."]:
    """Return base ** exponent for base >= 0; where base is 0, the gradient is 0 (the true one may be infinite)."""
    # The gradient of `where` is that of both sides, one of them times 0, and 0 times infinity is NaN. So the power must
    # not see a base of 0 at all: the inner `where` hides it.
    positive = base > 0.0
    return jnp.where(positive, jnp.where(positive, base, 1.0) ** exponent, jnp.zeros_like(base) ** exponent)
