"""Encoders of known image classifiers, for weights from files: their stages, and what their inputs look like."""

from typing import Literal, NamedTuple


class Encoder(NamedTuple):
    """Stages of an encoder, by the number of poolings (or strides of 2) before them."""

    kind: Literal["vgg", "basic", "bottleneck"]
    """vgg: plain stages. basic and bottleneck: residual blocks of two or three convolutions, after a 7x7 one."""
    widths: tuple[int, ...]
    """Channels of each level, highest resolution first, the centre last. 0: the encoder has no stage there."""
    counts: tuple[int, ...]
    """Number of convolutions (vgg) or of residual blocks in each stage; of the 7x7 convolution, 1."""
    decoder: tuple[int, ...]
    """Channels of each decoder stage by default, highest resolution first."""


_VGG = (64, 128, 256, 512, 512), (32, 64, 128, 256)
_RESNET = (0, 64, 64, 128, 256, 512), (16, 32, 64, 128, 256)

ENCODERS: dict[str, Encoder] = {
    "vgg11_bn": Encoder("vgg", _VGG[0], (1, 1, 2, 2, 2), _VGG[1]),
    "vgg13_bn": Encoder("vgg", _VGG[0], (2, 2, 2, 2, 2), _VGG[1]),
    "vgg16_bn": Encoder("vgg", _VGG[0], (2, 2, 3, 3, 3), _VGG[1]),
    "resnet18": Encoder("basic", _RESNET[0], (0, 1, 2, 2, 2, 2), _RESNET[1]),
    "resnet34": Encoder("basic", _RESNET[0], (0, 1, 3, 4, 6, 3), _RESNET[1]),
    "resnet50": Encoder("bottleneck", (0, 64, 256, 512, 1024, 2048), (0, 1, 3, 4, 6, 3), _RESNET[1]),
}
"""The encoders by name (Simonyan and Zisserman 2014, arXiv:1409.1556; He et al. 2015, arXiv:1512.03385). The residual
ones have the stride in the 3x3 convolution, as torchvision and timm have it."""

NORM_EPS = 1e-5
"""Number that their normalisations add to the variance."""

_STATISTICS = {
    # Of RGB in [0, 1]. The weights of torchvision and of most models of timm were trained so:
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    # Keras's VGG and ResNet, after Caffe: 0 to 255 minus the mean of each channel.
    "caffe": ((123.68 / 255.0, 116.779 / 255.0, 103.939 / 255.0), (1.0 / 255.0,) * 3),
}


def input_statistics(name: str, num_channels: int) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Return the mean and the standard deviation of each channel that an encoder's input is normalised with.

    Args:
      name: value of `model.encoder_input`.
      num_channels: number of channels of the images. One channel has the means over red, green and blue; the channels
        of other images have those of red, green, blue, red, and so on.

    Returns:
      Both for each channel, for pixels in [0, 1]; None if the input is not normalised.

    Example:
      >>> mean, std = input_statistics("imagenet", 1)
      >>> print(f"{mean[0]:.3f} {std[0]:.3f}")
      0.449 0.226
    """
    if name not in _STATISTICS:
        return None
    mean, std = _STATISTICS[name]
    if num_channels == 1:
        return (sum(mean) / 3.0,), (sum(std) / 3.0,)
    order = [channel % 3 for channel in range(num_channels)]
    return tuple(mean[i] for i in order), tuple(std[i] for i in order)
