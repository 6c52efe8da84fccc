"""The U-Net as a list of its convolutions, to count their operations or to name their weights."""

from typing import NamedTuple

from unet_jax.config import ModelConfig


class Convolution(NamedTuple):
    """One convolution of a `UNet`; its kernel is `[kernel_size kernel_size inputs outputs]`."""

    stage: str
    """Name of the stage in the parameters: down0, ..., center, up0, ..., head."""
    index: int
    """Position in the stage, counted from 0."""
    level: int
    """Number of poolings before it: the height and width of its output are 1/2**level of the image's."""
    kernel_size: int
    """Height and width of the kernel."""
    inputs: int
    """Number of input channels."""
    outputs: int
    """Number of output channels."""

    @property
    def kernel_shape(self) -> tuple[int, int, int, int]:
        """Shape of the kernel: height, width, input channels, output channels."""
        return self.kernel_size, self.kernel_size, self.inputs, self.outputs


def list_convolutions(config: ModelConfig, num_classes: int, image_channels: int = 3) -> list[Convolution]:
    """Return every convolution of the network, in the order of the data flow.

    Args:
      config: settings of the network; `widths`, `center_width` and the numbers of convolutions per stage matter.
      num_classes: number of output channels of the last convolution.
      image_channels: number of channels of the images.

    Example:
      >>> from unet_jax.config import ModelConfig
      >>> from unet_jax.model.architecture import list_convolutions
      >>> config = ModelConfig(widths=(8,), center_width=16, num_convs_down=1, num_convs_up=1)
      >>> for conv in list_convolutions(config, num_classes=2):
      ...     print(conv.stage, conv.level, conv.kernel_size, conv.inputs, conv.outputs)
      down0 0 3 3 8
      center 1 3 8 16
      up0 0 3 24 8
      head 0 1 8 2
    """
    convolutions: list[Convolution] = []

    def add_stage(stage: str, level: int, num_convs: int, inputs: int, outputs: int) -> int:
        for index in range(num_convs):
            convolutions.append(Convolution(stage, index, level, 3, inputs, outputs))
            inputs = outputs
        return outputs

    channels, depth = image_channels, len(config.widths)
    for level, width in enumerate(config.widths):
        channels = add_stage(f"down{level}", level, config.num_convs_down, channels, width)
    channels = add_stage("center", depth, config.num_convs_down, channels, config.center_width)
    for i, width in enumerate(reversed(config.widths)):
        # The skip connection's channels come first in the kernel, then those of the stage below.
        channels = add_stage(f"up{i}", depth - 1 - i, config.num_convs_up, width + channels, width)
    convolutions.append(Convolution("head", 0, 0, 1, channels, num_classes))
    return convolutions
