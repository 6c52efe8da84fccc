"""What every loss does with its inputs first, and powers whose gradients stay finite."""

import jax.numpy as jnp
from jaxtyping import Array, Float

Weight = Float[Array, "..."] | float | None
"""None, or what broadcasts to the logits as in NumPy: `[k]` per class, `[b 1 1 1]` per image, `[b 1 1 k]` for classes
that were not annotated in an image, `[b h w 1]` per pixel. 0 = ignored, whatever logits and labels are there."""


def to_float32(
    logits: Float[Array, "*b h w k"], labels: Float[Array, "*b h w k"]
) -> tuple[Float[Array, "*b h w k"], Float[Array, "*b h w k"]]:
    """Both in float32, which all losses are computed in."""
    if logits.shape != labels.shape:
        raise ValueError(f"logits have shape {logits.shape}, but labels {labels.shape}: they must be equal.")
    return jnp.asarray(logits, jnp.float32), jnp.asarray(labels, jnp.float32)


def full_weight(weight: Weight, shape: tuple[int, ...], num_subpixels: int = 1) -> Float[Array, "..."]:
    """`weight` at `shape`, in float32; 1 for None. A weight per class is repeated for each sub-pixel."""
    full = jnp.asarray(1.0 if weight is None else weight, jnp.float32)
    if full.ndim and num_subpixels > 1 and full.shape[-1] == shape[-1] // num_subpixels:
        full = jnp.tile(full, num_subpixels)
    return jnp.broadcast_to(full, shape)


def safe_power(base: Float[Array, "..."], exponent: Float[Array, ""] | float) -> Float[Array, "..."]:
    """base ** exponent for base >= 0, with the gradient 0 where base is 0 (it may be infinite there)."""
    positive = base > 0.0
    return jnp.where(positive, jnp.where(positive, base, 1.0) ** exponent, jnp.zeros_like(base) ** exponent)
