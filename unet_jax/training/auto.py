"""The settings of preset `auto`: looks at the data and the machine, and applies the rules of `plan.choose`."""

import dataclasses
import math
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from unet_jax._types import InputError
from unet_jax.config import Config
from unet_jax.config.choices import Choice
from unet_jax.config.dicts import flatten_config, replace
from unet_jax.config.presets import auto
from unet_jax.data.crops import has_valid
from unet_jax.data.images.format import ImageFormat, describe_format
from unet_jax.data.layout import find_layout
from unet_jax.data.object_sizes import ObjectSizes, object_sizes
from unet_jax.data.pixels import BadSampleError
from unet_jax.data.splits import assign_splits, empty_split
from unet_jax.devices.mesh import make_mesh
from unet_jax.plan import choose
from unet_jax.plan.choose import StepCost
from unet_jax.plan.step_cost import device_memory, measure_steps
from unet_jax.report.display import Display, make_display
from unet_jax.report.findings import find_image_format
from unet_jax.training.setup import split_source

_MOST_SAMPLES = 200
"""Training images whose objects are measured, evenly spread over the data set."""
_MOST_BYTES, _FEWEST_SAMPLES = 2**28, 10
"""Bytes of masks after which no further image is measured, and number of images that are measured in any case."""
_MOST_MEMORY = 0.7
"""Share of the memory that a step may need."""


class _Data(NamedTuple):
    """Facts about a data set that the rules need."""

    num_train: int
    num_val: int
    num_classes: int
    image_format: ImageFormat
    sizes: list[ObjectSizes]
    has_valid: bool  # whether batches say which pixels are ignored
    seconds_per_image: float  # to read an image and its masks


def choose_config(
    settings: Mapping[str, Any],
    *,
    minutes: float = 0.0,
    display: Display | None = None,
    mesh: Mesh | None = None,
) -> tuple[Config, list[Choice]]:
    """Choose the settings of a run from its data set and this machine.

    Without `minutes`, the choices depend on the data, the kind and number of devices, and their memory. With `minutes`,
    steps are timed, so that another start may choose another number of updates: train with the config that is returned.

    Args:
      settings: settings that are given, by dotted name, `data.root` among them. The others are chosen, or are those of
        preset `auto`.
      minutes: time for the whole run, with this choice, compilation and evaluations. 0: no limit.
      display: place for progress bars; by default standard error of the first process.
      mesh: devices to use; by default all.

    Returns:
      The config to train with, and a choice per row of the table that explains it.

    Raises:
      InputError: the data set cannot be used, or what is given contradicts itself.

    Example:
      >>> import tempfile, unet_jax
      >>> from etils import epath
      >>> from unet_jax.data.synthetic import write_synthetic
      >>> root = epath.Path(tempfile.mkdtemp())
      >>> names = write_synthetic(root, num_images=12, image_size=32, num_classes=2, seed=0)
      >>> given = {"data.root": str(root), "model.widths": (4,), "model.center_width": 8}
      >>> config, choices = unet_jax.choose_config(given)
      >>> config.data.image_size, config.train.num_steps
      (32, 1000)
    """
    begin = time.monotonic()
    config, display, mesh = replace(auto(), dict(settings)), display or make_display(), mesh or make_mesh()
    _check_given(settings, minutes)
    rules = _Rules(config, frozenset(settings), _look(config, display), jax.default_backend(), mesh.shape["data"])
    config, choices = rules.apply()
    display.line("compiling a step, to see how much memory it needs" + (" and how long it takes" if minutes else ""))
    config, choices, cost = _within_memory(rules, config, choices, mesh, timed=minutes > 0.0)
    if minutes:
        config, choices = _within_time(rules, config, choices, mesh, begin + 60.0 * minutes, cost)
    return config, choices


def _check_given(given: Collection[str], minutes: float) -> None:
    """Raise `InputError` if the length of the run is given twice."""
    if minutes < 0.0 or not math.isfinite(minutes):
        raise InputError(f"--minutes is {minutes!r}, but must be at least 0, where 0 means no limit.")
    both = [name for name in ("train.num_steps", "train.num_epochs") if name in given]
    if minutes and both:
        raise InputError(f"--minutes and {both[0]} both give the length of the run: leave one of them out.")


def _look(config: Config, display: Display) -> _Data:
    """Find splits, channels and intensities, and measure the objects of some training images."""
    data = config.data
    layout = find_layout(data)
    splits = assign_splits(layout, data)
    for name in ("train", "val"):
        if reason := empty_split(splits, name, data):
            raise InputError(reason)
    found = find_image_format(layout, splits["train"], data, display)
    positions = _spread(len(splits["train"]), _MOST_SAMPLES)
    positions = positions[::2] + positions[1::2]  # so that those of a part are spread too
    ids = [splits["train"][i] for i in positions]
    source = split_source(layout, ids, data, found.format)
    sizes, begin = [], time.monotonic()
    num_bytes = read = 0
    with display.bar("measuring objects", len(source), unit="images") as show:
        for read in range(1, len(source) + 1):
            try:
                mask = source[read - 1].mask
            except BadSampleError:
                continue  # the audit names it before training
            sizes.append(object_sizes(mask))
            num_bytes += mask.size
            show(read, "")
            if num_bytes > _MOST_BYTES and len(sizes) >= _FEWEST_SAMPLES:
                break  # large images: fewer are enough, and the same ones each time
    if not sizes:
        source[0]  # raises what is wrong with it
    seconds = (time.monotonic() - begin) / read
    return _Data(
        num_train=len(splits["train"]),
        num_val=len(splits["val"]),
        num_classes=len(layout.class_names),
        image_format=found.format,
        sizes=sizes,
        has_valid=has_valid(source, config.augment),
        seconds_per_image=seconds,
    )


def _spread(count: int, most: int) -> list[int]:
    """Return at most `most` different positions below `count`, evenly spread."""
    return sorted({int(i) for i in np.linspace(0, count - 1, min(count, most)).round()})


@dataclasses.dataclass(frozen=True)
class _Rules:
    """The rules with everything that they read."""

    config: Config
    given: frozenset[str]
    data: _Data
    kind: str
    num_devices: int

    def apply(self, *, shrink: float = 1.0, batch: Choice | None = None) -> tuple[Config, list[Choice]]:
        """Return the config and the choices, without a limit of memory or time.

        Args:
          shrink: factor on the sides of the images, below 1 if time is short.
          batch: choice of the batch size in the place of the rule's.
        """
        data = self.data
        square = self.config.augment.transpose_prob > 0.0
        size, scale = choose.choose_image_size(data.sizes, shrink, self._multiple, square=square)
        size = self._keep(size)
        sides = size.value if isinstance(size.value, tuple) else (size.value, size.value)
        if size.given:
            scale = max(sides) / float(np.median([max(s.height, s.width) for s in data.sizes]))
        network = choose.choose_depth_and_widths(data.sizes, scale, sides, self.kind)
        if self.config.model.encoder != "none":
            network = []
        elif "model.widths" in self.given or "model.center_width" in self.given:
            network = [Choice(c.name, flatten_config(self.config)[c.name], "given", given=True) for c in network]
        batch = self._keep(batch or choose.choose_batch_size(data.num_train, self.num_devices, self.kind))
        settings = [size, *network, batch, self._keep(choose.choose_learning_rate(batch.value))]
        if self.config.model.norm == "batch":
            reason = "evaluation uses running statistics, which would hold their start for long"
            settings.append(self._keep(Choice("model.batch_norm_correction", True, reason)))
        if "train.num_epochs" not in self.given:
            settings += self._length(choose.choose_num_steps(data.num_train, batch.value))
        return self.with_choices(settings)

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
        by_name = {choice.name: choice for choice in choices}
        length = choose.choose_num_steps_in_time(
            seconds,
            cost,
            num_images=self.data.num_train,
            num_val=self.data.num_val,
            batch_size=by_name["train.batch_size"].value,
        )
        by_name |= {choice.name: self._keep(choice) for choice in length}
        settings = [choice for choice in by_name.values() if choice.name in flatten_config(self.config)]
        return *self.with_choices(settings), length[0].value


def _within_memory(
    rules: _Rules, config: Config, choices: list[Choice], mesh: Mesh, *, timed: bool
) -> tuple[Config, list[Choice], StepCost]:
    """Halve the batch until the compiler needs no more memory for a step than there is; return the cost of a step."""
    memory = device_memory()
    while True:
        cost = _measure(rules, config, mesh, memory, timed=timed)
        size = config.train.batch_size
        if memory is None or cost.num_bytes <= _MOST_MEMORY * memory or "train.batch_size" in rules.given:
            break
        if size // 2 < rules.num_devices or size // 2 % rules.num_devices:
            break
        reason = f"{size} would need {cost.num_bytes / 2**30:.1f} of {memory / 2**30:.1f} GiB, by the compiler"
        config, choices = rules.apply(batch=Choice("train.batch_size", size // 2, reason))
    of = "" if memory is None else f" of {memory / 2**30:.1f} GiB"
    fact = Choice("memory of a step", f"{cost.num_bytes / 2**30:.2f} GiB{of}", "by the compiler's analysis")
    return config, [*choices, fact], cost


def _within_time(
    rules: _Rules, config: Config, choices: list[Choice], mesh: Mesh, deadline: float, cost: StepCost
) -> tuple[Config, list[Choice]]:
    """Choose the length by a deadline; where it is enough for few updates only, smaller batches and images too.

    Args:
      rules: rules and facts.
      config: settings so far.
      choices: choices so far; the last one is the memory of a step.
      mesh: devices.
      deadline: time by `time.monotonic` at which the run should have ended.
      cost: measured cost of the steps of `config`.
    """
    memory = choices[-1]
    # The audit reads every image once, and the cache once more.
    start_up = 2 * rules.data.seconds_per_image * (rules.data.num_train + rules.data.num_val)
    left = deadline - time.monotonic() - start_up
    config, choices, num_steps = rules.with_length(choices, left, cost)
    if num_steps < choose.FEW_UPDATES and not {"train.batch_size", "data.image_size"} & rules.given:
        size, shrink = choose.smaller(num_steps, config.train.batch_size, rules.num_devices)
        same = size == config.train.batch_size
        batch = None if same else Choice("train.batch_size", size, "smaller, for enough updates in the time")
        config, choices = rules.apply(shrink=shrink, batch=batch)
        config, choices, cost = _within_memory(rules, config, choices, mesh, timed=True)
        memory, left = choices[-1], deadline - time.monotonic() - start_up
        config, choices, _ = rules.with_length(choices, left, cost)
    time_left = f"{max(0.0, left) / 60:.1f} minutes"
    reason = f"left for training, as measured on this machine; {cost.compile_s:.0f} s of them to compile"
    return config, [*choices, memory, Choice("time", time_left, reason)]


def _measure(rules: _Rules, config: Config, mesh: Mesh, memory: int | None, *, timed: bool) -> StepCost:
    """Measure the steps of a config."""
    steps = config.train.num_steps or choose.NUM_UPDATES
    if timed:  # another program for the compiler's cache, so that the time to compile is not that to find it there
        steps = 10**6 + int(time.time())
    seen = rules.data.image_format
    return measure_steps(
        config,
        rules.data.num_classes,
        steps,
        mesh,
        num_channels=seen.num_channels,
        image_dtype=seen.dtype,
        has_valid=rules.data.has_valid,
        most_bytes=(math.inf if memory is None else _MOST_MEMORY * memory) if timed else 0.0,
    )
