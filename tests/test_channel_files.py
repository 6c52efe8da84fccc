"""Images of which each channel is a file of its own: from patterns to the audit, a run, evaluation and prediction."""

import json

import numpy as np
import pytest
import tifffile
from etils import epath
from helpers import ONE_DEVICE, run, tiny_config
from PIL import Image

import unet_jax
from unet_jax._types import InputError
from unet_jax.cli.main import main
from unet_jax.config import DataConfig
from unet_jax.config.dicts import replace
from unet_jax.data.disk_cache import disk_source
from unet_jax.data.images.format import ImageFormat, describe_format
from unet_jax.data.images.intensity import find_format
from unet_jax.data.layout import find_layout
from unet_jax.data.patterns import join_channels
from unet_jax.data.pixels import BadSampleError
from unet_jax.data.sources import FileSource
from unet_jax.inference.evaluate import evaluate_run, select_records
from unet_jax.inference.folder import predict_files
from unet_jax.inference.inputs import find_inputs, unread_inputs
from unet_jax.runs.info import load_info

PATTERNS = ("dapi=images/{id}_w1.tif", "gfp=images/{id}_w2.png")
MASKS = ("cell=masks/{id}.png",)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """12-bit TIFF of tifffile, 8-bit PNG of Pillow, and masks where the first is bright."""
    root = tmp_path_factory.mktemp("channels")
    (root / "images").mkdir()
    (root / "masks").mkdir()
    rng = np.random.default_rng(0)
    for i in range(10):
        mask = np.zeros((32, 48), bool)
        mask[8:24, 4 + 2 * i : 20 + 2 * i] = True
        dapi = (rng.integers(200, 1000, mask.shape) + 2000 * mask).astype(np.uint16)
        gfp = rng.integers(0, 256, mask.shape).astype(np.uint8)
        tifffile.imwrite(root / "images" / f"s{i}_w1.tif", dapi)
        Image.fromarray(gfp).save(root / "images" / f"s{i}_w2.png")
        Image.fromarray(mask).save(root / "masks" / f"s{i}.png")
    return root


def data_config(root, **settings):
    return DataConfig(root=str(root), **{"image_patterns": PATTERNS, "mask_patterns": MASKS, **settings})


def format_of(layout, config):
    return find_format([r.images for r in layout.records], config, names=layout.channel_names)


def test_files_are_channels_in_the_order_of_the_patterns(root):
    layout = find_layout(data_config(root))
    assert layout.channel_names == ("dapi", "gfp")
    assert [p.name for p in layout.records[3].images] == ["s3_w1.tif", "s3_w2.png"]
    turned = find_layout(data_config(root, image_patterns=PATTERNS[::-1]))
    assert [p.name for p in turned.records[3].images] == ["s3_w2.png", "s3_w1.tif"]
    pixels = unet_jax.read_channels([str(path) for path in layout.records[3].images])
    assert pixels.dtype == np.uint16
    np.testing.assert_array_equal(pixels[..., 0], tifffile.imread(root / "images" / "s3_w1.tif"))
    np.testing.assert_array_equal(pixels[..., 1], np.asarray(Image.open(root / "images" / "s3_w2.png")))


def test_each_channel_has_the_limits_of_its_own_depth(root):
    config = data_config(root, intensity_percentiles=(0.0, 100.0))
    layout = find_layout(config)
    found = format_of(layout, config)
    every = [unet_jax.read_channels(r.images) for r in layout.records]
    assert found.format.low == tuple(np.min(every, axis=(0, 1, 2))) and found.format.high == tuple(
        np.max(every, axis=(0, 1, 2))
    )
    assert found.format.types == ("uint16", "uint8") and found.format.names == ("dapi", "gfp")
    assert "2 channels (dapi, gfp); black to white is 200 to 2999 (dapi), 0 to 255 (gfp)" in found.description
    seen = FileSource(layout, layout.records, image_format=found.format)[3].image
    low, high = np.array(found.format.low), np.array(found.format.high)
    np.testing.assert_array_equal(seen, np.rint((every[3] - low) / (high - low) * 65535))
    by_depth = format_of(layout, data_config(root, intensity="depth")).format
    assert by_depth.high == (65535.0, 255.0)
    depth = by_depth.read(layout.records[3].images)
    np.testing.assert_array_equal(depth, every[3] * np.array([1, 257]))  # the values of a byte in 16 bits
    np.testing.assert_array_equal(by_depth.apply(every[3]), depth)  # the Python API's array of one type
    again = ImageFormat.from_dict(json.loads(json.dumps(by_depth.to_dict())))
    assert again == by_depth


def test_eight_bits_in_every_file_stay_eight_bits(tmp_path):
    for name in ("a_r", "a_g", "a_b"):
        Image.fromarray(np.full((4, 6), ord(name[-1]), np.uint8)).save(tmp_path / f"{name}.png")
    files = [tuple(epath.Path(tmp_path / f"a_{c}.png") for c in "rgb")]
    found = find_format(files, DataConfig(), names=("r", "g", "b"))
    assert found.format.bits == 8 and "(r, g, b) of 8 bits" in found.description
    assert found.format.read(files[0])[0, 0].tolist() == [114, 103, 98]


def test_files_of_a_depth_that_the_run_does_not_have_are_refused(root, tmp_path):
    config = data_config(root)
    found = format_of(find_layout(config), config)
    first, second = find_layout(config).records[0].images
    eight = tmp_path / "eight.png"
    Image.fromarray((tifffile.imread(str(first)) >> 4).astype(np.uint8)).save(eight)
    with pytest.raises(BadSampleError, match=r"eight\.png: has uint8 values, but this run's images have uint16"):
        found.format.read([epath.Path(eight), second])
    deep = tmp_path / "deep.tif"
    tifffile.imwrite(deep, np.full((32, 48), 300, np.uint16))
    with pytest.raises(BadSampleError, match=r"deep\.tif: has uint16 values, but this run's images have uint8"):
        found.format.read([first, epath.Path(deep)])
    tifffile.imwrite(deep, tifffile.imread(str(first)).astype(np.float32))  # the same numbers in a larger type
    np.testing.assert_array_equal(found.format.read([epath.Path(deep), second]), found.format.read([first, second]))
    tifffile.imwrite(deep, tifffile.imread(str(first)).astype(np.float32) / 4096)
    with pytest.raises(BadSampleError, match=r"deep\.tif: has float32 values"):
        found.format.read([epath.Path(deep), second])
    channel = find_format(
        [(first, second), (epath.Path(deep), second)], replace_intensity("percentiles"), names=("a", "b")
    )
    assert channel.format.types == ()
    with pytest.raises(InputError, match=r"files of the channel a have different depths: .*float32, .*uint16"):
        find_format([(first, second), (epath.Path(deep), second)], DataConfig(), names=("a", "b"))


def replace_intensity(kind):
    return DataConfig(intensity=kind)


def test_sizes_and_channels_of_an_images_files_must_agree(root, tmp_path):
    first = root / "images" / "s0_w1.tif"
    other = tmp_path / "other.png"
    Image.fromarray(np.zeros((48, 32), np.uint8)).save(other)
    with pytest.raises(BadSampleError, match=r"other\.png: is 32x48 pixels .*s0_w1\.tif, is 48x32\. Export all"):
        unet_jax.read_channels([first, other])
    gray = np.arange(32 * 48).reshape(32, 48).astype(np.uint8)
    Image.fromarray(np.stack([gray] * 3, axis=-1)).save(other)  # gray saved as RGB is one channel
    np.testing.assert_array_equal(unet_jax.read_channels([first, other])[..., 1], gray)
    Image.fromarray(np.stack([gray, gray, gray // 2], axis=-1)).save(other)
    with pytest.raises(BadSampleError, match=r"other\.png: has 3 channels that differ.*Save the channel in gray"):
        unet_jax.read_channels([first, other])


def test_what_the_patterns_do_not_say_is_an_error(root, tmp_path):
    for settings, message in [
        ({"image_patterns": ("dapi=images/{id}_w1.tif", "gfp=images/{id}_w3.png")}, "no file matches '{id}_w3.png'"),
        ({"image_patterns": ("dapi",)}, "data.image_patterns has 'dapi', but each entry must look like NAME=value"),
        ({"image_patterns": ("a=images/{id}_w1.tif", "b=images/{id}_w1.tif")}, r"s0_w1.tif: is a and b of the image"),
        ({"mask_patterns": ()}, "data.image_patterns is .* but does nothing without data.mask_patterns"),
    ]:
        with pytest.raises(InputError, match=message):
            find_layout(data_config(root, **settings))
    for name in ("images/a_w1.tif", "images/b_w1.tif", "images/b_w2.png", "masks/a.png", "masks/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(
        InputError, match=r"1 file .*\n.*a_w1\.tif: has no gfp channel beside it \(images/a_w2\.png\)\n"
    ):
        find_layout(data_config(tmp_path))
    layout = find_layout(data_config(tmp_path, on_bad_sample="skip"))
    assert [r.id for r in layout.records] == ["b"] and len(layout.bad) == 1


def test_the_more_exact_pattern_has_a_file():
    a, b = epath.Path("a.tif"), epath.Path("a_gfp.tif")
    files, incomplete = join_channels({"dapi": {"a": a, "a_gfp": b}, "gfp": {"a": b}}, {"dapi": "", "gfp": ""})
    assert files == {"a": (a, b)} and not incomplete


def test_inputs_are_joined_by_the_patterns_wherever_they_lie(tmp_path):
    def make(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()

    def found(*inputs, patterns=PATTERNS):
        images = find_inputs([tmp_path / name for name in inputs], patterns)
        return {id_: [str(file.relative_to(tmp_path)) for file in files] for id_, files in images.items()}

    make("new/x_w1.tif", "new/x_w2.png", "new/day/y_w1.tif", "new/day/y_w2.png", "new/notes.txt", "new/x_w9.png")
    both = {"x": ["new/x_w1.tif", "new/x_w2.png"], "day/y": ["new/day/y_w1.tif", "new/day/y_w2.png"]}
    assert found("new") == both
    assert found("new/x_w2.png", "new/x_w1.tif") == {"x": both["x"]}
    says = "because of the ending: 1 .txt; because they are no channel: 1, the first is x_w9.png"
    assert unread_inputs([tmp_path / "new"], PATTERNS) == says
    make("set/dapi/z.tif", "set/gfp/z.tif")
    folders = ("dapi=images/dapi/{id}.tif", "gfp=images/gfp/{id}.tif")
    z = {"z": ["set/dapi/z.tif", "set/gfp/z.tif"]}
    assert found("set", patterns=folders) == z
    assert found("set/dapi", "set/gfp", patterns=folders) == z
    assert found("set/gfp/z.tif", "set/dapi/z.tif", patterns=folders) == z
    make("well/A1/c0.tif", "well/A1/c1.tif")
    wells = ("a=w/{id}/c0.tif", "b=w/{id}/c1.tif")
    assert found("well", patterns=wells) == {"A1": ["well/A1/c0.tif", "well/A1/c1.tif"]}
    for inputs, message in [
        (["new/x_w1.tif"], r"x_w1\.tif: has no gfp channel beside it \(x_w2\.png\)\. Name the files of all channels"),
        (["new/x_w9.png"], r"x_w9\.png: does not match the run's images, .*: dapi=\{id\}_w1\.tif, gfp="),
        (["set"], r"set: holds no file that matches the run's images"),
    ]:
        with pytest.raises(InputError, match=message):
            found(*inputs)


def test_a_run_audits_trains_evaluates_and_predicts(root, tmp_path, capsys):
    config = replace(
        tiny_config(root, num_epochs=1, batch_size=4, num_pictures=1),
        {
            "data.splits": None,
            "data.image_patterns": PATTERNS,
            "data.mask_patterns": MASKS,
            "data.cache": "disk",
            "data.cache_dir": str(tmp_path / "cache"),
        },
    )
    out = epath.Path(tmp_path / "run")
    run(config, out)
    loaded = unet_jax.load_run(out, mesh=ONE_DEVICE)
    assert load_info(out).image_format.names == ("dapi", "gfp")
    assert "(dapi, gfp)" in describe_format(load_info(out).image_format)
    _, layout, records = select_records(loaded, loaded.config.data, "val")
    assert len(evaluate_run(loaded, layout, records).ids) == len(records)
    images = find_inputs([root / "images"], loaded.config.data.image_patterns)
    assert sorted(images) == [f"s{i}" for i in range(10)]
    list(predict_files(loaded, images, epath.Path(tmp_path / "out")))
    array = unet_jax.read_channels(images["s4"])
    probs = unet_jax.predict_probs(loaded, array[None])[0, ..., 0]
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / "cell" / "s4.png")) == 255, probs > 0.5)
    source = FileSource(layout, layout.records, image_format=load_info(out).image_format)
    cached = disk_source(source, loaded.config.data, num_threads=1)
    assert cached[0].image.shape == (32, 32, 2) and cached[0].image.dtype == np.uint16
    flags = ["--data.root", str(root), "--data.image-patterns", *PATTERNS, "--data.mask-patterns", *MASKS]
    page = tmp_path / "audit.html"
    main(["audit", *flags, "--data.image-size", "32", "--page", str(page)])
    assert "2 channels (dapi, gfp)" in capsys.readouterr().out
    assert "<b>gfp</b>" in page.read_text() and "(red dapi, green gfp)" in page.read_text()
