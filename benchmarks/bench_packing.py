"""Time of a training step of the seed's network with several packings, interleaved, on whatever device is there."""

import dataclasses
import datetime
import json
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
import tyro
from rich.console import Console
from rich.table import Table
from textbook import TextbookUNet, make_textbook_step

from unet_jax._types import Batch, Sample
from unet_jax.build import build
from unet_jax.config import ModelConfig
from unet_jax.config_dict import replace
from unet_jax.data.host_packing import pack_sample
from unet_jax.presets import PRESETS
from unet_jax.runs import current_versions


@dataclasses.dataclass(frozen=True)
class Options:
    """Time the training step of one network with several packings in one interleaved run."""

    packing: tuple[str, ...] = ("textbook", "none", "1x2", "2", "4,2x4,2,1x2")
    """Values of model.packing, or textbook for `textbook.py`; ratios are to the first."""
    widths: tuple[int, ...] = (8, 16, 32, 64, 128, 256, 512)
    center_width: int = 1024
    image_size: int = 128
    batch_size: int = 8
    dtype: str = "float32"
    num_repeats: int = 10
    """Timed steps of each variant, after one that is not counted."""


def make_variant(packing: str, options: Options) -> tuple[Callable[[], None], dict[str, float]]:
    """A function that runs one step to its end, and what was measured while making it."""
    is_textbook = packing == "textbook"
    values = {
        "model.packing": "none" if is_textbook else packing,
        "model.widths": options.widths,
        "model.center_width": options.center_width,
        "model.dtype": options.dtype,
        "data.image_size": options.image_size,
    }
    config = replace(PRESETS["seed"](), values)
    program = build(config, 2, 1000)
    rng = np.random.default_rng(0)
    shape = (options.batch_size, options.image_size, options.image_size)
    images = rng.integers(0, 256, (*shape, 3), np.uint8)
    labels = rng.integers(0, 2, (*shape, 2), np.uint8) * np.uint8(255)
    samples = [pack_sample(Sample(*pair), program.packing) for pair in zip(images, labels, strict=True)]
    image, label = (np.stack(arrays) for arrays in zip(*samples, strict=True))
    batch = jax.device_put(Batch(image, label, np.ones(options.batch_size, np.float32)))
    start = time.perf_counter()
    if is_textbook:
        arguments, textbook_step = _textbook(config.model, program.tx, batch)
        compiled = textbook_step.lower(*arguments, batch.image, batch.label).compile()
    else:
        state = jax.jit(program.init)(jax.random.key(0))
        arguments = (state,)
        compiled = program.train_step.lower(state, batch).compile()  # type: ignore[attr-defined]
    facts = {"compile_s": time.perf_counter() - start}
    memory = compiled.memory_analysis()
    if memory is not None:
        facts["temporary_bytes"] = memory.temp_size_in_bytes
    box = [arguments]

    def step() -> None:
        if is_textbook:
            *updated, loss = compiled(*box[0], batch.image, batch.label)
            box[0] = tuple(updated)
        else:
            state, metrics = compiled(*box[0], batch)
            box[0], loss = (state,), metrics["loss"]
        jax.block_until_ready(loss)

    return step, facts


def _textbook(config: ModelConfig, tx: optax.GradientTransformation, batch: Batch) -> tuple[Any, Any]:
    """The baseline's state and step."""
    model = TextbookUNet(config.widths, config.center_width, 2, dtype=jax.numpy.dtype(config.dtype))
    variables = jax.jit(lambda x: model.init(jax.random.key(0), x, False))(batch.image[:1].astype(np.float32))
    arguments = (variables["params"], variables["batch_stats"], tx.init(variables["params"]))
    return arguments, make_textbook_step(model, tx)


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
