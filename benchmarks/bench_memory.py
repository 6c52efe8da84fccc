"""Memory and time of a training step with values of `model.remat` and `train.accumulation`, on the available device.

Memory is the compiler's number for temporary arrays. The steps of the variants take turns, so that a busy machine slows
all of them alike.
"""

import dataclasses

import tyro
from library_steps import LibrarySteps, make_library_steps, reason
from measure import finish, record, summary, time_in_turns
from network import Size

from unet_jax.config.dicts import replace
from unet_jax.config.presets import PRESETS
from unet_jax.devices.huge_pages import restart_with_huge_pages

_NUM_CLASSES = 2


@dataclasses.dataclass(frozen=True)
class Options:
    """Compare variants of the training step of one preset in one interleaved run."""

    preset: str = "small"
    image_size: Size = 128
    batch_size: int = 8
    packing: str = "none"
    dtype: str = "float32"
    remat: tuple[str, ...] = ("none", "conv", "block", "full")
    """Values of model.remat. Ratios are relative to the first."""
    accumulation: tuple[int, ...] = (2, 4)
    """Values of train.accumulation, with remat none."""
    num_rounds: int = 5
    """Timed steps of each variant, after one untimed step."""
    save: str = ""
    """Name of a copy of the report: results/SAVE.json, or a path that ends in .json. Empty: none."""


def make_variant(options: Options, remat: str, accumulation: int) -> LibrarySteps:
    """Compile the training step of one variant."""
    settings = {
        "data.image_size": options.image_size,
        "train.batch_size": options.batch_size,
        "train.accumulation": accumulation,
        "model.packing": options.packing,
        "model.dtype": options.dtype,
        "model.remat": remat,
    }
    return make_library_steps(replace(PRESETS[options.preset](), settings), _NUM_CLASSES)


def main(options: Options) -> None:
    """Time the steps, print a line for each variant, and finish the report."""
    chosen = [(remat, 1) for remat in options.remat] + [("none", n) for n in options.accumulation]
    variants: dict[str, LibrarySteps] = {}
    failed: dict[str, str] = {}
    for remat, n in chosen:
        name = f"remat {remat}, accumulation {n}"
        try:
            variants[name] = make_variant(options, remat, n)
        except Exception as error:  # such as too little memory; the other variants are still measured
            failed[name] = reason(error)
    times = time_in_turns({name: product.steps["train"] for name, product in variants.items()}, options.num_rounds)
    rows = []
    for name, product in variants.items():
        rows.append({"variant": name, **summary(times[name], times[next(iter(variants))]), **product.facts["train"]})
        temporary, first = (row.get("temporary_bytes", float("nan")) for row in (rows[-1], rows[0]))
        measured = f"{rows[-1]['median_ms']:.0f} ms, {temporary / 1e6:.1f} MB; "
        print(f"{name}: {measured}time x{rows[-1]['ratio']:.2f}, temporaries x{temporary / first:.2f}")
    for name, why in failed.items():
        print(f"{name} failed: {why}")
    report = record("memory", dataclasses.asdict(options))
    finish({**report, "results": rows, "failed": failed}, options.save)


if __name__ == "__main__":
    restart_with_huge_pages()  # the same memory pages as in the library's command
    main(tyro.cli(Options))
