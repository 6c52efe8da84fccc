"""The U-Net as a list of its stages and convolutions: what the network builds, exporters write and plans count."""

import itertools
from typing import Literal, NamedTuple

from unet_jax.config import ModelConfig


class Convolution(NamedTuple):
    """One convolution of a `UNet`; its kernel is `[kernel_size kernel_size inputs outputs]`."""

    stage: str
    """Name of the stage in the parameters: down0, ..., center, up0, ..., head."""
    index: int
    """Position in the stage, counted from 0; for a shortcut, that of its block."""
    level: int
    """Number of poolings before it: the height and width of its output are 1/2**level of the image's."""
    kernel_size: int
    """Height and width of the kernel."""
    inputs: int
    """Number of input channels."""
    outputs: int
    """Number of output channels."""
    name: str = ""
    """Name in the stage's parameters, conv0 or shortcut0; empty if the stage is one convolution."""
    norm: str = ""
    """Name of the normalisation that follows it, norm0 or shortcut_norm0; empty if none follows."""

    @property
    def kernel_shape(self) -> tuple[int, int, int, int]:
        """Shape of the kernel: height, width, input channels, output channels."""
        return self.kernel_size, self.kernel_size, self.inputs, self.outputs

    @property
    def place(self) -> tuple[str, ...]:
        """Names that lead to its kernel and bias in the parameters."""
        return (self.stage, self.name) if self.name else (self.stage,)


class Block(NamedTuple):
    """Convolutions one after the other, each with normalisation and activation.

    A residual block adds its input to the result of its last normalisation, before the last activation.
    """

    convs: tuple[Convolution, ...]
    """The convolutions."""
    is_residual: bool = False
    """True if the block's input is added to its result."""
    shortcut: Convolution | None = None
    """Convolution of the input, without activation, where its channels are not those of the result; else None."""


class Stage(NamedTuple):
    """A stage: all convolutions of the encoder, or of the decoder, at one resolution."""

    name: str
    """Name in the parameters."""
    level: int
    """Number of poolings before it."""
    reads: Literal["image", "pooled", "joined"]
    """The image; the 2x2 max-pooled result of the stage before; or the encoder's result of this level (the skip
    connection) joined with the up-sampled result of the stage before, in this order of channels."""
    blocks: tuple[Block, ...]
    """Its blocks, one after the other."""

    @property
    def convs(self) -> list[Convolution]:
        """All convolutions, in the order of the data flow; a shortcut follows its block's convolutions."""
        shortcuts = [[] if block.shortcut is None else [block.shortcut] for block in self.blocks]
        pairs = zip(self.blocks, shortcuts, strict=True)
        return list(itertools.chain.from_iterable([*block.convs, *shortcut] for block, shortcut in pairs))


def list_stages(config: ModelConfig, image_channels: int = 3) -> list[Stage]:
    """Return the stages of the network in the order of the data flow, without the output layer.

    Args:
      config: settings of the network.
      image_channels: number of channels of the images.

    Example:
      >>> from unet_jax.config import ModelConfig
      >>> config = ModelConfig(widths=(8,), center_width=16, encoder_block="residual")
      >>> for stage in list_stages(config):
      ...     shortcut = stage.blocks[0].shortcut
      ...     print(stage.name, stage.reads, [conv.name for conv in stage.convs], shortcut and shortcut.kernel_size)
      down0 image ['conv0', 'conv1', 'shortcut0'] 1
      center pooled ['conv0', 'conv1', 'shortcut0'] 1
      up0 joined ['conv0', 'conv1', 'conv2'] None
    """
    stages: list[Stage] = []
    channels, depth = image_channels, len(config.widths)
    make = _residual_blocks if config.encoder_block == "residual" else _plain_block
    encoder = [*((f"down{level}", width) for level, width in enumerate(config.widths)), ("center", config.center_width)]
    for level, (name, width) in enumerate(encoder):
        blocks = make(name, level, config.convs_of_encoder[level], channels, width)
        stages.append(Stage(name, level, "pooled" if level else "image", blocks))
        channels = width
    for level in reversed(range(depth)):
        name, width = f"up{depth - 1 - level}", config.widths[level]
        blocks = _plain_block(name, level, config.convs_of_decoder[level], width + channels, width)
        stages.append(Stage(name, level, "joined", blocks))
        channels = width
    return stages


def _plain_block(stage: str, level: int, num_convs: int, inputs: int, outputs: int) -> tuple[Block, ...]:
    """Return one block of 3x3 convolutions."""
    channels = [inputs, *[outputs] * num_convs]
    pairs = enumerate(itertools.pairwise(channels))
    return (Block(tuple(Convolution(stage, i, level, 3, a, b, f"conv{i}", f"norm{i}") for i, (a, b) in pairs)),)


def _residual_blocks(stage: str, level: int, num_convs: int, inputs: int, outputs: int) -> tuple[Block, ...]:
    """Return residual blocks of two 3x3 convolutions each, of nnU-Net's residual encoder (arXiv:2404.09556)."""
    (plain,) = _plain_block(stage, level, num_convs, inputs, outputs)
    blocks = []
    for i in range(num_convs // 2):
        shortcut = Convolution(stage, i, level, 1, inputs, outputs, f"shortcut{i}", f"shortcut_norm{i}")
        blocks.append(Block(plain.convs[2 * i : 2 * i + 2], True, shortcut if inputs != outputs else None))
        inputs = outputs
    return tuple(blocks)


def list_convolutions(config: ModelConfig, num_classes: int, image_channels: int = 3) -> list[Convolution]:
    """Return every convolution of the network that predicts, in the order of the data flow.

    The heads of deep supervision, which only training uses, are not among them.

    Args:
      config: settings of the network.
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
    stages = list_stages(config, image_channels)
    convolutions = [conv for stage in stages for conv in stage.convs]
    return [*convolutions, Convolution("head", 0, 0, 1, convolutions[-1].outputs, num_classes)]
