"""One sample of a batch: read, augmented and packed, in any thread or worker process."""

import contextlib
from typing import Any

import grain

from unet_jax._types import InputError, Sample
from unet_jax.config import AugmentConfig
from unet_jax.config.packing import UNPACKED, Packing
from unet_jax.data.augment import apply_change
from unet_jax.data.augment_draws import Change, draw_change
from unet_jax.data.crops import CropSource
from unet_jax.data.order import EpochSample, augment_rng
from unet_jax.data.packing import pack_sample
from unet_jax.data.sources import Source
from unet_jax.data.threads import one_thread_opencv
from unet_jax.data.worker_reads import InProgress


class MakeSample(grain.transforms.Map):
    """Transform that reads, augments and packs one sample; picklable, so that worker processes can run it."""

    def __init__(
        self,
        source: Source | CropSource,
        seed: int,
        config: AugmentConfig,
        linear_masks: bool,
        packing: Packing = UNPACKED,
    ):
        self._source, self._seed, self._config, self._linear = source, seed, config, linear_masks
        self._packing = packing
        self.in_progress: InProgress | None = None  # record of what worker processes are reading

    def map(self, element: EpochSample) -> Any:
        with self.in_progress.reading(element.index) if self.in_progress else contextlib.nullcontext():
            return self.make(element)

    def make(self, element: EpochSample) -> Any:
        """Return the augmented, packed `Sample`."""
        sample, change = self.drawn(element)
        return pack_sample(apply_change(sample, change, self._config, linear_masks=self._linear), self._packing)

    @property
    def ignores_outside(self) -> bool:
        """True if pixels from outside of the image are ignored (`augment.ignore_outside`)."""
        return self._config.ignore_outside

    def id_of(self, index: int) -> str:
        return self._source.ids[index]

    def drawn(self, element: EpochSample) -> tuple[Sample, Change]:
        """Read a sample and draw its change; the sample itself is not changed."""
        one_thread_opencv()
        rng = augment_rng(self._seed, element)
        try:
            if isinstance(self._source, CropSource):
                sample = self._source.draw(rng, element)
            else:
                sample = self._source[element.index]
        except InputError:
            raise
        except Exception as error:
            raise RuntimeError(
                f"sample {self.id_of(element.index)!r} cannot be read: {type(error).__name__}: {error}"
            ) from error
        return sample, draw_change(rng, self._config, sample.mask, linear_masks=self._linear)


class SampleWithChange(MakeSample):
    """Transform that reads a sample and draws its change, but does not apply it."""

    def make(self, element: EpochSample) -> tuple[Sample, Change]:
        return self.drawn(element)
