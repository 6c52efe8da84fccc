"""What each kind of device computes in its own way equals the default way, and is chosen by the program's platform."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_convolution import numpy_conv, numpy_gradients, value_and_gradients

from unet_jax import Batch, UNet
from unet_jax._formulations import FORMULATIONS, by_platform, traced_for
from unet_jax.config import ModelConfig
from unet_jax.losses import bce_dice_loss
from unet_jax.model.convolution import convolve_below, convolve_joined
from unet_jax.model.normalization import batch_norm
from unet_jax.model.pooling import max_pool
from unet_jax.program.initial_state import init_state
from unet_jax.program.steps import make_train_step

NETWORK = UNet(ModelConfig((2,), 3, num_convs_down=1, num_convs_up=1), 2)


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """A function that makes this machine's processor compute as a GPU does."""
    return lambda: monkeypatch.setitem(FORMULATIONS, "cpu", FORMULATIONS["gpu"])


def lowered(function, *arguments, platform):
    return jax.jit(function).trace(*arguments).lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("size", [3, 5])
def test_transposed_convolution_of_the_part_below_equals_loops(as_on_a_gpu, size):
    as_on_a_gpu()
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 64, 64, 2)).astype(np.float32)
    below = rng.normal(size=(1, 32, 32, 3)).astype(np.float32)
    kernel = rng.normal(size=(size, size, 5, 4)).astype(np.float32)
    gradient = rng.normal(size=(1, 64, 64, 4)).astype(np.float32)
    upsampled = below.repeat(2, axis=1).repeat(2, axis=2)
    joined = np.concatenate([x, upsampled], axis=-1)
    y, (of_x, of_below, of_kernel) = value_and_gradients(convolve_joined, gradient, x, below, kernel)
    alone, (below_alone, kernel_alone) = value_and_gradients(convolve_below, gradient, below, kernel[:, :, 2:])
    expected, expected_kernel = numpy_gradients(joined, kernel, gradient)
    blocks = expected[..., 2:].reshape(1, 32, 2, 32, 2, 3).sum((2, 4))
    np.testing.assert_allclose(y, numpy_conv(joined, kernel), atol=5e-5)
    np.testing.assert_allclose(of_x, expected[..., :2], atol=5e-5)
    np.testing.assert_allclose(of_below, blocks, atol=1e-4)
    np.testing.assert_allclose(of_kernel, expected_kernel, atol=1e-5 * np.abs(expected_kernel).max())
    np.testing.assert_allclose(alone, numpy_conv(upsampled, kernel[:, :, 2:]), atol=5e-5)
    np.testing.assert_allclose(below_alone, blocks, atol=1e-4)
    np.testing.assert_allclose(kernel_alone, expected_kernel[:, :, 2:], atol=1e-5 * np.abs(expected_kernel).max())


def test_pooling_with_a_byte_for_the_winner_is_the_same_bit_for_bit(as_on_a_gpu):
    x = np.random.default_rng(0).integers(0, 3, (2, 8, 6, 3)).astype(np.float32)  # many ties
    x[0, 0, 0, 0] = np.nan
    gradient = 1.0 + np.arange(2 * 4 * 3 * 3, dtype=np.float32).reshape(2, 4, 3, 3)
    expected = value_and_gradients(max_pool, gradient, x)
    as_on_a_gpu()
    jax.tree.map(np.testing.assert_array_equal, value_and_gradients(lambda x: max_pool(x), gradient, x), expected)


def test_sums_of_pairs_in_packed_normalisation(as_on_a_gpu):
    rng = np.random.default_rng(0)
    x, gradient = (rng.normal(0.5, 2.0, size=(2, 3, 4, 6)).astype(np.float32) for _ in range(2))
    scale, bias, shift = (rng.normal(size=3).astype(np.float32) for _ in range(3))  # two sub-pixels

    def normalize(*arguments):
        outputs: Any = batch_norm(*arguments, shift, 0.1)
        return outputs[0]

    expected = value_and_gradients(normalize, gradient, x, scale, bias)
    as_on_a_gpu()
    found = value_and_gradients(normalize, gradient, x, scale, bias)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, expected)


def test_a_network_computed_as_on_a_gpu_is_the_same(as_on_a_gpu):
    rng = np.random.default_rng(0)
    image, label = (rng.integers(0, 256, (2, 64, 64, c), np.uint8) for c in (3, 2))
    batch = Batch(image, label, np.ones(2, np.float32))

    tx = optax.sgd(1.0)  # so that a difference of parameters is a gradient
    state = jax.jit(lambda key: init_state(key, NETWORK, tx))(jax.random.key(0))

    def run():
        """An update, and the logits of evaluation, whose running statistics it moved."""
        step = make_train_step(NETWORK.apply, bce_dice_loss, tx)

        @jax.jit
        def both(state):
            state, metrics = step(state, batch)
            variables = {"params": state.params, "batch_stats": state.batch_stats}
            return variables, metrics, NETWORK.apply(variables, image / jnp.float32(255), False)

        return both(state)

    expected = run()
    as_on_a_gpu()
    found = run()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, expected)
    assert np.any(found[2] != expected[2])  # it was really computed in another way


def test_the_platform_of_a_program_decides_and_not_this_machine():
    x = jnp.zeros((1, 64, 64, 2))
    variables = jax.eval_shape(lambda key: NETWORK.init(key, x, False), jax.random.key(0))

    def predict(variables, x):
        return NETWORK.apply(variables, x, False)

    texts = {name: lowered(predict, variables, x, platform=name) for name in ("cpu", "tpu", "cuda", "rocm")}
    counts = {name: text.count("stablehlo.convolution") for name, text in texts.items()}
    # A processor and a GPU convolve the two inputs of up0 one by one; a GPU's head is no convolution.
    assert counts == {"cpu": 5, "tpu": 4, "cuda": 4, "rocm": 4}
    assert "concatenate" in texts["tpu"].replace("concatenate_", "")
    assert texts["cuda"] == texts["rocm"]


def test_a_kind_of_device_is_traced_alone(monkeypatch):
    monkeypatch.setitem(FORMULATIONS, "cpu", frozenset({"one"}))
    monkeypatch.setitem(FORMULATIONS, "gpu", frozenset({"two"}))

    def never(x):
        raise AssertionError("traced")

    @jax.jit
    def chosen(x):
        return by_platform(lambda x: x, x, one=lambda x: x + 1, two=lambda x: x + 2)

    found = {None: int(chosen(0))}
    for kind in ("cpu", "gpu", "tpu", "cpu"):
        with traced_for(kind):
            found[kind] = int(chosen(0))  # jax does not take what it has traced for another kind
    assert found == {None: 1, "cpu": 1, "gpu": 2, "tpu": 0}
    with traced_for("cpu"):
        assert int(jax.jit(lambda x: by_platform(never, x, one=lambda x: x + 1, two=never))(0)) == 1
    with pytest.raises(AssertionError, match="traced"):
        jax.jit(lambda x: by_platform(never, x, one=lambda x: x + 1, two=never))(0)
