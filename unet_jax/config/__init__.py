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
from unet_jax.config.train import TrainConfig as TrainConfig


@dataclasses.dataclass(frozen=True)
class Config:
    """All settings of a run. Two runs with equal configs on equal data have equal numbers."""

    seed: int = 0
    """Seed of the first weights, the order of the images and the augmentation."""
    init_from: str = ""
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
        multiple = self.model.size_multiple
        size = self.data.image_size
        if size % multiple:
            nearest = max(multiple, round(size / multiple) * multiple)
            raise InputError(
                f"data.image_size is {size}, but {len(self.model.widths)} poolings need a multiple of {multiple}: "
                f"use --data.image-size {nearest}, or fewer --model.widths."
            )
