"""Memory and time of a training step by `model.remat` and `train.accumulation`, on whatever device is there.

Memory is what the compiler sets aside for temporaries. Steps of the variants alternate, so that a busy machine slows
all of them.
"""

import dataclasses

import tyro
from library_steps import LibrarySteps, make_library_steps, reason
from measure import finish, record, summary, time_in_turns

from unet_jax.config.dicts import replace
from unet_jax.config.presets import PRESETS
from unet_jax.devices.huge_pages import restart_with_huge_pages

_NUM_CLASSES = 2


@dataclasses.dataclass(frozen=True)
class Options:
    """Compare variants of the training step of one preset in one interleaved run."""

    preset: str = "small"
    image_size: int = 128
    batch_size: int = 8
    packing: str = "none"
    dtype: str = "float32"
    remat: tuple[str, ...] = ("none", "conv", "block", "full")
    """Values of model.remat; ratios are to the first."""
    accumulation: tuple[int, ...] = (2, 4)
    """Values of train.accumulation, with remat none."""
    num_rounds: int = 5
    """Timed steps of each variant, after one that is not counted."""
    save: str = ""
    """Also write results/SAVE.json, or a path that ends in .json."""


def make_variant(options: Options, remat: str, accumulation: int) -> LibrarySteps:
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
    """Measures, prints a line for each variant, and one line of JSON."""
    chosen = [(remat, 1) for remat in options.remat] + [("none", n) for n in options.accumulation]
    variants: dict[str, LibrarySteps] = {}
    failed: dict[str, str] = {}
    for remat, n in chosen:
        name = f"remat {remat}, accumulation {n}"
        try:
            variants[name] = make_variant(options, remat, n)
        except Exception as error:  # too large for this machine: the others still count
            failed[name] = reason(error)
    times = time_in_turns({name: product.steps["train"] for name, product in variants.items()}, options.num_rounds)
    rows = []
    for name, product in variants.items():
        rows.append({"variant": name, **summary(times[name], times[next(iter(variants))]), **product.facts["train"]})
        temporary, first = (row.get("temporary_bytes", float("nan")) for row in (rows[-1], rows[0]))
        found = f"{rows[-1]['median_ms']:.0f} ms, {temporary / 1e6:.1f} MB; "
        print(f"{name}: {found}time x{rows[-1]['ratio']:.2f}, temporaries x{temporary / first:.2f}")
    for name, why in failed.items():
        print(f"{name} failed: {why}")
    report = record("memory", dataclasses.asdict(options))
    finish({**report, "results": rows, "failed": failed}, options.save)


if __name__ == "__main__":
    restart_with_huge_pages()  # as the library's command does
    main(tyro.cli(Options))
