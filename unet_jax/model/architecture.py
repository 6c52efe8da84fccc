"""The U-Net as a list of convolutions."""

from unet_jax.config import ModelConfig


def convolutions(config: ModelConfig, num_classes: int, image_size: int) -> list[dict[str, int]]:
    """Every convolution of the network: side of its output, kernel size, input and output channels."""
    widths, found, channels = config.widths, [], 3
    for level, width in enumerate((*widths, config.center_width)):
        for _ in range(config.num_convs_down):
            found.append({"side": image_size >> level, "kernel": 3, "inputs": channels, "outputs": width})
            channels = width
    for level in reversed(range(len(widths))):
        for i in range(config.num_convs_up):
            inputs = widths[level] + channels if i == 0 else widths[level]
            found.append({"side": image_size >> level, "kernel": 3, "inputs": inputs, "outputs": widths[level]})
        channels = widths[level]
    return [*found, {"side": image_size, "kernel": 1, "inputs": channels, "outputs": num_classes}]
