"""StableHLO programs of several platforms, loaded without the run."""

import dataclasses
import io
import re

import numpy as np
import pytest
from export_runs import RULES, random_image, random_run, some_images

import unet_jax
from unet_jax import InputError, predict_images, predict_masks, predict_probs_unresized
from unet_jax.config.packing import num_subpixels
from unet_jax.config.predict import PredictConfig
from unet_jax.data.images.format import ImageFormat
from unet_jax.export import exported, stablehlo
from unet_jax.export.contract import About, make_contract
from unet_jax.export.stablehlo import PLATFORMS, export_stablehlo
from unet_jax.metrics.calibration import Calibration
from unet_jax.model.packing import level_factors

DEEP = ImageFormat((0, 1), 2, 16, (100.0, 0.0), (4000.0, 60000.0))
RUNS = {
    "uint8": (None, None, {"widths": (8,), "center_width": 16}, PLATFORMS),
    "limits, calibrated, group norm": (
        DEEP,
        Calibration((2.0, 0.5), (0.4, 0.7)),
        {"norm": "group", "group_size": 2},
        ("cpu",),
    ),
}


def convolutions(program):
    """Numbers of channels of the results of the convolutions in a program's text."""
    return set(map(int, re.findall(r"stablehlo.convolution.*-> tensor<[^>]*x(\d+)xf32>", program.mlir_module())))


@pytest.mark.parametrize("name", ["uint8", pytest.param("limits, calibrated, group norm", marks=pytest.mark.slow)])
def test_a_loaded_program_gives_what_the_run_gives(name, tmp_path):
    image_format, calibration, model, platforms = RUNS[name]
    run = random_run(image_format, calibration=calibration, **model)
    agreement = export_stablehlo(run, tmp_path / "m.stablehlo", some_images(run), platforms=platforms)
    assert agreement.num_images == 3 and agreement.largest_difference < 1e-5 and agreement.differing == {}
    loaded = unet_jax.load_exported(tmp_path / "m.stablehlo")
    if "tpu" in platforms:  # blocks of 2x2 pixels with 8 channels, beside the same layer unpacked
        assert {8, 32} <= convolutions(loaded.program)
    assert loaded.class_names == run.class_names and loaded.program.platforms == tuple(platforms)
    rng = np.random.default_rng(0)
    shape, dtype = (2, 11, 30, len(image_format.channels) if image_format else 3), run.info.image_dtype
    numbers = rng.integers(0, np.iinfo(dtype).max, shape, dtype)
    np.testing.assert_allclose(loaded(numbers), predict_probs_unresized(run, numbers), atol=1e-5)
    for actual, expected in zip(loaded.predict_images(numbers), predict_images(run, numbers), strict=True):
        np.testing.assert_allclose(actual, expected, atol=1e-5)
        np.testing.assert_array_equal(actual > loaded.threshold, expected > run.threshold)
    with pytest.raises(InputError, match=r"images have shape .* and dtype \w+, but must be \[batch height width"):
        loaded(numbers.astype(np.float64)) if dtype == np.uint8 else loaded(numbers[0])


def test_a_loaded_program_follows_the_fit_of_training(tmp_path):
    run = random_run(data={"fit": "crop", "scale": 0.8}, calibration=Calibration((2.0, 0.5), (0.4, 0.6), RULES))
    path = tmp_path / "m.stablehlo"
    crop = PredictConfig(overlap=0.5, blend="trapezoid")
    agreement = export_stablehlo(run, path, some_images(run, (21, 40), (1, 30)), platforms=("cpu",), how=crop)
    assert agreement.num_pixels == (21 * 40 + 30) * 2 and agreement.differing == {}
    loaded = unet_jax.load_exported(path)
    pad = PredictConfig(fit="pad")
    padding = dataclasses.replace(loaded, contract=make_contract(run, "pixels", "uint8", About(), pad))
    images = [random_image(run, *size) for size in ((37, 3), (16, 16), (50, 61))]
    for network, how in ((loaded, crop), (padding, pad)):
        for actual, expected in zip(network.predict_images(images), predict_images(run, images, how), strict=True):
            np.testing.assert_allclose(actual, expected, atol=1e-5)
            np.testing.assert_array_equal(actual > loaded.threshold, expected > run.threshold)
        for masks, expected in zip(network.predict_masks(images), predict_masks(run, images, how), strict=True):
            np.testing.assert_array_equal(masks, expected)


def test_a_tpu_gets_the_packed_program_from_any_machine(tmp_path, monkeypatch):
    run = random_run(widths=(8,), center_width=16)
    path = tmp_path / "m.stablehlo"
    export_stablehlo(run, path, some_images(run, (16, 16)), platforms=("tpu",))
    with pytest.raises(InputError, match=r"was exported for tpu, but jax runs on cpu here\. .*--platforms cpu"):
        unet_jax.load_exported(path)
    monkeypatch.setattr(exported, "platform_here", lambda: "tpu")
    loaded = unet_jax.load_exported(path)
    assert loaded.program.platforms == ("tpu",)
    channels = 8 * num_subpixels(level_factors(run.config.model, "tpu")[0])
    assert channels == 32 and channels in convolutions(loaded.program)


def test_a_program_that_differs_is_not_written(tmp_path, monkeypatch):
    """A wrong program for a platform that is not here is found too."""
    run = random_run()
    right = stablehlo.build_logits

    def wrong(config, num_classes, backend):
        logits = right(config, num_classes, backend)
        return (lambda *args: logits(*args) + 0.01) if backend == "tpu" else logits

    monkeypatch.setattr(stablehlo, "build_logits", wrong)
    with pytest.raises(InputError, match=r"m\.stablehlo: the program for tpu: not written, because image 16x16"):
        export_stablehlo(run, tmp_path / "m.stablehlo", some_images(run, (16, 16)), platforms=("cpu", "tpu"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow  # one more network to compile
def test_half_precision_reports_how_far_it_is(tmp_path):
    run = random_run()
    path = tmp_path / "m.stablehlo"
    agreement = export_stablehlo(run, path, some_images(run), platforms=("cpu",), dtype="bfloat16")
    assert 1e-4 < agreement.largest_difference < 0.1
    assert "bf16" in unet_jax.load_exported(path).program.mlir_module()


def test_damaged_and_foreign_files_are_named(tmp_path):
    run = random_run()
    path = tmp_path / "m.stablehlo"
    export_stablehlo(run, path, some_images(run, (16, 16)), platforms=("cpu",))
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for position in rng.integers(0, len(whole), 40):  # a flipped bit changes no number without a word
        damaged = bytearray(whole)
        damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(damaged))
        try:
            loaded = unet_jax.load_exported(path)
        except InputError as error:
            assert str(error).startswith(str(path))
            continue
        assert loaded.contract == exported.load_archive(io.BytesIO(whole), "").contract
        numbers = np.zeros((1, 4, 4, 3), np.uint8)
        np.testing.assert_array_equal(loaded(numbers), exported.load_archive(io.BytesIO(whole), "")(numbers))
    for content in (b"", whole[:1000], b"no archive"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"m\.stablehlo: is damaged, or was not made by unet-jax export"):
            unet_jax.load_exported(path)
    with pytest.raises(InputError, match="there is no such file"):
        unet_jax.load_exported(tmp_path / "none.stablehlo")
    with pytest.raises(InputError, match=r"m\.bin: does not end in \.stablehlo"):
        export_stablehlo(run, tmp_path / "m.bin", [])
