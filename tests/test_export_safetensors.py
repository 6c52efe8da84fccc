"""Weights in safetensors files, read by that package."""

import json

import jax
import numpy as np
import pytest
from export_runs import random_run, some_images
from safetensors import safe_open

from unet_jax import InputError
from unet_jax.config.dicts import config_from_dict
from unet_jax.export.safetensors_file import export_safetensors


def test_the_file_holds_the_weights_bit_for_bit(tmp_path):
    run = random_run()
    assert export_safetensors(run, tmp_path / "w.safetensors", some_images(run)).largest_difference < 1e-6
    with safe_open(tmp_path / "w.safetensors", "np") as file:
        metadata = file.metadata()
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert len(arrays) == len(jax.tree.leaves((run.state.params, run.state.batch_stats)))
    np.testing.assert_array_equal(arrays["params/up0/conv0/kernel"], run.state.params["up0"]["conv0"]["kernel"])
    np.testing.assert_array_equal(
        arrays["batch_stats/center/norm0/var"], run.state.batch_stats["center"]["norm0"]["var"]
    )
    assert config_from_dict(json.loads(metadata["config"])) == run.config
    assert json.loads(metadata["unet_jax"])["class_names"] == ["disk", "square"]
    with pytest.raises(InputError, match=r"does not end in \.safetensors"):
        export_safetensors(run, tmp_path / "w.bin", [])


@pytest.mark.slow  # one more network to compile
def test_half_precision_reports_how_far_it_is(tmp_path):
    run = random_run()
    agreement = export_safetensors(run, tmp_path / "w.safetensors", some_images(run), dtype="float16")
    assert 1e-5 < agreement.largest_difference < 0.01
    with safe_open(tmp_path / "w.safetensors", "np") as file:
        assert file.get_slice("params/head/kernel").get_dtype() == "F16"
