"""Settings of the network."""

import dataclasses
from typing import Literal

from unet_jax.config.checks import check_types, require
from unet_jax.config.encoders import ENCODERS
from unet_jax.config.packing import parse_packing
from unet_jax.config.placeholders import File
from unet_jax.config.settings import setting

_OWN, _KNOWN = {"encoder": ("none",)}, {"encoder": tuple(ENCODERS)}


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A U-Net with one encoder and one decoder stage per width, and a centre between them."""

    widths: tuple[int, ...] = setting((8, 16, 32, 64, 128, 256, 512), only_if=_OWN)
    """Channels of each encoder stage, highest resolution first. The decoder mirrors them."""
    center_width: int = setting(1024, only_if=_OWN)
    """Channels at the lowest resolution."""
    num_convs_down: int = setting(2, only_if=_OWN, not_with=("stage_convs_down",))
    """Number of 3x3 convolutions in each encoder stage and in the centre."""
    num_convs_up: int = setting(3, not_with=("stage_convs_up",))
    """Number of 3x3 convolutions in each decoder stage."""
    stage_convs_down: tuple[int, ...] = setting((), only_if=_OWN)
    """Number of 3x3 convolutions of each encoder stage, highest resolution first, and of the centre.
    2 2 3 3 3 are the stages of VGG16. Empty: num_convs_down in all of them."""
    stage_convs_up: tuple[int, ...] = ()
    """Number of 3x3 convolutions of each decoder stage, highest resolution first.
    Empty: num_convs_up in all of them."""
    decoder_widths: tuple[int, ...] = ()
    """Channels of each decoder stage, highest resolution first. Empty: those of the encoder (of a pretrained encoder,
    half of them or less; docs/networks.md)."""
    encoder_block: Literal["plain", "residual"] = setting("plain", only_if=_OWN)
    """Blocks of the encoder and the centre. residual: each two convolutions are a block that adds its input to its
    result (of a 1x1 convolution and normalisation, where channels differ), as in nnU-Net's residual encoder."""
    encoder: Literal["none", "vgg11_bn", "vgg13_bn", "vgg16_bn", "resnet18", "resnet34", "resnet50"] = "none"
    """Encoder of a known classifier, in the place of one by widths and numbers of convolutions (docs/networks.md)."""
    encoder_weights: File = setting("", may_change=True, only_if=_KNOWN)
    """File with the encoder's first weights, with names of torchvision or timm (.safetensors) or of Keras (.h5).
    It is read when a run begins. Empty: random weights."""
    encoder_input: Literal["auto", "imagenet", "caffe", "none"] = setting("auto", only_if=_KNOWN)
    """Normalisation of the images inside of the network. imagenet: (x - mean) / deviation of ImageNet, as torchvision
    has it. caffe: 0 to 255 minus ImageNet's mean, as Keras's VGG16 has it. auto: by the file of weights, caffe for .h5,
    imagenet for .safetensors, none without a file."""
    activation: Literal["relu", "leaky_relu"] = "relu"
    """Activation after each normalisation. leaky_relu keeps 0.01 of negative values, as nnU-Net does."""
    deep_supervision: int = 0
    """Number of lower resolutions at which the decoder has an output of its own, for the loss in training only.
    The loss of each counts half of that of the resolution above it (docs/networks.md)."""
    norm: Literal["batch", "group", "none"] = "batch"
    """Normalisation after each 3x3 convolution."""
    batch_norm_momentum: float = setting(0.99, only_if={"norm": ("batch",)})
    """Share of the old running statistics that each step keeps."""
    batch_norm_correction: bool = setting(False, only_if={"norm": ("batch",)})
    """Leave the start (mean 0, variance 1) out of the running statistics, so that they are right after few steps."""
    batch_norm_variance: Literal["biased", "keras2.1"] = setting("biased", only_if={"norm": ("batch",)})
    """Variance that the running variance follows: the batch's (Keras 2.0 and 3), or that times n / (n - 1 - eps)."""
    norm_eps: float = setting(1e-3, only_if={"norm": ("batch", "group")})
    """Number added to the variance before the square root (Keras's default; Flax's is 1e-5)."""
    group_size: int = setting(8, only_if={"norm": ("group",)})
    """Channels in a group of group normalisation; 1 is instance normalisation.
    A stage with fewer channels is one group."""
    kernel_init: Literal["glorot_uniform", "he_normal"] = "glorot_uniform"
    """Distribution of the first convolution kernels."""
    head_bias: Literal["zero", "prior"] = "zero"
    """First bias of the output layer: 0, or the log-odds of each class's share of the training pixels."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Data type of activations. Parameters, statistics, the output layer and the loss are always float32."""
    packing: str = setting("auto", may_change=True)
    """Memory layout of the highest resolutions, for speed; results and weights do not depend on it.
    It is "none", "auto" (the fastest known for the device), or factors per level, as in "4,2,2" or "1x2,2".
    Factors are rows x columns, powers of two, and 1 where left out.
    The largest is 2 to the number of poolings below the level."""
    remat: Literal["none", "conv", "block", "full"] = setting("none", may_change=True)
    """Activations that the backward pass computes again to save memory (docs/memory.md). none: nothing.
    conv: normalisations and ReLUs, from the results of the convolutions. block: every stage, from its input.
    full: both, one stage after the other. Results do not depend on it."""

    def __post_init__(self) -> None:
        check_types(self, "model.")
        require(len(self.widths) >= 1 and min(self.widths) >= 1, "model.widths", self.widths, "positive numbers")
        for name in ("center_width", "num_convs_down", "num_convs_up", "group_size"):
            require(getattr(self, name) >= 1, f"model.{name}", getattr(self, name), "at least 1")
        if self.encoder != "none":
            require(self.norm == "batch", "model.norm", self.norm, f"batch with model.encoder {self.encoder}")
            require(self.activation == "relu", "model.activation", self.activation, "relu with a known model.encoder")
        depth = self.depth
        ok = not self.decoder_widths or (len(self.decoder_widths) == depth and min(self.decoder_widths) >= 1)
        wanted = f"empty, or {depth} positive numbers, one for each decoder stage"
        require(ok, "model.decoder_widths", self.decoder_widths, wanted)
        for name, count in (("stage_convs_down", depth + 1), ("stage_convs_up", depth)):
            convs, stages = getattr(self, name), "encoder stage and the centre" if count > depth else "decoder stage"
            ok = not convs or (len(convs) == count and min(convs) >= 1)
            require(ok, f"model.{name}", convs, f"empty, or {count} positive numbers, one for each {stages}")
        odd = [count for count in self.convs_of_encoder if count % 2]
        if self.encoder == "none" and self.encoder_block == "residual" and odd:
            name = "stage_convs_down" if self.stage_convs_down else "num_convs_down"
            wanted = "even with model.encoder_block residual: a block has two convolutions"
            require(False, f"model.{name}", odd[0], wanted)
        ok = 0 <= self.deep_supervision < depth
        lower = f"from 0 to {depth - 1}, the number of decoder stages below the highest resolution"
        require(ok, "model.deep_supervision", self.deep_supervision, lower)
        momentum = self.batch_norm_momentum
        require(0.0 <= momentum < 1.0, "model.batch_norm_momentum", momentum, "from 0 to below 1")
        require(self.norm_eps > 0.0, "model.norm_eps", self.norm_eps, "positive")
        if self.norm == "group":
            for width in (*self.level_widths, *self.widths_of_decoder):
                ok = width % min(self.group_size, width) == 0
                require(ok, "model.group_size", self.group_size, f"a divisor of every width, of {width} too")
        parse_packing(self.packing, self.depth)

    @property
    def size_multiple(self) -> int:
        """Number that divides height and width of every input of the network: 2 to the number of poolings."""
        return 2**self.depth

    @property
    def depth(self) -> int:
        """Number of poolings, and of decoder stages."""
        return len(self.level_widths) - 1

    @property
    def level_widths(self) -> tuple[int, ...]:
        """Channels of each encoder stage, highest resolution first, and of the centre; 0 where the encoder has none."""
        return (*self.widths, self.center_width) if self.encoder == "none" else ENCODERS[self.encoder].widths

    @property
    def widths_of_decoder(self) -> tuple[int, ...]:
        """Channels of each decoder stage, highest resolution first."""
        return self.decoder_widths or (self.widths if self.encoder == "none" else ENCODERS[self.encoder].decoder)

    @property
    def convs_of_encoder(self) -> tuple[int, ...]:
        """Number of convolutions of each encoder stage, highest resolution first, and of the centre."""
        if self.encoder != "none":
            return ENCODERS[self.encoder].counts
        return self.stage_convs_down or (self.num_convs_down,) * (self.depth + 1)

    @property
    def convs_of_decoder(self) -> tuple[int, ...]:
        """Number of convolutions of each decoder stage, highest resolution first."""
        return self.stage_convs_up or (self.num_convs_up,) * self.depth

    @property
    def negative_slope(self) -> float:
        """Slope of the activation below 0."""
        return 0.01 if self.activation == "leaky_relu" else 0.0
