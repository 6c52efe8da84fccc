"""Every setting of a run, as frozen dataclasses that refuse impossible values before any device is touched."""

import dataclasses
import re
from typing import Literal

from unet_jax._types import InputError
from unet_jax.config.augment import AugmentConfig as AugmentConfig
from unet_jax.config.checks import check_types as _check_types
from unet_jax.config.checks import require as _require
from unet_jax.config.loss import LossConfig as LossConfig
from unet_jax.config.loss import LossTermConfig as LossTermConfig
from unet_jax.config.loss import RampConfig as RampConfig


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where images and masks are and how they become arrays of one size."""

    root: str = ""
    """Folder with images/ID.ext and masks/CLASS/ID.ext (or train/ val/ test/ folders of that layout)."""
    classes: tuple[str, ...] = ()
    """Class order, which is the order of the output channels. Empty: the mask folders, sorted by name."""
    splits: str | None = None
    """CSV file with the columns id,split (train, val, test). Without val, a part of train becomes val."""
    val_fraction: float = 0.2
    """Part of the training ids, chosen by hashed id, that becomes val when no split says which."""
    split_seed: int = 0
    """Another number, another choice of val ids."""
    image_size: int = 256
    """Images and masks are resized to a square of this many pixels."""
    image_pattern: str = ""
    """Path below root with {id}, when the images do not lie in images/: 'train/IMG_{id}.JPG'."""
    mask_patterns: tuple[str, ...] = ()
    """CLASS=path with {id}, one for each class: 'cell=train_mask/{id}_cell.png'."""
    image_key: str = ""
    """Regular expression applied to a mask's id; its first group is the {id} of the image."""
    index_map: str = ""
    """Path with {id} of one file per image whose pixel values are class numbers (see index_values)."""
    index_values: tuple[str, ...] = ()
    """CLASS=values of the index map that belong to the class: 'cell=1,2' 'nucleus=2'."""
    missing_masks: Literal["error", "empty"] = "error"
    """What an absent mask file means: a mistake, or that the class does not occur in that image."""
    soft_masks: bool = False
    """Accept gray levels between black and white in mask files as partial membership."""
    mask_interpolation: Literal["nearest", "linear"] = "nearest"
    """How masks are resized and warped; linear makes soft borders, as the Keras original did."""
    on_bad_sample: Literal["error", "skip"] = "error"
    """A sample that cannot be used stops the run, or is left out, counted and reported."""
    cache: Literal["auto", "memory", "disk", "none"] = "auto"
    """Keep decoded, resized samples in memory, or in files that later runs find again; auto means memory below 2 GiB
    and disk above."""
    cache_dir: str = ""
    """Folder for the files of the disk cache. Empty: unet_jax in the user's cache folder (XDG_CACHE_HOME or
    ~/.cache)."""
    rebuild_cache: bool = False
    """Build the disk cache anew, also where one is found that cannot be used."""
    num_threads: int = 0
    """Threads that read and augment; 0 measures how many are worth it. Does not change the data."""
    num_workers: int = 0
    """Processes that read and augment, each with num_threads threads. Does not change the data."""

    def __post_init__(self) -> None:
        _check_types(self, "data.")
        _require(1 <= self.image_size <= 2**15, "data.image_size", self.image_size, "from 1 to 32768")
        _require(0.0 < self.val_fraction < 1.0, "data.val_fraction", self.val_fraction, "between 0 and 1")
        _require(self.num_threads >= 0, "data.num_threads", self.num_threads, "at least 0")
        _require(self.num_workers >= 0, "data.num_workers", self.num_workers, "at least 0")
        for name in self.classes:
            ok = bool(name) and "/" not in name and name == name.strip() and name not in (".", "..")
            _require(ok, "data.classes", name, "a plain name (it is used as a folder)")
        duplicates = sorted({name for name in self.classes if self.classes.count(name) > 1})
        _require(not duplicates, "data.classes", duplicates, "free of repeated names")
        ways = [bool(self.mask_patterns), bool(self.index_map)]
        _require(sum(ways) <= 1, "data.index_map", self.index_map, "left empty when data.mask_patterns is given")
        _require(
            bool(self.index_map) == bool(self.index_values),
            "data.index_values",
            self.index_values,
            "given exactly when data.index_map is",
        )


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
        _check_types(self, "model.")
        _require(len(self.widths) >= 1 and min(self.widths) >= 1, "model.widths", self.widths, "positive numbers")
        for name in ("center_width", "num_convs_down", "num_convs_up", "group_size"):
            _require(getattr(self, name) >= 1, f"model.{name}", getattr(self, name), "at least 1")
        momentum = self.batch_norm_momentum
        _require(0.0 <= momentum < 1.0, "model.batch_norm_momentum", momentum, "from 0 to below 1")
        _require(self.norm_eps > 0.0, "model.norm_eps", self.norm_eps, "positive")
        if self.norm == "group":
            for width in (*self.widths, self.center_width):
                ok = width % min(self.group_size, width) == 0
                _require(ok, "model.group_size", self.group_size, f"a divisor of every width, of {width} too")
        parse_packing(self.packing, len(self.widths))

    @property
    def size_multiple(self) -> int:
        """Height and width of the network's input must be multiples of this: 2 to the number of poolings."""
        return 2 ** len(self.widths)


def parse_packing(packing: str, num_levels: int) -> list[tuple[int, int]]:
    """Rows and columns for each level of a `ModelConfig.packing`: "2,1x2" gives [(2, 2), (1, 2), (1, 1), ...].

    "none" and "auto" give (1, 1) everywhere: what "auto" means is up to the model.
    """
    if packing in ("none", "auto"):
        return [(1, 1)] * num_levels
    factors = []
    for level, part in enumerate(packing.split(",")):
        found = re.fullmatch(r"\s*(\d+)(?:x(\d+))?\s*", part)
        factor = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
        if not all(f > 0 and f & (f - 1) == 0 for f in factor):
            raise InputError(
                f"model.packing is {packing!r}, of which {part!r} is not understood: it must be 'none', 'auto', or "
                f"powers of two for the levels, as in 4,2,2 or 1x2,2 (rows x columns)."
            )
        largest = 2 ** max(num_levels - level, 0)
        if max(factor) > largest:
            raise InputError(
                f"model.packing is {packing!r}, but the factor of level {level} must be at most {largest}, which is 2 "
                f"to the number of poolings below it, so that it divides every image that the network can take: use "
                f"'none', 'auto', or {largest} there."
            )
        factors.append(factor)
    factors += [(1, 1)] * (num_levels - len(factors))
    return factors[:num_levels]


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """The optimizer and how its learning rate moves."""

    name: Literal["rmsprop", "adamw", "sgd"] = "adamw"
    """rmsprop has Keras's semantics (see rmsprop_variant); sgd has Nesterov momentum."""
    learning_rate: float = 2e-3
    """The schedule's highest value."""
    schedule: Literal["constant", "cosine", "polynomial", "plateau"] = "cosine"
    """cosine and polynomial fall to 0 over the run; plateau is divided when validation stops improving."""
    warmup_fraction: float = 0.0
    """Part of the run in which the learning rate rises linearly from a 25th of its highest value."""
    polynomial_power: float = 0.9
    """Exponent of the polynomial schedule."""
    rmsprop_variant: Literal["keras2.0", "keras2.1", "keras3"] = "keras2.0"
    """Size and place of RMSprop's epsilon, which differ between versions of Keras."""
    momentum: float = 0.9
    """Of sgd."""
    weight_decay: float = 1e-4
    """Of adamw (decoupled), on kernels only."""
    clip_norm: float = 0.0
    """Scale gradients down to this global norm; 0 leaves them."""
    plateau_factor: float = 0.1
    """The learning rate's factor at a plateau."""
    plateau_patience: int = 4
    """Evaluations without improvement before a plateau is called."""
    plateau_min_delta: float = 1e-4
    """Smaller changes of the validation loss are no improvement."""

    def __post_init__(self) -> None:
        _check_types(self, "optim.")
        _require(self.learning_rate > 0.0, "optim.learning_rate", self.learning_rate, "positive")
        _require(0.0 <= self.warmup_fraction < 1.0, "optim.warmup_fraction", self.warmup_fraction, "from 0 to below 1")
        for name in ("weight_decay", "clip_norm", "polynomial_power", "plateau_min_delta"):
            _require(getattr(self, name) >= 0.0, f"optim.{name}", getattr(self, name), "at least 0")
        _require(0.0 <= self.momentum < 1.0, "optim.momentum", self.momentum, "from 0 to below 1")
        _require(0.0 < self.plateau_factor < 1.0, "optim.plateau_factor", self.plateau_factor, "between 0 and 1")
        _require(self.plateau_patience >= 1, "optim.plateau_patience", self.plateau_patience, "at least 1")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How long to train, and what to keep."""

    num_epochs: int = 25
    """Passes over the training images."""
    batch_size: int = 8
    """Images in a step, over all devices."""
    devices_per_image: int = 1
    """Devices that the rows of each image are divided over, for images that do not fit one (docs/scaling.md). Results
    do not depend on it."""
    accumulation: int = 1
    """Micro-batches that a step's images are divided into, one after the other, to need less memory."""
    accumulation_statistics: Literal["ghost", "exact"] = "ghost"
    """Batch statistics (and ratios that the loss takes over a batch) of a divided batch. ghost: every micro-batch's
    own, in a part of the memory. exact: the whole batch's; every layer then needs all images at once, so nothing is
    divided and --model.remat is full instead."""
    eval_every_epochs: int = 1
    """Epochs between evaluations on val; each saves a checkpoint."""
    checkpoint_every_steps: int = 0
    """Further checkpoints between evaluations, for long epochs; 0 saves at evaluations only."""
    keep_last: int = 1
    """Newest checkpoints to keep, besides the best."""
    monitor: Literal["dice", "loss"] = "dice"
    """What makes a checkpoint the best one: mean per-image Dice on val, or the loss on val."""
    early_stop_patience: int = 0
    """Stop after so many evaluations without a better validation loss; 0 never stops."""
    early_stop_min_delta: float = 1e-4
    """Smaller changes of the validation loss are no improvement."""
    on_non_finite: Literal["stop", "skip", "rollback"] = "stop"
    """When the loss or its gradient is not finite: stop; leave the step out (but stop after 10 in a row); or go back to
    the newest checkpoint and on from there with later images (but stop after 3 returns to the same one)."""
    threshold: float = 0.5
    """Probability above which a pixel belongs to a class."""
    num_pictures: int = 4
    """Validation images in the picture drawn after an evaluation; 0 draws none."""
    log_gradients_every_steps: int = 0
    """Write how the loss's terms and the classes pull at the parameters, and where they conflict (docs/losses.md), of
    every so-manieth step; 0 never does. Each time costs a backward pass per term and class."""
    tensorboard: bool = False
    """Write TensorBoard files as well (needs the package tensorboardX)."""

    def __post_init__(self) -> None:
        _check_types(self, "train.")
        for name in ("num_epochs", "batch_size", "devices_per_image", "accumulation", "eval_every_epochs", "keep_last"):
            _require(getattr(self, name) >= 1, f"train.{name}", getattr(self, name), "at least 1")
        if self.batch_size % self.accumulation:
            larger = -(-self.batch_size // self.accumulation) * self.accumulation
            raise InputError(
                f"train.accumulation is {self.accumulation}, but must divide train.batch_size, which is "
                f"{self.batch_size}: use --train.batch-size {larger}, or another --train.accumulation."
            )
        for name in (
            "checkpoint_every_steps",
            "log_gradients_every_steps",
            "early_stop_patience",
            "num_pictures",
            "early_stop_min_delta",
        ):
            _require(getattr(self, name) >= 0, f"train.{name}", getattr(self, name), "at least 0")
        _require(0.0 < self.threshold < 1.0, "train.threshold", self.threshold, "between 0 and 1")


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole run. Two runs with equal configs on equal data give equal numbers."""

    seed: int = 0
    """Of the first weights, the order of the images and the augmentation."""
    init_from: str = ""
    """Run whose best weights training starts with, instead of random ones. The network must be the same; the head is
    taken over when the classes are."""
    data: DataConfig = DataConfig()
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    model: ModelConfig = ModelConfig()
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()

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
