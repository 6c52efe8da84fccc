"""The way of an image through the network's stages, for programs that are written layer by layer."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from unet_jax.config import ModelConfig
from unet_jax.config.encoders import input_statistics
from unet_jax.export.folded import Layer
from unet_jax.model.architecture import list_stages


class Operations(NamedTuple):
    """Functions for each step of a program; a value is whatever they take and return."""

    layer: Callable[[Any, Layer], Any]
    """Function of a value and a layer: convolution, bias, and normalisation if it is not folded; no activation."""
    activate: Callable[[Any, str], Any]
    """Activation of a value; the text names the place, as in all of these."""
    pool: Callable[[Any, int, str], Any]
    """Max pooling of blocks of 2x2 or, with overlap, 3x3 pixels; the number says which."""
    join: Callable[[Any | None, Any, str], Any]
    """Concatenation of a skip connection and the up-sampled second value; None: the latter alone."""
    add: Callable[[Any, Any, str], Any]
    """Sum of two values."""
    normalize: Callable[[Any, Sequence[float], Sequence[float]], Any]
    """Images minus a mean, divided by a deviation, each one number per channel."""


def apply_stages(x: Any, config: ModelConfig, layers: Sequence[Layer], operations: Operations) -> Any:
    """Return what the last stage returns, which the output layer, the last of the layers, reads.

    Args:
      x: the images.
      config: settings of the network.
      layers: its layers, from `folded_layers`.
      operations: what to do.

    Example:
      >>> import numpy as np
      >>> from unet_jax.config import ModelConfig
      >>> from unet_jax.export.folded import Layer
      >>> from unet_jax.export.walk import Operations, apply_stages
      >>> from unet_jax.model.architecture import list_convolutions
      >>> config = ModelConfig(widths=(1,), center_width=1, num_convs_down=1, num_convs_up=1)
      >>> layers = [Layer(conv, np.zeros(1), np.zeros(1), None) for conv in list_convolutions(config, 2)]
      >>> words = Operations(lambda x, layer: f"{layer.conv.stage}({x})", lambda x, _: x, lambda x, *_: f"pool({x})",
      ...                    lambda skip, x, _: f"{skip}, {x}", lambda a, b, _: f"{a} + {b}", lambda x, *_: x)
      >>> apply_stages("image", config, layers, words)
      'up0(down0(image), center(pool(down0(image))))'
    """
    by_place = {layer.conv.place: layer for layer in layers}
    skips: dict[int, Any] = {}
    num_channels = layers[0].conv.inputs
    statistics = input_statistics(config.encoder_input, num_channels)
    if config.encoder != "none" and statistics:
        x = operations.normalize(x, *statistics)
    for stage in list_stages(config, num_channels):
        match stage.reads:
            case "joined" | "upsampled":
                x = operations.join(skips.get(stage.level), x, stage.name)
            case "pooled" | "pooled 3x3":
                x = operations.pool(x, 2 if stage.reads == "pooled" else 3, stage.name)
        for i, block in enumerate(stage.blocks):
            before = x
            for conv in block.convs:
                x = operations.layer(x, by_place[conv.place])
                if conv is not block.convs[-1] or not block.is_residual:
                    x = operations.activate(x, f"{stage.name}/{conv.name}")
            if block.is_residual:
                if block.shortcut is not None:
                    before = operations.layer(before, by_place[block.shortcut.place])
                place = f"{stage.name}/block{i}"
                x = operations.activate(operations.add(x, before, place), place)
        skips[stage.level] = x
    return x
