"""Exact Euclidean distances on the device, jitted with the loss; `unet_jax.data.distance` has them on the host.

Distances are in pixels, between pixel centres, per image and class. Squares are exact in float32 for images whose
diagonal is below 4096 pixels.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def squared_distance(mask: Bool[Array, "*b h w k"]) -> Float[Array, "*b h w k"]:
    """Squared distance of each pixel to the nearest pixel of the mask: 0 inside, infinite where there is none.

    First along each row, by the last mask pixel before and the first behind; then the smallest of d(row)^2 + (row -
    own row)^2 over all rows, one row at a time. Takes h^2 w operations, and memory as one image.
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
    """Distance of each pixel to the nearest pixel of the mask: 0 inside, infinite where there is none."""
    return jnp.sqrt(squared_distance(mask))


def border_distance(
    inside: Bool[Array, "*b h w k"], outside: Bool[Array, "*b h w k"]
) -> tuple[Float[Array, "*b h w k"], Float[Array, "*b h w k"]]:
    """Of each pixel to the nearest of `outside` and the nearest of `inside`; both 0 where one of the two is empty."""
    both = jnp.any(inside, axis=(-3, -2), keepdims=True) & jnp.any(outside, axis=(-3, -2), keepdims=True)
    stacked = euclidean_distance(jnp.stack([outside, inside]))
    to_outside, to_inside = (jnp.where(both, d, 0.0) for d in stacked)
    return to_outside, to_inside


def signed_distance(
    labels: Float[Array, "*b h w k"], known: Bool[Array, "*b h w k"] | bool = True
) -> Float[Array, "*b h w k"]:
    """Distance to the mask outside of it, and -(distance to the background - 1) inside: 0 on the mask's own edge.

    0 everywhere for empty and full masks. Labels count as 1 from 0.5 on. Pixels that are not `known` belong to neither
    side.
    """
    inside = labels >= 0.5
    to_outside, to_inside = border_distance(inside & known, ~inside & known)
    return jnp.where(inside, jnp.minimum(1.0 - to_outside, 0.0), to_inside)
