"""Packing on the host gives the bytes that packing on the device gives."""

import numpy as np
import pytest

from unet_jax._types import Sample
from unet_jax.config.packing import UNPACKED, Packing
from unet_jax.data.packing import pack_pixels, pack_sample
from unet_jax.model.packing import pack, unpack

FACTORS = [(1, 1), (1, 2), (2, 1), (2, 4), (4, 4), (8, 8)]


def pixels(height, width, channels, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_same_bytes_as_on_the_device(factor, channels):
    for height, width in ((8, 8), (16, 40), (24, 8)):
        x = pixels(height, width, channels)
        packed = pack_pixels(x, factor)
        (r, s) = factor
        assert packed.dtype == np.uint8 and packed.shape == (height // r, width // s, r * s * channels)
        np.testing.assert_array_equal(packed, pack(x[None], factor)[0])
        np.testing.assert_array_equal(unpack(packed[None], factor)[0], x)


def test_every_pixel_of_a_block_by_hand():
    """Sub-pixels are sorted by the lowest bits of row and column, then by the next; channels stay together."""
    x = np.arange(2 * 4 * 2, dtype=np.uint8).reshape(2, 4, 2)  # pixel (i, j) is (8 i + 2 j, 8 i + 2 j + 1)
    rows_and_columns = [(0, 0), (0, 2), (0, 1), (0, 3), (1, 0), (1, 2), (1, 1), (1, 3)]
    expected = [8 * i + 2 * j + k for i, j in rows_and_columns for k in (0, 1)]
    assert pack_pixels(x, (2, 4)).tolist() == [[expected]]
    assert pack_pixels(x, (1, 2)).tolist() == [[[0, 1, 2, 3], [4, 5, 6, 7]], [[8, 9, 10, 11], [12, 13, 14, 15]]]


def test_views_with_strides_are_packed_like_copies():
    x = pixels(16, 24, 3)
    for view in (x[::-1], x[:, ::-1], x.transpose(1, 0, 2), x[..., ::-1], pixels(32, 24, 3)[::2]):
        np.testing.assert_array_equal(pack_pixels(view, (2, 4)), pack_pixels(view.copy(), (2, 4)))


def test_image_and_masks_have_factors_of_their_own():
    sample = Sample(pixels(16, 16, 3), pixels(16, 16, 2, seed=1))
    packed = pack_sample(sample, Packing(image=(2, 2), label=(2, 4)))
    np.testing.assert_array_equal(packed.image, pack(sample.image[None], (2, 2))[0])
    np.testing.assert_array_equal(packed.mask, pack(sample.mask[None], (2, 4))[0])
    np.testing.assert_array_equal(pack_sample(sample, UNPACKED).mask, sample.mask)
