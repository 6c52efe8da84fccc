"""Ways to compute one convolution and its gradients, against float64 loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unet_jax.devices.compilation import compiler_options
from unet_jax.model.convolution import convolve, convolve_joined, convolve_upsampled
from unet_jax.model.packing import pack, pack_kernel, unpack


def numpy_conv(x, kernel):
    """A float64 loop over taps: cross-correlation with zeros outside."""
    size = kernel.shape[0]
    margin = size // 2
    padded = np.pad(np.float64(x), ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    y = np.zeros((*x.shape[:3], kernel.shape[-1]))
    for i in range(size):
        for j in range(size):
            y += padded[:, i : i + x.shape[1], j : j + x.shape[2]] @ np.float64(kernel[i, j])
    return y


def numpy_gradients(x, kernel, gradient):
    """Of `sum(gradient * numpy_conv(x, kernel))`, tap by tap."""
    margin = kernel.shape[0] // 2
    margins = ((0, 0), (margin, margin), (margin, margin), (0, 0))
    padded, of_x = np.pad(np.float64(x), margins), np.pad(np.zeros(x.shape), margins)
    of_kernel = np.zeros(kernel.shape)
    h, w = x.shape[1:3]
    for i in range(kernel.shape[0]):
        for j in range(kernel.shape[1]):
            of_kernel[i, j] = np.einsum("bhwc,bhwd->cd", padded[:, i : i + h, j : j + w], gradient)
            of_x[:, i : i + h, j : j + w] += gradient @ np.float64(kernel[i, j]).T
    return of_x[:, margin : margin + h, margin : margin + w], of_kernel


def convolution(x, kernel):
    return convolve(x, pack_kernel(kernel, (1, 1), (1, 1)))


def value_and_gradients(function, gradient, *arrays):
    """What a function gives, and what a gradient of that means for each of its arguments; compiled as one."""

    @jax.jit
    def both(gradient, *arrays):
        value, pull = jax.vjp(function, *arrays)
        return value, pull(gradient)

    return both(gradient, *arrays)


# Tiny grids, grids with fewer pixels than output channels, and others.
@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (1, 5), (2, 7), (3, 3), (4, 4), (5, 4)])
@pytest.mark.parametrize("features", [4, 40])
@pytest.mark.parametrize("size", [1, 3, 5])
def test_convolution_and_its_gradients_equal_loops(shape, features, size):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *shape, 3)).astype(np.float32)
    kernel = rng.normal(size=(size, size, 3, features)).astype(np.float32)
    gradient = rng.normal(size=(2, *shape, features)).astype(np.float32)
    y, gradients = value_and_gradients(convolution, gradient, x, kernel)
    np.testing.assert_allclose(y, numpy_conv(x, kernel), atol=2e-5)
    for found, expected in zip(gradients, numpy_gradients(x, kernel, gradient), strict=True):
        np.testing.assert_allclose(found, expected, atol=5e-5)


def test_few_pixels_need_no_transposed_kernel_on_a_cpu():
    """What the other way is for: no program of the gradient moves as many numbers as the kernel has."""
    x, kernel = jnp.zeros((2, 4, 4, 64)), jnp.zeros((3, 3, 64, 128))
    step = jax.jit(lambda x, k: jax.vjp(convolution, x, k)[1](jnp.ones((2, 4, 4, 128))))
    text = step.lower(x, kernel).compile().as_text()
    assert "convolution(" not in text and "reverse(" not in text


def test_few_pixels_need_few_kernels_on_a_cpu():
    """A kernel takes longer to compile than to run. With a slice for each of the nine taps there are 21."""
    x, kernel = jnp.zeros((2, 4, 4, 64)), jnp.zeros((3, 3, 64, 128))
    step = jax.jit(lambda x, k, g: (convolution(x, k), *jax.vjp(convolution, x, k)[1](g)))
    text = step.lower(x, kernel, jnp.ones((2, 4, 4, 128))).compile().as_text()
    assert text.split("ENTRY")[1].count(" fusion(") <= 9


@pytest.mark.parametrize("size", [4, 16])
def test_joined_equals_the_concatenation_with_its_gradients(size):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2, size, size, 3)).astype(np.float32)
    below = rng.normal(size=(2, size // 2, size // 2, 5)).astype(np.float32)
    kernel = rng.normal(size=(3, 3, 8, 40)).astype(np.float32)
    gradient = rng.normal(size=(2, size, size, 40)).astype(np.float32)
    upsampled = below.repeat(2, axis=1).repeat(2, axis=2)
    concatenated = np.concatenate([x, upsampled], axis=-1)
    y, (of_x, of_below, of_kernel) = value_and_gradients(convolve_joined, gradient, x, below, kernel)
    np.testing.assert_allclose(y, numpy_conv(concatenated, kernel), atol=5e-5)
    expected, expected_kernel = numpy_gradients(concatenated, kernel, gradient)
    blocks = expected[..., 3:].reshape(2, size // 2, 2, size // 2, 2, 5).sum((2, 4))
    np.testing.assert_allclose(of_x, expected[..., :3], atol=1e-4)
    np.testing.assert_allclose(of_below, blocks, atol=1e-4)
    np.testing.assert_allclose(of_kernel, expected_kernel, atol=2e-4)


@pytest.mark.parametrize(("old", "new"), [((1, 1), (2, 2)), ((2, 2), (2, 2)), ((1, 1), (4, 4))])
def test_gradient_of_an_upsampled_input_is_the_same_from_every_packing(old, new):
    """Its own derivative, where it is repacked first, against what jax derives of the unpacked one."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(1, 8, 8, 3)).astype(np.float32)
    kernel = rng.normal(size=(3, 3, 3, 4)).astype(np.float32)
    gradient = rng.normal(size=(1, 16, 16, 4)).astype(np.float32)
    _, (of_x, of_kernel) = value_and_gradients(
        lambda x, k: unpack(convolve_upsampled(pack(x, old), k, old, new), new), gradient, x, kernel
    )
    expected, expected_kernel = numpy_gradients(x.repeat(2, axis=1).repeat(2, axis=2), kernel, gradient)
    np.testing.assert_allclose(of_x, expected.reshape(1, 8, 2, 8, 2, 3).sum((2, 4)), atol=1e-4)
    np.testing.assert_allclose(of_kernel, expected_kernel, atol=2e-4)


def test_options_are_for_cpus_and_known_to_this_version():
    assert compiler_options("cpu") and not compiler_options("tpu") and not compiler_options("gpu")
    assert compiler_options() == compiler_options("cpu")
    doubled = jax.jit(lambda x: 2 * x, compiler_options=compiler_options())
    assert doubled(21.0) == 42.0
