"""Which sample comes when, and with which random numbers: pure functions of seed, epoch and position."""

import functools
from typing import NamedTuple

import numpy as np

from unet_jax._types import InputError

# Keys that keep the streams of random numbers of different purposes apart.
_ORDER_KEY, _AUGMENT_KEY = 0, 1


class EpochSample(NamedTuple):
    """Which sample, in which epoch."""

    epoch: int
    index: int


def steps_per_epoch(num_samples: int, batch_size: int) -> int:
    """Full batches in one pass."""
    return num_samples // batch_size


class TrainOrder:
    """The sequence of draws of a whole run: every epoch a new permutation, its incomplete last batch dropped."""

    def __init__(self, num_samples: int, batch_size: int, num_epochs: int, seed: int):
        if num_samples < batch_size:
            remedy = f"use --train.batch-size {num_samples} or less" if num_samples else "check --data.splits"
            raise InputError(
                f"the training split has {num_samples} images, fewer than train.batch_size {batch_size}: {remedy}."
            )
        self.num_samples, self.batch_size, self.num_epochs, self.seed = num_samples, batch_size, num_epochs, seed
        self.steps_per_epoch = steps_per_epoch(num_samples, batch_size)

    def extended_by(self, num_batches: int) -> "TrainOrder":
        """The same sequence, continued by at least so many batches."""
        num_epochs = self.num_epochs + -(-num_batches // self.steps_per_epoch)
        return TrainOrder(self.num_samples, self.batch_size, num_epochs, self.seed)

    def __len__(self) -> int:
        return self.steps_per_epoch * self.num_epochs * self.batch_size

    def __getitem__(self, index: int) -> EpochSample:
        epoch, offset = divmod(index, self.steps_per_epoch * self.batch_size)
        return EpochSample(epoch, int(_permutation(self.seed, epoch, self.num_samples)[offset]))

    def batch(self, step: int) -> list[EpochSample]:
        """The draws of the batch that update number `step` (from 0) uses."""
        return [self[step * self.batch_size + i] for i in range(self.batch_size)]


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, num_samples: int) -> np.ndarray:
    return np.random.default_rng((seed, _ORDER_KEY, epoch)).permutation(num_samples)


def augment_rng(seed: int, draw: EpochSample) -> np.random.Generator:
    """The random numbers of one sample in one epoch."""
    return np.random.default_rng((seed, _AUGMENT_KEY, draw.epoch, draw.index))
