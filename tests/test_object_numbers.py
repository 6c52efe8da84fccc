"""Numbers of objects told from gray levels."""

import cv2
import numpy as np
import pytest
import scipy.ndimage
import tifffile
from etils import epath
from mask_samples import save
from PIL import Image

from unet_jax.data.masks.read import read_mask
from unet_jax.data.pixels import BadSampleError


def labels_of(num_objects, *, step=12, size=6):
    """Squares of 6x6 pixels numbered from 1 in reading order, outside is 0."""
    per_row = int(np.ceil(num_objects**0.5))
    labels = np.zeros((step * per_row, step * per_row), np.int64)
    for i in range(num_objects):
        y, x = step * (i // per_row) + 3, step * (i % per_row) + 3
        labels[y : y + size, x : x + size] = i + 1
    return labels


COUNTS = {
    "5 objects": labels_of(5),
    "200 objects": labels_of(200),
    "600 objects": labels_of(600),
    "a part of many": labels_of(600)[40:140, 40:140],
    "small objects": labels_of(100, size=2),
    "points": labels_of(100, size=1),
    "touching": 1 + np.arange(2500).reshape(50, 50) // 50 // 10 * 5 + np.arange(2500).reshape(50, 50) % 50 // 10,
    "one inside the other": np.pad(np.pad(np.full((9, 9), 2), 9, constant_values=1), 9),
    "many regions of 8 classes": np.kron(np.random.default_rng(0).integers(0, 9, (20, 20)), np.ones((7, 7))),
    "a few pixels": np.array([[0, 1], [2, 3]]),
    "classes and a white border": np.where(
        np.arange(400).reshape(20, 20) % 20 < 2, 255, np.arange(400).reshape(20, 20) // 100
    ),
}


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_soft_masks_that_look_like_counts_are_refused(tmp_path, name, dtype):
    if COUNTS[name].max() > 255 and dtype == "uint8":
        pytest.skip("does not fit")
    tifffile.imwrite(tmp_path / "m.tif", COUNTS[name].astype(dtype))
    with pytest.raises(BadSampleError, match=r"m\.tif: .*look like numbers of objects.*--data\.instance-masks instead"):
        read_mask(epath.Path(tmp_path / "m.tif"), soft=True)


def blurred(sigma, largest):
    """A disc and a bar, blurred as one softens hard masks."""
    y, x = np.mgrid[:200, :300]
    hard = ((y - 60) ** 2 + (x - 70) ** 2 < 40**2) | (abs(y - 150) < 15)
    soft = cv2.GaussianBlur(hard.astype(np.float64), (0, 0), sigma) if sigma else hard.astype(np.float64)
    return soft * largest


SOFT = {
    **{
        f"blur {sigma}, {largest}": blurred(sigma, largest)
        for sigma in (0.7, 2, 6, 20, 60)
        for largest in (255, 230, 120, 30)
    },
    "tail": blurred(40, 255)[:60, 140:],
    "low probabilities": 9
    * np.abs(cv2.GaussianBlur(np.random.default_rng(0).normal(size=(200, 200)), (0, 0), 3))
    / 0.13,
    "noise": np.random.default_rng(0).exponential(3, (200, 200)),
    "blocks": np.kron(blurred(20, 60)[::8, ::8], np.ones((8, 8))),
    "agreement of 4": np.kron(np.random.default_rng(0).integers(0, 5, (9, 9)), np.ones((7, 7))) * 63.75,
    "agreement of 5, low": np.kron(np.random.default_rng(0).integers(0, 3, (9, 9)), np.ones((7, 7))) * 51,
    "thin lines": np.where(
        np.arange(90000).reshape(300, 300) % 7 == 0, np.random.default_rng(0).integers(0, 200, (300, 300)), 0
    ),
}


@pytest.mark.parametrize("name", SOFT)
@pytest.mark.parametrize("scale", [1, 257])
def test_soft_masks_are_read(tmp_path, name, scale):
    pixels = np.clip(np.round(SOFT[name]), 0, 255).astype(np.uint16) * scale
    path = save(tmp_path / "m.png", pixels.astype(np.uint8 if scale == 1 else np.uint16))
    np.testing.assert_array_equal(read_mask(path, soft=True), pixels // scale)


def test_jpeg_of_a_hard_mask_is_a_soft_mask(tmp_path):
    path = save(tmp_path / "m.jpg", (blurred(0, 255)).astype(np.uint8), quality=80)
    np.testing.assert_array_equal(read_mask(path, soft=True), np.asarray(Image.open(path)))


def test_real_labels_are_told_from_real_masks(tmp_path):
    """dsb2018_256: numbered by SciPy they are counts; blurred by OpenCV or shrunk by Pillow they are soft masks."""
    root = epath.Path(__file__).parent.parent.parent / "shared" / "data" / "dsb2018_256" / "masks" / "nuclei"
    if not root.is_dir():
        pytest.skip(f"{root} is not there")
    path = epath.Path(tmp_path / "m.png")
    for file in sorted(root.iterdir())[::40]:
        mask = np.asarray(Image.open(file))
        labels, count = scipy.ndimage.label(mask)
        assert count >= 2
        save(path, labels.astype(np.uint8))
        with pytest.raises(BadSampleError, match="look like numbers of objects"):
            read_mask(path, soft=True)
        for soft in (
            cv2.GaussianBlur(mask, (0, 0), 3),
            cv2.GaussianBlur(mask // 2, (0, 0), 8),
            np.asarray(Image.fromarray(mask).resize((100, 100), Image.Resampling.BOX)),
        ):
            save(path, soft)
            np.testing.assert_array_equal(read_mask(path, soft=True), soft)
