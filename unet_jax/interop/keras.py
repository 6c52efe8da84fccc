"""Conversion of Keras files to run directories, and of runs to Keras files."""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from etils import epath

from unet_jax._types import InputError
from unet_jax.config import Config, DataConfig, OptimConfig
from unet_jax.data.images.format import ImageFormat
from unet_jax.interop.keras_check import Check, check_network
from unet_jax.interop.keras_network import Channels, Network, read_network, write_network
from unet_jax.program.optim import make_optimizer
from unet_jax.program.state import TrainState, start_state
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
    check: tuple[str | epath.Path, str | epath.Path] | None = None,
) -> RunInfo:
    """Make a run directory from a Keras file, for `load_run` and the commands `evaluate` and `predict`.

    Args:
      file: Keras file, see `read_network`.
      out: run directory to create.
      class_names: names of the output channels, in order; by default class0, class1, ...
      channels: order of the colour channels of the images that the Keras program fed to its network.
      image_size: height and width in pixels to which the Keras program resized its images; by default the size in the
        file, which only files of whole models contain.
      check: an image of that size, and the probabilities that the Keras program computed for it (`numpy.save`).
        `RunInfo.audit["largest_difference"]` is the largest difference from them.

    Returns:
      The contents of the new run's `run.json`.

    Raises:
      InputError: the file cannot be used, `out` holds a run already, the number of names is not that of the output
        channels, the file does not contain the size and `image_size` is missing, the network cannot take this size, or
        its probabilities are not those of `check`.

    Example:
      >>> import tempfile
      >>> import jax, numpy as np
      >>> from unet_jax import UNet
      >>> from unet_jax.config import ModelConfig
      >>> from unet_jax.interop import Network, export_keras, import_keras, write_network
      >>> config = ModelConfig(widths=(2,), center_width=2, num_convs_down=1, num_convs_up=1)
      >>> init = lambda: UNet(config, 2).init(jax.random.key(0), np.zeros((1, 4, 4, 3), np.float32), False)
      >>> weights = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), jax.eval_shape(init))
      >>> network = Network(config, 2, **weights, image_size=4)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     file, run = f"{folder}/keras.weights.h5", f"{folder}/run"
      ...     write_network(file, network)  # in place of a file that Keras wrote
      ...     info = import_keras(file, run, class_names=("cell", "nucleus"), image_size=4)
      ...     exported = export_keras(run, f"{folder}/again.weights.h5")
      >>> info.class_names, info.config.model.widths, exported.num_classes
      (('cell', 'nucleus'), (2,), 2)
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
    gray = network.num_channels == 1
    audit = {"imported_from": file.name, "channels": "gray" if gray else channels, "assumed": list(network.assumed)}
    if check is not None:
        audit["largest_difference"] = check_network(network, Check(*map(epath.Path, check)), file)
    image_format = ImageFormat(channels=(0,), file_channels=1) if gray else None
    info = RunInfo(config, names, {"train": [], "val": [], "test": []}, audit, current_versions(), image_format)
    state = _initial_state(info, network)
    with open_checkpoints(out, config) as store:
        # Marked as finished, because an imported network has no training to continue.
        store.save(0, state, progress=Progress(finished=True).to_dict(), metrics=None)
    save_info(out, info)  # written last, because a folder with run.json counts as a complete run
    return info


def _initial_state(info: RunInfo, network: Network) -> TrainState:
    """Return the state of a run at step 0 with the weights of the network."""
    params, batch_stats = jax.tree.map(jnp.asarray, (network.params, network.batch_stats))
    tx = make_optimizer(info.config.optim, info.num_steps)
    state = start_state(params, batch_stats, tx)
    wanted, actual = (jax.tree.map(lambda x: (x.shape, x.dtype), tree) for tree in (abstract_state(info), state))
    assert wanted == actual, "the U-Net has other parameters than the list of its convolutions says"
    return state


def export_keras(
    run: str | epath.Path,
    file: str | epath.Path,
    *,
    channels: Channels = "bgr",
    checkpoint: Literal["best", "last"] = "best",
) -> Network:
    """Write the network of a run as weights for Keras 3: the inverse of `import_keras`.

    Args:
      run: run directory.
      file: file to write; its name must end in `.weights.h5`.
      channels: order of the colour channels of the images that the Keras program feeds to its network.
      checkpoint: checkpoint to export, as in `load_run`.

    Returns:
      The network, as it was written, for RGB images.

    Raises:
      InputError: the folder holds no run or no checkpoint, the file name has another ending, or the network has
        something that the Keras original does not have.

    Example: see `import_keras`.
    """
    loaded = load_run(run, checkpoint)
    num_channels, bits = loaded.info.num_channels, 8 * loaded.info.image_dtype.itemsize
    if (num_channels, bits) != (3, 8):
        raise InputError(
            f"{loaded.path}: its images have {num_channels} channels of {bits} bits, but the Keras program reads "
            f"images of 3 channels and 8 bits. For other programs: unet-jax export {loaded.path} --to onnx --out "
            f"model.onnx"
        )
    params, batch_stats = jax.device_get((loaded.state.params, loaded.state.batch_stats))
    size = loaded.config.data.image_size
    network = Network(
        loaded.config.model, len(loaded.class_names), params, batch_stats, size if isinstance(size, int) else None
    )
    write_network(file, network, channels=channels)
    return network
