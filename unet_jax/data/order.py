"""Order of the samples in a run and their random numbers, as pure functions of seed, epoch and position.

Epoch e visits the samples in an order that depends on (seed, e) alone. Sample i of epoch e is augmented with random
numbers that depend on (seed, e, i) alone; with crops, i is the number of the crop in its epoch. So a position in the
training data is one number, the count of batches so far, and there is no other state to save or to lose. Nothing is
read here: `pipeline` makes the batches.
"""

import functools
from typing import NamedTuple

import numpy as np

from unet_jax._types import InputError
from unet_jax.data.crop_plan import CropPlan

# Keys that make the random numbers of the order independent of those of augmentation; 2 is the key of `crop_plan`.
_ORDER_KEY, _AUGMENT_KEY, _AUGMENT_CROP_KEY = 0, 1, 3


class EpochSample(NamedTuple):
    """One visit to a sample: the epoch (from 0) and the index of the sample in its source; with crops, also which."""

    epoch: int
    index: int
    crop: int | None = None
    """Number of the crop in its epoch."""
    class_: int | None = None
    """Class that the crop is placed on; None: anywhere."""


def steps_per_epoch(num_samples: int, batch_size: int) -> int:
    """Return the number of full batches in one pass over the samples."""
    return num_samples // batch_size


class TrainOrder:
    """Sequence of all sample visits of a run: a new permutation in every epoch, without its incomplete last batch.

    Args:
      num_samples: samples of the training split.
      batch_size: samples of a global batch.
      num_epochs: passes over the samples.
      seed: seed of the order; `augment_rng` takes the same one.
      crops: crops of an epoch, `num_samples` in all, if samples are cropped.

    Raises:
      InputError: there are fewer samples than one batch needs.
    """

    def __init__(self, num_samples: int, batch_size: int, num_epochs: int, seed: int, *, crops: CropPlan | None = None):
        if num_samples < batch_size:
            kind = "images" if crops is None else "crops of data.image_size"
            remedy = f"use --train.batch-size {num_samples} or less" if num_samples else "check --data.splits"
            raise InputError(
                f"the training split has {num_samples} {kind}, fewer than train.batch_size {batch_size}: {remedy}."
            )
        self._crops = crops
        self.num_samples, self.batch_size, self.num_epochs, self.seed = num_samples, batch_size, num_epochs, seed
        self.steps_per_epoch = steps_per_epoch(num_samples, batch_size)

    def extended_by(self, num_batches: int) -> "TrainOrder":
        """Return the same sequence, continued by whole epochs that hold at least `num_batches` more batches."""
        num_epochs = self.num_epochs + -(-num_batches // self.steps_per_epoch)
        return TrainOrder(self.num_samples, self.batch_size, num_epochs, self.seed, crops=self._crops)

    def __len__(self) -> int:
        return self.steps_per_epoch * self.num_epochs * self.batch_size

    def __getitem__(self, index: int) -> EpochSample:
        epoch, offset = divmod(index, self.steps_per_epoch * self.batch_size)
        index = int(_permutation(self.seed, epoch, self.num_samples)[offset])
        if self._crops is None:
            return EpochSample(epoch, index)
        image, class_ = self._crops.draw(self.seed, epoch, index)
        return EpochSample(epoch, image, index, class_)

    def batch(self, step: int) -> list[EpochSample]:
        """Return the sample visits of the batch that training step `step` (from 0) uses."""
        return [self[step * self.batch_size + i] for i in range(self.batch_size)]


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, num_samples: int) -> np.ndarray:
    """Return the order of all samples in one epoch: `[num_samples]` int64."""
    return np.random.default_rng((seed, _ORDER_KEY, epoch)).permutation(num_samples)


def augment_rng(seed: int, draw: EpochSample) -> np.random.Generator:
    """Return the generator that augments one sample in one epoch."""
    if draw.crop is not None:
        return np.random.default_rng((seed, _AUGMENT_CROP_KEY, draw.epoch, draw.crop))
    return np.random.default_rng((seed, _AUGMENT_KEY, draw.epoch, draw.index))
