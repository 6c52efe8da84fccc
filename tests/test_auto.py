"""Preset auto: objects measured on drawn ones, rules on facts, and runs that keep what was chosen."""

import json
import math

import cv2
import jax
import numpy as np
import pytest
from helpers import ONE_DEVICE
from hypothesis import given
from hypothesis import strategies as st

from unet_jax import InputError, choose_config
from unet_jax.cli.auto import given_settings
from unet_jax.cli.main import main
from unet_jax.config.choices import Choice
from unet_jax.config.dicts import replace
from unet_jax.config.presets import auto
from unet_jax.data.images.format import RGB8
from unet_jax.data.object_sizes import ObjectSizes, object_sizes
from unet_jax.plan import choose, choose_size
from unet_jax.plan.auto_rules import Facts, Rules
from unet_jax.plan.choose import StepCost
from unet_jax.report.display import Quiet
from unet_jax.runs.info import load_info
from unet_jax.training import auto as auto_module

TINY_NETWORK = {"model.widths": (4,), "model.center_width": 8, "model.num_convs_down": 1, "model.num_convs_up": 1}
TINY_FLAGS = ("--model.widths", "4", "--model.center-width", "8", "--model.num-convs-down", "1")


def mask_of(*planes):
    return np.stack([plane.astype(np.uint8) * 255 for plane in planes], axis=-1)


@pytest.mark.parametrize("radius", [8, 15, 40])
def test_a_disk_is_two_thirds_of_its_diameter_thick(radius):
    plane = cv2.circle(np.zeros((101, 101), np.uint8), (50, 50), radius, 1, -1)
    sizes = object_sizes(mask_of(plane))
    assert sizes.thickness[0] == pytest.approx(4 * radius / 3, abs=1.0)
    assert sizes.extent == (2 * radius + 1,)


@pytest.mark.parametrize("width", [2, 5, 12])
def test_a_strip_is_as_thick_as_it_is_wide_however_it_lies(width):
    straight = np.zeros((90, 120), bool)
    straight[30 : 30 + width] = True
    slanted = cv2.line(np.zeros((120, 120), np.uint8), (0, 0), (119, 119), 1, width)
    both = object_sizes(mask_of(straight, np.zeros_like(straight)))
    assert both.thickness[0] == pytest.approx(width, abs=0.5) and math.isnan(both.thickness[1])
    assert both.extent[0] == 120 and (both.height, both.width) == (90, 120)
    drawn = slanted.sum() / (120 * math.sqrt(2))  # what OpenCV draws is a little wider
    assert object_sizes(mask_of(slanted)).thickness[0] == pytest.approx(drawn, abs=1.0)


def test_extent_is_that_of_the_largest_object_and_a_full_mask_is_its_size():
    plane = np.zeros((50, 50), bool)
    plane[5:10, 5:45] = plane[20:40, 20:40] = True
    assert object_sizes(mask_of(plane)).extent == (20.0,)
    assert object_sizes(mask_of(np.ones((30, 50), bool))).thickness == (50.0,)


def sizes_of(height, width, thickness=20.0, extent=40.0, count=5):
    return [ObjectSizes(height, width, (thickness,), (extent,))] * count


@pytest.mark.parametrize(
    ("sizes", "value", "reason"),
    [
        (sizes_of(120, 120), 128, "own size"),
        (sizes_of(256, 256, thickness=2.0), 256, "own size"),
        (sizes_of(1000, 1000, thickness=50.0), 256, "keep 12.8 across"),  # 256 / 1000 of 50 pixels
        (sizes_of(1000, 1000, thickness=8.0), 512, "keep 4.0 across"),  # half, rounded up to a multiple of 32
        (sizes_of(4000, 4000, thickness=8.0), 1024, "no side above 1024"),
        (sizes_of(512, 1024, thickness=8.0), (256, 512), "keep 4.0 across"),
        (sizes_of(100, 200) + sizes_of(200, 100), 144, "different shapes"),  # the same area
    ],
)
def test_image_size_follows_the_images_and_their_thinnest_structures(sizes, value, reason):
    choice, scale = choose_size.choose_image_size(sizes)
    assert choice.value == value and reason in choice.reason
    longer = max(sizes[0].height, sizes[0].width) if "different" not in reason else math.sqrt(20000)
    assert scale == pytest.approx(np.max(value) / longer)


SHEET = sizes_of(3000, 4000, thickness=20.0, extent=30.0)
ALIKE = sizes_of(500, 700, thickness=30.0, extent=100.0)


@pytest.mark.parametrize(
    ("sizes", "value", "reason"),
    [
        (ALIKE, "stretch", "alike"),
        (SHEET, "crop", "objects of up to 30 pixels are small in images of 4000"),
        # Vessels as in retinal photographs: 1024 / 4000 of 9 pixels are fewer than 4, of 20 they are 5.
        (sizes_of(3000, 4000, thickness=9.0, extent=3000.0), "crop", "9.0 pixels would keep 2.3 across"),
        (sizes_of(3000, 4000, thickness=20.0, extent=3000.0), "stretch", "alike"),
        (sizes_of(3000, 4000, thickness=math.nan, extent=math.nan), "crop", "4.0 pixels would keep 1.0"),  # no object
        # Images of a quarter and of the whole of a sheet, whose cells have the same pixels; and photographs of one
        # cell, which is as large as its image lets it be.
        (sizes_of(100, 100, thickness=20.0) + sizes_of(400, 400, thickness=21.0), "crop", "from 100 to 400 pixels"),
        (sizes_of(100, 100, thickness=20.0) + sizes_of(400, 400, thickness=80.0), "stretch", "alike"),
        (sizes_of(100, 200) + sizes_of(200, 100), "pad", "from 0.5 to 2"),
        (sizes_of(100, 100, count=60) + sizes_of(100, 400, count=1), "stretch", "alike"),  # one of many decides nothing
    ],
)
def test_fit_follows_sizes_shapes_and_objects(sizes, value, reason):
    choice = choose_size.choose_fit(sizes)
    assert choice.value == value and reason in choice.reason


def test_crops_hold_four_objects_and_no_more_than_an_image():
    def crop(sizes, scale, **others):
        return choose_size.choose_crop_size(sizes, scale, **others).value

    large = sizes_of(3000, 4000, extent=200.0)
    assert crop(large, 0.5) == 416  # four times 100 pixels, as a multiple of 32
    assert crop(sizes_of(3000, 4000, extent=3000.0), 1.0) == 512
    assert crop(SHEET, 0.4) == 256
    assert crop(large, 0.5, shrink=0.5) == 224  # 208 are no multiple of 32
    assert crop(large, 0.5, multiple=64) == 448
    assert crop(sizes_of(100, 4000, extent=200.0), 1.0) == (112, 512)  # small sides are multiples of 16
    assert crop(sizes_of(100, 4000, extent=200.0), 1.0, square=True) == 512


def test_padding_makes_room_for_the_longer_side():
    choice, scale = choose_size.choose_image_size(sizes_of(100, 200) + sizes_of(200, 100), pad=True)
    assert choice.value == 224 and scale == 224 / 200 and "square" in choice.reason  # 200, as a multiple of 32


def rules_of(sizes, given=(), **others):
    config = replace(auto(), {"data.root": "x", **dict(given)})
    facts = Facts(10, 2, 1, RGB8, sizes, has_valid=False, seconds_per_image=0.01, **others)
    return Rules(config, frozenset(dict(given)), facts, "cpu", 1)


def test_crops_count_in_batches_and_epochs():
    """A sheet at 0.4 of its size is 1600x1200, which is 29 crops of 256x256; 10 sheets are 290."""
    config, choices = rules_of(SHEET).apply()
    data = config.data
    assert (data.fit, data.scale, data.image_size) == ("crop", 0.4, 256)
    assert config.train.batch_size == 8 and config.train.num_steps == 1000
    assert {c.name: c.reason for c in choices}["data.scale"] == "structures of 20.0 pixels keep 8.0 across"
    cost = StepCost(compile_s=10.0, step_s=1.0, eval_s=0.5, num_bytes=0)
    # Two sheets for val are 58 crops, with three passes over them in an evaluation: 22 batches of half a second.
    _, timed, num_steps = rules_of(SHEET).with_length(choices, 1000.0, cost)
    assert timed[-1].reason == "12 evaluations" and num_steps == 685  # 0.85 * 990 - 12 * (22 * 0.5 + 2)
    assert not rules_of(SHEET).has_valid(config)
    assert rules_of(sizes_of(100, 4000)).has_valid(config)  # 40 rows of 256


def test_a_given_way_is_kept_and_the_rest_follows():
    data = rules_of(SHEET, {"data.fit": "stretch"}).apply()[0].data
    assert (data.fit, data.image_size, data.scale) == ("stretch", (608, 800), 1.0)
    data = rules_of(ALIKE, {"data.scale": 0.5}).apply()[0].data
    assert (data.fit, data.image_size, data.scale) == ("crop", 256, 0.5)
    data = rules_of(SHEET, {"data.image_size": 64}).apply()[0].data
    assert (data.fit, data.image_size, data.scale) == ("crop", 64, 0.4)
    config = rules_of(ALIKE, {"data.fit": "pad"}).apply()[0]
    assert config.data.fit == "pad" and rules_of(ALIKE).has_valid(config)


def test_the_thinnest_class_counts_and_absent_ones_do_not():
    sizes = [ObjectSizes(99, 99, (30.0, 3.0), (9.0, 9.0)), ObjectSizes(99, 99, (math.nan, 5.0), (9.0, 9.0))]
    assert choose_size.thinnest(sizes) == 3.5  # the lower quartile of 3 and 5
    assert choose_size.thinnest(sizes_of(99, 99, thickness=math.nan)) == choose_size.PIXELS_ACROSS


def test_the_centre_of_the_textbook_network_sees_140_pixels():
    """Araujo et al., Computing Receptive Fields of Convolutional Neural Networks, 2019: jumps times (kernel - 1)."""
    kernels = [3, 3, 2] * 4 + [3, 3]
    strides = [1, 1, 2] * 4 + [1, 1]
    jumps = np.cumprod([1, *strides[:-1]])
    assert choose.receptive_field(4) == 1 + int(np.sum(jumps * (np.array(kernels) - 1))) == 140


@given(
    height=st.integers(3, 6000),
    aspect=st.floats(0.1, 10.0),
    thickness=st.floats(1.0, 500.0),
    extent=st.floats(1.0, 6000.0),
    num_train=st.integers(1, 5000),
    devices=st.sampled_from([1, 2, 8]),
    kind=st.sampled_from(["cpu", "gpu"]),
    own=st.sampled_from(
        [
            {},
            {"data.image_size": 96},
            {"model.widths": (8,) * 6},
            {"train.num_epochs": 3},
            {"augment.transpose_prob": 0.5},
            {"data.fit": "crop"},
            {"data.scale": 0.3},
        ]
    ),
)
def test_every_choice_is_a_config_that_can_be_trained(height, aspect, thickness, extent, num_train, devices, kind, own):
    """Sizes divide, batches are not larger than the set, and what is given stays."""
    from unet_jax.config.dicts import flatten_config, replace

    sizes = sizes_of(height, max(3, int(height * aspect)), thickness, extent)
    base = auto() if own != {"model.widths": (8,) * 6} else replace(auto(), {"data.image_size": 64})
    data = Facts(num_train, 3, 1, RGB8, sizes, has_valid=False, seconds_per_image=0.01)
    config, choices = Rules(replace(base, own), frozenset(own), data, kind, devices).apply()
    assert {name: flatten_config(config)[name] for name in own} == own
    assert config.train.batch_size % devices == 0
    num_inputs = num_train
    if config.data.fit == "crop":
        num_inputs = choose_size.num_crops(sizes, num_train, config.data.scale, config.data.height_and_width)
    assert config.train.batch_size <= max(num_inputs, devices)
    assert all(side % config.model.size_multiple == 0 for side in config.data.height_and_width)
    assert config.train.num_steps >= (0 if "train.num_epochs" in own else choose.NUM_UPDATES)
    assert all(choice.reason for choice in choices)


@given(
    seconds=st.floats(60.0, 10**5),
    step_s=st.floats(1e-3, 20.0),
    num_images=st.integers(8, 3000),
    num_val=st.integers(1, 800),
)
def test_a_length_in_time_fits_the_time(seconds, step_s, num_images, num_val):
    cost = StepCost(compile_s=20.0, step_s=step_s, eval_s=step_s / 3, num_bytes=0)
    steps, every = choose.choose_num_steps_in_time(seconds, cost, num_images=num_images, num_val=num_val, batch_size=8)
    evaluations = -(-steps.value // every.value)
    spent = 20.0 + steps.value * step_s + evaluations * (step_s / 3 * -(-num_val // 8) + 2.0)
    assert 4 <= evaluations <= 20 or steps.value < 20
    assert spent <= seconds or steps.value == 1
    more_would_help = steps.value < max(3000, choose.MOST_PASSES * num_images // 8)
    assert spent >= 0.6 * seconds or steps.value == 1 or not more_would_help or seconds < 200


def test_too_few_updates_make_the_batch_smaller_and_then_the_images():
    assert choose.smaller(299, 8, 1) == (4, 1.0)
    assert choose.smaller(299, 8, 8) == (8, pytest.approx(math.sqrt(299 / 300)))
    assert choose.smaller(10, 16, 1) == (4, 0.5)
    assert choose.smaller(300, 8, 1) == (8, 1.0)


def test_choices_are_the_same_again_and_given_settings_stay(synthetic_root):
    settings = {"data.root": str(synthetic_root), "train.batch_size": 3, **TINY_NETWORK}
    one, two = (choose_config(settings, display=Quiet(), mesh=ONE_DEVICE) for _ in range(2))
    assert one == two
    config, choices = one
    by_name = {choice.name: choice for choice in choices}
    assert by_name["train.batch_size"] == Choice("train.batch_size", 3, "given", given=True)
    assert (config.data.image_size, config.train.num_steps) == (32, 1000)  # images of 32x32; 24 for training are few
    assert config.model.widths == (4,) and config.model.batch_norm_correction
    assert by_name["pixels"].value == "3 channels of 8 bits"
    assert "GiB" in by_name["memory of a step"].value


def test_a_step_that_does_not_fit_has_half_the_images(synthetic_root, monkeypatch):
    """Of 1000 bytes, seven tenths may be used; a step needs 300 per image."""

    def measure(config, *args, **kwargs):
        return StepCost(1.0, 0.0, 0.0, 300 * config.train.batch_size)

    monkeypatch.setattr(auto_module, "device_memory", lambda: 1000)
    monkeypatch.setattr(auto_module, "measure_steps", measure)
    config, choices = choose_config({"data.root": str(synthetic_root)}, display=Quiet(), mesh=ONE_DEVICE)
    reason = next(choice.reason for choice in choices if choice.name == "train.batch_size")
    assert config.train.batch_size == 2 and reason.startswith("4 would need")
    assert config.optim.learning_rate == 1e-3  # it follows the batch


def test_few_updates_are_a_warning_with_a_budget_that_would_do():
    cost = StepCost(compile_s=20.0, step_s=1.7, eval_s=0.5, num_bytes=0)
    assert choose.too_few_updates(300, cost, minutes=9.0, used_s=40.0) == ""
    # 40 + 20 + 300 * 1.7 / 0.85 + 4 evaluations of 4 s are 676 s.
    text = choose.too_few_updates(299, cost, minutes=9.0, used_s=40.0)
    assert "9 minutes are enough for 299 updates" in text and "--minutes 12 or more" in text
    assert "--minutes 31" in choose.too_few_updates(299, cost, minutes=30.0, used_s=40.0)  # more than was given


def test_too_little_time_makes_batch_and_images_smaller_once(synthetic_root, monkeypatch):
    """A second for each image of 32x32 pixels: 90 seconds are enough for 300 updates of none of the batches."""
    measured = []

    def measure(config, *args, **kwargs):
        measured.append((config.train.batch_size, config.data.image_size))
        return StepCost(1.0, config.train.batch_size * (config.data.image_size / 32) ** 2, 0.01, 0)

    monkeypatch.setattr(auto_module, "measure_steps", measure)
    settings = {"data.root": str(synthetic_root), "train.ema": 0.5}
    lines = []
    monkeypatch.setattr(Quiet, "line", lambda _, text: lines.append(text))
    config, choices = choose_config(settings, minutes=1.5, display=Quiet(), mesh=ONE_DEVICE)
    assert measured == [(4, 32), (4, 16)] and "too few to learn from" in lines[-1]
    assert (config.data.image_size, config.train.ema) == (16, 0.5)
    assert 40 < config.train.num_steps < 90
    reasons = {choice.name: choice.reason for choice in choices}
    assert "smaller, for enough updates in the time" in reasons["data.image_size"]
    assert "1 s a step as measured" in reasons["train.num_steps"]


@pytest.mark.parametrize(
    ("settings", "minutes", "message"),
    [
        ({"train.num_steps": 5}, 3.0, "--minutes and train.num_steps both"),
        ({"train.num_epochs": 5}, 3.0, "--minutes and train.num_epochs both"),
        ({}, -1.0, "--minutes is -1.0"),
    ],
)
def test_contradictions_are_refused(synthetic_root, settings, minutes, message):
    with pytest.raises(InputError, match=message):
        choose_config({"data.root": str(synthetic_root), **settings}, minutes=minutes, display=Quiet())


def test_flags_are_given_also_where_they_equal_the_preset():
    config = auto()
    assert given_settings(["--data.image-size", "256", "--out", "x"], config) == {"data.image_size": 256}
    assert given_settings(["--model.no-batch-norm-correction"], config) == {"model.batch_norm_correction": True}
    assert given_settings(["--train.batch_size=8"], config) == {"train.batch_size": 8}


@pytest.fixture(scope="module")
def timed_run(synthetic_root, tmp_path_factory):
    """A run of preset auto with a budget that is nearly used up when training begins."""
    out = tmp_path_factory.mktemp("auto") / "run"
    flags = ["--data.root", str(synthetic_root), "--out", str(out), *TINY_FLAGS, "--train.num-pictures", "0"]
    flags += ["--data.image-size", "16"]  # else a smaller one would be measured too, for more updates in the time
    main(["train", "auto", "--minutes", "0.01", *flags])
    return out, flags


def test_a_run_keeps_what_was_chosen_and_continues_with_it(timed_run, capsys):
    out, flags = timed_run
    info = load_info(out)
    by_name = {choice.name: choice for choice in info.choices}
    assert info.config.train.num_steps == by_name["train.num_steps"].value == info.num_steps
    assert info.config.train.num_steps < 300 and by_name["model.widths"].given
    assert "minutes" in by_name["time"].value
    before = json.loads((out / "run.json").read_text())
    main(["train", "auto", "--minutes", "99", *flags])
    assert "has its settings already" in capsys.readouterr().out
    assert json.loads((out / "run.json").read_text()) == before
    main(["info", str(out)])
    assert "train.num_steps" in capsys.readouterr().out


def test_other_settings_for_the_same_run_are_refused(timed_run, capsys):
    _, flags = timed_run
    with pytest.raises(SystemExit):
        main(["train", "auto", *flags, "--optim.learning-rate", "0.5"])
    assert "optim.learning_rate: was" in capsys.readouterr().err
    assert jax.process_count() == 1
