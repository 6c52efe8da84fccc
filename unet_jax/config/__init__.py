"""Every setting of a run, as frozen dataclasses that refuse impossible values before any device is touched."""

import dataclasses

from unet_jax._types import InputError
from unet_jax.config.augment import AugmentConfig as AugmentConfig
from unet_jax.config.checks import check_types as _check_types
from unet_jax.config.checks import require as _require
from unet_jax.config.data import DataConfig as DataConfig
from unet_jax.config.loss import LossConfig as LossConfig
from unet_jax.config.loss import LossTermConfig as LossTermConfig
from unet_jax.config.loss import RampConfig as RampConfig
from unet_jax.config.model import ModelConfig as ModelConfig
from unet_jax.config.optim import OptimConfig as OptimConfig
from unet_jax.config.placeholders import RunDir
from unet_jax.config.train import TrainConfig as TrainConfig


@dataclasses.dataclass(frozen=True)
class Config:
    """All settings of a run. Two runs with equal configs on equal data have equal numbers."""

    seed: int = 0
    """Seed of the first weights, the order of the images and the augmentation."""
    init_from: RunDir = ""
    """Run whose best weights training starts from, in the place of random ones. The network must be the same.
    Its output layer is used too if the classes are the same."""
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        _check_types(self, "")
        _require(0 <= self.seed < 2**31, "seed", self.seed, "from 0 to 2**31 - 1")
        if self.init_from and self.model.encoder_weights:
            raise InputError(
                f"init_from is {self.init_from!r} and model.encoder_weights is {self.model.encoder_weights!r}: both "
                "give first weights: leave one of --init-from and --model.encoder-weights out."
            )
        multiple = self.model.size_multiple
        height, width = self.data.height_and_width
        if height % multiple or width % multiple:
            nearest = [max(multiple, round(side / multiple) * multiple) for side in (height, width)]
            flag = " ".join(map(str, nearest if height != width else nearest[:1]))
            raise InputError(
                f"data.image_size is {self.data.image_size}, but {self.model.depth} poolings need "
                f"{'a multiple' if height == width else 'multiples'} of {multiple}: use --data.image-size {flag}, or "
                f"{'fewer --model.widths' if self.model.encoder == 'none' else 'another --model.encoder'}."
            )
        if self.train.recalibrate and self.model.norm != "batch":
            raise InputError(
                f"train.recalibrate is True, but model.norm {self.model.norm!r} has no running statistics: leave "
                f"--train.recalibrate out."
            )
        if height != width and self.augment.transpose_prob:
            raise InputError(
                f"augment.transpose_prob is {self.augment.transpose_prob}, but data.image_size is "
                f"{self.data.image_size}: exchanging rows and columns would change the size. Use "
                f"--augment.transpose-prob 0, or a square --data.image-size."
            )
