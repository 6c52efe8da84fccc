"""The receptive field of the U-Net: how far from a pixel the image influences its logits."""

from unet_jax.config import ModelConfig


def receptive_radius(config: ModelConfig) -> int | None:
    """Return the largest distance, in rows or columns, at which a pixel of the image influences a logit.

    The network normalises with its running statistics, as in prediction. The distance depends on the position of the
    pixel in the grid of the poolings; the largest one is returned.

    Args:
      config: settings of the network; depth, numbers of convolutions and normalisation matter.

    Returns:
      The distance in pixels, or None if every pixel influences every logit (group normalisation).

    Example:
      >>> receptive_radius(ModelConfig(widths=(8,), center_width=16, num_convs_down=1, num_convs_up=1))
      5
      >>> receptive_radius(ModelConfig())  # the Keras original
      1018
    """
    if config.norm == "group":
        return None
    phases = range(config.size_multiple)
    return max(max(y - first, last - y) for y in phases for first, last in [_seen(config, y)])


def _seen(config: ModelConfig, position: int) -> tuple[int, int]:
    """Return the first and the last row of the image that influence a row of the logits."""
    depth, down = len(config.widths), config.num_convs_down
    first = last = position
    skips = []
    for _ in range(depth):  # down the decoder: each stage's convolutions, then the up-sampling by 2
        first, last = first - config.num_convs_up, last + config.num_convs_up
        skips.append((first, last))
        first, last = first // 2, last // 2
    first, last = first - down, last + down
    for skip_first, skip_last in reversed(skips):  # up the encoder: each pooling, then the convolutions before it
        first, last = min(2 * first, skip_first) - down, max(2 * last + 1, skip_last) + down
    return first, last
