"""The command `unet-jax verify`: look whether the files of a run, or an exported file, are as they were written."""

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from typing import Annotated

import tyro
from etils import epath

from unet_jax._types import InputError

DAMAGED = 1
"""Exit status of `unet-jax verify` for damaged files."""


@dataclasses.dataclass(frozen=True)
class _Verify:
    """Look whether the files of a run, or an exported file, are as they were written (docs/faults.md)."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|FILE")]
    """Run directory, or a file that export or export-keras wrote."""


def verify(args: Sequence[str]) -> None:
    """Run `unet-jax verify`.

    Raises:
      SystemExit: a file is damaged.
    """
    options = tyro.cli(_Verify, args=args, prog="unet-jax verify")
    path, damaged = epath.Path(options.run), False
    for is_damaged, line in _findings_in_file(path) if path.is_file() else _findings(path):
        print(line)
        damaged |= is_damaged
    if damaged:
        print("damaged, as said above")
        sys.exit(DAMAGED)
    print("nothing is damaged")


def _findings_in_file(path: epath.Path) -> Iterator[tuple[bool, str]]:
    """Yield whether an exported file is damaged, and a line about it.

    Raises:
      InputError: the file has no digest.
    """
    from unet_jax.export.file_digest import check_digest
    from unet_jax.interop.keras_files import DIGEST
    from unet_jax.interop.keras_reader import read_keras_file

    content = path.read_bytes()
    try:
        if has_digest := path.name.endswith(".h5") and DIGEST.encode() in content:
            read_keras_file(path)  # which compares it
        else:
            has_digest = check_digest(content, path)
    except InputError as error:
        yield True, str(error)
        return
    if not has_digest:
        raise InputError(
            f"{path}: has no digest, so that nothing can be said of it: it is no exported file, an earlier version "
            f"exported it, or its end is damaged. Export it again."
        )
    yield False, f"{path}: good"


def _findings(path: epath.Path) -> Iterator[tuple[bool, str]]:
    """Yield whether a file of a run is damaged, and a line about it, for each file."""
    # Imported here, because these modules import jax, and a mistyped option need not wait for it.
    from unet_jax.inference.calibration_file import calibration_path, read_calibration
    from unet_jax.report.metrics_file import MetricsFile
    from unet_jax.runs.checkpoints import check_metrics, committed_steps
    from unet_jax.runs.data_files import data_path, load_identities
    from unet_jax.runs.info import info_path, load_info
    from unet_jax.runs.integrity import damaged_files
    from unet_jax.runs.statistics_file import read_statistics, statistics_path
    from unet_jax.training.goodput import read_goodput

    info = load_info(path)
    yield False, f"{info_path(path)}: good"
    checkpoints = path / "checkpoints"
    for step in committed_steps(checkpoints):
        folder = checkpoints / str(step)
        try:
            check_metrics(folder, info.config.train.monitor)
            damaged = damaged_files(checkpoints, step)
        except InputError as error:
            yield True, str(error)
            continue
        if damaged is None:
            yield False, f"{folder}: not checked, because it has no digests (an earlier version saved it)"
        elif damaged:
            yield True, f"{folder}: damaged: {'; '.join(damaged[:3])}. Other checkpoints are not affected."
        else:
            yield False, f"{folder}: good"
    try:
        if load_identities(path) is not None:
            yield False, f"{data_path(path)}: good"
    except InputError as error:
        yield True, str(error)
    if lines := MetricsFile(path / "metrics.jsonl").damaged_lines():
        shown = ", ".join(map(str, lines[:10]))
        yield True, f"{path / 'metrics.jsonl'}: lines that cannot be read: {shown}. All others are used."
    goodput = path / "goodput.json"
    if goodput.exists():
        try:
            read_goodput(goodput)
        except ValueError as error:
            yield True, f"{goodput}: damaged ({error}). Only the record of time is affected."
    statistics = statistics_path(path)
    if statistics.exists():
        try:
            read_statistics(path, None)
            yield False, f"{statistics}: good"
        except InputError as error:
            yield True, str(error)
    calibration = calibration_path(path)
    if calibration.exists():
        try:
            read_calibration(calibration, info.class_names)
        except InputError as error:
            yield True, str(error)
