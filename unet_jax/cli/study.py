"""`unet-jax study`: parses, calls, prints."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import tyro
from rich.console import Console

from unet_jax.devices.compilation import enable_compilation_cache
from unet_jax.study.config import load_study
from unet_jax.study.display import GridDisplay
from unet_jax.study.page import conclusion
from unet_jax.study.report import show, write_results
from unet_jax.study.run import run_study


@dataclasses.dataclass(frozen=True)
class _StudyData:
    root: str | None = None
    """The data set's folder, instead of the file's."""
    splits: str | None = None
    """CSV file with the columns id,split, instead of the file's."""


@dataclasses.dataclass(frozen=True)
class _Study:
    """Train every variant of a study with every seed, or continue where it stopped, and compare them."""

    file: tyro.conf.Positional[str]
    """The study's TOML file (docs/studies.md)."""
    data: _StudyData
    out: str = ""
    """Folder of the study, instead of the file's."""
    epochs: int | None = None
    """train.num_epochs, instead of the file's: for a first try."""


def study(args: Sequence[str]) -> None:
    """Run `unet-jax study`."""
    options = tyro.cli(_Study, args=args, prog="unet-jax study")
    given: dict[str, Any] = {"data.root": options.data.root, "data.splits": options.data.splits}
    given["train.num_epochs"] = options.epochs
    overrides = {name: value for name, value in given.items() if value is not None}
    loaded = load_study(options.file, out=options.out, config=overrides)
    enable_compilation_cache()
    run_study(loaded, display=GridDisplay())
    results = write_results(loaded)
    console = Console(width=max(150, Console().width))
    console.print(show(results))
    print(conclusion(loaded, results))
    print(f"page: {loaded.out}/study.html; tables: results.csv, table.csv, cost.csv")
