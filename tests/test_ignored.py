"""Ignored pixels: where they come from, and that labels under them change no number anywhere."""

import contextlib
import dataclasses
import json
import pickle

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ONE_DEVICE, run, tiny_config
from PIL import Image

from unet_jax import Batch, InputError, Sample, load_run, losses, metrics
from unet_jax.cli.main import main
from unet_jax.config import AugmentConfig, DataConfig, LossConfig, LossTermConfig
from unet_jax.config.dicts import replace
from unet_jax.config.packing import Packing
from unet_jax.data.array_source import ArraySource
from unet_jax.data.audit import audit_source, summarise
from unet_jax.data.augment import apply_change
from unet_jax.data.augment_draws import Change, draw_change, stack_changes
from unet_jax.data.cached_source import training_source
from unet_jax.data.disk_cache import disk_source
from unet_jax.data.layout import find_layout
from unet_jax.data.order import TrainOrder
from unet_jax.data.pipeline import eval_batches
from unet_jax.data.sources import FileSource, ResizedSource
from unet_jax.data.survey import survey_source
from unet_jax.data.synthetic import write_synthetic
from unet_jax.data.written_source import write_sources
from unet_jax.devices.mesh import make_mesh
from unet_jax.inference.evaluate import evaluate_run, select_records, summary
from unet_jax.metrics import Counts, counts_from_logits, counts_from_masks
from unet_jax.metrics.calibration import fit_calibration, histogram
from unet_jax.metrics.scores import Scores
from unet_jax.program.augment_step import make_augment_step
from unet_jax.program.objective import make_loss
from unet_jax.program.steps import loss_weight, make_eval_step, make_train_step
from unet_jax.report.audit_text import remarks
from unet_jax.study.compare import compare, scored_images, with_mean
from unet_jax.study.scores import SCORES, ScoreTable, image_scores, read_scores, score_run, write_scores
from unet_jax.training.prefetch import device_batches

RNG = np.random.default_rng(7)


def png(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)


@pytest.fixture
def root(tmp_path):
    """Three images of 4x6 pixels with the classes a and b, everything inside."""
    for name in ("x", "y", "z/w"):
        png(tmp_path / f"images/{name}.png", RNG.integers(0, 256, (4, 6, 3)))
        for class_name in "ab":
            png(tmp_path / f"masks/{class_name}/{name}.png", np.full((4, 6), 255))
    return tmp_path


def source_of(root, **settings):
    config = DataConfig(root=str(root), **settings)
    layout = find_layout(config)
    return FileSource(layout, layout.records, soft_masks=config.soft_masks)


def only(*places, shape=(4, 6)):
    """255 at some places `(row, column)`."""
    plane = np.zeros(shape, np.uint8)
    plane[tuple(np.transpose(places))] = 255
    return plane


# --- where they come from ---------------------------------------------------------------------------------------------


def test_nothing_ignored_is_nothing_to_carry(root):
    assert source_of(root)[0].valid is None
    assert source_of(root, missing_masks="unknown")[0].valid is None
    (root / "ignore").mkdir()
    assert source_of(root)[0].valid is None


@pytest.mark.parametrize("ending", [".png", ".npy", ".tif"])
def test_masks_in_ignore_for_all_classes_and_for_one(root, ending):
    planes = {"x": only((0, 1), (3, 5)), "b/y": only((2, 2)), "a/z/w/first": only((0, 0)), "a/z/w/second": only((1, 0))}
    for name, plane in planes.items():
        path = root / f"ignore/{name}{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, plane) if ending == ".npy" else cv2.imwrite(str(path), plane)
    source = source_of(root)
    x, y, w = (source[i] for i in range(3))
    np.testing.assert_array_equal(x.valid, np.stack([255 - planes["x"]] * 2, axis=-1))
    np.testing.assert_array_equal(y.valid, np.stack([np.full((4, 6), 255), 255 - planes["b/y"]], axis=-1))
    np.testing.assert_array_equal(np.argwhere(w.valid == 0), [[0, 0, 0], [1, 0, 0]])
    for sample in (x, y, w):  # the masks are full, but say nothing where they are ignored
        np.testing.assert_array_equal(sample.mask, sample.valid)
    np.testing.assert_array_equal(source_of(root, classes=("b", "a"))[0].valid, x.valid)
    assert source_of(root, classes=("a",))[1].valid.all()  # class b's file is not used


def test_folders_of_splits_have_their_own_ignore(root, tmp_path):
    for split in ("train", "val"):
        for folder in ("images", "masks/a"):
            (tmp_path / "d" / split / folder).mkdir(parents=True)
        png(tmp_path / f"d/{split}/images/{split}1.png", np.zeros((4, 6, 3)))
        png(tmp_path / f"d/{split}/masks/a/{split}1.png", np.full((4, 6), 255))
    png(tmp_path / "d/train/Ignore/train1.png", only((0, 0)))
    source = source_of(tmp_path / "d")
    assert [int((source[i].valid == 0).sum()) for i in range(2)] == [1, 0]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ignore/q.png", r"ignore/q\.png: there is no sample 'q'"),
        ("ignore/c/x.png", r"there is no sample 'c/x', and no class 'c'"),
        ("ignore/x.xyz", r"x\.xyz is there, but \.xyz is not read"),
        ("ignore/a/x.xyz", r"x\.xyz is there, but \.xyz is not read"),
    ],
)
def test_files_in_ignore_that_cannot_be_used(root, name, said):
    png(root / "ignore/y.png", only((0, 0)))
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes((root / "ignore/y.png").read_bytes())
    with pytest.raises(InputError, match=said):
        source_of(root)
    source = source_of(root, on_bad_sample="skip")  # never used without what it ignores
    assert ("x" in source.ids) == (name in ("ignore/q.png", "ignore/c/x.png"))


def test_a_file_in_ignore_of_another_size_or_two_meanings_is_an_error(root):
    png(root / "ignore/x.png", np.zeros((6, 4)))
    with pytest.raises(InputError, match=r"ignore/x\.png: is 4x6 pixels .* but its image is 6x4"):
        source_of(root)[0]
    png(root / "ignore/x.png", np.zeros((4, 6)))
    png(root / "images/a/y.png", np.zeros((4, 6, 3)))
    for class_name in "ab":
        png(root / f"masks/{class_name}/a/y.png", np.zeros((4, 6)))
    png(root / "ignore/a/y.png", np.zeros((4, 6)))
    with pytest.raises(InputError, match=r"may ignore pixels of all classes in 'a/y', or of class 'a' in 'y'"):
        source_of(root)


def test_values_of_index_maps(root):
    numbers = np.array([[0, 1, 2, 255, 254, 1]] * 4)
    for name in ("x", "y"):
        png(root / f"maps/{name}.png", numbers)
    settings = {"index_map": "maps/{id}.png", "index_values": ("a=1", "b=2"), "missing_masks": "unknown"}
    x = source_of(root, **settings, ignore_values=("254-255",))[0]
    np.testing.assert_array_equal(x.valid[0], [[255, 255]] * 3 + [[0, 0]] * 2 + [[255, 255]])
    np.testing.assert_array_equal(x.mask[0], [[0, 0], [255, 0], [0, 255], [0, 0], [0, 0], [255, 0]])
    source = source_of(root, **settings, ignore_values=("255", "254"))
    assert not source[2].valid.any() and source[2].mask.shape == (4, 6, 2)  # no map: nobody annotated anything
    with pytest.raises(InputError, match=r"value 254 .* use --data\.ignore-values 254 if it means 'not annotated'"):
        source_of(root, **settings, ignore_values=("255",))[0]
    with pytest.raises(InputError, match=r"data\.ignore_values has 2, which is a value of class 'b'"):
        source_of(root, **settings, ignore_values=("2",))
    png(root / "ignore/a/x.png", only((0, 0)))  # both ways at once
    both = source_of(root, **settings, ignore_values=("254-255",))[0].valid
    assert both[0, 0].tolist() == [0, 255] and both[0, 3].tolist() == [0, 0]


def test_colours_of_index_maps(root):
    colors = np.zeros((4, 6, 3))
    colors[0], colors[1] = (255, 0, 0), (224, 224, 192)
    for name in ("x", "y", "z/w"):
        png(root / f"maps/{name.replace('/', '_')}.png", colors)
        if "/" in name:
            (root / f"images/{name}.png").rename(root / "images/z_w.png")
    settings = {"index_map": "maps/{id}.png", "index_colors": ("a=255,0,0",)}
    x = source_of(root, **settings, ignore_values=("224,224,192",))[0]
    np.testing.assert_array_equal(x.valid[..., 0], [[255] * 6, [0] * 6, [255] * 6, [255] * 6])
    with pytest.raises(InputError, match=r"colour 224,224,192 .*--data\.ignore-values"):
        source_of(root, **settings)[0]


def test_classes_that_nobody_annotated(root):
    (root / "masks/b/x.png").unlink()
    with pytest.raises(InputError, match=r"missing-masks empty .* or\s+unknown"):
        source_of(root)
    for meaning, expected in (("empty", None), ("unknown", [255, 0])):
        sample = source_of(root, missing_masks=meaning)[0]
        assert sample.mask[0, 0].tolist() == [255, 0]
        assert (None if sample.valid is None else sample.valid[0, 0].tolist()) == expected


def test_patterns_know_them_too(root):
    png(root / "ignore/b/y.png", only((1, 1)))
    (root / "masks/a/x.png").unlink()
    settings = {"mask_patterns": ("a=masks/a/{id}.png", "b=masks/b/{id}.png"), "image_pattern": "images/{id}.png"}
    source = source_of(root, **settings, missing_masks="unknown")
    assert list(source.ids) == ["x", "y"]
    assert source[0].valid[0, 0].tolist() == [0, 255]
    np.testing.assert_array_equal(np.argwhere(source[1].valid == 0), [[1, 1, 1]])


# --- the way to the device --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("linear", [False, True])
def test_cache_and_resizing(root, tmp_path, linear):
    png(root / "ignore/x.png", only((0, 1), (3, 5)))
    config = DataConfig(
        root=str(root),
        image_size=5,
        cache="disk",
        cache_dir=str(tmp_path / "cache"),
        mask_interpolation="linear" if linear else "nearest",
    )
    files = source_of(root)
    expected = ResizedSource(files, config)
    cached = disk_source(files, config, num_threads=1)
    assert (cached.folder / "valid.npy").stat().st_size - 128 == 3 * -(-5 * 5 * 2 // 8)
    for source in (cached, pickle.loads(pickle.dumps(cached)), training_source(files, replace_cache(config))):
        for i in range(3):
            for got, wanted in zip(source[i], expected[i], strict=True):
                np.testing.assert_array_equal(got, wanted)
    if linear:  # by OpenCV's weights: ignored as soon as a part of a pixel is
        part = cv2.resize(np.float32(only((0, 1), (3, 5))), (5, 5), interpolation=cv2.INTER_LINEAR)
        np.testing.assert_array_equal(expected[0].valid[..., 0] == 0, part > 0.5)
    else:
        nearest = cv2.resize(only((0, 1), (3, 5)), (5, 5), interpolation=cv2.INTER_NEAREST_EXACT)
        np.testing.assert_array_equal(255 - expected[0].valid[..., 0], nearest)
    png(root / "ignore/x.png", only((0, 0), (3, 5)))
    with pytest.raises(InputError, match=r"is stale: .*ignore/x\.png"):
        disk_source(files, config, num_threads=1)


def replace_cache(config):
    return dataclasses.replace(config, cache="memory")


def random_sample(seed, size=32, num_classes=2, ignored=0.3):
    rng = np.random.default_rng(seed)
    mask = (rng.uniform(size=(size, size, num_classes)) < 0.5).astype(np.uint8) * np.uint8(255)
    valid = (rng.uniform(size=mask.shape) > ignored).astype(np.uint8) * np.uint8(255)
    return Sample(rng.integers(0, 256, (size, size, 3), np.uint8), mask & valid, valid)


WARPS = AugmentConfig(geometry_prob=1.0, shift=0.3, rotate=30.0, crop_prob=0.5, elastic_prob=0.5, transpose_prob=0.5)


@pytest.mark.parametrize(("border", "ignore_outside"), [("constant", True), ("reflect", False)])
def test_host_and_device_ignore_the_same_pixels(border, ignore_outside):
    config = dataclasses.replace(WARPS, border=border, ignore_outside=ignore_outside)
    samples = [random_sample(i) for i in range(4)]
    changes = [draw_change(np.random.default_rng(i), config, s.mask, linear_masks=False) for i, s in enumerate(samples)]
    host = [apply_change(s, c, config, linear_masks=False) for s, c in zip(samples, changes, strict=True)]
    image, mask, valid = (np.stack(arrays) for arrays in zip(*samples, strict=True))
    step = make_augment_step(config, linear_masks=False)
    device = step(Batch(image, mask, np.ones(4, np.float32), valid), stack_changes(changes, config.elastic_cells + 3))
    np.testing.assert_array_equal(device.valid, np.stack([s.valid for s in host]))
    np.testing.assert_array_equal(device.label, np.stack([s.mask for s in host]))
    assert not np.any(np.asarray(device.label)[np.asarray(device.valid) == 0])


def test_outside_of_the_image_is_ignored_or_background():
    """Shifted by 3 pixels to the right: the first 3 columns come from outside."""
    sample = Sample(np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 1), 255, np.uint8))
    change = Change(matrix=np.array([[1.0, 0.0, -3.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]))
    for linear in (False, True):
        plain = apply_change(sample, change, AugmentConfig(), linear_masks=linear)
        assert plain.valid is None and plain.mask[0, :, 0].tolist() == [0] * 3 + [255] * 5
        for border in ("constant", "reflect"):
            config = AugmentConfig(ignore_outside=True, border=border)
            after = apply_change(sample, change, config, linear_masks=linear)
            assert after.valid[0, :, 0].tolist() == after.mask[0, :, 0].tolist() == [0] * 3 + [255] * 5
            still = apply_change(sample, Change(), config, linear_masks=linear)
            assert still.valid.all() and still.valid.shape == (8, 8, 1)
    ignored = sample._replace(valid=np.zeros_like(sample.mask))
    constant, mirrored = (
        apply_change(ignored, change, AugmentConfig(border=border), linear_masks=False).valid[0, :, 0].tolist()
        for border in ("constant", "reflect")
    )
    assert constant == [255] * 3 + [0] * 5 and mirrored == [0] * 8


def test_batches_that_are_filled_up_ignore_the_rest():
    class Three:
        ids = "abc"

        def __len__(self):
            return 3

        def __getitem__(self, index):
            return random_sample(index, size=4)

    first, second = eval_batches(Three(), 2)
    assert first.valid.any() and second.valid[0].any() and not second.valid[1].any()


def test_host_and_devices_ignore_the_same_pixels_of_packed_batches_on_a_mesh(trained):
    """Rows over two devices, images over four, blocks of 2x2 pixels."""
    config = replace(tiny_config(trained[0]), {"augment.ignore_outside": True, "data.cache": "memory"})
    layout = find_layout(config.data)
    source = training_source(FileSource(layout, layout.records), config.data)
    packing, mesh = Packing((1, 1), (2, 2)), make_mesh(space=2)
    found = {}
    for where in ("host", "device"):
        order = TrainOrder(len(source), 8, 1, seed=0)
        own = replace(config, {"augment.where": where})
        with contextlib.closing(device_batches(source, order, own, mesh, start_step=0, packing=packing)) as batches:
            found[where] = next(batches)
    host, device = found.values()
    np.testing.assert_array_equal(host.valid, device.valid)
    np.testing.assert_array_equal(host.label, device.label)
    assert host.valid.shape == host.label.shape == (8, 16, 16, 8)
    assert host.valid.sharding.is_equivalent_to(device.valid.sharding, 4) and len(host.valid.sharding.device_set) == 8
    assert set(np.unique(np.asarray(host.valid))) == {0, 255} and not np.asarray(host.label)[host.valid == 0].any()


# --- loss -------------------------------------------------------------------------------------------------------------

SHAPE = (4, 8, 8, 2)
LABELS = (RNG.uniform(size=SHAPE) < 0.4).astype(np.uint8) * np.uint8(255)
VALID = (RNG.uniform(size=SHAPE) < 0.6).astype(np.uint8) * np.uint8(255)
VALID[1, ..., 0] = 0  # a class that was not annotated in an image
VALID[2] = 0  # an image without any annotation
LOGITS = RNG.normal(0.0, 2.0, SHAPE).astype(np.float32)
WEIGHT = np.array([1, 1, 1, 0], np.float32)


def batch_of(valid=VALID, labels=LABELS):
    return Batch(np.zeros((*SHAPE[:3], 3), np.uint8), labels, WEIGHT, valid)


def by_hand(reduction):
    """BCE and Dice loss in float64, pixel by pixel."""
    x, t = LOGITS.astype(np.float64), LABELS / 255.0
    w = (VALID > 0) * WEIGHT[:, None, None, None]
    p, bce = 1 / (1 + np.exp(-x)), np.logaddexp(0.0, x) - x * t
    axes = {"batch": (0, 1, 2, 3), "class": (0, 1, 2), "image": (1, 2)}[reduction]
    ratio = (2 * (w * p * t).sum(axes) + 1) / ((w * (p + t)).sum(axes) + 1)
    return (w * bce).sum() / w.sum(), 1 - ratio[w.sum(axes) > 0].mean()


@pytest.mark.parametrize("reduction", ["batch", "class", "image"])
def test_default_loss_by_hand(reduction):
    loss = make_loss(LossConfig(dice_reduction=reduction))
    value, terms = jax.jit(loss)(LOGITS, LABELS / np.float32(255.0), loss_weight(batch_of()))
    bce, dice = by_hand(reduction)
    assert terms["bce"] == pytest.approx(bce, rel=1e-5) and terms["dice_loss"] == pytest.approx(dice, rel=1e-5)
    assert value == pytest.approx(bce + dice, rel=1e-5)


@pytest.mark.parametrize("reduction", ["batch", "class", "image"])
def test_all_valid_is_the_loss_without(reduction):
    loss, labels = jax.jit(make_loss(LossConfig(dice_reduction=reduction))), LABELS / np.float32(255.0)
    whole = loss(LOGITS, labels, loss_weight(batch_of(np.full_like(VALID, 255))))
    plain = loss(LOGITS, labels, loss_weight(batch_of(None)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), whole, plain)
    nothing = loss(LOGITS, labels, loss_weight(batch_of(np.zeros_like(VALID))))
    assert float(nothing[0]) == 0.0


def network(variables, images, train, mutable=None):
    """A logit per class and pixel, which are the parameters themselves."""
    logits = variables["params"] + 0.0 * images[..., :2]
    return (logits, {}) if mutable else logits


@pytest.mark.parametrize(
    ("config", "factor"),
    [
        (LossConfig(dice_reduction="class"), (2, 2)),
        (LossConfig(terms=(LossTermConfig("lovasz_hinge"),)), (2, 2)),  # takes unpacked logits only
    ],
)
def test_gradients_know_packed_ignored_pixels(config, factor):
    """Labels under ignored pixels change nothing, and packing neither."""
    from unet_jax.data.packing import pack_pixels

    def pack(pixels):
        return np.stack([pack_pixels(x, factor) for x in pixels])

    loss = make_loss(config, factor)

    @jax.jit
    def gradient(labels):
        weight = loss_weight(batch_of(pack(VALID)))
        return jax.value_and_grad(lambda x: loss(x, labels, weight)[0])(jnp.asarray(pack(LOGITS)))

    value, grad = gradient(pack(LABELS / np.float32(255.0)))
    other, other_grad = gradient(pack(np.where(VALID > 0, LABELS, 255 - LABELS) / np.float32(255.0)))
    plain = make_loss(config)(LOGITS, LABELS / np.float32(255.0), loss_weight(batch_of()))[0]
    np.testing.assert_allclose(value, plain, rtol=1e-5)
    np.testing.assert_allclose(other, value, rtol=1e-6)
    np.testing.assert_allclose(other_grad, grad, rtol=1e-5, atol=1e-8)
    assert not np.any(grad[pack(VALID) == 0]) and np.any(grad)


def test_micro_batches_weigh_by_their_annotated_pixels():
    import optax

    from unet_jax.program.state import start_state
    from unet_jax.program.steps import make_accumulating_train_step

    tx, loss = optax.sgd(1.0), make_loss(LossConfig(terms=(LossTermConfig("bce"),)))
    states = [start_state(jnp.asarray(LOGITS[:1]), {}, tx) for _ in range(2)]
    whole, _ = make_train_step(network, loss, tx)(states[0], batch_of())
    parts, _ = make_accumulating_train_step(network, loss, tx, 2)(states[1], batch_of())
    np.testing.assert_allclose(whole.params, parts.params, rtol=1e-5)


# --- scores -----------------------------------------------------------------------------------------------------------


def test_counts_leave_ignored_pixels_out():
    counts = counts_from_logits(LOGITS, LABELS, threshold=0.5, valid=VALID)
    on_host = counts_from_masks(LOGITS > 0, LABELS >= 128, VALID >= 128)
    jax.tree.map(np.testing.assert_array_equal, counts, on_host)
    np.testing.assert_array_equal(sum(on_host), (VALID > 0).sum(axis=(1, 2)))
    changed = counts_from_masks(LOGITS > 0, np.where(VALID > 0, LABELS, 255 - LABELS) >= 128, VALID >= 128)
    jax.tree.map(np.testing.assert_array_equal, changed, on_host)


def test_eval_step_counts_and_weighs_the_same_pixels():
    step = make_eval_step(network, make_loss(LossConfig()), threshold=0.5)
    values, counts = step(jnp.asarray(LOGITS), {}, batch_of())
    jax.tree.map(np.testing.assert_array_equal, counts, counts_from_masks(LOGITS > 0, LABELS > 0, VALID > 0))
    assert values["bce"] == pytest.approx(by_hand("batch")[0], rel=1e-5)


def test_images_that_ignore_a_class_have_no_part_in_its_mean():
    """Class a: Dice 1 and unknown. Class b: 2 / 3 in both. Class c is unknown in both."""
    counts = Counts(*(np.array(rows) for rows in ([[3, 1, 0], [0, 1, 0]], [[0, 1, 0], [0, 1, 0]], [[0] * 3] * 2)), None)
    counts = counts._replace(tn=np.array([[5, 6, 0], [0, 6, 0]]))
    scores = Scores(("x", "y"), ("a", "b", "c"), counts, num_ignored=np.array([[0, 0, 8], [8, 0, 8]]))
    assert scores.per_image(metrics.dice) == pytest.approx({"a": 1.0, "b": 2 / 3, "c": np.nan}, nan_ok=True)
    assert scores.pooled(metrics.dice) == pytest.approx({"a": 1.0, "b": 2 / 3, "c": np.nan}, nan_ok=True)
    assert scores.dice_mean == scores.choosing_dice == pytest.approx((1.0 + 2 / 3) / 2)
    assert scores.absent == ("c",)
    assert scores.annotated == {"a": 0.5, "b": 1.0, "c": 0.0} and scores.num_unknown == {"a": 1, "b": 0, "c": 2}
    assert scores.to_csv().splitlines()[2] == "y,,0.666667,,,0.500000,,,1,"
    result = json.loads(json.dumps(summary(scores, split="val", threshold=0.5), allow_nan=False))
    assert result["dice"]["c"] is None and result["annotated"]["a"] == 0.5


def test_calibration_and_image_scores_do_not_see_labels_under_ignored_pixels():
    probs = 1 / (1 + np.exp(-LOGITS.astype(np.float64)))
    found = []
    for labels in (LABELS, np.where(VALID > 0, LABELS, 255 - LABELS)):
        parts = [histogram(p, t > 0, v > 0) for p, t, v in zip(probs, labels, VALID, strict=True)]
        fit = fit_calibration(np.stack(parts), 0.5)
        scores = [image_scores(p, t > 0, 0.5, v > 0) for p, t, v in zip(probs, labels, VALID, strict=True)]
        found.append((dataclasses.astuple(fit), scores))
    jax.tree.map(np.testing.assert_array_equal, *found)
    _, scores = found[0]
    assert np.isnan(scores[2]["dice"]).all() and np.isnan(scores[1]["hd95"]).tolist() == [True, False]
    known = VALID[0, ..., 1] > 0  # Brier's score over the pixels that are known
    expected = np.mean((probs[0, ..., 1][known] - (LABELS[0, ..., 1][known] > 0)) ** 2)
    assert scores[0]["brier"][1] == pytest.approx(expected, rel=1e-12)


def test_calibration_of_a_class_that_all_images_ignore():
    valid = np.stack([np.ones((8, 8), bool), np.zeros((8, 8), bool)], axis=-1)
    parts = [histogram(1 / (1 + np.exp(-x)), t > 0, valid) for x, t in zip(LOGITS, LABELS, strict=True)]
    fit, alone = fit_calibration(np.stack(parts), 0.3), fit_calibration(np.stack(parts)[:, :, :1], 0.3)
    assert fit.calibration.temperature == (*alone.calibration.temperature, 1.0)
    assert fit.calibration.threshold[1] == pytest.approx(0.3)
    assert np.isnan([part[1] for pair in (fit.nll, fit.ece, fit.dice) for part in pair]).all()


def test_studies_leave_images_without_a_score_out(tmp_path):
    table = ScoreTable(("x", "y"), ("a", "b"), dict.fromkeys(SCORES, np.array([[0.5, np.nan], [0.25, 0.0]])))
    write_scores(tmp_path / "scores.csv", table)
    jax.tree.map(np.testing.assert_array_equal, read_scores(tmp_path / "scores.csv").values, table.values)
    values = np.random.default_rng(1).uniform(size=(2, 3, 8, 2))  # variants, seeds, images, classes
    values[:, :, 3, 0] = np.nan
    means = with_mean(values)
    np.testing.assert_allclose(means[..., 3, 2], values[..., 3, 1])
    np.testing.assert_allclose(means[..., 4, 2], values[..., 4, :].mean(axis=-1))
    found = compare(scored_images(values[..., 0]), 0, more_is_better=True)[1]
    assert found == compare(np.delete(values[..., 0], 3, axis=-1), 0, more_is_better=True)[1]


# --- the whole --------------------------------------------------------------------------------------------------------


def ignore_a_third(root, invert):
    """Ignore random blobs in ignore/, all of class square in the first image, and perhaps invert masks under them."""
    rng = np.random.default_rng(3)
    for i, path in enumerate(sorted((root / "images").glob("*.png"))):
        noise = cv2.GaussianBlur(rng.normal(size=(32, 32)), (0, 0), 4.0)
        blob = noise > np.quantile(noise, 2 / 3)
        png(root / "ignore" / path.name, blob * 255)
        if i == 0:
            png(root / "ignore/square" / path.name, np.full((32, 32), 255))
        for folder in (root / "masks").iterdir():
            mask = np.asarray(Image.open(folder / path.name)).copy()
            hidden = np.ones_like(blob) if i == 0 and folder.name == "square" else blob
            mask[hidden] = 255 - mask[hidden] if invert else 0
            png(folder / path.name, mask)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Runs on two data sets that differ only under ignored pixels."""
    paths = []
    for invert in (False, True):
        root = tmp_path_factory.mktemp("data")
        write_synthetic(root, num_images=20, image_size=32, num_classes=2, seed=0)
        ignore_a_third(root, invert)
        config = replace(tiny_config(root, num_epochs=1), {"model.head_bias": "prior", "data.cache": "memory"})
        run(config, root / "run")
        paths.append(root)
    return paths


def test_labels_under_ignored_pixels_change_no_number(trained, capsys):
    """Audit, training, validation, evaluation and calibration, bit for bit."""
    audits, states, outputs = [], [], []
    for root in trained:
        audits.append(json.loads((root / "run/run.json").read_text())["audit"])
        states.append(load_run(root / "run", "last", mesh=ONE_DEVICE).state)
        main(["evaluate", str(root / "run"), "--data.root", str(root), "--split", "all", "--csv", str(root / "a.csv")])
        outputs.append((capsys.readouterr().out.replace(str(root), ""), (root / "a.csv").read_text()))
        main(["calibrate", str(root / "run"), "--data.root", str(root)])
        outputs[-1] += (json.loads((root / "run/calibration.json").read_text()),)
        loaded = load_run(root / "run", mesh=ONE_DEVICE)
        _, layout, records = select_records(loaded, replace(loaded.config, {"data.root": str(root)}).data, "all")
        outputs[-1] += (score_run(loaded, layout, records[:3]).to_csv(),)
        capsys.readouterr()
    assert audits[0] == audits[1] and outputs[0] == outputs[1]
    jax.tree.map(np.testing.assert_array_equal, *states)
    result = json.loads(outputs[0][0].splitlines()[-1])
    assert 0.6 < result["annotated"]["disk"] < 0.7 and result["images_unknown"] == {"disk": 0, "square": 1}
    assert "annotated" in outputs[0][0] and "images without an annotated pixel: 1 for square" in outputs[0][0]


def test_audit_counts_annotated_pixels(root):
    png(root / "ignore/x.png", np.full((4, 6), 255))
    png(root / "masks/a/y.png", only(*((i, j) for i in range(2) for j in range(6))))
    png(root / "ignore/b/y.png", only(*((i, j) for i in range(1) for j in range(6))))
    audit = audit_source(source_of(root), ("a", "b"), skip_bad=False)
    assert audit.prevalence == pytest.approx((0.75, 1.0))  # a: 12 of 24 and 24 of 24 pixels; image x says nothing
    assert audit.annotated == pytest.approx((48 / 72, 42 / 72)) and audit.num_unknown == (1, 1)
    assert audit.unknown == ("x",) and audit.num_empty == (0, 0)
    assert audit.overlap[0][1] == 1.0  # where b is known, all of a is b
    for name in ("y", "z/w"):
        png(root / f"ignore/b/{name}.png", np.full((4, 6), 255))
    survey = survey_source(source_of(root))
    partial = summarise(survey, ("a", "b"), {"train": ["y", "z/w"]})
    assert partial.splits["train"].annotated == (1.0, 0.0) and partial.prevalence == (0.75, 0.0)
    assert json.loads(json.dumps(partial.to_dict(), allow_nan=False))["num_unknown"] == [0, 2]
    # By hand: the full mask has a Dice of 2 / 3 on y and of 1 on z/w; their upper halves 1 and 2 / 3.
    assert partial.splits["train"].constant_dice == pytest.approx((5 / 6, 0.0), abs=1e-6)


def test_evaluate_run_equals_scores_without_the_ignored_pixels(trained):
    """Counts of the run's own predictions, cut by hand."""
    root = trained[1]
    loaded = load_run(root / "run", mesh=ONE_DEVICE)
    _, layout, records = select_records(loaded, replace(loaded.config, {"data.root": str(root)}).data, "val")
    scores = evaluate_run(loaded, layout, records)
    from unet_jax import predict_probs

    for i, record in enumerate(records):
        probs = predict_probs(loaded, np.asarray(Image.open(record.image))[None])[0]
        hidden = np.asarray(Image.open(root / "ignore" / f"{record.id}.png")) > 0
        truth = np.asarray(Image.open(root / "masks/disk" / f"{record.id}.png")) > 0
        tp = ((probs > loaded.threshold)[..., 0] & truth & ~hidden).sum()
        assert scores.counts.tp[i, 0] == tp
        assert sum(int(count[i, 0]) for count in scores.counts) == (~hidden).sum()


def test_losses_outside_of_the_catalogue_are_refused_or_weighted():
    with pytest.raises(InputError, match=r"does not take 'weight'"):
        make_loss(LossConfig(terms=(LossTermConfig("unet_jax.losses:lyakaap_border_loss"),)))
    assert losses.bce_dice_loss  # takes weights per pixel, as tested above


def test_pictures_and_the_audits_page_show_what_is_ignored(trained, tmp_path, monkeypatch, capsys):
    from unet_jax.report.pictures import render_errors, render_overlay

    image, mask = np.zeros((12, 12, 3), np.uint8), np.zeros((12, 12, 2), bool)
    ignored = np.zeros_like(mask)
    ignored[:6], ignored[6:, :6, 1] = True, True
    overlay = render_overlay(image, mask, ignored)
    assert {tuple(c) for c in overlay[:6].reshape(-1, 3).tolist()} == {(0, 0, 0), (150, 150, 150)}
    assert {tuple(c) for c in overlay[6:, :6].reshape(-1, 3).tolist()} == {(0, 0, 0), (86, 180, 233)}  # the colour of b
    assert not overlay[6:, 6:].any()
    errors = render_errors(image, mask, ~mask, ignored)
    assert (errors[:6] == 64).all() and (errors[6:] == (220, 20, 20)).all()
    monkeypatch.chdir(tmp_path)
    main(["audit", "--data.root", str(trained[0]), "--data.image-size", "32"])
    table = capsys.readouterr().out
    assert "annotated" in table and "of the annotated pixels, which are 66." in table and "unknown in 1 images" in table
    page = (tmp_path / "audit.html").read_text()
    assert "<th>annotated</th>" in page and "striped: ignored" in page


def test_arrays_from_python_say_what_is_ignored(tmp_path):
    """The mask holds 255 for "not annotated" among 0 and 1, which only `valid` explains."""
    images = RNG.integers(0, 256, (3, 8, 8, 3), np.uint8)
    masks = (RNG.uniform(size=(3, 8, 8, 2)) < 0.5).astype(np.uint8)
    valid = np.ones((3, 8, 8), bool)
    valid[0, :2] = False
    masks[0, :2] = 255
    with pytest.raises(InputError, match=r"valid of '000000' has shape \(8, 8, 3\)"):
        ArraySource(images, masks, valid=np.ones((3, 8, 8, 3)))
    with pytest.raises(InputError, match=r"valid of '000000' has values from 0.5 to 0.5"):
        ArraySource(images, masks, valid=np.full((3, 8, 8), 0.5))
    source = ArraySource(images, masks, valid=valid)
    for given in (source, list(zip(images, masks, valid, strict=True))):
        folder = tmp_path / type(given).__name__
        write_sources(folder, {"train": given}, ("a", "b"))
        read = source_of(folder)
        for i in range(3):
            np.testing.assert_array_equal(read[i].valid, np.repeat(valid[i, ..., None], 2, -1) * np.uint8(255))
            np.testing.assert_array_equal(read[i].mask, np.where(valid[i, ..., None], masks[i], 0) * np.uint8(255))
        with pytest.raises(InputError, match=r"another one when the run began"):
            write_sources(folder, {"train": ArraySource(images, masks * valid[..., None])}, ("a", "b"))


def test_remarks_about_images_and_classes_with_little_annotation(root):
    png(root / "ignore/x.png", np.full((4, 6), 255))
    for name in ("y", "z/w"):  # as if the masks said what was annotated: 1 of 24 pixels
        png(root / f"ignore/b/{name}.png", 255 - only((0, 0)))
    config = DataConfig(root=str(root))
    layout = find_layout(config)
    splits = {"train": ["x", "y"], "val": ["z/w"]}
    lines = remarks(summarise(survey_source(source_of(root)), ("a", "b"), splits), layout, splits, config)
    assert [line for line in lines if "1 images have no annotated pixel of any class, the first is 'x'" in line]
    few = [line for line in lines if "annotated for class" in line]
    assert len(few) == 1 and few[0].startswith("WARNING: only 2.8% of the pixels are annotated for class b")
