"""The export of a run's weights to a safetensors file."""

import dataclasses
import json
from collections.abc import Iterable
from typing import Any, Literal

import jax
import numpy as np
from etils import epath

from unet_jax._files import replace_bytes
from unet_jax.config.dicts import config_to_dict
from unet_jax.export.check import TOLERANCE, Agreement, CheckImage, Target, compare
from unet_jax.export.contract import KEY, NOTHING, About, checked_name, make_contract
from unet_jax.export.file_digest import EMPTY, NAME, with_digest
from unet_jax.export.folded import without_supervision
from unet_jax.program.build import build_logits
from unet_jax.runs.load import Run


def export_safetensors(
    run: Run,
    out: str | epath.Path,
    images: Iterable[CheckImage],
    *,
    about: About = NOTHING,
    dtype: Literal["float32", "float16"] = "float32",
    on_progress: Any = lambda done: None,
) -> Agreement:
    """Write the weights of a run as a safetensors file, for programs that have the network but not the run.

    The names of the arrays are those of the parameters: `params/down0/conv0/kernel`, `batch_stats/down0/norm0/mean`.
    Kernels are `[height width inputs outputs]`. The metadata holds `unet_jax`, the JSON object of every export,
    `config`, the settings of the run, and a digest (`unet_jax.export.file_digest`).

    The file is read again before it gets its name, and the network with the weights that were read is compared with the
    run.

    Args:
      run: run from `load_run`.
      out: file to write; its name must end in `.safetensors`.
      images: images to check the export with, from `split_images` or `given_images`.
      about: licence, authors and description for the metadata.
      dtype: type of the arrays. With float16 the differences are reported, and not bounded.
      on_progress: called with the number of images checked.

    Returns:
      What the check found.

    Raises:
      InputError: the name has another ending, or the weights that were read differ.

    Example:
      >>> run = unet_jax.load_run("RUN")  # doctest: +SKIP
      >>> export_safetensors(run, "w.safetensors", given_images(run, ["a.png"])).largest_difference  # doctest: +SKIP
      0.0
    """
    from safetensors.numpy import load, save

    out = checked_name(out, ".safetensors", "weights.safetensors")
    params, batch_stats = jax.device_get((run.state.params, run.state.batch_stats))
    leaves, tree = jax.tree_util.tree_flatten_with_path(
        {"params": without_supervision(params), "batch_stats": batch_stats}
    )
    names = ["/".join(key.key for key in path) for path, _ in leaves]
    arrays = {name: np.ascontiguousarray(x, dtype) for name, (_, x) in zip(names, leaves, strict=True)}
    contract = make_contract(run, "weights", dtype, about)
    config = json.dumps(config_to_dict(run.config))

    again = load(save(arrays))
    weights = jax.tree_util.tree_unflatten(tree, [np.asarray(again[name], np.float32) for name in names])
    step = jax.jit(build_logits(dataclasses.replace(run.config.model, dtype="float32"), len(run.class_names), "cpu"))
    white = float(np.iinfo(run.info.image_dtype).max)

    def network(pixels: np.ndarray) -> np.ndarray:
        with jax.default_matmul_precision("highest"):
            return np.asarray(jax.nn.sigmoid(step(weights, pixels.astype(np.float32) / np.float32(white))))

    tolerance = TOLERANCE if dtype == "float32" else None
    target = Target(network, None)
    agreement = compare(run, target, images, tolerance=tolerance, name=str(out), on_progress=on_progress)
    contract["check"] = dataclasses.asdict(agreement)
    out.parent.mkdir(parents=True, exist_ok=True)
    metadata = {KEY: json.dumps(contract), "config": config, NAME: EMPTY}
    replace_bytes(out, with_digest(save(arrays, metadata=metadata)))
    return agreement
