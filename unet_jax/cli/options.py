"""Options that several commands share, and functions that load the run and select the samples that they name."""

import dataclasses
from typing import Annotated, Literal

import tyro
from etils import epath

from unet_jax._types import InputError
from unet_jax.config.processes import Processes
from unet_jax.data.records import Layout, Record
from unet_jax.devices.compilation import enable_compilation_cache
from unet_jax.devices.mesh import make_mesh
from unet_jax.inference.calibrate import with_calibration
from unet_jax.inference.evaluate import select_records
from unet_jax.runs.load import Run, load_run


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """Data set that the run is applied to."""

    root: str = ""
    """Folder of the data set (docs/data.md). By default the one that the run was trained on."""
    splits: str | None = None
    """CSV file with the columns id,split. By default the splits that were recorded when the run began."""


@dataclasses.dataclass(frozen=True)
class DeviceOptions:
    """Devices that the network runs on."""

    devices_per_image: int = 1
    """Number of devices that share the rows of one image, for images too large for one device (docs/scaling.md)."""
    processes: Annotated[Processes, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Processes)


ON_DEVICES = Annotated[DeviceOptions, tyro.conf.arg(name="")]


def load(path: str, checkpoint: Literal["best", "last"], devices: DeviceOptions, *, calibrated: bool) -> Run:
    """Load a run on the given devices, with its calibration if `calibrated` is True."""
    enable_compilation_cache()
    run = load_run(path, checkpoint, mesh=make_mesh(space=devices.devices_per_image))
    return with_calibration(run) if calibrated else run


def select(run: Run, given: DataOptions, split: str | None) -> tuple[str, Layout, list[Record]]:
    """Select the samples of a split of the given data set, read with the settings of the run; see `select_records`."""
    root = given.root or run.config.data.root
    if not given.root and not epath.Path(root).is_dir():
        where = f"the data set that it was trained on, {root!r}, is not there" if root else "it was trained on no data"
        raise InputError(f"{run.path}: {where}. Say where the images are: --data.root DIR.")
    data = dataclasses.replace(run.config.data, root=root, splits=given.splits, classes=run.class_names)
    return select_records(run, data, split)
