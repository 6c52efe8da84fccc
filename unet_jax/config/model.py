"""Settings of the network."""

import dataclasses
from typing import Literal

from unet_jax.config.checks import check_types, require
from unet_jax.config.packing import parse_packing


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The U-Net: one encoder and one decoder stage per width, and a centre between them."""

    widths: tuple[int, ...] = (8, 16, 32, 64, 128, 256, 512)
    """Channels of each encoder stage, highest resolution first; the decoder mirrors them."""
    center_width: int = 1024
    """Channels at the lowest resolution."""
    num_convs_down: int = 2
    """3x3 convolutions in an encoder stage and in the centre."""
    num_convs_up: int = 3
    """3x3 convolutions in a decoder stage."""
    norm: Literal["batch", "group", "none"] = "batch"
    """Normalisation after each 3x3 convolution."""
    batch_norm_momentum: float = 0.99
    """Share of the old running statistics kept at each step."""
    batch_norm_variance: Literal["biased", "keras2.1"] = "biased"
    """What the running variance follows: the batch's (Keras 2.0 and 3), or that corrected by n / (n - 1 - eps)."""
    norm_eps: float = 1e-3
    """Added to the variance (Keras's default; Flax's is 1e-5)."""
    group_size: int = 8
    """Channels in a group of group normalisation (all channels where there are fewer)."""
    kernel_init: Literal["glorot_uniform", "he_normal"] = "glorot_uniform"
    """How convolution kernels start."""
    head_bias: Literal["zero", "prior"] = "zero"
    """The last bias starts at 0, or at the log-odds of each class's share of the training pixels."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of activations; parameters, statistics, the head and the loss are always float32."""
    packing: str = "auto"
    """How the highest resolutions are laid out, for speed: results and weights do not depend on it. "none", "auto"
    (what was measured to be fastest on this kind of device), or factors per level, as in "4,2,2" or "1x2,2" (rows x
    columns; powers of two; at most 2 to the number of poolings below the level; 1 where left out)."""
    remat: Literal["none", "conv", "block", "full"] = "none"
    """What is computed again in the backward pass to save memory: nothing; normalisations and ReLUs, from the results
    of the convolutions; every stage, from its input; or both, one stage after the other (docs/memory.md). Results do
    not depend on it."""

    def __post_init__(self) -> None:
        check_types(self, "model.")
        require(len(self.widths) >= 1 and min(self.widths) >= 1, "model.widths", self.widths, "positive numbers")
        for name in ("center_width", "num_convs_down", "num_convs_up", "group_size"):
            require(getattr(self, name) >= 1, f"model.{name}", getattr(self, name), "at least 1")
        momentum = self.batch_norm_momentum
        require(0.0 <= momentum < 1.0, "model.batch_norm_momentum", momentum, "from 0 to below 1")
        require(self.norm_eps > 0.0, "model.norm_eps", self.norm_eps, "positive")
        if self.norm == "group":
            for width in (*self.widths, self.center_width):
                ok = width % min(self.group_size, width) == 0
                require(ok, "model.group_size", self.group_size, f"a divisor of every width, of {width} too")
        parse_packing(self.packing, len(self.widths))

    @property
    def size_multiple(self) -> int:
        """Height and width of the network's input must be multiples of this: 2 to the number of poolings."""
        return 2 ** len(self.widths)
