"""Strict JAX, eight fake devices, and what several test files share."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

import hypothesis
import jax
import pytest
from etils import epath

from unet_jax.data.synthetic import write_synthetic

jax.config.update("jax_numpy_rank_promotion", "raise")
# Compiling is most of the suite's time; equal programs of several tests and runs are compiled once.
jax.config.update("jax_compilation_cache_dir", os.path.join(os.path.dirname(__file__), ".jax_cache"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)

hypothesis.settings.register_profile("unet_jax", deadline=None, max_examples=25, derandomize=True)
hypothesis.settings.load_profile("unet_jax")


@pytest.fixture(scope="session")
def synthetic_root(tmp_path_factory: pytest.TempPathFactory) -> epath.Path:
    """Thirty synthetic images of 32x32 pixels with two overlapping classes."""
    root = epath.Path(tmp_path_factory.mktemp("synthetic"))
    write_synthetic(root, num_images=30, image_size=32, num_classes=2, seed=0)
    return root
