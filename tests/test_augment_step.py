"""The device's pixels against the host's for the same changes, and by properties."""

import cv2
import jax
import numpy as np
import pytest

from unet_jax._types import Batch, Sample
from unet_jax.config import AugmentConfig
from unet_jax.data.augment import apply_change
from unet_jax.data.augment_draws import draw_change, stack_changes
from unet_jax.data.synthetic import synthetic_sample
from unet_jax.devices.mesh import batch_sharding, make_mesh, put_rows
from unet_jax.program.augment_step import make_augment_step

# OpenCV 4 rounds the place of a bilinear look to 1/32 pixel, which is up to 255 / 64 on each axis at a mask's border.
SOFT_LEVELS = 2 if int(cv2.__version__.split(".")[0]) >= 5 else 8
NOTHING = {"color_prob": 0.0, "geometry_prob": 0.0, "horizontal_flip_prob": 0.0}
FLIPS = {"horizontal_flip_prob": 0.5, "vertical_flip_prob": 0.5, "transpose_prob": 0.5}
CASES = {
    "nothing": {},
    "colors of the seed": {"color_prob": 0.7, "hue": 50.0, "circular_hue": False},
    "circular colors": {"color_prob": 1.0, "hue": 90.0, "saturation": 60.0, "value": 60.0},
    "flips": FLIPS,
    "shift and scale": {"geometry_prob": 0.8, "horizontal_flip_prob": 0.5},
    "rotation": {"geometry_prob": 1.0, "rotate": 45.0, "aspect": 0.2, **FLIPS},
    "mirrored border": {"geometry_prob": 1.0, "rotate": 45.0, "scale": 0.6, "shift": 0.5, "border": "reflect"},
    "crop": {"crop_prob": 0.8, "crop_size": 0.3, "geometry_prob": 0.5},
    "elastic": {"elastic_prob": 0.8, "elastic": 0.04, **FLIPS},
    "tone": {"brightness_prob": 0.6, "contrast_prob": 0.6, "gamma_prob": 0.6},
    "blur": {"blur_prob": 0.8, "blur": 3.0},
    "noise": {"noise_prob": 0.8, "noise": 0.2},
    "cutout": {"cutout_prob": 0.8, "cutout": 0.8, "transpose_prob": 0.5},
}
CASES["all"] = {name: value for case in CASES.values() for name, value in case.items()}


def as_kind(sample, channels, dtype):
    """The sample with another number of channels, and noise in the lower 8 bits of 16."""
    image = np.concatenate([sample.image, sample.image[::-1]], axis=-1)[..., :channels]
    if dtype == np.uint16:
        image = image.astype(np.uint16) * 256 + np.random.default_rng(0).integers(0, 256, image.shape, np.uint16)
    return Sample(np.ascontiguousarray(image), sample.mask)


def host_and_device(
    config, *, size=96, count=8, num_classes=2, soft=False, seed=7, channels=3, dtype=np.uint8, left_out=(0, 0)
):
    """Changes on both sides; `left_out` rows and columns make rectangles of the square samples."""
    samples = [synthetic_sample(np.random.default_rng(i), size, num_classes) for i in range(count)]
    samples = [
        Sample(*(np.ascontiguousarray(x[left_out[0] :, left_out[1] :]) for x in sample[:2])) for sample in samples
    ]
    samples = [as_kind(sample, channels, dtype) for sample in samples]
    rngs = [np.random.default_rng((seed, i)) for i in range(count)]
    changes = [draw_change(r, config, s.mask, linear_masks=soft) for r, s in zip(rngs, samples, strict=True)]
    on_host = [apply_change(s, c, config, linear_masks=soft) for s, c in zip(samples, changes, strict=True)]
    host, before = (
        Batch(np.stack([s.image for s in part]), np.stack([s.mask for s in part]), np.ones(count, np.float32))
        for part in (on_host, samples)
    )
    step = make_augment_step(config, linear_masks=soft)
    device = jax.device_get(step(before, stack_changes(changes, config.elastic_cells + 3)))
    return host, device, before


def difference(a, b):
    return np.abs(a.astype(int) - b.astype(int))


@pytest.mark.parametrize("name", CASES)
def test_hard_masks_equal_the_hosts_and_images_are_close(name):
    config = AugmentConfig(**(NOTHING | CASES[name]))
    host, device, before = host_and_device(config)
    np.testing.assert_array_equal(device.label, host.label)
    assert set(np.unique(device.label)) <= {0, 255}
    assert (difference(device.image, host.image) > 2).mean() < 0.001
    assert device.image.dtype == device.label.dtype == np.uint8
    if CASES[name]:
        changed = difference(host.image, before.image).reshape(8, -1).max(axis=1) > 5
        assert changed.sum() >= 3


@pytest.mark.parametrize(
    "name",
    [
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("shift and scale", "rotation", "crop")),
        "mirrored border",
        "elastic",
        "all",
    ],
)
def test_soft_masks_are_close_to_the_hosts(name):
    config = AugmentConfig(**(NOTHING | CASES[name]))
    host, device, _ = host_and_device(config, soft=True)
    for got, wanted in ((device.label, host.label), (device.image, host.image)):
        assert (difference(got, wanted) > SOFT_LEVELS).mean() < 0.001
    assert len(np.unique(device.label)) > 20


@pytest.mark.parametrize(
    ("channels", "dtype", "soft"),
    [
        (1, np.uint8, False),
        (3, np.uint16, False),
        (2, np.uint16, True),
        pytest.param(1, np.uint8, True, marks=pytest.mark.slow),  # these repeat the parts of the first three
        pytest.param(5, np.uint8, False, marks=pytest.mark.slow),
        pytest.param(5, np.uint8, True, marks=pytest.mark.slow),
        pytest.param(3, np.uint16, True, marks=pytest.mark.slow),
        pytest.param(2, np.uint16, False, marks=pytest.mark.slow),
    ],
)
def test_other_channels_and_depths_are_close_to_the_hosts(channels, dtype, soft):
    config = AugmentConfig(**(NOTHING | CASES["all"]))
    host, device, before = host_and_device(config, size=64, soft=soft, channels=channels, dtype=dtype)
    assert host.image.dtype == device.image.dtype == dtype and host.image.shape == before.image.shape
    unit = 1 if dtype == np.uint8 else 257
    assert (difference(device.image, host.image) > (SOFT_LEVELS if soft else 2) * unit).mean() < 0.003
    if not soft:
        np.testing.assert_array_equal(device.label, host.label)
    assert (difference(host.image, before.image).reshape(8, -1).max(axis=1) > 5 * unit).sum() >= 3


@pytest.mark.parametrize(
    ("size", "num_classes", "border"),
    [
        (33, 1, "constant"),
        (160, 5, "reflect"),
        *[  # other pairings of the same sizes and borders
            pytest.param(size, num_classes, border, marks=pytest.mark.slow)
            for size, num_classes in ((33, 1), (64, 3), (160, 5), (256, 1))
            for border in ("constant", "reflect")
            if (size, border) not in ((33, "constant"), (160, "reflect"))
        ],
    ],
)
def test_other_sizes_and_numbers_of_classes(size, num_classes, border):
    config = AugmentConfig(geometry_prob=1.0, rotate=20.0, crop_prob=0.3, elastic_prob=0.3, border=border, **FLIPS)
    host, device, _ = host_and_device(config, size=size, num_classes=num_classes, count=4, seed=size)
    np.testing.assert_array_equal(device.label, host.label)
    assert (difference(device.image, host.image) > 2).mean() < 0.001


@pytest.mark.parametrize("left_out", [(32, 0), (0, 61)])
def test_rectangles_are_warped_like_the_hosts(left_out):
    flips = {"horizontal_flip_prob": 0.5, "vertical_flip_prob": 0.5}
    all_but_transposed = NOTHING | CASES["all"] | flips | {"transpose_prob": 0.0, "border": "constant"}
    host, device, before = host_and_device(AugmentConfig(**all_but_transposed), left_out=left_out, count=4)
    assert host.label.shape == before.label.shape == (4, 96 - left_out[0], 96 - left_out[1], 2)
    np.testing.assert_array_equal(device.label, host.label)
    assert (difference(device.image, host.image) > 2).mean() < 0.001


def test_batch_stays_split_over_the_devices_and_none_sends_pixels_to_another():
    mesh = make_mesh()
    config = AugmentConfig(**(NOTHING | CASES["all"]))
    samples = [synthetic_sample(np.random.default_rng(i), 32, 2) for i in range(8)]
    changes = [draw_change(np.random.default_rng(i), config, s.mask, linear_masks=False) for i, s in enumerate(samples)]
    batch = Batch(np.stack([s.image for s in samples]), np.stack([s.mask for s in samples]), np.ones(8, np.float32))
    arguments = put_rows((batch, stack_changes(changes, config.elastic_cells + 3)), mesh)
    step = make_augment_step(config, linear_masks=False, sharding=batch_sharding(mesh))
    after = step(*arguments)
    assert all(x.sharding.is_equivalent_to(batch_sharding(mesh), x.ndim) for x in jax.tree.leaves(after))
    text = step.lower(*arguments).compile().as_text()
    for word in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        assert word not in text
    for i, (sample, change) in enumerate(zip(samples, changes, strict=True)):
        expected = apply_change(sample, change, config, linear_masks=False)
        np.testing.assert_array_equal(np.asarray(after.label)[i], expected.mask)
