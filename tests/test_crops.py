"""Training by crops: where they lie, what is read for them, and that nothing but seed, epoch and number decides."""

import collections
import dataclasses
import json
import pickle
import shutil

import cv2
import jax
import numpy as np
import pytest
from etils import epath
from helpers import ONE_DEVICE, assert_equal_runs, rows, run, tiny_config
from hypothesis import given
from hypothesis import strategies as st

from unet_jax import InputError, load_run, predict_images, predict_probs_unresized
from unet_jax.cli.main import main
from unet_jax.config import AugmentConfig, DataConfig
from unet_jax.config.dicts import replace
from unet_jax.data.augment_draws import draw_window
from unet_jax.data.cached_source import training_source, whole_images
from unet_jax.data.crop_plan import CropPlan
from unet_jax.data.crops import CropSource, GridSource, WholeImage, count_rows
from unet_jax.data.layout import find_layout
from unet_jax.data.order import EpochSample, TrainOrder, augment_rng
from unet_jax.data.pipeline import train_batches
from unet_jax.data.sources import FileSource, MemorySource, ResizedSource
from unet_jax.runs.info import load_info

SIZES = [(70, 90), (33, 64), (20, 31), (96, 40)]
"""The third is smaller than a crop in height and in width."""
CROP = (32, 48)


def blobs(rng, size):
    """A noisy image, and two classes: few pixels anywhere, and a block in a corner."""
    image = rng.integers(0, 256, (*size, 3), np.uint8)
    masks = np.zeros((*size, 2), np.uint8)
    masks[..., 0][rng.random(size) < 0.01] = 255
    masks[-9:, -7:, 1] = 255
    return image, masks


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Eight images of four sizes in train, and one of each in val."""
    folder, rng = epath.Path(tmp_path_factory.mktemp("crops") / "set"), np.random.default_rng(0)
    lines = ["id,split"]
    for i in range(12):
        image, masks = blobs(rng, SIZES[i % 4])
        files = {"images": image, "masks/dots": masks[..., 0], "masks/block": masks[..., 1]}
        for name, pixels in files.items():
            (folder / name).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / name / f"{i:02d}.png"), pixels)
        lines.append(f"{i:02d},{'val' if i >= 8 else 'train'}")
    (folder / "splits.csv").write_text("\n".join(lines) + "\n")
    return folder


def config_of(root, tmp_path, **settings):
    settings = {"fit": "crop", "image_size": CROP, "cache_dir": str(tmp_path / "cache")} | settings
    return DataConfig(root=str(root), splits=str(root / "splits.csv"), **settings)


def files_of(config):
    layout = find_layout(config)
    return FileSource(layout, layout.records, soft_masks=config.soft_masks)


def sizes_of(config):
    source = ResizedSource(files_of(config), config)
    return [source[i].image.shape[:2] for i in range(len(source))]


KINDS = [{}, {"scale": 0.7}, {"soft_masks": True}, {"mask_interpolation": "linear"}]


@pytest.mark.parametrize("settings", KINDS)
@pytest.mark.parametrize("cache", ["none", "memory", "disk"])
@pytest.mark.parametrize("has_ignored", [False, True])
def test_every_cache_holds_whole_images_at_the_scale(root, tmp_path, cache, settings, has_ignored):
    if has_ignored:
        shutil.copytree(root, tmp_path / "set")
        root = tmp_path / "set"
        (root / "ignore").mkdir()
        cv2.imwrite(str(root / "ignore" / "01.png"), np.eye(33, 64, dtype=np.uint8) * 255)
    config = config_of(root, tmp_path, cache=cache, **settings)
    expected = ResizedSource(files_of(config), config)
    source = whole_images(files_of(config), config, sizes_of(config))
    for images in (source, pickle.loads(pickle.dumps(source))):
        for i in range(len(SIZES)):
            image, whole = images[i], expected[i]
            assert (whole.valid is not None) == has_ignored and image.image.shape == whole.image.shape
            for got, wanted in zip(image.read(0, 0, image.size), whole, strict=True):
                assert getattr(got, "dtype", None) == getattr(wanted, "dtype", None)
                np.testing.assert_array_equal(got, wanted)
            np.testing.assert_array_equal(image.row_counts, (whole.mask >= 128).sum(axis=1))
            part = image.read(3, 5, (7, 11))
            np.testing.assert_array_equal(part.image, whole.image[3:10, 5:16])
            np.testing.assert_array_equal(part.mask, whole.mask[3:10, 5:16])
            if has_ignored:
                np.testing.assert_array_equal(part.valid, whole.valid[3:10, 5:16])


class Recording:
    """Pixels that note which rows are read."""

    def __init__(self, pixels):
        self.pixels, self.shape, self.rows = pixels, pixels.shape, []

    def __getitem__(self, rows):
        self.rows += range(*rows.indices(len(self.pixels)))
        return self.pixels[rows]


def test_a_crop_reads_its_rows_only():
    image, masks = blobs(np.random.default_rng(0), (500, 60))
    seen, seen_masks = Recording(image), Recording(masks)
    source = CropSource([WholeImage(seen, seen_masks, count_rows(masks))], [(500, 60)], (32, 48))
    source.draw(np.random.default_rng(0), EpochSample(0, 0, 0, 0))
    assert len(seen.rows) == 32 and len(seen_masks.rows) == 33  # and the row of the pixel that it is placed on


def test_places_of_crops():
    """Foreground crops hold a pixel of their class, every pixel equally often; others lie anywhere, corners too."""
    rng, size = np.random.default_rng(1), (64, 64)
    masks = np.zeros((*size, 2), np.uint8)
    pixels = [(0, 0), (10, 50), (63, 63), (40, 20)]
    for y, x in pixels:
        masks[y, x, 1] = 255
    image = WholeImage(np.zeros((*size, 3), np.uint8), masks, count_rows(masks))
    held = collections.Counter()
    for _ in range(2000):
        top, left = draw_window(rng, image, (8, 8), 1)
        assert 0 <= top <= 56 and 0 <= left <= 56
        held.update((y, x) for y, x in pixels if top <= y < top + 8 and left <= x < left + 8)
    assert sorted(held) == sorted(pixels) and sum(held.values()) == 2000
    assert all(abs(count - 500) < 5 * np.sqrt(500 * 0.75) for count in held.values())
    covered = np.zeros(size)
    for _ in range(4000):
        top, left = draw_window(rng, image, (8, 8), None)
        covered[top : top + 8, left : left + 8] += 1
    assert covered.min() > 0.2 * covered.mean()
    np.testing.assert_array_equal(draw_window(rng, image, (100, 100), 1), (0, 0))
    assert draw_window(rng, image, (8, 8), 0)  # a class without a pixel: anywhere


def test_what_lies_outside_of_a_small_image_is_its_mirror():
    """NumPy's `pad` mirrors in the same way. It is ignored."""
    image, masks = blobs(np.random.default_rng(0), (5, 13))
    part = WholeImage(image, masks, count_rows(masks)).read(0, 0, (16, 16))
    np.testing.assert_array_equal(part.image, np.pad(image, ((0, 11), (0, 3), (0, 0)), mode="symmetric"))
    np.testing.assert_array_equal(part.mask, np.pad(masks, ((0, 11), (0, 3), (0, 0))))
    np.testing.assert_array_equal(part.valid, np.pad(np.full_like(masks, 255), ((0, 11), (0, 3), (0, 0))))


def sides(most):
    return st.tuples(st.integers(1, most), st.integers(1, most))


@given(st.lists(sides(90), min_size=1, max_size=4), sides(40))
def test_the_grid_covers_every_pixel(sizes, size):
    """Every pixel of every image has a number of its own, and all numbers come back."""
    numbers = np.arange(1, 1 + sum(h * w for h, w in sizes), dtype=np.uint16)
    images, start = [], 0
    for height, width in sizes:
        pixels = numbers[start : start + height * width].reshape(height, width, 1)
        images.append(WholeImage(pixels, np.zeros((height, width, 1), np.uint8), np.zeros((height, 1))))
        start += height * width
    source = GridSource(MemorySource(images), sizes, size)
    parts = [source[i].image for i in range(len(source))]
    assert all(part.shape == (*size, 1) for part in parts)
    assert set(np.concatenate([part.ravel() for part in parts]).tolist()) == set(numbers.tolist())
    assert len(parts) <= sum(-(-h // size[0]) * -(-w // size[1]) for h, w in sizes)


def test_an_epoch_follows_area_and_classes():
    plan = CropPlan([(64, 64), (10, 10), (33, 32)], [(0,), (), (0, 1)], (32, 32), foreground=0.5, by_class=False)
    assert [plan.image_of(i) for i in range(len(plan))] == [0, 0, 0, 0, 1, 2]
    drawn = [plan.draw(3, epoch, crop) for epoch in range(500) for crop in range(len(plan))]
    assert all(image == plan.image_of(i % 6) for i, (image, _) in enumerate(drawn))
    of_third = collections.Counter(class_ for image, class_ in drawn if image == 2)
    assert abs(of_third[None] - 250) < 56 and abs(of_third[0] - 125) < 50 and abs(of_third[1] - 125) < 50
    assert {class_ for image, class_ in drawn if image == 1} == {None}
    by_class = CropPlan([(64, 64), (10, 10), (33, 32)], [(0,), (), (0, 1)], (32, 32), foreground=0.5, by_class=True)
    drawn = [by_class.draw(3, epoch, crop) for epoch in range(500) for crop in range(len(plan))]
    classes = collections.Counter(class_ for _, class_ in drawn)
    assert abs(classes[0] - 750) < 130 and abs(classes[1] - 750) < 130
    assert {image for image, class_ in drawn if class_ == 1} == {2}
    assert drawn[:7] == [by_class.draw(3, i // 6, i % 6) for i in range(7)]


def plan_of(config, **options):
    options = {"foreground": 0.5, "by_class": False} | options
    return CropPlan(sizes_of(config), [(0, 1)] * 12, CROP, **options)


def batches_of(config, source, start_step=0, **settings):
    plan = plan_of(config)
    order = TrainOrder(len(plan), 4, 2, 5, crops=plan)
    settings = {"num_threads": 2} | settings
    batches = train_batches(
        source, order, AugmentConfig(geometry_prob=1.0), dataclasses.replace(config, **settings), start_step=start_step
    )
    found = list(batches)
    batches.close()
    return found


@pytest.mark.parametrize("with_workers", [False, pytest.param(True, marks=pytest.mark.slow)])  # starts four processes
def test_crops_depend_on_neither_caches_nor_threads_nor_workers_nor_where_the_run_continued(
    root, tmp_path, with_workers
):
    config = config_of(root, tmp_path, cache="none")

    def source_of(**cache):
        cached = dataclasses.replace(config, **cache)
        return CropSource(whole_images(files_of(config), cached, sizes_of(config)), sizes_of(config), CROP)

    expected = batches_of(config, source_of(), num_threads=1)
    assert expected[0].image.shape == (4, *CROP, 3)
    others = [
        batches_of(config, source_of(cache="disk")),
        batches_of(config, source_of(cache="memory"), num_threads=4),
        [*expected[:3], *batches_of(config, source_of(), start_step=3)],
    ]
    if with_workers:
        others = [
            batches_of(config, source_of(cache=cache), num_workers=2, num_threads=1) for cache in ("disk", "none")
        ]
    for found in others:
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a.image, b.image)
            np.testing.assert_array_equal(a.label, b.label)


def test_random_numbers_of_each_crop_are_its_own():
    plan = CropPlan([(64, 64)], [(0,)], (32, 32), foreground=0.0, by_class=False)
    order = TrainOrder(4, 4, 2, 0, crops=plan)
    states = {augment_rng(0, order[i]).integers(2**62) for i in range(8)}
    assert len(states) == 8 and {order[i].index for i in range(8)} == {0}
    with pytest.raises(InputError, match=r"has 4 crops of data.image_size, fewer than train.batch_size 5: use --train"):
        TrainOrder(4, 5, 1, 0, crops=plan)


@pytest.fixture(scope="module")
def crop_config(root):
    settings = {"data.fit": "crop", "data.image_size": CROP, "data.splits": str(root / "splits.csv")}
    return replace(tiny_config(root), {**settings, "train.batch_size": 4, "train.num_epochs": 2})


@pytest.fixture(scope="module")
def trained(crop_config, tmp_path_factory):
    path = epath.Path(tmp_path_factory.mktemp("trained"))
    run(crop_config, path)
    return path


def test_a_run_by_crops_continues_bit_for_bit(crop_config, trained, tmp_path):
    with pytest.raises(SystemExit):
        run(crop_config, tmp_path / "parts", stop_at=lambda step: step == 3)
    run(crop_config, tmp_path / "parts")
    assert_equal_runs(tmp_path / "parts", trained)
    audit = json.loads((trained / "run.json").read_text())["audit"]
    assert audit["sizes"]["01"] == [33, 64] and audit["classes"]["01"] == [0, 1]
    assert load_run(trained, "last", mesh=ONE_DEVICE).step == 2 * (16 // 4)


@pytest.mark.parametrize("scale", [1.0, 0.6])
def test_the_number_that_training_prints_is_what_evaluate_says(crop_config, trained, tmp_path, capsys, scale):
    path = trained
    if scale != 1.0:
        path = tmp_path / "run"
        run(replace(crop_config, {"data.scale": scale, "train.num_epochs": 1, "data.crop_foreground": 1.0}), path)
    printed = [row for row in rows(path) if "eval/dice" in row][-1]
    call = ["evaluate", str(path), "--data.root", crop_config.data.root, "--split", "val", "--checkpoint", "last"]
    main(call)
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["dice"] == {name: printed[f"eval/dice/{name}"] for name in ("block", "dots")}
    assert any(said["dice"].values())


@pytest.mark.slow  # test_rectangles.py does the same with whole images, and crops enter before
def test_crops_are_packed_and_augmented_on_devices_as_on_the_host(crop_config, tmp_path):
    still = {"augment.color_prob": 0.0, "augment.geometry_prob": 0.0, "optim.name": "sgd", "train.num_epochs": 1}
    config = replace(crop_config, still)
    other = {"augment.where": "device", "model.packing": "2", "data.cache": "disk", "data.cache_dir": str(tmp_path)}
    run(config, tmp_path / "host")
    run(replace(config, other), tmp_path / "device")
    host, device = (load_run(tmp_path / name, "last", mesh=ONE_DEVICE) for name in ("host", "device"))
    for a, b in zip(jax.tree.leaves(device.state.params), jax.tree.leaves(host.state.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda audit: audit.pop("sizes"), "audit.sizes is without '00'"),
        (lambda audit: audit["sizes"].update({"00": [64, 0]}), "audit.sizes is not a height and a width for each id"),
        (lambda audit: audit["classes"].pop("03"), "audit.classes is without '03'"),
        (lambda audit: audit["classes"].update({"00": [2]}), "audit.classes is not numbers of classes"),
    ],
)
def test_a_run_whose_sizes_are_lost_says_so(crop_config, trained, tmp_path, change, reason):
    values = json.loads((trained / "run.json").read_text())
    change(values["audit"])
    (tmp_path / "run.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=f"run.json: is damaged \\({reason}"):
        load_info(tmp_path)


def test_damaged_rows_of_the_cache_are_refused_when_they_are_read(root, tmp_path):
    config = config_of(root, tmp_path, cache="disk")
    source = whole_images(files_of(config), config, sizes_of(config))
    for name, row in (("images", 40), ("masks", 50)):
        path = source.folder / f"{name}.npy"
        data = bytearray(path.read_bytes())
        width = {"images": 90 * 3, "masks": -(-90 * 2 // 8)}[name]
        data[128 + row * width + 5] ^= 1
        path.write_bytes(data)
    for again in (source, whole_images(files_of(config), config, sizes_of(config))):
        image = again[0]
        image.read(0, 0, (40, 8))  # the rows above
        for top in (20, 45):
            with pytest.raises(InputError, match=r"sample '00' is damaged.*--data.rebuild-cache"):
                image.read(top, 60, (22, 8))


@pytest.mark.parametrize("cache", ["none", "disk"])
def test_padding_keeps_the_aspect_and_ignores_the_border(root, tmp_path, cache):
    """70x90 fits 48x48 as 37x48, 96x40 as 48x20; the rest mirrors the image and is ignored."""
    config = config_of(root, tmp_path, fit="pad", image_size=48, cache=cache)
    source, files = training_source(files_of(config), config), files_of(config)
    for i, (height, width) in {0: (37, 48), 3: (48, 20)}.items():
        sample, whole = source[i], files[i]
        assert sample.image.shape == (48, 48, 3)
        expected = cv2.resize(whole.image, (width, height), interpolation=cv2.INTER_AREA)
        padding = ((0, 48 - height), (0, 48 - width), (0, 0))
        np.testing.assert_array_equal(sample.image, np.pad(expected, padding, mode="symmetric"))
        masks = cv2.resize(whole.mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
        np.testing.assert_array_equal(sample.mask, np.pad(masks, padding))
        np.testing.assert_array_equal(sample.valid, np.pad(np.full_like(masks, 255), padding))


def test_pad_is_predicted_as_it_was_trained(root, tmp_path):
    """Training and prediction pad alike: evaluating at the network's own size finds the numbers of training."""
    size = {"data.image_size": 96, "data.fit": "pad", "train.num_epochs": 1, "data.splits": str(root / "splits.csv")}
    config = replace(tiny_config(root), size)
    run(config, tmp_path / "run")
    trained = load_run(tmp_path / "run", "last", mesh=ONE_DEVICE)
    image = np.random.default_rng(0).integers(0, 256, (96, 40, 3), np.uint8)  # needs no resizing
    (probs,) = predict_images(trained, [image])
    padded = np.pad(image, ((0, 0), (0, 56), (0, 0)), mode="symmetric")
    expected = predict_probs_unresized(trained, padded[None])[0]
    np.testing.assert_allclose(probs, expected[:, :40], rtol=0, atol=1e-6)
    (small,) = predict_images(trained, [image[:31, :20]])
    assert small.shape == (31, 20, 2)
