"""The command `unet-jax study`: parse the options, run the study, print the comparison."""

import dataclasses
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from unet_jax._types import InputError
from unet_jax.cli.options import check_root
from unet_jax.config.placeholders import Dir, OptionalDir, OptionalFile
from unet_jax.study.config import Study
from unet_jax.study.study_file import load_studies

if TYPE_CHECKING:
    from unet_jax.study.display import GridDisplay
    from unet_jax.study.jobs import Crew


@dataclasses.dataclass(frozen=True)
class _StudyData:
    """Data set of the study, if it is to be another one than the TOML file names."""

    root: OptionalDir = None
    """Folder of the data set."""
    splits: OptionalFile = None
    """CSV file with the columns id,split."""


@dataclasses.dataclass(frozen=True)
class _Study:
    """Train every variant of a study with every seed, or continue where it stopped, and compare them."""

    file: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="STUDY.toml")]
    """TOML file that describes the study (docs/studies.md); with --power, also the folder of a finished study."""
    data: _StudyData
    out: Dir = ""
    """Folder for the runs and the results. By default the one that the TOML file names."""
    roots: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=DIR")] = ()
    """Folders of data sets by name, if the TOML file names several."""
    epochs: int | None = None
    """Number of epochs, in the place of the length that the TOML file gives (train.num_epochs or train.num_steps).
    A small number is good for a first try."""
    launcher: Literal["here", "slurm"] = "here"
    """Place of the runs: here, on the devices of this machine, or one job of SLURM each (extra slurm)."""
    slurm: Annotated[tuple[str, ...], tyro.conf.arg(metavar="KEY=VALUE")] = ()
    """Parameters of the jobs as submitit names them: timeout_min=240 gpus_per_node=1 slurm_partition=gpu."""
    power: bool = False
    """Train nothing: say from the runs of the finished study how many seeds and images a study needs to tell
    differences of 0.005, 0.01 and 0.02."""


def study(args: Sequence[str]) -> None:
    """Run `unet-jax study`."""
    options = tyro.cli(_Study, args=args, prog="unet-jax study")
    if options.power:
        _power(options)
        return
    parameters = _parameters(options)
    studies = _load(options, options.file, options.out)
    for loaded in studies:
        check_root(loaded.config.data.root)
    from unet_jax.devices.compilation import enable_compilation_cache
    from unet_jax.report.display import print_table
    from unet_jax.study.display import GridDisplay
    from unet_jax.study.over_sets_report import show_over_sets, write_over_sets
    from unet_jax.study.over_sets_words import conclusion_over_sets
    from unet_jax.study.report import show, write_results
    from unet_jax.study.run import run_studies, with_split
    from unet_jax.study.words import conclusion

    enable_compilation_cache()
    run_studies(studies, display=GridDisplay(), make_crew=_crew(options, parameters))
    if len(studies) > 1:
        over_sets = write_over_sets(studies, _command(options))
        print_table(show_over_sets(over_sets), 150)
        print(conclusion_over_sets(studies[0], over_sets))
        out = Path(studies[0].out).parent.parent
        print(f"page: {out}/study.html; tables: sets.csv, table.md, table.tex; of each data set: sets/NAME/study.html")
    else:
        loaded = with_split(studies[0])
        results = write_results(loaded, _command(options))
        print_table(show(results), 150)
        print(conclusion(loaded, results))
        print(f"page: {loaded.out}/study.html; tables: results.csv, table.csv, table.md, table.tex, cost.csv")
    print("for a paper: methods.md; to repeat it: reproduce.sh")


def _parameters(options: _Study) -> dict[str, int | str]:
    """Return the parameters of the cluster's jobs."""
    given = dict(_pair(text, "--slurm", "KEY=VALUE, a parameter of submitit") for text in options.slurm)
    if given and options.launcher == "here":
        raise InputError("--slurm has no effect without --launcher slurm: add it.")
    return {name: int(text) if re.fullmatch(r"-?[0-9]+", text) else text for name, text in given.items()}


def _crew(options: _Study, parameters: dict[str, int | str]) -> "Callable[[Study, GridDisplay], Crew] | None":
    """Return what makes the crew of a study; None: workers in this process."""
    if options.launcher == "here":
        return None
    from unet_jax.study.launch import Cluster

    return lambda study, display: Cluster(study, display, parameters)


def _power(options: _Study) -> None:
    """Print what a study like the finished one needs."""
    from unet_jax.report.display import print_table
    from unet_jax.study.power import power_table
    from unet_jax.study.results import read_results

    file, out = Path(options.file), options.out
    if file.is_dir():
        file, out = file / "study.toml", out or options.file
    for loaded in _load(options, str(file), out):
        said, table = power_table(read_results(loaded))
        print(f"{loaded.dataset}: {said}" if loaded.dataset else said)
        print_table(table)
    print("(the score is the mean over classes; a variant is called better by the rule of docs/studies.md)")


def _load(options: _Study, file: str, out: str) -> Sequence[Study]:
    """Read the study of each data set."""
    roots = dict(_pair(text, "--roots", "NAME=DIR, the name of a data set and its folder") for text in options.roots)
    return load_studies(file, out=out, config=_overrides(options), roots=roots)


def _pair(text: str, option: str, wanted: str) -> tuple[str, str]:
    """Return the two sides of a text with an equals sign."""
    name, is_given, value = text.partition("=")
    if not (name and is_given and value):
        raise InputError(f"{option} {text}: is not {wanted}.")
    return name, value


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
    named = (text.partition("=") for text in options.roots)
    words += ["--roots", *(f"{name}={Path(root).name}" for name, _, root in named)] if options.roots else []
    words += [] if options.epochs is None else ["--epochs", str(options.epochs)]
    return shlex.join(words)
