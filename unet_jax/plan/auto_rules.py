"""The settings that preset `auto` chooses from facts about a data set, by the rules of `choose` and `choose_size`.

What is given stays as it is, and the other settings are chosen to fit it.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from unet_jax.config import Config
from unet_jax.config.choices import Choice
from unet_jax.config.dicts import flatten_config, replace
from unet_jax.data.fit import scaled_size
from unet_jax.data.images.format import ImageFormat, describe_format
from unet_jax.data.object_sizes import ObjectSizes
from unet_jax.plan import choose, choose_size
from unet_jax.plan.choose import StepCost

_CROP_EVALUATION = 3
"""Passes over val in an evaluation by crops: parts for the loss, and overlapping tiles, 1.8 times as many pixels."""


class Facts(NamedTuple):
    """Facts about a data set that the rules need."""

    num_train: int
    num_val: int
    num_classes: int
    image_format: ImageFormat
    sizes: list[ObjectSizes]
    has_valid: bool  # whether batches say which pixels are ignored
    seconds_per_image: float  # to read an image and its masks


@dataclasses.dataclass(frozen=True)
class Rules:
    """The rules with everything that they read."""

    config: Config
    given: frozenset[str]
    data: Facts
    kind: str
    num_devices: int

    def apply(self, *, shrink: float = 1.0, batch: Choice | None = None) -> tuple[Config, list[Choice]]:
        """Return the config and the choices, without a limit of memory or time.

        Args:
          shrink: factor on the sides of the images, below 1 if time is short.
          batch: choice of the batch size in the place of the rule's.
        """
        data = self.data
        seen, sides, scale = self._size(shrink)
        network = choose.choose_depth_and_widths(data.sizes, scale, sides, self.kind)
        if self.config.model.encoder != "none":
            network = []
        elif "model.widths" in self.given or "model.center_width" in self.given:
            network = [Choice(c.name, flatten_config(self.config)[c.name], "given", given=True) for c in network]
        is_crop = seen[0].value == "crop"
        num_inputs = choose_size.num_crops(data.sizes, data.num_train, scale, sides) if is_crop else data.num_train
        batch = self._keep(batch or choose.choose_batch_size(num_inputs, self.num_devices, self.kind))
        settings = [*seen, *network, batch, self._keep(choose.choose_learning_rate(batch.value))]
        if self.config.model.norm == "batch":
            reason = "evaluation uses running statistics, which would hold their start for long"
            settings.append(self._keep(Choice("model.batch_norm_correction", True, reason)))
            reason = "statistics over all training images, where they are better on val"
            settings.append(self._keep(Choice("train.recalibrate", True, reason)))
        if "train.num_epochs" not in self.given:
            settings += self._length(choose.choose_num_steps(num_inputs, batch.value))
        return self.with_choices(settings)

    def _size(self, shrink: float) -> tuple[list[Choice], tuple[int, int], float]:
        """Choose the way of images to the network.

        Returns:
          Choices of `data.fit`, `data.scale` (for crops) and `data.image_size`; height and width that the network sees;
          and the factor from the images' own pixels to its pixels.
        """
        sizes, square = self.data.sizes, self.config.augment.transpose_prob > 0.0
        fit = choose_size.choose_fit(sizes)
        if "data.scale" in self.given and "data.fit" not in self.given:
            fit = Choice("data.fit", "crop", "data.scale is given")
        fit = self._keep(fit)
        if fit.value == "crop":
            resolution = self._keep(choose_size.choose_scale(sizes))
            scale = resolution.value
            size = choose_size.choose_crop_size(sizes, scale, shrink, self._multiple, square=square)
            size = self._keep(size)
            return [fit, resolution, size], _sides(size.value), scale
        pad = fit.value == "pad"
        size, scale = choose_size.choose_image_size(sizes, shrink, self._multiple, square=square, pad=pad)
        size = self._keep(size)
        sides = _sides(size.value)
        if size.given:
            scale = max(sides) / float(np.median([max(s.height, s.width) for s in sizes]))
        return [fit, size], sides, scale

    def has_valid(self, config: Config) -> bool:
        """Return whether the batches of a config say which pixels are ignored, as far as the measured images tell."""
        height, width = config.data.height_and_width
        sizes = [scaled_size(s.height, s.width, config.data.scale) for s in self.data.sizes]
        beyond = config.data.fit == "crop" and any(high < height or wide < width for high, wide in sizes)
        return self.data.has_valid or config.data.fit == "pad" or beyond

    @property
    def _multiple(self) -> int:
        fixed = "model.widths" in self.given or self.config.model.encoder != "none"
        return self.config.model.size_multiple if fixed else 1

    def _keep(self, choice: Choice) -> Choice:
        """Return the choice, or the given value in its place."""
        if choice.name not in self.given:
            return choice
        return Choice(choice.name, flatten_config(self.config)[choice.name], "given", given=True)

    def _length(self, choices: Sequence[Choice]) -> list[Choice]:
        """Return the choices of the number of updates and of those between evaluations, unless they are given."""
        kept = [self._keep(choice) for choice in choices]
        return [choice for choice in kept if not (kept[0].given and choice.name == "train.eval_every_steps")]

    def with_choices(self, settings: Sequence[Choice]) -> tuple[Config, list[Choice]]:
        """Return the config with these settings, and the whole table: facts about the data, then the settings."""
        values = {choice.name: choice.value for choice in settings}
        data = self.data
        facts = [
            Choice("images", f"{data.num_train} train, {data.num_val} val", f"objects of {len(data.sizes)} measured"),
            Choice("pixels", describe_format(data.image_format).removeprefix("pixels: "), "found in the files"),
        ]
        return replace(self.config, values), [*facts, *settings]

    def with_length(
        self, choices: Sequence[Choice], seconds: float, cost: StepCost
    ) -> tuple[Config, list[Choice], int]:
        """Return config and choices with the length that the time left is enough for, and this number of updates."""
        by_name, data = {choice.name: choice for choice in choices}, self.data
        num_train, num_val = data.num_train, data.num_val
        if by_name["data.fit"].value == "crop":
            scale, sides = by_name["data.scale"].value, _sides(by_name["data.image_size"].value)
            num_train = choose_size.num_crops(data.sizes, num_train, scale, sides)
            num_val = _CROP_EVALUATION * choose_size.num_crops(data.sizes, num_val, scale, sides)
        length = choose.choose_num_steps_in_time(
            seconds, cost, num_images=num_train, num_val=num_val, batch_size=by_name["train.batch_size"].value
        )
        by_name |= {choice.name: self._keep(choice) for choice in length}
        settings = [choice for choice in by_name.values() if choice.name in flatten_config(self.config)]
        return *self.with_choices(settings), length[0].value


def _sides(image_size: int | tuple[int, int]) -> tuple[int, int]:
    """Return height and width of a value of `data.image_size`."""
    return image_size if isinstance(image_size, tuple) else (image_size, image_size)
