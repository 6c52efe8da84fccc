"""The file that makes a folder a run. Apart from the reading of runs, so that a mistyped folder is told at once."""

from etils import epath

from unet_jax._types import InputError


def info_path(path: epath.Path) -> epath.Path:
    """Return the path of run.json, the file whose presence makes a folder a run."""
    return path / "run.json"


def check_is_run(path: epath.Path) -> None:
    """Raise `InputError` if there is no run.json in a folder."""
    file = info_path(path)
    if not file.exists():
        raise InputError(f"{path}: is not a run (there is no {file.name}). Give the --out folder of unet-jax train.")
