"""Distances on the device and on the host: against scipy, each other, and values that one sees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from unet_jax.data.distance import signed_distance_map
from unet_jax.losses import border_bce_loss, boundary_loss, euclidean_distance, signed_distance

device = jax.jit(euclidean_distance)
signed = jax.jit(signed_distance)


@given(hnp.arrays(bool, (9, 13), elements=st.booleans()))
def test_against_scipy(mask):
    mask[4, 6] = True  # scipy has no answer for empty masks
    expected = ndimage.distance_transform_edt(~mask)
    np.testing.assert_allclose(device(mask[..., None])[..., 0], expected, rtol=1e-6)


def test_sparse_points_in_a_large_image():
    rng = np.random.default_rng(0)
    mask = rng.uniform(size=(2, 96, 160, 2)) > 0.9995
    mask[:, 5, 7] = True
    expected = [[ndimage.distance_transform_edt(~mask[b, ..., k]) for k in range(2)] for b in range(2)]
    np.testing.assert_allclose(device(mask), np.moveaxis(expected, 1, -1), rtol=1e-6)


def test_without_a_pixel_it_is_infinite():
    assert np.isinf(device(np.zeros((9, 13, 1), bool))).all()


def test_signed_distances_of_a_row():
    row = np.zeros((1, 9, 1), np.float32)
    row[0, 3:7] = 1.0
    np.testing.assert_array_equal(signed(row)[0, :, 0], [3, 2, 1, 0, -1, -1, 0, 1, 2])


@pytest.mark.parametrize("seed", range(3))
def test_host_and_device_agree(seed):
    rng = np.random.default_rng(seed)
    mask = (ndimage.gaussian_filter(rng.normal(size=(31, 20, 3)), (3, 3, 0)) > 0).astype(np.uint8) * 255
    mask[..., 1] = 255 * (seed % 2)  # full or empty
    found = signed_distance_map(mask)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, signed_distance_map(mask > 0))
    np.testing.assert_allclose(signed(mask / np.float32(255)), found, rtol=1e-6)
    assert (found[..., 1] == 0).all() and np.abs(found[..., 0]).max() > 2
    logits = rng.normal(size=mask.shape).astype(np.float32)
    for loss in (boundary_loss, border_bce_loss):
        handed, computed = (loss(logits, mask / np.float32(255), distance=d) for d in (jnp.asarray(found), None))
        np.testing.assert_allclose(handed, computed, rtol=1e-5, atol=1e-6)
