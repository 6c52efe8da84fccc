"""Options that several commands share, and the run and the data that they name."""

import dataclasses
from typing import Annotated, Literal

import tyro

from unet_jax.config.processes import Processes
from unet_jax.data.layout import Layout, Record
from unet_jax.devices.compilation import enable_compilation_cache
from unet_jax.devices.mesh import make_mesh
from unet_jax.inference.calibrate import with_calibration
from unet_jax.inference.evaluate import select_records
from unet_jax.runs.load import Run, load_run


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """The data set that a run is applied to."""

    root: str
    """The data set's folder."""
    splits: str | None = None
    """CSV file with the columns id,split; by default the split that the run recorded."""


@dataclasses.dataclass(frozen=True)
class DeviceOptions:
    """The devices that compute a run's network."""

    devices_per_image: int = 1
    """Number of devices that share the rows of one image, for images too large for one device (docs/scaling.md)."""
    processes: Annotated[Processes, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Processes)


ON_DEVICES = Annotated[DeviceOptions, tyro.conf.arg(name="")]


def load(path: str, checkpoint: Literal["best", "last"], devices: DeviceOptions, *, calibrated: bool) -> Run:
    """Load a run on the devices that were asked for, with its calibration if that is wanted."""
    enable_compilation_cache()
    run = load_run(path, checkpoint, mesh=make_mesh(space=devices.devices_per_image))
    return with_calibration(run) if calibrated else run


def select(run: Run, given: DataOptions, split: str | None) -> tuple[str, Layout, list[Record]]:
    """Select a split of the given data set, read with the run's own settings; see `select_records`."""
    data = dataclasses.replace(run.config.data, root=given.root, splits=given.splits, classes=run.class_names)
    return select_records(run, data, split)
