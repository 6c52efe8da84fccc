"""What a training step costs with each variant's loss: all variants in turn, round by round, in one process.

Times of the runs themselves would tell what else the machine did meanwhile; ratios of interleaved steps do not.
"""

import csv
import dataclasses
import io
import time

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from unet_jax._files import csv_text, replace_text
from unet_jax._types import Batch
from unet_jax.devices.mesh import put_batch, put_replicated
from unet_jax.program.build import batch_shapes
from unet_jax.runs.info import load_info
from unet_jax.study.config import Study
from unet_jax.study.display import GridDisplay
from unet_jax.study.shared_program import SharedPrograms

_NUM_WARM_UP, _NUM_ROUNDS = 2, 10
_COLUMNS = ("variant", "step_ms", "relative_time", "step_bytes")


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of a training step, reading not included."""

    step_ms: float
    """Median over rounds."""
    relative_time: float
    """To the baseline's step of the same round, median over rounds."""
    step_bytes: int | None
    """Arguments and temporaries on a device, by its compiler, where it says."""


def cost_path(study: Study) -> epath.Path:
    """The file that `measure_costs` writes."""
    return epath.Path(study.out) / "cost.csv"


def measure_costs(study: Study, programs: SharedPrograms, mesh: Mesh, display: GridDisplay) -> None:
    """Times steps of all variants on made-up images, unless the study has costs of these variants already."""
    if cost_path(study).exists() and set(read_costs(study)) == {variant.name for variant in study.variants}:
        return
    info = load_info(study.run_path(study.variants[0], study.seeds[0]))
    num_classes = len(info.class_names)
    steps, num_bytes = {}, {}
    batch, state = None, None
    for variant in study.variants:
        config = study.run_config(variant, study.seeds[0])
        program = programs(config, num_classes, info.num_steps)
        if state is None:  # networks and optimizers are the same: one state goes through all steps
            batch = _made_up_batch(batch_shapes(config, num_classes, program.packing, mesh), mesh)
            state = put_replicated(jax.jit(program.init)(jax.random.key(0)), mesh)
        steps[variant.name] = program.train_step.lower(state, batch).compile()  # type: ignore[attr-defined]
        num_bytes[variant.name] = programs.step_bytes(config, num_classes, info.num_steps)
    times: dict[str, list[float]] = {name: [] for name in steps}
    with display.bar("timing steps", _NUM_WARM_UP + _NUM_ROUNDS, unit="rounds") as show:
        for done in range(1, _NUM_WARM_UP + _NUM_ROUNDS + 1):
            for name, step in steps.items():
                start = time.perf_counter()
                state, metrics = step(state, batch)
                jax.block_until_ready((state, metrics))
                times[name].append(time.perf_counter() - start)
            show(done, "")
    counted = {name: np.array(values[_NUM_WARM_UP:]) for name, values in times.items()}
    rows = [
        (
            name,
            f"{1e3 * np.median(values):.3f}",
            f"{np.median(values / counted[study.baseline]):.3f}",
            num_bytes[name] or "",
        )
        for name, values in counted.items()
    ]
    replace_text(cost_path(study), csv_text(_COLUMNS, rows))


def read_costs(study: Study) -> dict[str, Cost]:
    """By variant; empty where nothing was measured."""
    if not cost_path(study).exists():
        return {}
    rows = csv.DictReader(io.StringIO(cost_path(study).read_text()))
    return {
        row["variant"]: Cost(
            float(row["step_ms"]), float(row["relative_time"]), int(row["step_bytes"]) if row["step_bytes"] else None
        )
        for row in rows
    }


def _made_up_batch(shapes: Batch, mesh: Mesh) -> Batch:
    """Random bytes as images, and labels of blocks that are black or white, so that masks have borders."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, shapes.image.shape, np.uint8)
    count, height, width, channels = shapes.label.shape
    block = max(1, min(height, width) // 4)
    coarse = rng.integers(0, 2, (count, -(-height // block), -(-width // block), channels), np.uint8) * np.uint8(255)
    label = coarse.repeat(block, axis=1).repeat(block, axis=2)[:, :height, :width]
    return put_batch(Batch(image, label, np.ones(count, np.float32)), mesh)
