"""The command `unet-jax study`: parse the options, run the study, print the comparison."""

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from unet_jax.cli.options import check_root
from unet_jax.study.config import load_study


@dataclasses.dataclass(frozen=True)
class _StudyData:
    """Data set of the study, if it is to be another one than the TOML file names."""

    root: str | None = None
    """Folder of the data set."""
    splits: str | None = None
    """CSV file with the columns id,split."""


@dataclasses.dataclass(frozen=True)
class _Study:
    """Train every variant of a study with every seed, or continue where it stopped, and compare them."""

    file: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="STUDY.toml")]
    """TOML file that describes the study (docs/studies.md); with --power, also the folder of a finished study."""
    data: _StudyData
    out: str = ""
    """Folder for the runs and the results. By default the one that the TOML file names."""
    epochs: int | None = None
    """Number of epochs, in the place of the length that the TOML file gives (train.num_epochs or train.num_steps).
    A small number is good for a first try."""
    power: bool = False
    """Train nothing: say from the runs of the finished study how many seeds and images a study needs to tell
    differences of 0.005, 0.01 and 0.02."""


def study(args: Sequence[str]) -> None:
    """Run `unet-jax study`."""
    options = tyro.cli(_Study, args=args, prog="unet-jax study")
    if options.power:
        _power(options)
        return
    loaded = load_study(options.file, out=options.out, config=_overrides(options))
    check_root(loaded.config.data.root)
    from rich.console import Console

    from unet_jax.devices.compilation import enable_compilation_cache
    from unet_jax.study.display import GridDisplay
    from unet_jax.study.report import show, write_results
    from unet_jax.study.run import run_study, with_split
    from unet_jax.study.words import conclusion

    enable_compilation_cache()
    run_study(loaded, display=GridDisplay())
    loaded = with_split(loaded)
    results = write_results(loaded, _command(options))
    console = Console(width=max(150, Console().width))
    console.print(show(results))
    print(conclusion(loaded, results))
    print(f"page: {loaded.out}/study.html; tables: results.csv, table.csv, table.md, table.tex, cost.csv")
    print("for a paper: methods.md; to repeat it: reproduce.sh")


def _power(options: _Study) -> None:
    """Print what a study like the finished one needs."""
    from rich.console import Console

    from unet_jax.study.power import power_table
    from unet_jax.study.results import read_results

    file, out = Path(options.file), options.out
    if file.is_dir():
        file, out = file / "study.toml", out or options.file
    said, table = power_table(read_results(load_study(str(file), out=out, config=_overrides(options))))
    print(said)
    Console(width=110).print(table)
    print("(the score is the mean over classes; a variant is called better by the rule of docs/studies.md)")


def _overrides(options: _Study) -> dict[str, Any]:
    """Return the settings that the options give."""
    given: dict[str, Any] = {"data.root": options.data.root, "data.splits": options.data.splits}
    if options.epochs is not None:
        given |= {"train.num_epochs": options.epochs, "train.num_steps": 0}
    return {name: value for name, value in given.items() if value is not None}


def _command(options: _Study) -> str:
    """Return the command for the page, without folders of this machine."""
    words = ["unet-jax", "study", Path(options.file).name]
    words += [] if options.data.root is None else ["--data.root", Path(options.data.root).name]
    words += [] if options.data.splits is None else ["--data.splits", Path(options.data.splits).name]
    words += [] if options.epochs is None else ["--epochs", str(options.epochs)]
    return shlex.join(words)
