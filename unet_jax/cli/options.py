"""Options that several commands have, and how a run and its data are found from them."""

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
class _Data:
    root: str
    """The data set's folder."""
    splits: str | None = None
    """CSV file with the columns id,split; by default the split that the run recorded."""


@dataclasses.dataclass(frozen=True)
class _Devices:
    """Where a run's network is computed."""

    devices_per_image: int = 1
    """Devices that the rows of each image are divided over, for images that do not fit one (docs/scaling.md)."""
    processes: Annotated[Processes, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Processes)


_ON_DEVICES = Annotated[_Devices, tyro.conf.arg(name="")]


def _load(path: str, checkpoint: Literal["best", "last"], devices: _Devices, *, calibrated: bool) -> Run:
    enable_compilation_cache()
    run = load_run(path, checkpoint, mesh=make_mesh(space=devices.devices_per_image))
    return with_calibration(run) if calibrated else run


def _select(run: Run, given: _Data, split: str | None) -> tuple[str, Layout, list[Record]]:
    """A split of the data that was named, read in the run's own way."""
    data = dataclasses.replace(run.config.data, root=given.root, splits=given.splits, classes=run.class_names)
    return select_records(run, data, split)
