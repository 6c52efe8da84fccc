"""Losses of shape: centre lines, contours and local statistics. One value per image and class, `[*b k]`.

p = sigmoid(logits), t = labels. All of them look at neighbouring pixels, so pixels must be arranged as in the image.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unet_jax._types import InputError
from unet_jax.losses._inputs import Weight, full_weight, safe_power, to_float32
from unet_jax.losses.overlap import ratio

Logits = Float[Array, "*b h w k"]
Scalar = Float[Array, ""] | float

MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of the scales in Wang et al., 2003, finest scale first."""


def _window_max(x: Logits, rows: int, columns: int) -> Logits:
    """Return the maximum over a window around each pixel; only pixels inside the image count."""
    window = (1,) * (x.ndim - 3) + (rows, columns, 1)
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, (1,) * x.ndim, "SAME")


def _erode(x: Logits) -> Logits:
    """Return the minimum over a pixel and its four neighbours."""
    return jnp.minimum(-_window_max(-x, 3, 1), -_window_max(-x, 1, 3))


def _soft_skeleton(x: Logits, num_iterations: int) -> Logits:
    """Return what opening by a cross and a square takes away from `x` and from each of its erosions."""

    def erode(carry: tuple[Logits, Logits], _: None) -> tuple[tuple[Logits, Logits], None]:
        x, skeleton = carry
        eroded = _erode(x)
        ridge = jax.nn.relu(x - _window_max(eroded, 3, 3))
        return (eroded, skeleton + jax.nn.relu(ridge - skeleton * ridge)), None

    (_, skeleton), _ = jax.lax.scan(erode, (x, jnp.zeros_like(x)), length=num_iterations + 1)
    return skeleton


def soft_cldice_loss(
    logits: Logits, labels: Logits, *, num_iterations: int = 3, smooth: Scalar = 1.0, weight: Weight = None
) -> Float[Array, "*b k"]:
    """Compute the soft clDice loss: the overlap of each mask's centre lines with the other mask.

    Formula: 1 - 2 R S / (R + S).

    R = (sum s_p t + smooth) / (sum s_p + smooth) and S = (sum s_t p + smooth) / (sum s_t + smooth), where s is the soft
    skeleton of p or t after num_iterations erosions. Pixels of weight 0 are background for the skeletons. The authors
    add this loss to soft Dice.

    Args:
      logits: `[*b h w k]`, any float dtype.
      labels: `[*b h w k]`, membership in [0, 1].
      num_iterations: number of erosions; it should be the largest radius of a structure in pixels.
      smooth: number added to numerator and denominator of R and S.
      weight: None, or an array that broadcasts to the logits; 0 = ignored.

    Returns:
      Float32 `[*b k]`.

    Reference:
      Shit et al., clDice, 2020 (arXiv:2003.07311).

    Example:
      >>> import jax.numpy as jnp
      >>> from unet_jax import losses
      >>> labels = jnp.zeros((5, 5, 1)).at[2].set(1.0)  # a line
      >>> logits = 40.0 * jnp.roll(labels, 1, axis=0) - 20.0  # the same line, one pixel lower
      >>> print(f"{losses.soft_cldice_loss(logits, labels).item():.3f}")  # R = S = 1 / 6
      0.833
    """
    x, t = to_float32(logits, labels)
    w = full_weight(weight, x.shape)
    p, t = jnp.where(w > 0.0, jax.nn.sigmoid(x), 0.0), jnp.where(w > 0.0, t, 0.0)
    lines_p, lines_t = _soft_skeleton(p, num_iterations), _soft_skeleton(t, num_iterations)
    sums = (jnp.sum(w * y, axis=(-3, -2)) + smooth for y in (lines_p * t, lines_p, lines_t * p, lines_t))
    lines_p_in_t, all_lines_p, lines_t_in_p, all_lines_t = sums
    precision, sensitivity = ratio(lines_p_in_t, all_lines_p), ratio(lines_t_in_p, all_lines_t)
    return 1.0 - ratio(2.0 * precision * sensitivity, precision + sensitivity)


def active_contour_loss(
    logits: Logits, labels: Logits, *, region_weight: Scalar = 1.0, eps: Scalar = 1e-8, weight: Weight = None
) -> Float[Array, "*b k"]:
    """Compute the active contour loss: the length of the contour plus the squared error inside and outside.

    Formula: mean |grad p| + region_weight (mean p (1 - t)^2 + mean (1 - p) t^2), by forward differences.

    |grad p| = sqrt((p_below - p)^2 + (p_right - p)^2 + eps); its mean is over the pixels that have both neighbours. The
    length favours small masks: a perfect prediction is not the minimum.

    Args:
      logits: `[*b h w k]`, any float dtype.
      labels: `[*b h w k]`, membership in [0, 1].
      region_weight: factor of the error inside and outside.
      eps: number added below the root, which keeps its gradient finite.
      weight: None, or an array that broadcasts to the logits; 0 = ignored.

    Returns:
      Float32 `[*b k]`.

    Reference:
      Chen et al., Learning active contour models for medical image segmentation, CVPR 2019 (no arXiv number).

    Example:
      >>> import jax.numpy as jnp
      >>> from unet_jax import losses
      >>> labels = jnp.zeros((4, 4, 1)).at[:, 2:].set(1.0)
      >>> print(f"{losses.active_contour_loss(40.0 * labels - 20.0, labels).item():.2f}")
      0.33
    """
    x, t = to_float32(logits, labels)
    w, p, q = full_weight(weight, x.shape), jax.nn.sigmoid(x), jax.nn.sigmoid(-x)
    here = p[..., :-1, :-1, :]
    down, right = p[..., 1:, :-1, :] - here, p[..., :-1, 1:, :] - here
    # The two differences at a pixel take three pixels; all three must be known.
    pairs = jnp.minimum(jnp.minimum(w[..., :-1, :-1, :], w[..., 1:, :-1, :]), w[..., :-1, 1:, :])
    length = _mean(jnp.sqrt(jnp.square(down) + jnp.square(right) + eps), pairs)
    return length + region_weight * _mean(p * jnp.square(1.0 - t) + q * jnp.square(t), w)


def _mean(values: Logits, weight: Logits) -> Float[Array, "*b k"]:
    """Return the weighted mean over height and width; 0 where all weights are 0."""
    return jnp.sum(weight * values, axis=(-3, -2)) / jnp.maximum(jnp.sum(weight, axis=(-3, -2)), 1e-12)


def _gaussian_mean(x: Float[Array, "... h w k"], window_size: int, sigma: Scalar) -> Float[Array, "... h2 w2 k"]:
    """Return Gaussian means over the windows inside the image: `window_size - 1` fewer rows and columns."""
    offsets = jnp.arange(window_size, dtype=jnp.float32) - (window_size - 1) / 2.0
    taps = jnp.exp(-jnp.square(offsets) / (2.0 * sigma**2))
    taps = taps / jnp.sum(taps)
    for axis in (x.ndim - 3, x.ndim - 2):
        size = x.shape[axis] - window_size + 1
        x = sum(taps[i] * jax.lax.slice_in_dim(x, i, i + size, axis=axis) for i in range(window_size))  # type: ignore
    return x


def _similarity(
    p: Logits, t: Logits, w: Logits, window_size: int, sigma: Scalar, k1: Scalar, k2: Scalar
) -> tuple[Float[Array, "*b k"], Float[Array, "*b k"]]:
    """Return the means over the windows of SSIM and of its second factor (contrast and structure).

    Each window counts with the weight of the known pixels in it.
    """
    if min(p.shape[-3:-1]) < window_size:
        height, width = p.shape[-3:-1]
        raise InputError(
            f"window_size is {window_size}, but must be at most the image's size, {height}x{width} at this scale."
        )
    # Variances are differences of mean squares. p and t minus 1/2 have the same variances, but smaller squares and so
    # smaller rounding errors. Each mean is divided by the weight in its window (`known`), so that ignored pixels do not
    # count as zeros.
    p, t = p - 0.5, t - 0.5
    known, mean_p, mean_t, square_p, square_t, product = _gaussian_mean(
        jnp.stack([w, w * p, w * t, w * p * p, w * t * t, w * p * t]), window_size, sigma
    )
    known_safe = jnp.maximum(known, 1e-12)
    mean_p, mean_t, square_p, square_t, product = (
        y / known_safe for y in (mean_p, mean_t, square_p, square_t, product)
    )
    c1, c2 = k1**2, k2**2
    variance = square_p - jnp.square(mean_p) + square_t - jnp.square(mean_t)
    structure = (2.0 * (product - mean_p * mean_t) + c2) / (variance + c2)
    mean_p, mean_t = mean_p + 0.5, mean_t + 0.5
    luminance = (2.0 * mean_p * mean_t + c1) / (jnp.square(mean_p) + jnp.square(mean_t) + c1)
    return _mean(luminance * structure, known), _mean(structure, known)


def ssim_loss(
    logits: Logits,
    labels: Logits,
    *,
    window_size: int = 11,
    sigma: Scalar = 1.5,
    k1: Scalar = 0.01,
    k2: Scalar = 0.03,
    weight: Weight = None,
) -> Float[Array, "*b k"]:
    """Compute 1 - mean SSIM of probabilities and labels over Gaussian windows that lie inside the image.

    Formula: 1 - mean (2 m_p m_t + k1^2)(2 s_pt + k2^2) / ((m_p^2 + m_t^2 + k1^2)(s_p^2 + s_t^2 + k2^2)), with the
    windows' means m and (co)variances s.

    Args:
      logits: `[*b h w k]`, any float dtype.
      labels: `[*b h w k]`, membership in [0, 1].
      window_size: side of the windows in pixels; at most height and width.
      sigma: standard deviation of the Gaussian in pixels.
      k1, k2: constants that keep the two factors finite where means or variances are 0.
      weight: None, or an array that broadcasts to the logits; 0 = ignored.

    Returns:
      Float32 `[*b k]`; 0 where an image and class has no pixel of positive weight.

    Raises:
      InputError: the image is smaller than a window.

    Reference:
      Wang et al., Image quality assessment, 2004 (doi:10.1109/TIP.2003.819861); as a segmentation loss in Qin et al.,
      BASNet, 2021 (arXiv:2101.04704).

    Example:
      >>> import jax.numpy as jnp
      >>> from unet_jax import losses
      >>> labels = jnp.zeros((8, 8, 1)).at[:, 4:].set(1.0)
      >>> print(f"{losses.ssim_loss(4.0 * labels - 2.0, labels, window_size=5).item():.2f}")
      0.07
    """
    x, t = to_float32(logits, labels)
    w = full_weight(weight, x.shape)
    whole, _ = _similarity(jax.nn.sigmoid(x), t, w, window_size, sigma, k1, k2)
    return jnp.where(jnp.any(w > 0.0, axis=(-3, -2)), 1.0 - whole, 0.0)


def _halve(x: Logits) -> Logits:
    """Return sums over 2x2 blocks; an odd last row or column is left out."""
    height, width = (n // 2 * 2 for n in x.shape[-3:-1])
    x = x[..., :height, :width, :]
    x = x[..., ::2, :, :] + x[..., 1::2, :, :]
    return x[..., ::2, :] + x[..., 1::2, :]


def ms_ssim_loss(
    logits: Logits,
    labels: Logits,
    *,
    window_size: int = 11,
    sigma: Scalar = 1.5,
    k1: Scalar = 0.01,
    k2: Scalar = 0.03,
    scale_weights: Sequence[float] = MS_SSIM_WEIGHTS,
    weight: Weight = None,
) -> Float[Array, "*b k"]:
    """Compute 1 - multiscale SSIM: the similarity on n scales, each half the size of the one before.

    Formula: 1 - prod_i max(c_i, 0)^scale_weights_i max(SSIM_n, 0)^scale_weights_n, with i from 1 to n - 1.

    c_i is the mean of SSIM's second factor on scale i.

    With the five scales of the paper and windows of 11 an image must be at least 176x176; for smaller ones use fewer
    `scale_weights` or a smaller `window_size`. Where a mean is negative, its gradient is 0.

    Args:
      logits: `[*b h w k]`, any float dtype.
      labels: `[*b h w k]`, membership in [0, 1].
      window_size: side of the windows in pixels of each scale.
      sigma: standard deviation of the Gaussian in pixels of each scale.
      k1, k2: constants that keep the two factors finite, as in `ssim_loss`.
      scale_weights: exponents, one per scale, finest first.
      weight: None, or an array that broadcasts to the logits; 0 = ignored.

    Returns:
      Float32 `[*b k]`; 0 where an image and class has no pixel of positive weight at the coarsest scale.

    Raises:
      InputError: the image at the coarsest scale is smaller than a window.

    Reference:
      Wang et al., Multiscale structural similarity, 2003 (doi:10.1109/ACSSC.2003.1292216).

    Example:
      >>> import jax.numpy as jnp
      >>> from unet_jax import losses
      >>> labels = jnp.zeros((8, 8, 1)).at[:, 4:].set(1.0)
      >>> loss = losses.ms_ssim_loss(4.0 * labels - 2.0, labels, window_size=3, scale_weights=(0.4, 0.6))
      >>> print(f"{loss.item():.2f}")
      0.03
    """
    x, t = to_float32(logits, labels)
    w, p = full_weight(weight, x.shape), jax.nn.sigmoid(x)
    product: Array = jnp.ones(p.shape[:-3] + p.shape[-1:], jnp.float32)
    for i, exponent in enumerate(scale_weights):
        if i:
            total = _halve(w)
            p, t = (_halve(w * y) / jnp.maximum(total, 1e-12) for y in (p, t))
            w = total / 4.0
        whole, structure = _similarity(p, t, w, window_size, sigma, k1, k2)
        last = i == len(scale_weights) - 1
        product = product * safe_power(jax.nn.relu(whole if last else structure), exponent)
    return jnp.where(jnp.any(w > 0.0, axis=(-3, -2)), 1.0 - product, 0.0)
