"""The receptive field of the U-Net: how far from a pixel the image influences its logits."""

from unet_jax.config import ModelConfig
from unet_jax.model.architecture import list_stages


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
    stages = list_stages(config)
    wanted: dict[int, tuple[int, int]] = {}  # rows of the encoder's result of each level that were found to matter
    first = last = position
    for stage in reversed(stages):  # against the data flow, from the rows of a stage's result to those that it reads
        if stage.level in wanted and stage.reads not in ("joined", "upsampled"):
            own = wanted[stage.level]
            first, last = min(first, own[0]), max(last, own[1])
        # A shortcut reads fewer rows than its block's convolutions.
        for conv in reversed([conv for block in stage.blocks for conv in block.convs]):
            reach = conv.kernel_size // 2
            first, last = conv.stride * first - reach, conv.stride * last + reach
        match stage.reads:
            case "joined" | "upsampled":
                wanted[stage.level] = first, last
                first, last = first // 2, last // 2
            case "pooled":
                first, last = 2 * first, 2 * last + 1
            case "pooled 3x3":
                first, last = 2 * first - 1, 2 * last + 1
    return first, last
