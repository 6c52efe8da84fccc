"""Exact Euclidean distances on the device, compiled with the loss; `unet_jax.data.distance` has them on the host.

Distances are in pixels, between pixel centres, per image and class. Squares are exact in float32 for images whose
diagonal is below 4096 pixels.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def squared_distance(mask: Bool[Array, "*b h w k"]) -> Float[Array, "*b h w k"]:
    """Return the squared distance of each pixel to the nearest pixel of the mask: 0 inside, infinite for an empty mask.

    The first pass finds the distance along each row, to the last mask pixel before or the first one behind. The second
    pass takes the smallest (distance in the row)^2 + (row - own row)^2 over all rows, one row at a time. It takes
    h^2 w operations, and the memory of one image.
    """
    height, width = mask.shape[-3:-1]
    columns = jnp.broadcast_to(jnp.arange(width, dtype=jnp.float32)[:, None], mask.shape[-2:])
    columns = jnp.broadcast_to(columns, mask.shape)
    axis = mask.ndim - 2
    before = jax.lax.cummax(jnp.where(mask, columns, -jnp.inf), axis=axis)
    behind = jax.lax.cummin(jnp.where(mask, columns, jnp.inf), axis=axis, reverse=True)
    along_row = jnp.square(jnp.minimum(columns - before, behind - columns))
    rows = jnp.arange(height, dtype=jnp.float32)

    def nearest(row: Array, best: Float[Array, "*b h w k"]) -> Float[Array, "*b h w k"]:
        there = jax.lax.dynamic_slice_in_dim(along_row, row, 1, axis=mask.ndim - 3)
        offset = jnp.broadcast_to(jnp.square(rows - row)[:, None, None], mask.shape)
        return jnp.minimum(best, there + offset)

    return jax.lax.fori_loop(0, height, nearest, jnp.full_like(along_row, jnp.inf))


def euclidean_distance(mask: Bool[Array, "*b h w k"]) -> Float[Array, "*b h w k"]:
    """Return the distance of each pixel to the nearest pixel of the mask.

    Args:
      mask: `[*b h w k]`, bool.

    Returns:
      Float32 `[*b h w k]`, in pixels: 0 inside the mask, infinite where an image and class has no mask pixel.

    Example:
      >>> import jax.numpy as jnp
      >>> from unet_jax import losses
      >>> mask = jnp.array([False, True, False, False, False]).reshape(1, 5, 1)
      >>> print(losses.euclidean_distance(mask).ravel())
      [1. 0. 1. 2. 3.]
    """
    return jnp.sqrt(squared_distance(mask))


def border_distance(
    inside: Bool[Array, "*b h w k"], outside: Bool[Array, "*b h w k"]
) -> tuple[Float[Array, "*b h w k"], Float[Array, "*b h w k"]]:
    """Return each pixel's distances to the nearest pixel of `outside` and of `inside`.

    Both are 0 everywhere in an image and class where `inside` or `outside` has no pixel.
    """
    both = jnp.any(inside, axis=(-3, -2), keepdims=True) & jnp.any(outside, axis=(-3, -2), keepdims=True)
    stacked = euclidean_distance(jnp.stack([outside, inside]))
    to_outside, to_inside = (jnp.where(both, d, 0.0) for d in stacked)
    return to_outside, to_inside


def signed_distance(
    labels: Float[Array, "*b h w k"], known: Bool[Array, "*b h w k"] | bool = True
) -> Float[Array, "*b h w k"]:
    """Return the signed distance of each pixel to the border of the mask: positive outside, negative inside.

    Outside the mask it is the distance to the mask; inside it is -(distance to the background - 1), which is 0 on the
    mask's own edge. It is 0 everywhere for empty and full masks.

    Args:
      labels: `[*b h w k]`, float; they count as 1 from 0.5 on.
      known: `[*b h w k]`, bool; pixels that are not known belong to neither side.

    Returns:
      Float32 `[*b h w k]`, in pixels.

    Example:
      >>> import jax.numpy as jnp
      >>> from unet_jax import losses
      >>> labels = jnp.array([0.0, 0.0, 1.0, 1.0, 1.0, 0.0]).reshape(1, 6, 1)
      >>> print(losses.signed_distance(labels).ravel())
      [ 2.  1.  0. -1.  0.  1.]
    """
    inside = labels >= 0.5
    to_outside, to_inside = border_distance(inside & known, ~inside & known)
    return jnp.where(inside, jnp.minimum(1.0 - to_outside, 0.0), to_inside)
