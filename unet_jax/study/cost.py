"""Time and memory of each variant's training step.

The steps of all variants are timed in turn, round by round, in one process. The times of the runs themselves also
depend on what else the machine did meanwhile; ratios of interleaved steps do not.
"""

import dataclasses
import math
import time

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from unet_jax._files import replace_text
from unet_jax._types import Batch, InputError
from unet_jax.data.layout import find_layout
from unet_jax.devices.mesh import put_batch, put_replicated
from unet_jax.program.batch_shapes import batch_shapes
from unet_jax.program.state import TrainState
from unet_jax.runs.info import load_info
from unet_jax.study.checked_table import checked_csv, read_checked
from unet_jax.study.config import Study
from unet_jax.study.display import GridDisplay
from unet_jax.study.shared_program import SharedPrograms

_NUM_WARM_UP, _NUM_ROUNDS = 2, 10
_COLUMNS = ("variant", "step_ms", "relative_time", "step_bytes")


@dataclasses.dataclass(frozen=True)
class Cost:
    """Time and memory of a training step, without reading the batch."""

    step_ms: float
    """Time of a step in milliseconds, median over rounds."""
    relative_time: float
    """Time per image divided by that of the baseline in the same round, median over rounds."""
    step_bytes: int | None
    """Bytes of arguments and temporaries on one device, as reported by the compiler; None if it reports none."""


def cost_path(study: Study) -> epath.Path:
    """Return the path of the file that `measure_costs` writes."""
    return epath.Path(study.out) / "cost.csv"


def is_measured(study: Study) -> bool:
    """Return whether cost.csv covers these variants.

    Raises:
      InputError: the file is not a table of costs.
    """
    return cost_path(study).exists() and set(read_costs(study)) == {variant.name for variant in study.variants}


def measure_costs(study: Study, programs: SharedPrograms, mesh: Mesh, display: GridDisplay) -> None:
    """Time the training steps of all variants on random images, unless cost.csv already covers these variants.

    Args:
      study: a study whose runs are done.
      programs: compiled programs of the runs, which are used again.
      mesh: devices of one run.
      display: where progress is shown.
    """
    if is_measured(study):
        return
    unit = study.units[0]
    info = load_info(study.run_path(study.variants[0], *unit))
    num_classes = len(info.class_names)
    steps, num_bytes, num_images = {}, {}, {}
    kinds: dict[str, str] = {}
    batches: dict[str, Batch] = {}
    states: dict[str, TrainState] = {}
    display.line("timing the training steps of all variants (cost.csv)")
    for variant in study.variants:
        config = study.run_config(variant, *unit)
        info = load_info(study.run_path(variant, *unit))
        program = programs(config, num_classes, info.num_steps)
        # Variants that differ only in their losses share one state and one batch, which saves memory.
        kind = kinds[variant.name] = repr(sorted(variant.settings.items()))
        if kind not in states:
            shapes = programs.batch_shapes(config, num_classes, info.num_steps)
            if shapes is None:  # no run was trained in this process
                has_ignored = find_layout(config.data).has_ignored
                has_valid = config.augment.ignore_outside or config.data.fit == "pad" or has_ignored
                pixels = {"num_channels": info.num_channels, "image_dtype": info.image_dtype, "has_valid": has_valid}
                shapes = batch_shapes(config, num_classes, program.packing, mesh, **pixels)
            batches[kind] = _made_up_batch(shapes, mesh)
            init = jax.jit(program.init, static_argnums=1)
            states[kind] = put_replicated(init(jax.random.key(0), info.num_channels), mesh)
        step = program.train_step.lower(states[kind], batches[kind])  # type: ignore[attr-defined]
        steps[variant.name] = step.compile()
        num_bytes[variant.name] = programs.step_bytes(config, num_classes, info.num_steps)
        num_images[variant.name] = config.train.batch_size
    times: dict[str, list[float]] = {name: [] for name in steps}
    with display.bar("timing steps", _NUM_WARM_UP + _NUM_ROUNDS, unit="rounds") as show:
        for done in range(1, _NUM_WARM_UP + _NUM_ROUNDS + 1):
            for name, step in steps.items():
                kind, start = kinds[name], time.perf_counter()
                states[kind], metrics = step(states[kind], batches[kind])
                jax.block_until_ready((states[kind], metrics))
                times[name].append(time.perf_counter() - start)
            show(done, "")
    counted = {name: np.array(values[_NUM_WARM_UP:]) for name, values in times.items()}
    per_image = {name: values / num_images[name] for name, values in counted.items()}
    rows = [
        (
            name,
            f"{1e3 * np.median(values):.3f}",
            f"{np.median(per_image[name] / per_image[study.baseline]):.3f}",
            num_bytes[name] or "",
        )
        for name, values in counted.items()
    ]
    replace_text(cost_path(study), checked_csv(_COLUMNS, rows))


def read_costs(study: Study) -> dict[str, Cost]:
    """Read the cost of each variant, by its name; empty if nothing was measured.

    Raises:
      InputError: the file is not a table of costs.
    """
    path = cost_path(study)
    if not path.exists():
        return {}
    try:
        return {row["variant"]: _cost(row) for row in read_checked(path.read_bytes().decode(), _COLUMNS)}
    except ValueError as error:
        raise InputError(
            f"{path}: is not the table of costs that was written ({error}). Remove it; the same command then measures "
            f"again."
        ) from error


def _cost(row: dict[str, str]) -> Cost:
    """Return the cost in a row of the table; raise ValueError if a number is none or is negative."""
    cost = Cost(
        float(row["step_ms"]), float(row["relative_time"]), int(row["step_bytes"]) if row["step_bytes"] else None
    )
    if not all(0.0 <= number < math.inf for number in (cost.step_ms, cost.relative_time, cost.step_bytes or 0)):
        raise ValueError("a number is negative or not finite")
    return cost


def _made_up_batch(shapes: Batch, mesh: Mesh) -> Batch:
    """Make a batch of random images, with masks of random blocks, so that the masks have borders as real ones do."""
    rng = np.random.default_rng(0)
    white = np.iinfo(shapes.image.dtype).max
    image = rng.integers(0, white, shapes.image.shape, shapes.image.dtype, endpoint=True)
    count, height, width, channels = shapes.label.shape
    block = max(1, min(height, width) // 4)
    coarse = rng.integers(0, 2, (count, -(-height // block), -(-width // block), channels), np.uint8) * np.uint8(255)
    label = coarse.repeat(block, axis=1).repeat(block, axis=2)[:, :height, :width]
    valid = None if shapes.valid is None else np.full(label.shape, 255, np.uint8)
    return put_batch(Batch(image, label, np.ones(count, np.float32), valid), mesh)
