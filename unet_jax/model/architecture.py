"""The U-Net as a list of its stages and convolutions: what the network builds, exporters write and plans count."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from unet_jax.config import ModelConfig
from unet_jax.config.encoders import ENCODERS, NORM_EPS


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
    stride: int = 1
    """1, or 2 if the result has half the height and width of what it reads."""
    norm_eps: float = 0.0
    """Number that the normalisation adds to the variance."""

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
    reads: Literal["image", "previous", "pooled", "pooled 3x3", "joined", "upsampled"]
    """The image; the result of the stage before, as it is, or max-pooled by 2x2 or (with overlap) 3x3 pixels; the
    encoder's result of this level (the skip connection) joined with the up-sampled result of the stage before, in this
    order of channels; or the latter alone, where the encoder has no stage of this level."""
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
    stages = list(_encoder(config, image_channels))
    skips, channels = {stage.level: _outputs(stage) for stage in stages}, _outputs(stages[-1])
    for level in reversed(range(config.depth)):
        name, width, skip = f"up{config.depth - 1 - level}", config.widths_of_decoder[level], skips.get(level, 0)
        blocks = _plain_block(name, level, config.convs_of_decoder[level], skip + channels, width, config.norm_eps)
        stages.append(Stage(name, level, "joined" if skip else "upsampled", blocks))
        channels = width
    return stages


def _outputs(stage: Stage) -> int:
    return stage.blocks[-1].convs[-1].outputs


def _encoder(config: ModelConfig, channels: int) -> Iterator[Stage]:
    """Yield the stages of the encoder, and the centre."""
    known = ENCODERS.get(config.encoder)
    eps = NORM_EPS if known else config.norm_eps
    is_residual = config.encoder_block == "residual"
    for level, (width, count) in enumerate(zip(config.level_widths, config.convs_of_encoder, strict=True)):
        name = "center" if level == config.depth else f"down{level}"
        if known and known.kind != "vgg":
            if not width:
                continue
            yield _resnet_stage(name, level, count, channels, width, eps, has_bottlenecks=known.kind == "bottleneck")
        else:
            make = _residual_blocks if is_residual and not known else _plain_block
            yield Stage(name, level, "pooled" if level else "image", make(name, level, count, channels, width, eps))
        channels = width


def _plain_block(stage: str, level: int, num_convs: int, inputs: int, outputs: int, eps: float) -> tuple[Block, ...]:
    """Return one block of 3x3 convolutions."""
    return (Block(_chain(stage, level, 0, eps, [3] * num_convs, [inputs, *[outputs] * num_convs])),)


def _chain(
    stage: str, level: int, first: int, eps: float, sizes: Sequence[int], channels: Sequence[int], strided: int = -1
) -> tuple[Convolution, ...]:
    """Return convolutions one after the other.

    Args:
      stage, level, eps: the same as for each `Convolution`.
      first: number of the first convolution in its stage.
      sizes: kernel size of each.
      channels: channels of the input, and of each result.
      strided: position of the one with stride 2; -1: none has.
    """
    convs = []
    for i, (size, (inputs, outputs)) in enumerate(zip(sizes, itertools.pairwise(channels), strict=True), first):
        names, stride = (f"conv{i}", f"norm{i}"), 2 if i - first == strided else 1
        convs.append(Convolution(stage, i, level, size, inputs, outputs, *names, stride, eps))
    return tuple(convs)


def _shortcut(block: int, convs: Sequence[Convolution]) -> Convolution | None:
    """Return the 1x1 convolution beside a block's convolutions; None where the input can be added as it is."""
    first, last, stride = convs[0], convs[-1], max(conv.stride for conv in convs)
    if (first.inputs, stride) == (last.outputs, 1):
        return None
    names = f"shortcut{block}", f"shortcut_norm{block}"
    return Convolution(
        first.stage, block, first.level, 1, first.inputs, last.outputs, *names, stride=stride, norm_eps=first.norm_eps
    )


def _residual_blocks(
    stage: str, level: int, num_convs: int, inputs: int, outputs: int, eps: float
) -> tuple[Block, ...]:
    """Return residual blocks of two 3x3 convolutions each, of nnU-Net's residual encoder (arXiv:2404.09556)."""
    blocks = []
    for i in range(num_convs // 2):
        convs = _chain(stage, level, 2 * i, eps, [3, 3], [inputs, outputs, outputs])
        blocks.append(Block(convs, True, _shortcut(i, convs)))
        inputs = outputs
    return tuple(blocks)


def _resnet_stage(
    stage: str, level: int, count: int, inputs: int, outputs: int, eps: float, *, has_bottlenecks: bool
) -> Stage:
    """Return a stage of a ResNet: the 7x7 convolution at level 1, then blocks, the first with a stride from level 3."""
    if level == 1:
        return Stage(stage, level, "image", (Block(_chain(stage, level, 0, eps, [7], [inputs, outputs], strided=0)),))
    blocks = []
    for i in range(count):
        is_strided = level > 2 and i == 0
        if has_bottlenecks:
            sizes, channels = [1, 3, 1], [inputs, outputs // 4, outputs // 4, outputs]
        else:
            sizes, channels = [3, 3], [inputs, outputs, outputs]
        strided = (1 if has_bottlenecks else 0) if is_strided else -1
        convs = _chain(stage, level, len(sizes) * i, eps, sizes, channels, strided)
        blocks.append(Block(convs, True, _shortcut(i, convs)))
        inputs = outputs
    return Stage(stage, level, "pooled 3x3" if level == 2 else "previous", tuple(blocks))


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
