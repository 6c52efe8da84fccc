"""Training from arrays and other sources of samples in Python, without folders of files."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from etils import epath
from jax.sharding import Mesh

from unet_jax._types import InputError
from unet_jax.config import Config
from unet_jax.config.dicts import flatten_config, replace
from unet_jax.config.presets import default
from unet_jax.data.written_source import SampleSource, names_of_classes, write_sources
from unet_jax.devices.processes import is_first, wait_for_all
from unet_jax.program.optim import MakeOptimizer
from unet_jax.report.display import Display
from unet_jax.training.loop import TrainResult, train
from unet_jax.training.session import EvaluationCallback


def fit(
    train_source: SampleSource,
    val_source: SampleSource | None = None,
    config: Config | None = None,
    out: str | epath.Path = "run",
    *,
    loss: Callable[..., Any] | None = None,
    network: Any = None,
    optimizer: MakeOptimizer | None = None,
    callbacks: Sequence[EvaluationCallback] = (),
    test_source: SampleSource | None = None,
    display: Display | None = None,
    mesh: Mesh | None = None,
) -> TrainResult:
    """Train on arrays, or on any source of samples, without folders of files.

    The samples are read once and written without loss below `out/data`. So everything that works with files works
    here: the same call continues a run that was stopped, and the commands `evaluate`, `predict` and `info` know it.

    Args:
      train_source: an `ArraySource`, or anything with `__len__` and `__getitem__` that returns `Sample(image, mask)` or
        a pair of arrays as `ArraySource` takes them; a third one says which pixels are not ignored. It may have
        `class_names` and `ids`.
      val_source: the same, for choosing the checkpoint; by default a part of the training samples
        (`data.val_fraction`).
      config: settings of the run, without `data.root`; by default those of the preset "default".
      out: run directory, on a local disk.
      loss: loss of your own, in the place of the config's: a function `(logits, labels, *, weight=None)` of `[b h w k]`
        (docs/losses.md). It must be at the top level of a module or notebook, because the run stores its name.
      network, optimizer, callbacks: the same as in `unet_jax.train`.
      test_source: samples that training does not use, for `unet-jax evaluate`.
      display, mesh: the same as in `unet_jax.train`.

    Returns:
      The last step, and the best checkpoint with its scores; `history` has the learning curves.

    Raises:
      InputError: a sample or a setting cannot be used, or `out` holds a run of other samples or settings.

    Example:
      >>> import tempfile
      >>> import numpy as np
      >>> import unet_jax
      >>> images = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), np.uint8)
      >>> source = unet_jax.ArraySource(images, images[..., :1] > 128, ["bright"])
      >>> settings = {"data.image_size": 32, "train.num_epochs": 1, "model.widths": (4,), "model.center_width": 8}
      >>> config = unet_jax.replace(unet_jax.PRESETS["small"](), settings)
      >>> result = unet_jax.fit(source, config=config, out=tempfile.mkdtemp() + "/run")
      >>> result.step, sorted(result.best_metrics), len(result.history)
      (1, ['dice', 'loss'], 1)
    """
    if "://" in str(out):
        raise InputError(f"out is {str(out)!r}, but must be a local folder, because the samples are written into it.")
    folder = Path(out) / "data"
    config = config or default()
    if loss is not None:
        config = replace(config, {"loss.terms": [{"name": _name_of(loss)}]})
    if not len(train_source):
        raise InputError("the training source has no samples.")
    given = {"train": train_source, "val": val_source, "test": test_source}
    sources = {split: source for split, source in given.items() if source is not None}
    class_names = names_of_classes(train_source)
    ours = {"data.root": str(folder), "data.splits": str(folder / "splits.csv"), "data.classes": class_names}
    for name, value in ours.items():
        given_value = flatten_config(config)[name]
        if given_value and given_value != value:
            raise InputError(
                f"{name} is {given_value!r}, but fit trains on the sources that it is given. Leave {name} out, or use "
                f"unet_jax.train for a folder."
            )
    if is_first():
        write_sources(folder, sources, class_names)
    wait_for_all("written")
    given = {"network": network, "optimizer": optimizer, "callbacks": callbacks}
    return train(replace(config, ours), out, display=display, mesh=mesh, **given)


def _name_of(function: Callable[..., Any]) -> str:
    """Return the name of a function as 'module:function'.

    Raises:
      InputError: the function cannot be found again by such a name.
    """
    module, name = getattr(function, "__module__", ""), getattr(function, "__qualname__", "")
    if not name or getattr(sys.modules.get(module), name, None) is not function:
        raise InputError(
            f"the loss {name or function!r} cannot be found again by its name, so a run could not be continued: define "
            f"it by def, at the top level of a module or notebook."
        )
    return f"{module}:{name}"
