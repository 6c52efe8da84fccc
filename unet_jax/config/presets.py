"""Named configs. Each docstring says what it is for, the command, and what to expect."""

from collections.abc import Callable

from unet_jax.config import AugmentConfig, Config, LossConfig
from unet_jax.config.data import DataConfig
from unet_jax.config.model import ModelConfig
from unet_jax.config.optim import OptimConfig
from unet_jax.config.train import TrainConfig


def seed() -> Config:
    """The Keras original: 8 to 1024 channels at 1024x1024, RMSprop 1e-4, BCE + Dice over the whole batch.

    Masks are resized and warped bilinearly, hue shifts are large and clamp at red, the learning rate falls and the run
    stops by validation loss, as there.
    """
    return Config(
        data=DataConfig(image_size=1024, mask_interpolation="linear"),
        augment=AugmentConfig(hue=50.0, saturation=5.0, value=15.0, circular_hue=False),
        model=ModelConfig(),
        loss=LossConfig(bce_weight=1.0, dice_weight=1.0, dice_reduction="batch", dice_smooth=1.0),
        optim=OptimConfig(name="rmsprop", learning_rate=1e-4, schedule="plateau"),
        train=TrainConfig(num_epochs=100, batch_size=4, monitor="loss", early_stop_patience=8),
    )


def default() -> Config:
    """A good modern recipe: AdamW, one rise and fall of the learning rate, gentle colours, both flips."""
    return Config(
        data=DataConfig(image_size=256),
        augment=AugmentConfig(
            hue=10.0, saturation=15.0, value=20.0, rotate=15.0, border="reflect", vertical_flip_prob=0.5
        ),
        model=ModelConfig(
            widths=(16, 32, 64, 128),
            center_width=256,
            num_convs_up=2,
            batch_norm_momentum=0.9,
            head_bias="prior",
        ),
        optim=OptimConfig(name="adamw", learning_rate=2e-3, schedule="cosine", warmup_fraction=0.3),
        train=TrainConfig(num_epochs=25, batch_size=8),
    )


def small() -> Config:
    """A small network for a first try on a CPU, in a minute or a few."""
    return Config(
        data=DataConfig(image_size=128),
        model=ModelConfig(
            widths=(8, 16, 32, 64),
            center_width=128,
            num_convs_up=2,
            batch_norm_momentum=0.9,
            head_bias="prior",
        ),
        optim=OptimConfig(name="adamw", learning_rate=4e-3, schedule="cosine", warmup_fraction=0.2),
        train=TrainConfig(num_epochs=15, batch_size=8),
    )


PRESETS: dict[str, Callable[[], Config]] = {"default": default, "seed": seed, "small": small}
