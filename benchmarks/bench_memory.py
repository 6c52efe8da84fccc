"""Memory and time of a training step by `model.remat` and `train.accumulation`, on whatever device is there.

Memory is what the compiler sets aside for temporaries. Steps of the variants alternate, so that a busy machine slows
all of them.
"""

import dataclasses
import datetime
import json
import statistics
import time
from collections.abc import Callable

import jax
import numpy as np
import tyro

from unet_jax._types import Batch, Sample
from unet_jax.build import build
from unet_jax.config_dict import replace
from unet_jax.data.host_packing import pack_sample
from unet_jax.presets import PRESETS
from unet_jax.runs import current_versions

_NUM_CLASSES = 2


@dataclasses.dataclass(frozen=True)
class Options:
    """Compare variants of the training step of one preset in one interleaved run."""

    preset: str = "small"
    image_size: int = 128
    batch_size: int = 8
    packing: str = "none"
    remat: tuple[str, ...] = ("none", "conv", "block", "full")
    """Values of model.remat; ratios are to the first."""
    accumulation: tuple[int, ...] = (2, 4)
    """Values of train.accumulation, with remat none."""
    num_repeats: int = 5
    """Timed steps of each variant, after one that is not counted."""


def make_variant(options: Options, remat: str, accumulation: int) -> tuple[Callable[[], None], dict[str, float]]:
    """A function that runs one step to its end, and what was measured while making it."""
    settings = {
        "data.image_size": options.image_size,
        "train.batch_size": options.batch_size,
        "train.accumulation": accumulation,
        "model.packing": options.packing,
        "model.remat": remat,
    }
    program = build(replace(PRESETS[options.preset](), settings), _NUM_CLASSES, 1000)
    rng = np.random.default_rng(0)
    shape = (options.batch_size, options.image_size, options.image_size)
    images = rng.integers(0, 256, (*shape, 3), np.uint8)
    labels = rng.integers(0, 2, (*shape, _NUM_CLASSES), np.uint8) * np.uint8(255)
    samples = [pack_sample(Sample(*pair), program.packing) for pair in zip(images, labels, strict=True)]
    image, label = (np.stack(arrays) for arrays in zip(*samples, strict=True))
    batch = jax.device_put(Batch(image, label, np.ones(options.batch_size, np.float32)))
    state = jax.jit(program.init)(jax.random.key(0))
    start = time.perf_counter()
    compiled = program.train_step.lower(state, batch).compile()  # type: ignore[attr-defined]
    facts = {"compile_s": time.perf_counter() - start}
    memory = compiled.memory_analysis()
    if memory is not None:
        facts["temporary_bytes"] = memory.temp_size_in_bytes
    box = [state]

    def step() -> None:
        box[0], metrics = compiled(box[0], batch)
        jax.block_until_ready((box[0], metrics))

    return step, facts


def main() -> None:
    """Measures, prints a line for each variant, and one line of JSON."""
    options = tyro.cli(Options)
    chosen = [(remat, 1) for remat in options.remat] + [("none", n) for n in options.accumulation]
    variants = {f"remat {remat}, accumulation {n}": make_variant(options, remat, n) for remat, n in chosen}
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(options.num_repeats + 1):
        for name, (step, _) in variants.items():
            start = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - start)
    rows = [
        {"variant": name, "step_ms": 1e3 * statistics.median(times[name][1:]), **facts}
        for name, (_, facts) in variants.items()
    ]
    for row in rows:
        ratios = "  ".join(f"{key} x{row[key] / rows[0][key]:.2f}" for key in ("step_ms", "temporary_bytes"))
        print(f"{row['variant']}: {row['step_ms']:.0f} ms, {row['temporary_bytes'] / 1e6:.1f} MB; {ratios}")
    device = jax.devices()[0].device_kind
    facts = {"device": device, "versions": current_versions(), "date": datetime.date.today().isoformat()}
    print(json.dumps({**facts, "options": dataclasses.asdict(options), "variants": rows}))


if __name__ == "__main__":
    main()
