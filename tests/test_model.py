import dataclasses
import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unet_jax import InputError, UNet
from unet_jax.config import ModelConfig
from unet_jax.model.normalization import BatchNorm, batch_norm
from unet_jax.model.pooling import max_pool, max_pool_3x3
from unet_jax.program.initial_state import init_state, with_prior_bias
from unet_jax.program.state import num_parameters

TINY = ModelConfig(widths=(4, 8), center_width=16, num_convs_up=2)


@functools.cache
def evaluate(model):
    """Op-by-op execution compiles every operation by itself; one jit is many times faster."""
    return jax.jit(lambda variables, images: model.apply(variables, images, False, mutable=["batch_stats"]))


@functools.cache
def train(model):
    return jax.jit(lambda variables, images: model.apply(variables, images, True, mutable=["batch_stats"]))


def make(config=TINY, num_classes=2, size=16, seed=0):
    """Network, variables and images; the variables are made in NumPy, without compiling anything."""
    model, rng = UNet(config, num_classes), np.random.default_rng(seed)
    images = rng.uniform(size=(2, size, size, 3)).astype(np.float32)
    shapes = jax.eval_shape(lambda key: model.init(key, images, False), jax.random.key(0))

    def made(path, leaf):
        name = path[-1].key
        if name == "kernel":
            fan_in = np.prod(leaf.shape[:-1])
            return rng.normal(scale=(2 / fan_in) ** 0.5, size=leaf.shape).astype(leaf.dtype)
        return np.full(leaf.shape, {"scale": 1.0, "var": 1.0, "bias": 0.0, "mean": 0.0}[name], leaf.dtype)

    return model, jax.tree_util.tree_map_with_path(made, shapes), images


@pytest.mark.parametrize(
    ("widths", "num_classes", "trainable", "statistics"),
    [
        # Counted by hand from the original's layer list; see also keras' model.summary().
        ((8, 16, 32, 64, 128, 256, 512), 2, 34_623_090, 14_256),
        ((8, 16, 32, 64, 128, 256, 512), 1, 34_623_081, 14_256),
        pytest.param((16, 32, 64, 128, 256, 512), 2, 34_618_594, 14_176, marks=pytest.mark.slow),  # between the others
        pytest.param((32, 64, 128, 256, 512), 2, 34_600_386, 14_016, marks=pytest.mark.slow),
        ((64, 128, 256, 512), 2, 34_527_106, 13_696),
    ],
)
def test_parameter_counts_of_the_original(widths, num_classes, trainable, statistics):
    model = UNet(ModelConfig(widths=widths), num_classes)
    state = jax.eval_shape(lambda key: init_state(key, model, optax.sgd(1.0)), jax.random.key(0))
    assert (num_parameters(state.params), num_parameters(state.batch_stats)) == (trainable, statistics)


def test_pool_by_hand():
    x = np.arange(16.0, dtype=np.float32).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(jax.jit(max_pool)(x)[0, :, :, 0], [[5, 7], [13, 15]])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_pool_of_a_resnet_has_a_gradient_in_a_compiled_step(dtype):
    """Block (i, j) is around row 2i and column 2j: 15 wins one block, 13 and 7 and 5 one each."""
    x = jnp.arange(16.0, dtype=dtype).reshape(1, 4, 4, 1)
    weight = jnp.array([[1.0, 2.0], [3.0, 4.0]], dtype)
    gradient = jax.jit(jax.grad(lambda x: (max_pool_3x3(x)[0, :, :, 0] * weight).sum()))(x)
    expected = np.zeros(16)
    expected[[5, 7, 13, 15]] = [1, 2, 3, 4]
    assert gradient.dtype == dtype
    np.testing.assert_array_equal(gradient.ravel(), expected)


@pytest.mark.parametrize(
    ("mean", "running_mean", "tolerance"), [(1.0, 0.0, 1e-5), (100.0, 99.0, 1e-5), (100.0, 0.0, 5e-3)]
)
def test_batch_norm_against_numpy(mean, running_mean, tolerance):
    """A running mean that is 50 standard deviations off costs the variance digits, and no more."""
    rng = np.random.default_rng(0)
    x = rng.normal(mean, 2.0, size=(3, 4, 5, 6)).astype(np.float32)
    conv_bias = rng.normal(size=6).astype(np.float32)
    layer = BatchNorm(6, momentum=0.9, eps=1e-3)
    variables = jax.jit(layer.init)(jax.random.key(0), x, conv_bias)
    variables["batch_stats"]["mean"] = np.full(6, running_mean, np.float32)
    y, updated = jax.jit(functools.partial(layer.apply, mutable=["batch_stats"]))(variables, x, conv_bias)
    z = np.float64(x) + conv_bias
    mean, var = z.mean((0, 1, 2)), z.var((0, 1, 2))
    np.testing.assert_allclose(y, np.maximum(0, (z - mean) / np.sqrt(var + 1e-3)), atol=5 * tolerance)
    np.testing.assert_allclose(updated["batch_stats"]["mean"], 0.9 * running_mean + 0.1 * mean, rtol=1e-6)
    np.testing.assert_allclose(updated["batch_stats"]["var"], 0.9 + 0.1 * var, rtol=tolerance)
    evaluated = jax.jit(functools.partial(layer.apply, method="normalize"))({**variables, **updated}, x, conv_bias)
    running_mean, running_var = 0.9 * running_mean + 0.1 * mean, 0.9 + 0.1 * var
    expected = np.maximum(0, (z - running_mean) / np.sqrt(running_var + 1e-3))
    np.testing.assert_allclose(evaluated, expected, rtol=max(1e-4, tolerance), atol=1e-4)


def test_gradient_of_batch_norm_is_that_of_its_formula():
    rng = np.random.default_rng(0)
    x, target = (rng.normal(0.5, 2.0, size=(2, 3, 4, 6)).astype(np.float32) for _ in range(2))
    scale, bias, shift = (rng.normal(size=3).astype(np.float32) for _ in range(3))  # two sub-pixels

    def formula(x, scale, bias):
        z = x.reshape(2, 3, 4, 2, 3)
        z = (z - z.mean((0, 1, 2, 3))[None, None, None, None]) * jax.lax.rsqrt(z.var((0, 1, 2, 3)) + 0.1)[
            None, None, None, None
        ]
        return jnp.maximum(0.0, z * scale[None, None, None, None] + bias[None, None, None, None]).reshape(x.shape)

    ours = jax.jit(jax.grad(lambda *a: jnp.sum(target * batch_norm(*a, shift, 0.1)[0]), (0, 1, 2)))(x, scale, bias)
    expected = jax.jit(jax.grad(lambda *a: jnp.sum(target * formula(*a)), (0, 1, 2)))(x, scale, bias)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), ours, expected)


def test_evaluation_leaves_statistics_alone():
    model, variables, images = make()
    _, updated = evaluate(model)(variables, images)
    jax.tree.map(np.testing.assert_array_equal, updated["batch_stats"], variables["batch_stats"])
    _, moved = train(model)(variables, images)
    assert not np.allclose(moved["batch_stats"]["down0"]["norm0"]["mean"], 0.0)


def test_every_skip_connection_matters():
    """Zeroing the kernel rows that read a stage's skip connection changes the logits, at every resolution."""
    model, variables, images = make(ModelConfig(widths=(4, 8, 8), center_width=8, num_convs_up=2))
    logits, _ = evaluate(model)(variables, images)
    for i, width in enumerate((8, 8, 4)):
        params = jax.tree.map(lambda x: x, variables["params"])
        kernel = params[f"up{i}"]["conv0"]["kernel"].copy()
        kernel[:, :, :width] = 0.0  # skip first in the concatenation
        params[f"up{i}"]["conv0"]["kernel"] = kernel
        changed, _ = evaluate(model)({**variables, "params": params}, images)
        assert np.abs(changed - logits).max() > 1e-3, f"up{i}"


def test_skip_comes_first_in_the_concatenation():
    """The skip of the highest resolution carries detail finer than the up-sampled stage can."""
    model, variables, images = make()
    params = jax.tree.map(lambda x: x, variables["params"])
    kernel = np.zeros_like(params["up1"]["conv0"]["kernel"])
    kernel[1, 1, 4:] = 1.0  # only the up-sampled half, no blur
    params["up1"]["conv0"]["kernel"] = kernel
    _, state = jax.jit(
        lambda variables: model.apply(variables, images, False, capture_intermediates=True, mutable=True)
    )({**variables, "params": params})
    seen, _ = state["intermediates"]["up1"]["conv0"]["__call__"][0]
    np.testing.assert_array_equal(seen[:, ::2, ::2], seen[:, 1::2, 1::2])


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_norms_run_and_only_batch_norm_has_statistics(norm):
    model, variables, images = make(dataclasses.replace(TINY, norm=norm))
    assert ("batch_stats" in variables) == (norm == "batch")
    assert np.isfinite(evaluate(model)(variables, images)[0]).all()


def test_bfloat16_keeps_parameters_statistics_and_logits_float32():
    model, variables, images = make(dataclasses.replace(TINY, dtype="bfloat16"))
    assert {x.dtype for x in jax.tree.leaves(variables)} == {np.dtype("float32")}
    logits, updated = train(model)(variables, images)
    assert logits.dtype == np.float32
    assert {x.dtype for x in jax.tree.leaves(updated)} == {np.dtype("float32")}
    exact, _ = train(UNet(TINY, 2))(variables, images)
    assert 0 < np.abs(logits - exact).max() < 0.2


def test_size_that_does_not_divide_is_an_error_with_both_numbers():
    model, variables, _ = make()
    with pytest.raises(InputError, match=r"18x16.*multiples of 4"):
        model.apply(variables, jnp.zeros((1, 18, 16, 3)), False)


def test_prior_bias_is_the_log_odds():
    _, variables, _ = make()
    bias = with_prior_bias(variables["params"], np.array([0.5, 0.2]))["head"]["bias"]
    np.testing.assert_allclose(1.0 / (1.0 + np.exp(-bias)), [0.5, 0.2], rtol=1e-6)
    assert np.isfinite(with_prior_bias(variables["params"], np.array([0.0, 1.0]))["head"]["bias"]).all()


@hypothesis.given(
    depth=st.integers(1, 3), width=st.integers(1, 5), down=st.integers(1, 2), up=st.integers(1, 3), k=st.integers(1, 5)
)
@hypothesis.settings(max_examples=8)
def test_any_depth_and_width_gives_one_logit_per_pixel_and_class(depth, width, down, up, k):
    config = ModelConfig(widths=(width,) * depth, center_width=width, num_convs_down=down, num_convs_up=up)
    model = UNet(config, k)
    size = 2 * config.size_multiple
    shape = jax.eval_shape(
        lambda key: model.init_with_output(key, jnp.zeros((1, size, size, 3)), False)[0], jax.random.key(0)
    )
    assert shape.shape == (1, size, size, k)
