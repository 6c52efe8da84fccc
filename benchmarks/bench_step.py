"""Time of a training, evaluation and prediction step of presets, interleaved, on whatever device is there."""

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
from unet_jax.config import Config
from unet_jax.config_dict import replace
from unet_jax.losses import bce_dice_loss
from unet_jax.optim import make_optimizer
from unet_jax.presets import PRESETS
from unet_jax.runs import current_versions
from unet_jax.sharding import make_mesh, put_batch, put_replicated
from unet_jax.state import init_state, make_model, num_parameters
from unet_jax.steps import make_eval_step, make_predict_step, make_train_step


@dataclasses.dataclass(frozen=True)
class Options:
    """Time the steps of one or more presets in one interleaved run."""

    preset: tuple[str, ...] = ("seed", "default")
    image_size: int = 128
    batch_size: int = 8
    num_classes: int = 2
    dtype: tuple[str, ...] = ("float32",)
    num_repeats: int = 10
    """Timed steps of each variant, after two that are not counted."""


def make_variant(config: Config, options: Options) -> tuple[dict[str, Callable[[], None]], dict[str, float]]:
    """Functions that run one step of each kind to its end, and what was measured while making them."""
    mesh = make_mesh()
    model = make_model(config.model, options.num_classes)
    tx = make_optimizer(config.optim, 1000)
    rng = np.random.default_rng(0)
    size, count = options.image_size, options.batch_size
    image = rng.integers(0, 256, (count, size, size, 3), np.uint8)
    label = rng.integers(0, 2, (count, size, size, options.num_classes), np.uint8) * np.uint8(255)
    batch = put_batch(Batch(image, label, np.ones(count, np.float32)), mesh)
    state = put_replicated(jax.jit(lambda key: init_state(key, model, tx))(jax.random.key(0)), mesh)
    start = time.perf_counter()
    compiled = make_train_step(model.apply, bce_dice_loss, tx).lower(state, batch).compile()
    facts = {"compile_s": time.perf_counter() - start, "num_parameters": num_parameters(state.params)}
    memory = compiled.memory_analysis()
    if memory is not None:
        facts["temporary_bytes"] = memory.temp_size_in_bytes
    eval_step = make_eval_step(model.apply, bce_dice_loss, threshold=0.5)
    predict_step = make_predict_step(model.apply, size_multiple=config.model.size_multiple)
    box = [state]

    def train() -> None:
        box[0], metrics = compiled(box[0], batch)
        jax.block_until_ready(metrics["loss"])

    def evaluate() -> None:
        jax.block_until_ready(eval_step(box[0].params, box[0].batch_stats, batch))

    def predict() -> None:
        jax.block_until_ready(predict_step(box[0].params, box[0].batch_stats, batch.image))

    return {"train": train, "evaluate": evaluate, "predict": predict}, facts


def main(options: Options) -> None:
    variants = {}
    for name in options.preset:
        for dtype in options.dtype:
            config = replace(PRESETS[name](), {"data.image_size": options.image_size, "model.dtype": dtype})
            variants[f"{name} {dtype}"] = make_variant(config, options)
    times: dict[tuple[str, str], list[float]] = {}
    for repeat in range(options.num_repeats + 2):
        for variant, (steps, _) in variants.items():
            for kind, step in steps.items():
                start = time.perf_counter()
                step()
                if repeat >= 2:
                    times.setdefault((variant, kind), []).append(1e3 * (time.perf_counter() - start))
    table = Table("variant", "step", "median ms", "p95 ms", "images/s", title=f"{jax.devices()[0].device_kind}")
    results = []
    for (variant, kind), values in times.items():
        median, p95 = np.percentile(values, [50, 95])
        rate = 1e3 * options.batch_size / median
        table.add_row(variant, kind, f"{median:.1f}", f"{p95:.1f}", f"{rate:.1f}")
        results.append({"variant": variant, "step": kind, "median_ms": median, "p95_ms": p95, "images_per_s": rate})
    Console(width=100).print(table)
    report = {
        "benchmark": "step",
        "date": datetime.date.today().isoformat(),
        "device": jax.devices()[0].device_kind,
        "num_devices": jax.device_count(),
        "versions": current_versions(),
        "options": dataclasses.asdict(options),
        "variants": {name: facts for name, (_, facts) in variants.items()},
        "results": results,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main(tyro.cli(Options))
