"""Runs from Keras files, and Keras files from runs."""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from etils import epath

from unet_jax._types import InputError
from unet_jax.config import Config, DataConfig, OptimConfig
from unet_jax.interop.keras_network import Channels, Network, read_network, write_network
from unet_jax.program.optim import make_optimizer
from unet_jax.program.state import TrainState
from unet_jax.runs.info import RunInfo, current_versions, info_path, save_info
from unet_jax.runs.load import abstract_state, load_run, open_checkpoints
from unet_jax.runs.progress import Progress


def import_keras(
    file: str | epath.Path,
    out: str | epath.Path,
    *,
    class_names: Sequence[str] = (),
    channels: Channels = "bgr",
    image_size: int | None = None,
) -> RunInfo:
    """Makes a run directory, which evaluate, predict and `load_run` accept, from a Keras file.

    Args:
      file: see `read_network`.
      out: the run directory to begin.
      class_names: of the output channels, in order; by default class0, class1, ...
      channels: the order of colours that the Keras program fed its network with.
      image_size: what images were resized to; by default what the file says, which only whole models do.

    Raises:
      InputError: the file cannot be used, `out` holds a run, or names or size do not fit.
    """
    file, out = epath.Path(file), epath.Path(out)
    if info_path(out).exists():
        raise InputError(f"{out}: holds a run already. Import into another --out.")
    network = read_network(file, channels=channels)
    names = tuple(class_names) or tuple(f"class{i}" for i in range(network.num_classes))
    if len(names) != network.num_classes:
        raise InputError(
            f"{file}: has {network.num_classes} output channels, but {len(names)} class names were given "
            f"({', '.join(names)}). Name each channel, in order."
        )
    size = image_size or network.image_size
    if size is None:
        raise InputError(f"{file}: does not say the size of its images. Give it: --image-size 1024.")
    config = Config(
        data=DataConfig(image_size=size, classes=names, mask_interpolation="linear"),
        model=network.config,
        optim=OptimConfig(name="rmsprop", learning_rate=1e-4, schedule="plateau"),
    )
    audit = {"imported_from": file.name, "channels": channels}
    info = RunInfo(config, names, {"train": [], "val": [], "test": []}, audit, current_versions())
    state = _initial_state(info, network)
    with open_checkpoints(out, config) as store:
        # There is no training to continue.
        store.save(0, state, progress=Progress(finished=True).to_dict(), metrics=None)
    save_info(out, info)  # last: without it the folder is no run
    return info


def _initial_state(info: RunInfo, network: Network) -> TrainState:
    params, batch_stats = jax.tree.map(jnp.asarray, (network.params, network.batch_stats))
    tx = make_optimizer(info.config.optim, info.num_steps)
    state = TrainState(jnp.zeros((), jnp.int32), params, batch_stats, tx.init(params))
    wanted, found = (jax.tree.map(lambda x: (x.shape, x.dtype), tree) for tree in (abstract_state(info), state))
    assert wanted == found, "the U-Net and the list of its convolutions in this module have come apart"
    return state


def export_keras(
    run: str | epath.Path,
    file: str | epath.Path,
    *,
    channels: Channels = "bgr",
    checkpoint: Literal["best", "last"] = "best",
) -> Network:
    """Writes a run's network as Keras 3 weights; the inverse of `import_keras`.

    Args:
      run: the run directory.
      file: `X.weights.h5`.
      channels: the order of colours that the Keras program feeds its network with.
      checkpoint: as in `load_run`.
    """
    loaded = load_run(run, checkpoint)
    params, batch_stats = jax.device_get((loaded.state.params, loaded.state.batch_stats))
    size = loaded.config.data.image_size
    network = Network(loaded.config.model, len(loaded.class_names), params, batch_stats, size)
    write_network(file, network, channels=channels)
    return network
