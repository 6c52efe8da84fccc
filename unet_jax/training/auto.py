"""The settings of preset `auto`: looks at the data and the machine, and applies the rules of `plan.choose`."""

import math
import time
from collections.abc import Collection, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from unet_jax._types import InputError
from unet_jax.config import Config
from unet_jax.config.choices import Choice
from unet_jax.config.dicts import replace
from unet_jax.config.presets import auto
from unet_jax.data.crops import has_valid
from unet_jax.data.layout import find_layout
from unet_jax.data.object_sizes import object_sizes
from unet_jax.data.pixels import BadSampleError
from unet_jax.data.splits import assign_splits, empty_split
from unet_jax.devices.compilation import enable_compilation_cache
from unet_jax.devices.mesh import make_mesh
from unet_jax.plan import choose
from unet_jax.plan.auto_rules import Facts, Rules
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
    enable_compilation_cache()
    rules = Rules(config, frozenset(settings), _look(config, display), jax.default_backend(), mesh.shape["data"])
    config, choices = rules.apply()
    display.line("compiling a step, to see how much memory it needs" + (" and how long it takes" if minutes else ""))
    config, choices, cost = _within_memory(rules, config, choices, mesh, timed=minutes > 0.0)
    if minutes:
        config, choices, cost, left = _within_time(rules, config, choices, mesh, begin + 60.0 * minutes, cost)
        if warning := choose.too_few_updates(
            config.train.num_steps, cost, minutes=minutes, used_s=60.0 * minutes - left
        ):
            display.line(warning)
    return config, choices


def _check_given(given: Collection[str], minutes: float) -> None:
    """Raise `InputError` if the length of the run is given twice."""
    if minutes < 0.0 or not math.isfinite(minutes):
        raise InputError(f"--minutes is {minutes!r}, but must be at least 0, where 0 means no limit.")
    both = [name for name in ("train.num_steps", "train.num_epochs") if name in given]
    if minutes and both:
        raise InputError(f"--minutes and {both[0]} both give the length of the run: leave one of them out.")


def _look(config: Config, display: Display) -> Facts:
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
    return Facts(
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


def _within_memory(
    rules: Rules, config: Config, choices: list[Choice], mesh: Mesh, *, timed: bool
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
    rules: Rules, config: Config, choices: list[Choice], mesh: Mesh, deadline: float, cost: StepCost
) -> tuple[Config, list[Choice], StepCost, float]:
    """Choose the length by a deadline; where it is enough for few updates only, smaller batches and images too.

    Also return the cost of the steps of that config, and the seconds that were left for them.

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
    return config, [*choices, memory, Choice("time", time_left, reason)], cost, left


def _measure(rules: Rules, config: Config, mesh: Mesh, memory: int | None, *, timed: bool) -> StepCost:
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
        has_valid=rules.has_valid(config),
        most_bytes=(math.inf if memory is None else _MOST_MEMORY * memory) if timed else 0.0,
    )
