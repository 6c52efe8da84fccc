"""Time of a training step with each loss of the catalogue, compared with BCE + Dice, interleaved."""

import dataclasses

import tyro
from library_steps import make_library_steps, reason
from measure import Step, finish, record, summary, time_in_turns
from network import Size
from rich.console import Console
from rich.table import Table

from unet_jax.config import LossTermConfig
from unet_jax.config.dicts import replace
from unet_jax.config.presets import PRESETS
from unet_jax.devices.huge_pages import restart_with_huge_pages


@dataclasses.dataclass(frozen=True)
class Options:
    """Time the training step of one preset with several losses in one interleaved run."""

    losses: tuple[str, ...] = ("", "bce", "focal", "tversky", "lovasz_hinge", "topk_bce", "soft_cldice")
    """Names of the catalogue (docs/losses.md). "" is BCE + Dice. Ratios are relative to the first."""
    preset: str = "seed"
    image_size: Size = 128
    batch_size: int = 8
    dtype: str = "float32"
    num_rounds: int = 5
    save: str = ""
    """Name of a copy of the report: results/SAVE.json, or a path that ends in .json. Empty: none."""


def main(options: Options) -> None:
    """Time the steps, print a table, and finish the report."""
    steps: dict[str, Step] = {}
    failed: dict[str, str] = {}
    facts: dict[str, dict[str, float]] = {}
    for name in options.losses:
        values = {
            "data.image_size": options.image_size,
            "train.batch_size": options.batch_size,
            "model.dtype": options.dtype,
        }
        config = replace(PRESETS[options.preset](), values)
        title = name or "bce + dice"
        try:
            terms = (LossTermConfig(name),) if name else ()
            config = dataclasses.replace(config, loss=dataclasses.replace(config.loss, terms=terms))
            product = make_library_steps(config, 2)
        except Exception as error:
            failed[title] = reason(error)
            continue
        steps[title], facts[title] = product.steps["train"], product.facts["train"]
    times = time_in_turns(steps, options.num_rounds)
    report = record("losses", dataclasses.asdict(options))
    baseline = times[next(iter(times))]
    rows = [{"loss": name, **summary(times[name], baseline), **facts[name]} for name in steps]
    table = Table("loss", "median ms", "ratio", "compile s", title=report["device"])
    for row in rows:
        table.add_row(row["loss"], f"{row['median_ms']:.1f}", f"{row['ratio']:.2f}", f"{row['compile_s']:.1f}")
    for name, why in failed.items():
        table.add_row(name, "failed", why)
    Console(width=100).print(table)
    finish({**report, "results": rows, "failed": failed}, options.save)


if __name__ == "__main__":
    restart_with_huge_pages()  # the same memory pages as in the library's command
    main(tyro.cli(Options))
