"""Runs with random weights, which were never trained nor saved: enough to export."""

import dataclasses

import jax
import numpy as np
from etils import epath
from helpers import ONE_DEVICE

from unet_jax.config import Config, DataConfig, ModelConfig, OptimConfig
from unet_jax.data.images.format import ImageFormat
from unet_jax.export.check import CheckImage
from unet_jax.metrics.calibration import Calibration
from unet_jax.metrics.object_rules import ObjectRules
from unet_jax.program.initial_state import make_model
from unet_jax.program.optim import make_optimizer
from unet_jax.program.state import start_state
from unet_jax.runs.info import RunInfo, save_info
from unet_jax.runs.load import Run, open_checkpoints
from unet_jax.runs.progress import Progress

NOTHING: dict[str, object] = {}
RULES = (ObjectRules(smallest_hole=3, smallest_object=4), ObjectRules(largest_only=True))
"""Rules for objects of two classes."""
SMALL = {"widths": (4,), "center_width": 6, "num_convs_down": 1, "num_convs_up": 1}


def random_run(
    image_format: ImageFormat | None = None,
    *,
    classes: tuple[str, ...] = ("disk", "square"),
    calibration: Calibration | None = None,
    size: int | tuple[int, int] = 16,
    data: dict[str, object] = NOTHING,
    **model: object,
) -> Run:
    """A run whose weights and running statistics are random numbers, so that nothing is 0 or 1 by chance."""
    config = Config(data=DataConfig(image_size=size, classes=classes, **data), model=ModelConfig(**{**SMALL, **model}))  # type: ignore
    info = RunInfo(config, classes, {"train": [], "val": [], "test": []}, {}, {}, image_format)
    network = make_model(config.model, len(classes))
    shape = (1, config.model.size_multiple, config.model.size_multiple, info.num_channels)
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), np.zeros(shape, np.float32), False))
    rng = np.random.default_rng(0)

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        name = path[-1].key
        if name == "kernel":
            gain = 4.0 if path[0].key == "head" else 2.0
            return rng.normal(0.0, np.sqrt(gain / np.prod(leaf.shape[:3])), leaf.shape).astype(np.float32)
        low, high = {"scale": (0.5, 1.5), "var": (0.3, 0.8)}.get(name, (-0.3, 0.3))
        return rng.uniform(low, high, leaf.shape).astype(np.float32)

    variables = jax.tree_util.tree_map_with_path(draw, shapes)
    state = start_state(variables["params"], variables.get("batch_stats", {}), make_optimizer(OptimConfig(), 1))
    return Run(epath.Path("random"), 0, state, config, classes, info, {"dice": 0.5}, ONE_DEVICE, calibration)


def random_image(run: Run, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Random pixels as the network sees them."""
    white = np.iinfo(run.info.image_dtype).max
    shape = (height, width, run.info.num_channels)
    return np.random.default_rng(seed).integers(0, white, shape, run.info.image_dtype, endpoint=True)


def some_images(run: Run, *sizes: tuple[int, int]) -> list[CheckImage]:
    """Images of given sizes, by default a square, an odd and a tiny one."""
    sizes = sizes or ((16, 16), (21, 40), (5, 3))
    return [CheckImage(f"{h}x{w}", random_image(run, h, w, seed), None) for seed, (h, w) in enumerate(sizes)]


def save_run(run: Run, path: epath.Path, **info: object) -> None:
    """Write a random run as a run directory."""
    with open_checkpoints(path, run.config) as store:
        state = jax.tree.map(jax.numpy.asarray, run.state)
        store.save(0, state, progress=Progress(finished=True).to_dict(), metrics=None)
    save_info(path, dataclasses.replace(run.info, **info))
