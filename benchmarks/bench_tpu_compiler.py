"""Estimates of a TPU's compiler for the textbook's and the library's training step, in one call and without a TPU.

By default the network is that of the Keras original at 1024x1024 in bfloat16, with 8 images on each chip. This takes
several minutes for each variant. A small network takes seconds: `--widths 4 8 --center-width 8 --image-size 64`.
"""

import dataclasses
import sys
import time
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from measure import finish, record
from network import Size
from rich.console import Console
from rich.table import Table
from textbook import TextbookUNet, make_textbook_step

from unet_jax.config import Config
from unet_jax.config.dicts import replace
from unet_jax.config.presets import PRESETS
from unet_jax.devices.mesh import batch_sharding, make_mesh, replicated
from unet_jax.plan.estimate import LABEL, estimate
from unet_jax.plan.hlo import parse_entry
from unet_jax.plan.show import size
from unet_jax.plan.targets import Target, tpu_target
from unet_jax.program.optim import make_optimizer

_NUM_CLASSES = 2


@dataclasses.dataclass(frozen=True)
class Options:
    """Compile the textbook's training step and the library's for a TPU that need not be present."""

    packings: tuple[str, ...] = ("auto",)
    """Values of model.packing. Ratios are relative to the textbook's step."""
    topology: str = "v5e:2x2"
    images_per_device: int = 8
    widths: tuple[int, ...] = (8, 16, 32, 64, 128, 256, 512)
    center_width: int = 1024
    image_size: Size = 1024
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    remat: Literal["none", "block"] = "none"
    save: str = ""
    """Name of a copy of the report: results/SAVE.json, or a path that ends in .json. Empty: none."""


def make_config(options: Options, packing: str, num_devices: int) -> Config:
    """Return the config of one variant."""
    values = {
        "model.packing": packing,
        "model.widths": options.widths,
        "model.center_width": options.center_width,
        "model.dtype": options.dtype,
        "model.remat": options.remat,
        "data.image_size": options.image_size,
        "train.batch_size": options.images_per_device * num_devices,
    }
    return replace(PRESETS["seed"](), values)


def compile_textbook(config: Config, target: Target) -> dict[str, Any]:
    """Compile the textbook's step, and return its numbers by the names of the fields of `Estimate`."""
    mesh = make_mesh(target.devices)
    network = config.model
    model = TextbookUNet(
        network.widths,
        network.center_width,
        _NUM_CLASSES,
        network.num_convs_down,
        network.num_convs_up,
        jnp.dtype(network.dtype),
    )
    tx = make_optimizer(config.optim, 1000)

    def init(key: jax.Array) -> Any:
        side = network.size_multiple
        variables = model.init(key, jnp.zeros((1, side, side, 3)), False)
        return variables["params"], variables["batch_stats"], tx.init(variables["params"])

    def pixels(channels: int) -> jax.ShapeDtypeStruct:
        shape = (config.train.batch_size, *config.data.height_and_width, channels)
        return jax.ShapeDtypeStruct(shape, np.uint8, sharding=batch_sharding(mesh))

    state = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated(mesh)),
        jax.eval_shape(init, jax.random.key(0)),
    )
    start = time.perf_counter()
    lowered = make_textbook_step(model, tx).lower(*state, pixels(3), pixels(_NUM_CLASSES))  # type: ignore[attr-defined]
    lower_s = time.perf_counter() - start
    start = time.perf_counter()
    compiled = lowered.compile()
    compile_s = time.perf_counter() - start
    memory = compiled.memory_analysis()
    return {
        "cycles": sum(i.cycles for i in parse_entry(compiled.as_text())),
        "flops": compiled.cost_analysis()["flops"],
        "bytes_accessed": compiled.cost_analysis()["bytes accessed"],
        "argument_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "lower_s": lower_s,
        "compile_s": compile_s,
    }


def compile_library(config: Config, target: Target) -> dict[str, Any]:
    """Compile the library's step, and return all fields of its `Estimate`.

    No cache is used, so that the seconds are those of the compiler.
    """
    return dataclasses.asdict(estimate(config, _NUM_CLASSES, target))


def compare(results: dict[str, dict[str, Any]], title: str) -> Table:
    """Return a table of all variants, with ratios to the first."""
    baseline = next(iter(results.values()))
    table = Table(title=title, title_justify="left")
    table.add_column("variant")
    for column in ("M cycles", "ratio", "accessed", "ratio", "temporaries", "ratio", "compile s", "ratio"):
        table.add_column(column, justify="right")
    for name, result in results.items():
        cells = [name]
        for key, text in (
            ("cycles", f"{result['cycles'] / 1e6:.2f}"),
            ("bytes_accessed", size(result["bytes_accessed"])),
            ("temporary_bytes", size(result["temporary_bytes"])),
            ("compile_s", f"{result['compile_s']:.1f}"),
        ):
            cells += [text, _times_less(baseline[key], result[key])]
        table.add_row(*cells)
    return table


def _times_less(baseline: float, value: float) -> str:
    """Return the ratio to the baseline as a fraction, such as 1/12.00; empty if one of the two is 0."""
    return f"1/{baseline / value:.2f}" if baseline and value else ""


def remaining(result: dict[str, Any], name: str) -> Table:
    """Return a table of the most expensive instructions of a variant."""
    table = Table(title=f"most expensive instructions of {name}: {LABEL}", title_justify="left")
    table.add_column("M cycles", justify="right")
    table.add_column("share", justify="right")
    table.add_column("source")
    table.add_column("operation", overflow="fold")
    for row in result["top"]:
        share = row["cycles"] / result["cycles"]
        table.add_row(f"{row['cycles'] / 1e6:.3f}", f"{share:.1%}", row["source"], row["operation"])
    return table


def main(options: Options) -> None:
    """Compile all variants, print tables, and finish the report."""
    jax.config.update("jax_platforms", "cpu")  # nothing is computed on a TPU or GPU, even if there is one
    jax.config.update("jax_enable_compilation_cache", False)  # otherwise compile_s could be the time to read a file
    target = tpu_target(options.topology)
    num_devices = len(target.devices)
    results = {"textbook": compile_textbook(make_config(options, "none", num_devices), target)}
    for packing in options.packings:
        print(f"compiled: {', '.join(results)}", file=sys.stderr)
        results[f"packing {packing}"] = compile_library(make_config(options, packing, num_devices), target)
    title = f"training step for {num_devices} devices of {target.name}: {LABEL}"
    console, last = Console(width=110), list(results)[-1]
    console.print(compare(results, title))
    if options.packings:
        console.print(remaining(results[last], last))
    report = record("tpu compiler", dataclasses.asdict(options))
    told = {"what": LABEL, "compiler": target.compiler, "num_devices": num_devices, "results": results}
    finish({**report, **told}, options.save)


if __name__ == "__main__":
    main(tyro.cli(Options))
