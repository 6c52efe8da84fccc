"""Time of a training step of the Keras original's network with several packings, on the available device."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from library_steps import compiled, make_library_steps, reason
from measure import Step, finish, record, summary, time_in_turns
from network import Size, random_pixels
from rich.console import Console
from rich.table import Table
from textbook import TextbookUNet, make_textbook_step

from unet_jax.config import Config
from unet_jax.config.dicts import replace
from unet_jax.config.presets import PRESETS
from unet_jax.devices.huge_pages import restart_with_huge_pages
from unet_jax.program.optim import make_optimizer

_NUM_CLASSES = 2


@dataclasses.dataclass(frozen=True)
class Options:
    """Time the training step of one network with several packings in one interleaved run."""

    packing: tuple[str, ...] = ("textbook", "none", "1x2", "2", "4,2x4,2,1x2")
    """Values of model.packing, or textbook for the step of textbook.py. Ratios are relative to the first."""
    widths: tuple[int, ...] = (8, 16, 32, 64, 128, 256, 512)
    center_width: int = 1024
    image_size: Size = 128
    batch_size: int = 8
    dtype: str = "float32"
    num_rounds: int = 10
    """Timed steps of each variant, after one untimed step."""
    save: str = ""
    """Name of a copy of the report: results/SAVE.json, or a path that ends in .json. Empty: none."""


def make_variant(packing: str, options: Options) -> tuple[Step, dict[str, float]]:
    """Return a function that runs one step to its end, and the facts that `compiled` returns."""
    values = {
        "model.packing": "none" if packing == "textbook" else packing,
        "model.widths": options.widths,
        "model.center_width": options.center_width,
        "model.dtype": options.dtype,
        "data.image_size": options.image_size,
        "train.batch_size": options.batch_size,
    }
    config = replace(PRESETS["seed"](), values)
    if packing == "textbook":
        return _textbook(config)
    product = make_library_steps(config, _NUM_CLASSES)
    return product.steps["train"], product.facts["train"]


def _textbook(config: Config) -> tuple[Step, dict[str, float]]:
    """Return the same for the textbook's step."""
    network, tx = config.model, make_optimizer(config.optim, 1000)
    batch = jax.device_put(random_pixels(config.train.batch_size, config.data.image_size, _NUM_CLASSES))
    model = TextbookUNet(network.widths, network.center_width, _NUM_CLASSES, dtype=jnp.dtype(network.dtype))
    variables = jax.jit(lambda x: model.init(jax.random.key(0), x, False))(batch[0][:1].astype(np.float32))
    box: list[Any] = [(variables["params"], variables["batch_stats"], tx.init(variables["params"]))]
    program, facts = compiled(make_textbook_step(model, tx), *box[0], *batch)

    def step() -> None:
        *state, _ = jax.block_until_ready(program(*box[0], *batch))
        box[0] = tuple(state)

    return step, facts


def main(options: Options) -> None:
    """Time the steps, print a table, and finish the report."""
    variants: dict[str, tuple[Step, dict[str, float]]] = {}
    failed: dict[str, str] = {}
    for packing in options.packing:
        try:
            variants[packing] = make_variant(packing, options)
        except Exception as error:  # such as too little memory; the other variants are still measured
            failed[packing] = reason(error)
    times = time_in_turns({packing: step for packing, (step, _) in variants.items()}, options.num_rounds)
    report = record("packing", dataclasses.asdict(options))
    columns = ("packing", "median ms", "ratio", "ratio of fastest", "compile s", "temporary MB")
    table = Table(*columns, title=report["device"])
    rows = []
    for packing, (_, facts) in variants.items():
        row = {"packing": packing, **summary(times[packing], times[next(iter(variants))]), **facts}
        cells = [f"{row['median_ms']:.1f}", f"{row['ratio']:.3f}", f"{row['ratio_of_fastest']:.3f}"]
        cells += [f"{row['compile_s']:.1f}", f"{row.get('temporary_bytes', float('nan')) / 1e6:.0f}"]
        table.add_row(packing, *cells)
        rows.append(row)
    for packing, why in failed.items():
        table.add_row(packing, "failed", why)
    Console(width=100).print(table)
    finish({**report, "results": rows, "failed": failed, "rounds_s": times}, options.save)


if __name__ == "__main__":
    restart_with_huge_pages()  # the same memory pages as in the library's command
    main(tyro.cli(Options))
