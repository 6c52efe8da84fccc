"""Losses that weight errors by their distance to a border, one value per pixel, `[*b h w k]`.

p = sigmoid(logits), t = labels, which count as a mask of the pixels with t >= 0.5 where distances are measured.
Distances are in pixels, and gradients treat them as constants. The distances of the labels are computed with the loss,
unless they are passed: `distance=` takes what `unet_jax.data.distance.signed_distance_map` computes on the host. Pixels
of weight 0 are neither mask nor background for distances that are computed here.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from unet_jax.losses._inputs import Weight, full_weight, safe_power, to_float32
from unet_jax.losses.distance import border_distance, signed_distance

Logits = Float[Array, "*b h w k"]
Scalar = Float[Array, ""] | float


def boundary_loss(
    logits: Logits, labels: Logits, *, distance: Logits | None = None, weight: Weight = None
) -> Float[Array, "*b h w k"]:
    """Compute the boundary loss: each pixel's probability, multiplied by its signed distance to the mask.

    Formula: p phi, phi = signed distance to the mask: positive outside, negative inside, 0 in images without the class.

    It is negative for a good prediction, says nothing about images without the class, and is meant to be added to an
    overlap loss with a weight that grows during training (`unet_jax.losses.ramp`).

    Args:
      logits: `[*b h w k]`, any float dtype.
      labels: `[*b h w k]`, membership in [0, 1].
      distance: `[*b h w k]`, phi in pixels, if it is known already; None computes it.
      weight: None, or an array that broadcasts to the logits; 0 = ignored.

    Returns:
      Float32 `[*b h w k]`, multiplied by `weight`.

    Reference:
      Kervadec et al., Boundary loss for highly unbalanced segmentation, 2018 (arXiv:1812.07032).

    Example:
      >>> import jax.numpy as jnp
      >>> from unet_jax import losses
      >>> labels = jnp.array([1.0, 1.0, 1.0, 0.0, 0.0]).reshape(1, 5, 1)
      >>> print(losses.boundary_loss(jnp.zeros((1, 5, 1)), labels).ravel())  # p = 0.5 everywhere
      [-1.  -0.5  0.   0.5  1. ]
    """
    x, t = to_float32(logits, labels)
    w = full_weight(weight, x.shape)
    phi = signed_distance(t, w > 0.0) if distance is None else distance
    return w * jax.nn.sigmoid(x) * jax.lax.stop_gradient(phi)


def border_bce_loss(
    logits: Logits,
    labels: Logits,
    *,
    border_weight: Scalar = 10.0,
    border_width: Scalar = 5.0,
    distance: Logits | None = None,
    weight: Weight = None,
) -> Float[Array, "*b h w k"]:
    """Compute the binary cross entropy with more weight near the border of the mask.

    Formula: (1 + border_weight exp(-d^2 / (2 border_width^2))) bce, d = distance to the other side of the border - 1.

    The distance to the one border of a class channel takes the place of the paper's sum of distances to the two nearest
    cells. In an image and class without a border the factor of bce is 1.

    Args:
      logits: `[*b h w k]`, any float dtype.
      labels: `[*b h w k]`, membership in [0, 1].
      border_weight: weight that pixels at the border have in addition to 1.
      border_width: standard deviation, in pixels, of the Gaussian by which that weight falls off.
      distance: `[*b h w k]`, signed distance in pixels as in `boundary_loss`, if it is known; None computes it.
      weight: None, or an array that broadcasts to the logits; 0 = ignored.

    Returns:
      Float32 `[*b h w k]`, multiplied by `weight`.

    Reference:
      The weight map of Ronneberger et al., U-Net, 2015 (arXiv:1505.04597).

    Example:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from unet_jax import losses
      >>> logits, labels = jnp.zeros((1, 5, 1)), jnp.array([1.0, 1.0, 0.0, 0.0, 0.0]).reshape(1, 5, 1)
      >>> factor = losses.border_bce_loss(logits, labels, border_width=1.0) / losses.bce_loss(logits, labels)
      >>> print(np.asarray(factor.ravel()).round(2))
      [ 7.07 11.   11.    7.07  2.35]
    """
    x, t = to_float32(logits, labels)
    w = full_weight(weight, x.shape)
    phi = signed_distance(t, w > 0.0) if distance is None else distance
    inside = t >= 0.5
    away = jnp.where(inside, -phi, phi - 1.0)
    edge = jnp.any(phi != 0.0, axis=(-3, -2), keepdims=True)
    factor = 1.0 + border_weight * edge * jnp.exp(-jnp.square(away) / (2.0 * jnp.square(border_width)))
    return w * jax.lax.stop_gradient(factor) * (jax.nn.softplus(x) - x * t)


def _distance_to_border(mask: Bool[Array, "*b h w k"], known: Bool[Array, "*b h w k"]) -> Float[Array, "*b h w k"]:
    """Return the distance of every pixel to the other side of the border; 0 for empty and full masks."""
    to_outside, to_inside = border_distance(mask & known, ~mask & known)
    return to_outside + to_inside


def hausdorff_dt_loss(
    logits: Logits, labels: Logits, *, distance_power: Scalar = 2.0, weight: Weight = None
) -> Float[Array, "*b h w k"]:
    """Compute the Hausdorff distance loss by distance transforms of both masks.

    Formula: (p - t)^2 (d_p^distance_power + d_t^distance_power), d = distance to the border of p > 1/2 and of t.

    A mask that is empty or full has d = 0.

    Args:
      logits: `[*b h w k]`, any float dtype.
      labels: `[*b h w k]`, membership in [0, 1].
      distance_power: exponent of the distances; larger values punish far errors more.
      weight: None, or an array that broadcasts to the logits; 0 = ignored.

    Returns:
      Float32 `[*b h w k]`, multiplied by `weight`.

    Reference:
      Karimi and Salcudean, Reducing the Hausdorff distance, 2019 (arXiv:1904.10030).

    Example:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from unet_jax import losses
      >>> logits = jnp.array([20.0, 20.0, 20.0, 20.0, -20.0]).reshape(1, 5, 1)
      >>> labels = jnp.array([1.0, 0.0, 0.0, 0.0, 0.0]).reshape(1, 5, 1)
      >>> print(np.asarray(losses.hausdorff_dt_loss(logits, labels).ravel()).round(2))
      [ 0. 10.  8. 10.  0.]
    """
    x, t = to_float32(logits, labels)
    w = full_weight(weight, x.shape)
    known = w > 0.0
    distances = _distance_to_border(jnp.stack([x > 0.0, t >= 0.5]), jnp.stack([known, known]))
    field = jnp.sum(safe_power(distances, distance_power), axis=0)
    return w * jnp.square(jax.nn.sigmoid(x) - t) * jax.lax.stop_gradient(field)


def _cross_mean(x: Logits) -> Logits:
    """Return the mean of each pixel and its four neighbours; pixels outside the image count as 0."""
    padded = jnp.pad(x, ((0, 0),) * (x.ndim - 3) + ((1, 1), (1, 1), (0, 0)))
    middle = padded[..., 1:-1, 1:-1, :]
    rows = padded[..., :-2, 1:-1, :] + padded[..., 2:, 1:-1, :]
    columns = padded[..., 1:-1, :-2, :] + padded[..., 1:-1, 2:, :]
    return 0.2 * (middle + rows + columns)


def hausdorff_erosion_loss(
    logits: Logits,
    labels: Logits,
    *,
    num_erosions: int = 10,
    distance_power: Scalar = 2.0,
    weight: Weight = None,
) -> Float[Array, "*b h w k"]:
    """Compute the Hausdorff distance loss by erosions of the squared error, without distance transforms.

    Formula: sum_i i^distance_power E_i, i = 1 to num_erosions, where E_i is (p - t)^2 eroded i times.

    One erosion is max(mean over a pixel and its four neighbours - 1/2, 0), then scaled to [0, 1] per image and class.
    The scaling follows the authors' code; the paper does not mention it. Squared errors below 1/2 vanish at the first
    erosion, and their gradient with them; so do errors of single pixels.

    Args:
      logits: `[*b h w k]`, any float dtype.
      labels: `[*b h w k]`, membership in [0, 1].
      num_erosions: number of erosions.
      distance_power: exponent of the number of erosions that an error survives.
      weight: None, or an array that broadcasts to the logits; 0 = ignored.

    Returns:
      Float32 `[*b h w k]`, multiplied by `weight`.

    Reference:
      Karimi and Salcudean, Reducing the Hausdorff distance, 2019 (arXiv:1904.10030).

    Example:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from unet_jax import losses
      >>> logits, labels = jnp.full((5, 5, 1), 20.0), jnp.zeros((5, 5, 1))  # everything is wrong
      >>> values = losses.hausdorff_erosion_loss(logits, labels, num_erosions=2)
      >>> print(np.asarray(values[2, :, 0]).round(2))  # middle row
      [0.5 4.2 5.  4.2 0.5]
    """
    x, t = to_float32(logits, labels)
    w = full_weight(weight, x.shape)
    bound = jnp.where(w > 0.0, jnp.square(jax.nn.sigmoid(x) - t), 0.0)

    def erode(carry: tuple[Logits, Logits], i: Float[Array, ""]) -> tuple[tuple[Logits, Logits], None]:
        bound, total = carry
        bound = jax.nn.relu(_cross_mean(bound) - 0.5)
        low, high = (f(bound, axis=(-3, -2), keepdims=True) for f in (jnp.min, jnp.max))
        spread = high - low
        bound = jnp.where(spread > 0.0, (bound - low) / jnp.where(spread > 0.0, spread, 1.0), bound)
        return (bound, total + bound * i**distance_power), None

    (_, total), _ = jax.lax.scan(erode, (bound, jnp.zeros_like(bound)), jnp.arange(1.0, num_erosions + 1.0))
    return w * total
