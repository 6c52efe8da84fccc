"""Runs on images that are not 8-bit RGB, from files to masks."""

import dataclasses

import cv2
import helpers
import numpy as np
import pytest
import tifffile
from etils import epath

import unet_jax
from unet_jax import InputError
from unet_jax.cli.main import main
from unet_jax.config.dicts import replace
from unet_jax.interop import export_keras


def with_images(root, out, convert):
    """A copy of a data set whose images are `convert(rgb)`, saved as arrays."""
    (out / "images").mkdir(parents=True)
    (out / "masks").symlink_to(root / "masks")
    (out / "splits.csv").symlink_to(root / "splits.csv")
    for path in (root / "images").iterdir():
        np.save(out / "images" / f"{path.stem}.npy", convert(cv2.imread(str(path))[..., ::-1]))
    return epath.Path(out)


def five_deep_channels(rgb):
    """12 bits, of which the lowest 4 are noise, and a hot pixel."""
    deep = np.concatenate([rgb, rgb[..., :2]], axis=-1).astype(np.uint16) * 16
    deep += np.random.default_rng(0).integers(0, 16, deep.shape, np.uint16)
    deep[0, 0] = 65535
    return deep


@pytest.fixture(scope="module")
def five(synthetic_root, tmp_path_factory):
    return with_images(synthetic_root, tmp_path_factory.mktemp("five") / "data", five_deep_channels)


@pytest.fixture(scope="module")
def run(five, tmp_path_factory):
    """One epoch on five channels of 12 bits, packed, from the disk cache."""
    out = tmp_path_factory.mktemp("five") / "run"
    config = replace(
        helpers.tiny_config(five, num_epochs=1, num_pictures=1),
        {
            "model.packing": "2",
            "data.cache": "disk",
            "data.cache_dir": str(out.parent / "cache"),
        },
    )
    helpers.run(config, out)
    return unet_jax.load_run(out, mesh=helpers.ONE_DEVICE)


@pytest.fixture(scope="module")
def rgb_run(synthetic_root, tmp_path_factory):
    out = tmp_path_factory.mktemp("rgb") / "run"
    helpers.run(helpers.tiny_config(synthetic_root, num_epochs=1), out)
    return unet_jax.load_run(out, mesh=helpers.ONE_DEVICE)


def test_channels_and_intensities_are_part_of_the_run(run):
    image_format = run.info.image_format
    assert image_format.channels == (0, 1, 2, 3, 4) and image_format.bits == 16
    assert all(2000 < high < 4096 for high in image_format.high)
    assert abs(image_format.high[0] - image_format.high[3]) < 64  # the fourth channel is the first one, but for noise
    assert run.state.params["down0"]["conv0"]["kernel"].shape == (3, 3, 5, 4)


def test_files_arrays_and_evaluation_agree(run, five, tmp_path, capsys):
    files = sorted((five / "images").iterdir())[:2]
    main(["predict", str(run.path), *map(str, files), "--out", str(tmp_path / "masks")])
    for file in files:
        probs = unet_jax.predict_probs(run, unet_jax.read_pixels(str(file))[None])[0]
        assert probs.shape == (32, 32, 2)
        for k, name in enumerate(run.class_names):
            mask = cv2.imread(str(tmp_path / "masks" / name / f"{file.stem}.png"), cv2.IMREAD_UNCHANGED)
            np.testing.assert_array_equal(mask > 0, probs[..., k] > run.threshold[k])
    main(["evaluate", str(run.path), "--data.root", str(five), "--split", "val"])
    main(["info", str(run.path)])
    assert "pixels: 5 channels; black to white is" in capsys.readouterr().out


def test_images_of_other_channels_are_refused_everywhere(run, synthetic_root, tmp_path):
    with pytest.raises(InputError, match="has 3 channels, but this run's images have 5"):
        unet_jax.predict_probs(run, np.zeros((1, 32, 32, 3), np.uint8))
    with pytest.raises(InputError, match="5 channels of 16 bits, but the Keras program reads"):
        export_keras(run.path, tmp_path / "x.weights.h5")
    config = dataclasses.replace(helpers.tiny_config(synthetic_root), init_from=str(run.path))
    config = dataclasses.replace(config, model=run.config.model)
    with pytest.raises(InputError, match="5 image channels there and 3 here"):
        helpers.run(config, tmp_path / "run")


def test_gray_files_make_a_network_of_one_channel(synthetic_root, tmp_path):
    root = with_images(synthetic_root, tmp_path / "data", lambda rgb: np.ascontiguousarray(rgb[..., 1]))
    helpers.run(helpers.tiny_config(root, num_epochs=1), tmp_path / "run")
    run = unet_jax.load_run(tmp_path / "run", mesh=helpers.ONE_DEVICE)
    assert run.info.num_channels == 1 and run.info.image_dtype == np.uint8
    assert run.state.params["down0"]["conv0"]["kernel"].shape == (3, 3, 1, 4)


def test_a_run_that_stored_no_format_reads_any_image_as_rgb(rgb_run, synthetic_root):
    """As runs of earlier versions do."""
    old = dataclasses.replace(rgb_run, info=dataclasses.replace(rgb_run.info, image_format=None))
    rgb = unet_jax.read_image(sorted((synthetic_root / "images").iterdir())[0])
    np.testing.assert_array_equal(unet_jax.predict_probs(old, rgb[None]), unet_jax.predict_probs(rgb_run, rgb[None]))
    assert old.info.num_channels == 3 and old.info.image_dtype == np.uint8


def test_masks_of_a_geotiff_keep_its_tags(rgb_run, synthetic_root, tmp_path):
    rgb = unet_jax.read_image(sorted((synthetic_root / "images").iterdir())[0])
    tags = {
        33550: (12, (0.5, 0.5, 0.0)),
        33922: (12, (0.0, 0.0, 0.0, 440720.0, 3751320.0, 0.0)),
        34735: (3, (1, 1, 0, 1, 1024, 0, 1, 1)),
    }
    extra = [(code, dtype, len(values), values, True) for code, (dtype, values) in tags.items()]
    tifffile.imwrite(tmp_path / "field.tif", rgb, photometric="rgb", extratags=extra)
    main(["predict", str(rgb_run.path), str(tmp_path / "field.tif"), "--out", str(tmp_path / "masks")])
    probs = unet_jax.predict_probs(rgb_run, rgb[None])[0]
    for k, name in enumerate(rgb_run.class_names):
        with tifffile.TiffFile(tmp_path / "masks" / name / "field.tif") as tif:
            for code, (_, values) in tags.items():
                assert tif.pages.first.tags[code].value == values
            np.testing.assert_array_equal(tif.asarray() > 0, probs[..., k] > 0.5)
