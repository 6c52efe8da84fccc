"""ONNX files in onnxruntime against the network in jax, and the script beside them against `unet-jax predict`."""

import dataclasses
import json
import subprocess
import sys

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import tifffile
from etils import epath
from export_runs import RULES, random_image, random_run, some_images

from unet_jax import InputError, predict_images, predict_masks, predict_probs_unresized
from unet_jax.config.predict import PredictConfig
from unet_jax.data.images.format import ImageFormat
from unet_jax.data.images.rows import rows_of
from unet_jax.data.images.scaling import scaled
from unet_jax.export import onnx_model, predict_onnx, predict_onnx_tiles
from unet_jax.export.contract import About, make_contract
from unet_jax.export.onnx_model import export_heads, export_onnx
from unet_jax.inference.folder import predict_files
from unet_jax.inference.inputs import find_inputs
from unet_jax.metrics.calibration import Calibration
from unet_jax.model.receptive_field import receptive_radius
from unet_jax.program.tiles import Tiling

SIXTEEN = ImageFormat((0, 1), 2, 16, (100.0, 0.0), (4000.0, 60000.0))
LEAKY = {"activation": "leaky_relu", "deep_supervision": 1}
NETWORKS = {
    "batch norm": (None, {"widths": (3, 4), "num_convs_down": 2}),
    "group norm, five channels": (ImageFormat(tuple(range(5)), 5), {"norm": "group", "group_size": 2}),
    "no norm, packed, gray": (ImageFormat((0,), 1), {"norm": "none", "packing": "2"}),
    "bfloat16": (None, {"dtype": "bfloat16"}),
    "resnet18": (None, {"encoder": "resnet18", "encoder_input": "imagenet", "decoder_widths": (4,) * 5, "size": 32}),
    "residual, leaky": (None, {"widths": (4, 6), "encoder_block": "residual", "num_convs_down": 2} | LEAKY),
}


def run_onnx(path, **feeds):
    session = onnxruntime.InferenceSession(str(path))
    return session.run(["probabilities"], feeds)[0]


SLOW = pytest.mark.slow  # one more network to compile


@pytest.mark.parametrize(
    "name", [*list(NETWORKS)[:2], *(pytest.param(name, marks=SLOW) for name in list(NETWORKS)[2:])]
)
def test_every_kind_of_network_gives_the_probabilities_of_the_run(name, tmp_path):
    image_format, model = NETWORKS[name]
    run = random_run(image_format, **model)
    agreement = export_onnx(run, tmp_path / "m.onnx", some_images(run))
    assert agreement.num_images == 3 and agreement.largest_difference < 1e-5
    if model.get("dtype") != "bfloat16":  # whose masks are stated, and not equal
        assert agreement.differing == {}
        image = np.stack([random_image(run, 13, 7, seed) for seed in (1, 2)])  # any batch, any size
        expected = predict_probs_unresized(run, image)
        assert expected.std() > 0.02
        np.testing.assert_allclose(run_onnx(tmp_path / "m.onnx", pixels=image), expected, atol=1e-5)


def test_the_file_says_what_it_is(tmp_path):
    run = random_run(SIXTEEN, calibration=Calibration((2.0, 0.5), (0.4, 0.7)))
    about = About("CC-BY-4.0", ("A. Person",), "Finds things.")
    export_onnx(run, tmp_path / "m.onnx", some_images(run), about=about)
    metadata = onnxruntime.InferenceSession(str(tmp_path / "m.onnx")).get_modelmeta().custom_metadata_map
    assert (metadata["license"], metadata["description"]) == ("CC-BY-4.0", "Finds things.")
    contract = json.loads(metadata["unet_jax"])
    assert contract["class_names"] == ["disk", "square"] and contract["thresholds"] == pytest.approx([0.4, 0.7])
    assert contract["temperatures"] == [2.0, 0.5] and contract["authors"] == ["A. Person"]
    assert contract["input"] == {"dtype": "uint16", "channels": 2, "size_multiple": 2}
    assert contract["fit"] == {"kind": "stretch", "height": 16, "width": 16}
    assert contract["images"]["high"] == [4000.0, 60000.0] and contract["scores"] == {"dice": 0.5}
    assert contract["check"]["num_images"] == 3 and contract["versions"]["jax"]


def test_intensities_and_temperatures_are_inside(tmp_path):
    """Numbers of files go in, and what the library's Python functions make of them comes out."""
    run = random_run(SIXTEEN, calibration=Calibration((2.0, 0.5), (0.4, 0.7)))
    export_onnx(run, tmp_path / "m.onnx", some_images(run))
    numbers = np.random.default_rng(0).integers(0, 2**16, (1, 16, 16, 2), np.uint16)
    expected = predict_probs_unresized(run, numbers)
    np.testing.assert_allclose(run_onnx(tmp_path / "m.onnx", pixels=numbers), expected, atol=1e-5)
    assert np.abs(expected - predict_probs_unresized(dataclasses.replace(run, calibration=None), numbers)).max() > 0.05


@pytest.mark.parametrize("low", [-1000.0, pytest.param(0.25, marks=SLOW)])
def test_files_of_signed_and_float_numbers_go_in_as_float32(low, tmp_path):
    run = random_run(ImageFormat((0,), 1, 16, (low,), (3000.0,)))
    export_onnx(run, tmp_path / "m.onnx", some_images(run))
    numbers = np.random.default_rng(0).uniform(-1500.0, 3500.0, (1, 16, 16, 1)).astype(np.float32)
    expected = predict_probs_unresized(run, numbers)
    np.testing.assert_allclose(run_onnx(tmp_path / "m.onnx", pixels=numbers), expected, atol=2e-5)


@pytest.mark.parametrize(
    ("image_format", "calibration"),
    [
        (None, None),
        pytest.param(ImageFormat((0,), 1), Calibration((3.0, 0.2), (0.45, 0.6)), marks=SLOW),
        (SIXTEEN, Calibration((2.0, 0.5), (0.4, 0.7), RULES)),
        pytest.param(ImageFormat((1, 0), 2, 16, percentiles=(1.0, 99.0)), None, marks=SLOW),
        pytest.param(ImageFormat((0, 1, 2), 3, 16), None, marks=SLOW),
    ],
    ids=["old run", "gray", "limits", "percentiles", "depth"],
)
def test_the_functions_of_the_script_are_those_of_the_library(image_format, calibration, tmp_path):
    run = random_run(image_format, calibration=calibration)
    export_onnx(run, tmp_path / "m.onnx", some_images(run))
    model = predict_onnx.load_model(str(tmp_path / "m.onnx"))
    channels, deep = (image_format.file_channels, image_format.bits == 16) if image_format else (3, False)
    rng = np.random.default_rng(1)
    changed = False
    for size in ((16, 16), (9, 33), (40, 40), (1, 1)):
        image = rng.integers(0, 2**16 if deep else 256, (*size, channels), np.uint16 if deep else np.uint8)
        (expected,) = predict_images(run, [image])
        seen = predict_onnx.map_intensities(image, "", model.contract["images"]) if image_format else image
        np.testing.assert_allclose(predict_onnx.predict_probs(model, seen), expected, atol=1e-5)
        (masks,) = predict_masks(run, [image])
        np.testing.assert_array_equal(predict_onnx.predict_masks(model, seen), masks)
        changed |= bool((masks != (expected > run.threshold)).any())
    assert changed == bool(calibration and calibration.rules)


def write_files(folder):
    """Image files of many kinds, as 8-bit RGB or gray."""
    rng = np.random.default_rng(0)
    color, gray = (rng.integers(0, 256, size, np.uint8) for size in ((30, 50, 3), (17, 12)))
    (folder / "sub").mkdir(parents=True)
    for name in ("a.png", "sub/b.jpg", "c.bmp", "d.webp", "e.ppm"):
        cv2.imwrite(str(folder / name), color)
    cv2.imwrite(str(folder / "f.png"), gray)
    cv2.imwrite(str(folder / "g.png"), np.dstack([color, gray.repeat(30 * 50 // 100, 0)[:30, :1].repeat(50, 1)]))
    tifffile.imwrite(folder / "h.tif", color, photometric="rgb", compression="zlib")
    tifffile.imwrite(folder / "i.tiff", gray, photometric="minisblack")
    np.save(folder / "j.npy", color)


WITHOUT = """
import sys
class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("jax", "jaxlib", "flax", "unet_jax", "scipy", "PIL", "tifffile", "onnx", "etils"):
            raise ImportError(f"{name} must not be imported")
sys.meta_path.insert(0, Refusing())
sys.path.insert(0, sys.argv.pop(1))
import predict_onnx
sys.exit(predict_onnx.main(sys.argv[1:]))
"""


def test_the_script_writes_the_masks_of_predict_without_jax(tmp_path):
    crops = {"fit": "crop", "scale": 0.9}
    run = random_run(ImageFormat(), calibration=Calibration((1.5, 0.5), (0.4, 0.6), RULES), data=crops)
    export_onnx(run, tmp_path / "model" / "m.onnx", some_images(run))
    write_files(tmp_path / "images")
    (tmp_path / "images" / "bad.png").write_bytes(b"no image")
    script = [sys.executable, "-I", "-c", WITHOUT, str(tmp_path / "model")]
    command = [*script, str(tmp_path / "model" / "m.onnx"), str(tmp_path / "images"), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "bad.png: is not an image that OpenCV can decode (8 bytes)" in done.stderr
    assert "10 of 11 images predicted" in done.stdout
    (tmp_path / "images" / "bad.png").unlink()
    list(predict_files(run, find_inputs([str(tmp_path / "images")]), epath.Path(tmp_path / "wanted")))
    names = sorted(p.relative_to(tmp_path / "wanted") for p in (tmp_path / "wanted").rglob("*.png"))
    names = [name for name in names if name.parts[0] != "overlay"]
    assert len(names) == 20
    shares = []
    for name in names:
        expected, actual = (cv2.imread(str(tmp_path / f / name), cv2.IMREAD_UNCHANGED) for f in ("wanted", "out"))
        shares.append((expected > 0).mean())
        np.testing.assert_array_equal(expected, actual, err_msg=str(name))
    assert 0.1 < np.mean(shares) < 0.9  # not masks that are all black or white


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"photometric": "miniswhite"}, "photometric interpretation 0"),
        ({"photometric": "rgb", "extrasamples": ["unassalpha"], "shape": (9, 9, 4)}, "photometric interpretation 2"),
        ({"photometric": "minisblack", "shape": (2, 9, 9)}, "several pages"),
        ({"photometric": "minisblack", "shape": (2, 9, 9), "imagej": True}, "several pages"),
        ({"photometric": "rgb", "planarconfig": "separate", "shape": (3, 9, 9)}, "planes apart"),
        ({"photometric": "minisblack", "extratags": [(274, 3, 1, 6, True)]}, "orientation 6"),
        ({"photometric": "minisblack", "compression": "zstd"}, "compression 50000"),
        ({"photometric": "minisblack", "dtype": np.int16}, r"bits \[16\]"),
        ({"photometric": "minisblack", "bigtiff": True}, "it does not begin as one"),
    ],
)
def test_tiff_files_that_opencv_reads_differently_are_refused_by_name(options, reason, tmp_path):
    shape, dtype = options.pop("shape", (9, 9)), options.pop("dtype", np.uint8)
    tifffile.imwrite(tmp_path / "x.tif", np.arange(np.prod(shape)).reshape(shape).astype(dtype), **options)
    with pytest.raises(predict_onnx.PredictError, match=rf"x\.tif: .*{reason}"):
        predict_onnx.read_image(tmp_path / "x.tif", None)


def test_a_graph_that_differs_is_not_written(tmp_path, monkeypatch):
    run = random_run()
    right = onnx_model.make_network

    def wrong(config, layers, **options):
        return right(config, [layer._replace(bias=layer.bias + 0.01) for layer in layers], **options)

    monkeypatch.setattr(onnx_model, "make_network", wrong)
    with pytest.raises(InputError, match=r"m\.onnx: not written, because image 16x16 has the probability .* more than"):
        export_onnx(run, tmp_path / "m.onnx", some_images(run))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow  # int8 is tried with every run
def test_half_precision_reports_how_far_it_is(tmp_path):
    run = random_run()
    agreement = export_onnx(run, tmp_path / "m.onnx", some_images(run), dtype="float16")
    assert 1e-5 < agreement.largest_difference < 0.02
    kinds = {i.data_type for i in onnx.load(tmp_path / "m.onnx").graph.initializer if i.name.endswith("kernel")}
    assert kinds == {onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT}  # the last layer stays


def test_eight_bits_report_how_far_they_are(tmp_path):
    run = random_run(SIXTEEN, norm="group", group_size=2)
    images = [check._replace(masks=np.zeros((*check.image.shape[:2], 2), bool)) for check in some_images(run)]
    agreement = export_onnx(run, tmp_path / "m.onnx", images, dtype="int8", calibration_images=images)
    assert 1e-4 < agreement.largest_difference < 0.2
    assert (
        agreement.dice and set(agreement.dice) == {"run", "export"} and "mean Dice of the run" in agreement.describe()
    )
    model = onnx.load(tmp_path / "m.onnx")
    types = {i.data_type for i in model.graph.initializer if "kernel" in i.name and "quantized" in i.name}
    assert onnx.TensorProto.INT8 in types
    assert json.loads(next(p.value for p in model.metadata_props if p.key == "unet_jax"))["class_names"]
    with pytest.raises(InputError, match="no image to measure the ranges"):
        export_onnx(run, tmp_path / "n.onnx", images, dtype="int8")


def test_heads_are_what_deepness_reads(tmp_path):
    run = random_run(calibration=Calibration((2.0, 0.5), (0.4, 0.4)))
    export_heads(run, tmp_path / "m.onnx", some_images(run))
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"))
    (image,), outputs = session.get_inputs(), session.get_outputs()
    assert (image.type, image.shape) == ("tensor(float)", ["batch", 3, 16, 16])
    assert [(o.name, o.shape[1:]) for o in outputs] == [
        ("probabilities/disk", [1, 16, 16]),
        ("probabilities/square", [1, 16, 16]),
    ]
    pixels = random_image(run, 16, 16)
    heads = session.run(None, {"image": (pixels.transpose(2, 0, 1)[None] / 255.0).astype(np.float32)})
    expected = predict_probs_unresized(run, pixels[None])[0]
    np.testing.assert_allclose(np.concatenate(heads, axis=1)[0].transpose(1, 2, 0), expected, atol=1e-5)
    texts = session.get_modelmeta().custom_metadata_map
    metadata = {key: json.loads(value) for key, value in texts.items() if key != "unet_jax_sha256"}
    assert metadata["model_type"] == "Segmentor" and metadata["tile_size"] == 16
    assert metadata["class_names"] == [{"0": "disk"}, {"0": "square"}]
    assert metadata["seg_thresh"] == pytest.approx(0.4)
    with pytest.raises(predict_onnx.PredictError, match="was exported with --heads"):
        predict_onnx.load_model(str(tmp_path / "m.onnx"))


def test_what_cannot_be_exported_is_refused(tmp_path):
    run = random_run()
    with pytest.raises(InputError, match=r"model\.bin: does not end in \.onnx"):
        export_onnx(run, tmp_path / "model.bin", some_images(run))
    with pytest.raises(InputError, match="there is no image to check it with"):
        export_onnx(run, tmp_path / "m.onnx", [])
    (tmp_path / "predict_onnx.py").write_text("mine = 1\n")
    with pytest.raises(InputError, match=r"predict_onnx\.py: is there already and is not the script"):
        export_onnx(run, tmp_path / "m.onnx", some_images(run))
    assert not (tmp_path / "m.onnx").exists()
    with pytest.raises(InputError, match="more than 8 bits, which QGIS Deepness does not read"):
        export_heads(random_run(SIXTEEN), tmp_path / "m.onnx", [])
    uneven = random_run(calibration=Calibration((1.0, 1.0), (0.4, 0.6)))
    with pytest.raises(InputError, match=r"thresholds differ .* Export without --calibrated"):
        export_heads(uneven, tmp_path / "m.onnx", [])
    strange = dataclasses.replace(
        run, state=dataclasses.replace(run.state, params={**run.state.params, "more": {"x": 1}})
    )
    with pytest.raises(ValueError, match="parameters that the exporter does not know: more/x"):
        export_onnx(strange, tmp_path / "m.onnx", some_images(run))


WAYS = [
    PredictConfig(fit="pad"),
    PredictConfig(fit="crop"),
    PredictConfig(fit="crop", scale=0.6, overlap=0.7),
    PredictConfig(fit="crop", scale=1.7, overlap=0.5, blend="trapezoid"),
    PredictConfig(fit="whole", scale=0.6),
]


def test_the_script_follows_every_way_of_prediction(tmp_path):
    """Sizes below a tile, odd ones, and images of one row or column; the graph is the same for all ways."""
    run = random_run(size=(16, 24), calibration=Calibration((2.0, 0.5), (0.5, 0.6)))
    export_onnx(run, tmp_path / "m.onnx", some_images(run, (16, 24)), how=WAYS[2])
    model = predict_onnx.load_model(str(tmp_path / "m.onnx"))
    tiles = {"scale": 0.6, "overlap": 0.7, "blend": "gaussian", "radius": receptive_radius(run.config.model)}
    assert model.contract["fit"] == {"kind": "crop", "height": 16, "width": 24, **tiles}
    images = [random_image(run, h, w, h) for h, w in ((16, 24), (5, 3), (1, 50), (47, 1), (61, 75))]
    for how in WAYS:
        contract = make_contract(run, "pixels", "uint8", About(), how)
        found = predict_onnx.Model(model.session, contract)
        several = images[:2] if how.fit == "whole" else images  # each new size is compiled
        for image, expected in zip(several, predict_images(run, several, how), strict=True):
            actual = predict_onnx.predict_probs(found, image)
            np.testing.assert_allclose(actual, expected, atol=2e-5, err_msg=f"{how} {image.shape}")
            masks = predict_onnx.predict_masks(found, image)
            np.testing.assert_array_equal(masks, expected > run.threshold, err_msg=f"{how} {image.shape}")
    with pytest.raises(InputError, match="--tta is flips, which exported networks do not do"):
        make_contract(run, "pixels", "uint8", About(), PredictConfig(tta="flips"))
    assert predict_onnx.run_network(model, random_image(run, 32, 8)[None]).shape == (1, 32, 8, 2)


def test_the_script_places_tiles_and_scales_images_as_the_library_does():
    rng = np.random.default_rng(0)
    for length in (1, 2, 15, 16, 17, 40, 63, 64, 65, 200):
        for overlap, blend, radius in ((0.25, "gaussian", 3), (0.5, "trapezoid", None), (0.9, "gaussian", 40)):
            (expected, _) = Tiling((16, 16), overlap, blend, 4, radius).axes(length, 1)
            fit = {"overlap": overlap, "blend": blend, "radius": radius}
            actual = predict_onnx_tiles.place_tiles(length, 16, fit, 4)
            assert actual.starts == expected.starts
            np.testing.assert_array_equal(actual.weights, expected.weights)
    for height, width, dtype in ((1, 1, np.uint8), (1300, 7, np.uint16), (3, 90, np.uint8), (64, 50, np.uint8)):
        image = rng.integers(0, np.iinfo(dtype).max, (height, width, 3), dtype, endpoint=True)
        for scale in (0.013, 0.25, 1 / 3, 0.5, 0.77, 1.0, 1.3, 3.0):
            expected = scaled(rows_of(image), scale).whole()
            np.testing.assert_array_equal(predict_onnx_tiles.scale_image(image, scale), expected, err_msg=str(scale))


def test_the_script_knows_every_field_of_an_image_format():
    """A new field must be understood by `predict_onnx.map_intensities`, or refused by `make_contract`."""
    known = {"channels", "file_channels", "bits", "low", "high", "percentiles", "pages", "names", "types"}
    assert {field.name for field in dataclasses.fields(ImageFormat)} == known


def test_the_script_refuses_channel_files_and_other_depths():
    images = ImageFormat((0, 1, 2), 3, names=("a", "b", "c")).to_dict()
    with pytest.raises(
        predict_onnx.PredictError, match=r"x\.png: this model's images have a file for each channel \(a, b"
    ):
        predict_onnx.decode_image(b"", "x.png", images)
    gray = np.zeros((2, 2, 1), np.uint8)
    with pytest.raises(predict_onnx.PredictError, match="has 1 channels, but the images of this model have 3"):
        predict_onnx.map_intensities(gray, "x", images)
    deep = ImageFormat((0,), 1, 16, (100.0,), (4000.0,), types=("uint16",))
    with pytest.raises(
        predict_onnx.PredictError, match="x: has uint8 values, but the images of this model have uint16"
    ):
        predict_onnx.map_intensities(gray, "x", deep.to_dict())
    whole = np.arange(4, dtype=np.float32).reshape(2, 2, 1) * 1000
    seen = predict_onnx.map_intensities(whole, "x", deep.to_dict())
    np.testing.assert_array_equal(seen, deep.apply(whole.astype(np.uint16)))
