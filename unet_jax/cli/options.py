"""Options that several commands share, and functions that load the run and select the samples that they name.

A command looks at the folders and files that it was given before it imports jax (`check_run`, `check_root`), so that a
mistake is answered at once. What computes is imported where it is used.
"""

import dataclasses
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from etils import epath

from unet_jax._types import InputError
from unet_jax.config import Config, DataConfig
from unet_jax.config.placeholders import OptionalFile, Regex
from unet_jax.config.predict import PredictConfig
from unet_jax.config.processes import Processes
from unet_jax.data.listing import first_group
from unet_jax.runs.folder import check_is_run

if TYPE_CHECKING:
    from unet_jax.data.records import Layout, Record
    from unet_jax.inference.way import Way
    from unet_jax.metrics.scores import Scores
    from unet_jax.report.display import Display
    from unet_jax.runs.ensemble import Trained
    from unet_jax.runs.load import Run


RUN = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
RUNS = Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="RUN [RUN...]")]


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """Data set that the run is applied to."""

    root: Annotated[str, tyro.conf.arg(metavar="DIR")] = ""
    """Folder of the data set (docs/data.md). By default the one that the run was trained on."""
    splits: OptionalFile = None
    """CSV file with the columns id,split. By default the splits that were recorded when the run began."""
    mask_orientation: Literal["auto", "shown", "stored"] | None = None
    """Pixels that masks were drawn on, where an image is shown turned (docs/data.md). By default as in the run."""


@dataclasses.dataclass(frozen=True)
class DeviceOptions:
    """Devices that the network runs on."""

    devices_per_image: int = 1
    """Number of devices that share the rows of one image, for images too large for one device (docs/scaling.md)."""
    processes: Annotated[Processes, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Processes)


ScoreName = Literal[
    "dice", "iou", "precision", "recall", "accuracy", "nsd", "hd95", "cldice", "brier", "ece", "objects"
]
"""Names of `unet_jax.metrics.score_sums.NAMES`, here too because that module imports SciPy."""


@dataclasses.dataclass(frozen=True)
class ScoreOptions:
    """Scores to compute, and what their intervals are of."""

    scores: tuple[ScoreName, ...] = ("dice", "iou", "precision", "recall", "accuracy")
    """Scores to compute, one or several of those in docs/metrics.md.
    The name objects stands for precision, recall, F1 and panoptic quality of connected objects."""
    nsd_tolerance: float | None = None
    """Distance in pixels up to which the score nsd accepts a border. By default 2."""
    group_key: Regex = ""
    """Regular expression whose first group in an id names what belongs together, such as a patient: '^([^_]*)_'.
    The intervals then say what to expect of other groups."""

    def check(self) -> None:
        """Raise `InputError` for a value that cannot be used or has no effect."""
        if not self.scores:
            raise InputError("--scores is empty: name at least one, or leave the option out.")
        if self.nsd_tolerance is None:
            return
        if not 0.0 <= self.nsd_tolerance < math.inf:
            raise InputError(f"--nsd-tolerance is {self.nsd_tolerance}, but must be a number of pixels of at least 0.")
        if "nsd" not in self.scores:
            raise InputError("--nsd-tolerance has no effect without the score nsd: add it, as in --scores dice nsd.")

    @property
    def tolerance(self) -> float:
        """Distance in pixels up to which the score nsd accepts a border."""
        return 2.0 if self.nsd_tolerance is None else self.nsd_tolerance


_NOT_GIVEN = Processes()
SCORING = Annotated[ScoreOptions, tyro.conf.arg(name="")]
HOW = Annotated[PredictConfig, tyro.conf.arg(name="")]
ON_DEVICES = Annotated[DeviceOptions, tyro.conf.arg(name="")]


def check_run(path: str, processes: Processes = _NOT_GIVEN) -> None:
    """Raise `InputError` if a folder is not a run."""
    if _is_alone(processes):
        check_is_run(epath.Path(path))


def check_runs(paths: Sequence[str], processes: Processes = _NOT_GIVEN) -> None:
    """Raise `InputError` if no run is named, or if a folder is not one."""
    if not paths:
        raise InputError("no run was named: give the --out folder of unet-jax train.")
    for path in paths:
        check_run(path, processes)


def check_root(root: str, processes: Processes = _NOT_GIVEN) -> None:
    """Raise `InputError` if there is no folder where the data set should be."""
    if _is_alone(processes) and not (root and epath.Path(root).is_dir()):
        from unet_jax.data.layout import find_layout

        find_layout(DataConfig(root=root))


def check_run_and_root(path: str, given: DataOptions, processes: Processes = _NOT_GIVEN) -> None:
    """Raise `InputError` if a folder is not a run, or if there is none where the data set should be."""
    if _is_alone(processes):
        check_is_run(epath.Path(path))
        from unet_jax.runs.info import load_info

        check_root(_root(path, load_info(epath.Path(path)).config, given))


def _root(path: str | epath.Path, config: Config, given: DataOptions) -> str:
    """Return the folder of the data set: the one that was given, or the one that the run was trained on."""
    from unet_jax.runs.data_files import load_identities

    recorded = None if given.root else load_identities(epath.Path(path))  # with an absolute path
    root = given.root or (recorded[0] if recorded else config.data.root)
    if not given.root and not (root and epath.Path(root).is_dir()):
        where = f"the data set that it was trained on, {root!r}, is not there" if root else "it was trained on no data"
        raise InputError(f"{path}: {where}. Say where the images are: --data.root DIR.")
    return root


def _is_alone(processes: Processes) -> bool:
    """Return whether this process is surely the only one of its command.

    Connected processes end together by a message, which they cannot send before they are connected. So in a process
    that may have others, the same mistakes are found later, by the functions that read the folders.
    """
    may_have_others = processes != _NOT_GIVEN or "SLURM_JOB_ID" in os.environ
    return not may_have_others and not any(Path("/dev").glob("accel*")) and not Path("/dev/vfio/0").exists()


def load(path: str, checkpoint: Literal["best", "last"], devices: DeviceOptions, *, calibrated: bool) -> "Run":
    """Load a run on the given devices, with its calibration if `calibrated` is True."""
    from unet_jax.devices.mesh import make_mesh
    from unet_jax.inference.calibration_file import with_calibration
    from unet_jax.runs.load import load_run

    run = load_run(path, checkpoint, mesh=make_mesh(space=devices.devices_per_image))
    return with_calibration(run) if calibrated else run


def load_all(
    paths: Sequence[str], checkpoint: Literal["best", "last"], devices: DeviceOptions, *, calibrated: bool
) -> "Trained":
    """Load one run, or several that predict together, as `load` does."""
    from unet_jax.runs.ensemble import Ensemble, check_distinct

    check_distinct(paths)
    runs = [load(path, checkpoint, devices, calibrated=calibrated) for path in paths]
    return runs[0] if len(runs) == 1 else Ensemble(tuple(runs))


def select(run: "Trained", given: DataOptions, split: str | None) -> tuple[str, "Layout", "list[Record]"]:
    """Select the samples of a split of the given data set, read with the settings of the run; see `select_records`."""
    from unet_jax.inference.evaluate import data_of, select_records
    from unet_jax.runs.ensemble import members_of

    config, path = data_of(run), members_of(run)[0].path
    data = dataclasses.replace(
        config,
        root=_root(path, members_of(run)[0].config, given),
        splits=given.splits,
        classes=run.class_names,
        mask_orientation=given.mask_orientation or config.mask_orientation,
    )
    return select_records(run, data, split)


def groups_of(group_key: str, ids: Sequence[str]) -> list[str] | None:
    """Return the group of each image by --group-key, or None without it.

    Raises:
      InputError: the expression is not valid, or finds no group in an id.
    """
    return [first_group(group_key, id_, "--group-key", "the group") for id_ in ids] if group_key else None


def say_difference(run: "Trained", way: "Way", display: "Display") -> None:
    """Print a warning if the run's calibration was fitted with another way of the images to the network."""
    from unet_jax.inference.calibration_file import way_difference

    text = way_difference(run, way)
    if text:
        display.line(f"WARNING: {text}")


class ScaleWarnings:
    """Warnings of images whose scale is far from that of training: the first one at once, and their number at the end.

    Args:
      run: trained run or ensemble.
      way: way of the images to the network.
      display: where the warnings are printed.
    """

    def __init__(self, run: "Trained", way: "Way", display: "Display"):
        self._run, self._way, self._display = run, way, display
        self._count = 0

    def look_at(self, id_: str, height: int, width: int) -> None:
        """Take note of the size of an image."""
        from unet_jax.inference.way import far_scale

        text = far_scale(self._run, self._way, height, width)
        if text and not self._count:
            self._display.line(f"WARNING: {id_} {text}")
        self._count += bool(text)

    def summarise(self) -> None:
        """Print how many images there were."""
        if self._count > 1:
            self._display.line(f"WARNING: the scale of {self._count} images is far from that of training.")


def score(
    run: "Trained",
    layout: "Layout",
    records: "Sequence[Record]",
    names: Sequence[str],
    what: ScoreOptions,
    how: PredictConfig,
    display: "Display",
    *,
    title: str,
) -> "Scores":
    """Score a run or an ensemble on samples, with a progress bar and the warnings of images of another scale."""
    from unet_jax.inference.evaluate import data_of, evaluate_run
    from unet_jax.inference.way import way_of

    warnings = ScaleWarnings(run, way_of(run, how), display)
    with display.bar(title, len(records), unit="images") as show:
        scores = evaluate_run(
            run,
            layout,
            records,
            soft_masks=data_of(run).soft_masks,
            how=how,
            score_names=names,
            tolerance=what.tolerance,
            on_open=warnings.look_at,
            on_progress=lambda done: show(done, ""),
        )
    warnings.summarise()
    return scores


def print_json(values: dict[str, Any], *, wanted: bool) -> None:
    """Print values as one line of JSON if it is wanted, or if the output goes to a file or program, not to a person."""
    if wanted or not sys.stdout.isatty():
        print(json.dumps(values))
