"""Images whose height and width differ, through a whole run."""

import jax
import numpy as np
import pytest
from helpers import ONE_DEVICE, run, tiny_config

from unet_jax import load_run, predict_probs
from unet_jax.config.dicts import replace
from unet_jax.devices.mesh import make_mesh

HEIGHT, WIDTH = 16, 48
EXACT_ON_DEVICES = {"augment.color_prob": 0.0, "augment.geometry_prob": 0.0, "augment.vertical_flip_prob": 0.5}


@pytest.fixture(scope="module")
def config(synthetic_root):
    settings = {"data.image_size": (HEIGHT, WIDTH), "optim.name": "sgd", "train.num_epochs": 1, **EXACT_ON_DEVICES}
    return replace(tiny_config(synthetic_root), settings)


@pytest.fixture(scope="module")
def trained(config, tmp_path_factory):
    """A run in the simplest way: one device, unpacked, augmented on the host, cached in memory."""
    path = tmp_path_factory.mktemp("run")
    run(config, path)
    return load_run(path, "last", mesh=ONE_DEVICE)


def test_rows_and_columns_are_not_confused_by_packing_meshes_devices_and_caches(config, trained, tmp_path):
    """A mix-up of the two would fail, or change the pixels: the height divides no width and the reverse."""
    other = {"model.packing": "2", "augment.where": "device", "data.cache": "disk", "data.cache_dir": str(tmp_path)}
    run(
        replace(config, {**other, "train.devices_per_image": 2}),
        tmp_path / "run",
        mesh=make_mesh(jax.devices()[:4], space=2),
    )
    found = load_run(tmp_path / "run", "last", mesh=ONE_DEVICE)
    assert found.step == trained.step > 0
    for a, b in zip(jax.tree.leaves(found.state.params), jax.tree.leaves(trained.state.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_predictions_have_the_images_own_sizes(trained):
    images = np.random.default_rng(0).integers(0, 256, (2, 20, 31, 3), np.uint8)
    assert predict_probs(trained, images).shape == (2, 20, 31, 2)
