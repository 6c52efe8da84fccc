"""Time of a training step of the seed's network with several packings, interleaved, on whatever device is there."""

import dataclasses
import datetime
import json
import time
from collections.abc import Callable

import jax
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from unet_jax._types import Batch
from unet_jax.config_dict import replace
from unet_jax.losses import bce_dice_loss
from unet_jax.optim import make_optimizer
from unet_jax.presets import PRESETS
from unet_jax.runs import current_versions
from unet_jax.state import init_state, make_model
from unet_jax.steps import make_train_step


@dataclasses.dataclass(frozen=True)
class Options:
    """Time the training step of one network with several packings in one interleaved run."""

    packing: tuple[str, ...] = ("none", "1x2", "2", "4,2,2")
    """Values of model.packing; ratios are to the first."""
    widths: tuple[int, ...] = (8, 16, 32, 64, 128, 256, 512)
    center_width: int = 1024
    image_size: int = 128
    batch_size: int = 8
    dtype: str = "float32"
    num_repeats: int = 10
    """Timed steps of each variant, after one that is not counted."""


def make_variant(packing: str, options: Options) -> tuple[Callable[[], None], dict[str, float]]:
    """A function that runs one step to its end, and what was measured while making it."""
    values = {
        "model.packing": packing,
        "model.widths": options.widths,
        "model.center_width": options.center_width,
        "model.dtype": options.dtype,
        "data.image_size": options.image_size,
    }
    config = replace(PRESETS["seed"](), values)
    model, tx = make_model(config.model, 2), make_optimizer(config.optim, 1000)
    rng = np.random.default_rng(0)
    shape = (options.batch_size, options.image_size, options.image_size)
    image = rng.integers(0, 256, (*shape, 3), np.uint8)
    label = rng.integers(0, 2, (*shape, 2), np.uint8) * np.uint8(255)
    batch = jax.device_put(Batch(image, label, np.ones(options.batch_size, np.float32)))
    state = jax.jit(lambda key: init_state(key, model, tx))(jax.random.key(0))
    start = time.perf_counter()
    compiled = make_train_step(model.apply, bce_dice_loss, tx).lower(state, batch).compile()
    facts = {"compile_s": time.perf_counter() - start}
    memory = compiled.memory_analysis()
    if memory is not None:
        facts["temporary_bytes"] = memory.temp_size_in_bytes
    box = [state]

    def step() -> None:
        box[0], metrics = compiled(box[0], batch)
        jax.block_until_ready(metrics["loss"])

    return step, facts


def main(options: Options) -> None:
    variants = {packing: make_variant(packing, options) for packing in options.packing}
    times: dict[str, list[float]] = {packing: [] for packing in variants}
    for repeat in range(options.num_repeats + 1):
        for packing, (step, _) in variants.items():
            start = time.perf_counter()
            step()
            if repeat >= 1:
                times[packing].append(1e3 * (time.perf_counter() - start))
    device = jax.devices()[0].device_kind
    table = Table("packing", "median ms", "median ratio", "compile s", "temporary MB", title=device)
    results = []
    for packing, (_, facts) in variants.items():
        median = float(np.median(times[packing]))
        ratio = float(np.median(np.divide(times[packing], times[options.packing[0]])))
        temporary = facts.get("temporary_bytes", float("nan")) / 1e6
        table.add_row(packing, f"{median:.1f}", f"{ratio:.3f}", f"{facts['compile_s']:.1f}", f"{temporary:.0f}")
        results.append({"packing": packing, "median_ms": median, "median_ratio": ratio, **facts})
    Console(width=100).print(table)
    report = {
        "benchmark": "packing",
        "date": datetime.date.today().isoformat(),
        "device": device,
        "num_devices": jax.device_count(),
        "versions": current_versions(),
        "options": dataclasses.asdict(options),
        "results": results,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main(tyro.cli(Options))
