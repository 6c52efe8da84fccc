"""Profile of a few training steps: a folder that XProf and TensorBoard open (`plugins/profile/*/*.xplane.pb`)."""

import dataclasses
import pathlib

import jax
import tyro
from library_steps import make_library_steps
from measure import RESULTS, finish, record, summary, time_in_turns
from network import Size

from unet_jax.config.dicts import replace
from unet_jax.config.presets import PRESETS
from unet_jax.devices.huge_pages import restart_with_huge_pages


@dataclasses.dataclass(frozen=True)
class Options:
    """Profile the training step of one preset."""

    preset: str = "seed"
    image_size: Size = 128
    batch_size: int = 8
    dtype: str = "float32"
    packing: str = "auto"
    num_steps: int = 3
    folder: str = ""
    """Folder for the profile. Empty: beside the report if `save` is a path, else results/profile."""
    save: str = ""
    """Name of a copy of the report: results/SAVE.json, or a path that ends in .json. Empty: none."""


def main(options: Options) -> None:
    """Time some steps, profile as many, and finish the report."""
    settings = {
        "data.image_size": options.image_size,
        "train.batch_size": options.batch_size,
        "model.dtype": options.dtype,
        "model.packing": options.packing,
    }
    step = make_library_steps(replace(PRESETS[options.preset](), settings), 2).steps["train"]
    beside = pathlib.Path(options.save).with_suffix("") if options.save.endswith(".json") else RESULTS / "profile"
    folder = pathlib.Path(options.folder) if options.folder else beside
    times = time_in_turns({"step": step}, options.num_steps)  # before the profile, which slows the steps
    with jax.profiler.trace(str(folder)):
        for _ in range(options.num_steps):
            step()
    files = sorted(str(p.relative_to(folder)) for p in folder.rglob("*.xplane.pb"))
    report = record("profile", dataclasses.asdict(options))
    finish({**report, "results": [summary(times["step"])], "folder": str(folder), "files": files}, options.save)


if __name__ == "__main__":
    restart_with_huge_pages()  # the same memory pages as in the library's command
    main(tyro.cli(Options))
