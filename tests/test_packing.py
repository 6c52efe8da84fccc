"""Packing changes the layout and nothing else: against no packing, and against a network written out plainly."""

import dataclasses
import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unet_jax import InputError, UNet
from unet_jax.config import Config, ModelConfig
from unet_jax.config.dicts import config_differences, config_from_dict, config_to_dict
from unet_jax.config.packing import parse_packing, subpixels
from unet_jax.model.convolution import convolve, repack_by_convolution
from unet_jax.model.packing import AUTO, halve, level_factors, logits_factor, pack, pack_kernel, repack, unpack
from unet_jax.model.pooling import max_pool

FACTORS = [(1, 1), (1, 2), (2, 1), (2, 2), (4, 2), (1, 4), (4, 4)]
factors = st.sampled_from(FACTORS)


def lax_conv(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def plain_upsample(x):
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


def plain_max_pool(x):
    # Not x.max of blocks: its gradient goes to pixels that equal the maximum, and a program that computes both in two
    # places may round them differently.
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def plain_unet(config, params, stats, images):
    """The network of the original with batch normalisation in training, layer by layer; and its new statistics."""
    moved = {}

    def block(x, stage):
        for i in range(len(params[stage]) // 2):
            conv, norm = params[stage][f"conv{i}"], params[stage][f"norm{i}"]
            x = lax_conv(x, conv["kernel"]) + conv["bias"][None, None, None]
            mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
            old = stats[stage][f"norm{i}"]
            moved.setdefault(stage, {})[f"norm{i}"] = {
                "mean": 0.99 * old["mean"] + 0.01 * mean,
                "var": 0.99 * old["var"] + 0.01 * var,
            }
            x = (x - mean[None, None, None]) / jnp.sqrt(var + 1e-3)[None, None, None]
            x = jax.nn.relu(x * norm["scale"][None, None, None] + norm["bias"][None, None, None])
        return x

    x, skips = images, []
    for i in range(len(config.widths)):
        skips.append(block(x, f"down{i}"))
        x = plain_max_pool(skips[-1])
    x = block(x, "center")
    for i, skip in enumerate(reversed(skips)):
        x = block(jnp.concatenate([skip, plain_upsample(x)], axis=-1), f"up{i}")
    return lax_conv(x, params["head"]["kernel"]) + params["head"]["bias"][None, None, None], moved


@functools.cache
def run_of(config, num_classes):
    """`(variables, images) -> (logits, statistics, gradients)` of a fixed function of the logits."""
    model = UNet(config, num_classes)

    def run(variables, images, target):
        def loss(params):
            logits, moved = model.apply({**variables, "params": params}, images, True, mutable=["batch_stats"])
            return jnp.mean(jnp.square(logits - target)), (logits, moved.get("batch_stats", {}))

        grads, (logits, moved) = jax.grad(loss, has_aux=True)(variables["params"])
        return logits, moved, grads

    return jax.jit(run)


def plain_run(config, variables, images, target):
    def loss(params):
        logits, moved = plain_unet(config, params, variables["batch_stats"], images)
        return jnp.mean(jnp.square(logits - target)), (logits, moved)

    grads, (logits, moved) = jax.grad(loss, has_aux=True)(variables["params"])
    return logits, moved, grads


def random_variables(config, num_classes, seed):
    """Weights of which none is a special value: biases and statistics too."""
    model = UNet(config, num_classes)
    multiple = config.size_multiple
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, multiple, multiple, 3)), False))
    rng = np.random.default_rng(seed)

    def draw(path, x):
        # The variance loses digits when the running mean is far off, as no running mean stays.
        scale = 0.2 if path[-1].key == "mean" else 1.0
        return scale * rng.uniform(0.1, 1.0, x.shape).astype(x.dtype) * rng.choice([-1, 1], x.shape).astype(x.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def assert_close(actual, expected, tolerance=1e-5):
    """To `tolerance` of the largest number of each array, or of 1."""

    def check(a, b):
        a, b = np.asarray(a), np.asarray(b)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1.0, np.abs(b).max()))

    jax.tree.map(check, actual, expected)


@st.composite
def cases(draw):
    depth = draw(st.integers(1, 3))
    widths = tuple(draw(st.lists(st.integers(1, 5), min_size=depth, max_size=depth)))
    powers = [[2**p for p in range(min(depth - level, 2) + 1)] for level in range(depth)]
    packing = ",".join(f"{draw(st.sampled_from(p))}x{draw(st.sampled_from(p))}" for p in powers)
    hypothesis.assume("2" in packing or "4" in packing)
    size = tuple(2**depth * draw(st.integers(1, 3)) for _ in "hw")
    config = ModelConfig(
        widths=widths,
        center_width=draw(st.integers(1, 5)),
        num_convs_down=1,
        num_convs_up=draw(st.integers(1, 2)),
        packing=packing,
    )
    return config, draw(st.sampled_from([1, 2, 3, 5])), size


@hypothesis.given(case=cases(), seed=st.integers(0, 99))
@hypothesis.settings(max_examples=3, phases=[hypothesis.Phase.generate])  # to shrink is to compile hundreds of networks
def test_network_is_the_same_packed_unpacked_and_written_out(case, seed):
    config, num_classes, size = case
    variables = random_variables(config, num_classes, seed)
    rng = np.random.default_rng(seed + 1)
    images = rng.uniform(size=(2, *size, 3)).astype(np.float32)
    target = rng.normal(size=(2, *size, num_classes)).astype(np.float32)
    unpacked = dataclasses.replace(config, packing="none")
    expected = jax.jit(functools.partial(plain_run, config))(variables, images, target)
    assert_close(run_of(unpacked, num_classes)(variables, images, target), expected)
    assert_close(run_of(config, num_classes)(variables, images, target), expected)


def small_images(shape, seed):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


blocks = st.tuples(st.integers(1, 3), st.integers(1, 3))  # of 4x4 pixels


@hypothesis.given(old=factors, new=factors, grid=blocks, size=st.sampled_from([1, 3]), upsampled=st.booleans())
@hypothesis.settings(max_examples=24, phases=[hypothesis.Phase.generate])
def test_convolution_from_any_packing_to_any_other(old, new, grid, size, upsampled):
    x = small_images((2, grid[0] * 4, grid[1] * 4, 3), 0)
    kernel = small_images((size, size, 3, 2), 1)

    @jax.jit
    def both_ways(x, kernel):
        packed = convolve(pack(x, old), pack_kernel(kernel, old, new, upsampled=upsampled))
        return unpack(packed, new), lax_conv(plain_upsample(x) if upsampled else x, kernel)

    assert_close(*both_ways(x, kernel))


@hypothesis.given(old=factors, new=factors, grid=blocks)
@hypothesis.settings(max_examples=12, phases=[hypothesis.Phase.generate])
def test_repacking_by_convolution_is_exact(old, new, grid):
    x = small_images((2, grid[0] * 4, grid[1] * 4, 3), 0)
    repacked, expected = jax.jit(lambda x: (repack_by_convolution(pack(x, old), old, new), pack(x, new)))(x)
    np.testing.assert_array_equal(repacked, expected)


@pytest.mark.parametrize("factor", FACTORS)
def test_first_of_equals_gets_the_gradient_with_every_packing(factor):
    x = np.random.default_rng(0).integers(0, 3, (2, 8, 8, 3)).astype(np.float32)  # many ties
    x[0, 0, 0, 0] = np.nan

    @jax.jit
    def run(x):
        pooled, pullback = jax.vjp(lambda x: unpack(max_pool(pack(x, factor), factor), halve(factor)), x)
        (grad,) = pullback(1.0 + jnp.arange(pooled.size, dtype=jnp.float32).reshape(pooled.shape))
        return pooled, grad

    pooled, grad = run(x)
    np.testing.assert_array_equal(pooled, plain_max_pool(x))
    blocks = x.reshape(2, 4, 2, 4, 2, 3).transpose(0, 1, 3, 5, 2, 4).reshape(2, 4, 4, 3, 4)  # in reading order
    winner = np.argmax(blocks, axis=-1)  # NumPy's argmax is the first of equals, and NaN
    expected = np.eye(4)[winner] * (1.0 + np.arange(winner.size).reshape(winner.shape))[..., None]
    expected = expected.reshape(2, 4, 4, 3, 2, 2).transpose(0, 1, 4, 2, 5, 3).reshape(x.shape)
    np.testing.assert_array_equal(grad, expected)


@hypothesis.given(old=factors, new=factors)
@hypothesis.settings(max_examples=10)
def test_repacking_moves_pixels_and_changes_none(old, new):
    x = np.arange(2 * 8 * 12 * 3).reshape(2, 8, 12, 3).astype(np.int32)
    np.testing.assert_array_equal(unpack(repack(pack(x, old), old, new), new), x)


def test_order_of_sub_pixels_by_hand():
    assert subpixels((2, 2)) == ((0, 0), (0, 1), (1, 0), (1, 1))
    assert subpixels((1, 4)) == ((0, 0), (0, 2), (0, 1), (0, 3))
    x = np.arange(16).reshape(1, 4, 4, 1)
    by_hand = [0, 2, 8, 10, 1, 3, 9, 11, 4, 6, 12, 14, 5, 7, 13, 15]
    np.testing.assert_array_equal(pack(x, (4, 4))[0, 0, 0], by_hand)
    assert [4 * row + column for row, column in subpixels((4, 4))] == by_hand


@pytest.mark.parametrize("norm", ["group", "none"])
def test_other_norms_packed(norm):
    config = ModelConfig((4, 4), 4, 1, 1, norm=norm, group_size=2, packing="4x2,2")
    variables = random_variables(config, 3, 0)
    images, target = small_images((2, 8, 12, 3), 0), small_images((2, 8, 12, 3), 1)
    expected = run_of(dataclasses.replace(config, packing="none"), 3)(variables, images, target)
    assert_close(run_of(config, 3)(variables, images, target), expected)


@pytest.mark.slow  # the variance is corrected after it was computed, whatever the packing
def test_running_variance_of_keras_packed():
    config = ModelConfig((3,), 3, 1, 1, batch_norm_variance="keras2.1", packing="2")
    variables = random_variables(config, 1, 0)
    images, target = small_images((1, 4, 4, 3), 0), small_images((1, 4, 4, 1), 1)
    expected = run_of(dataclasses.replace(config, packing="none"), 1)(variables, images, target)
    assert_close(run_of(config, 1)(variables, images, target), expected)
    biased = run_of(dataclasses.replace(config, batch_norm_variance="biased"), 1)(variables, images, target)
    difference = expected[1]["down0"]["norm0"]["var"] - biased[1]["down0"]["norm0"]["var"]
    assert np.abs(difference).max() > 1e-3  # 4 x 4 pixels: the correction is 7 percent of a hundredth


def test_bfloat16_packed():
    config = ModelConfig((4, 4), 4, 1, 1, packing="2x4,2", dtype="bfloat16")
    variables = random_variables(config, 2, 0)
    images, target = small_images((2, 8, 8, 3), 0), small_images((2, 8, 8, 2), 1)
    logits, stats, grads = run_of(config, 2)(variables, images, target)
    exact = run_of(dataclasses.replace(config, packing="none", dtype="float32"), 2)(variables, images, target)[0]
    assert {x.dtype for x in jax.tree.leaves((logits, stats, grads))} == {np.dtype("float32")}
    assert 0 < np.abs(logits - exact).mean() < 0.05 * np.abs(exact).mean()


def test_parameters_do_not_depend_on_the_packing():
    def shapes(packing):
        model = UNet(ModelConfig((8, 16), 8, packing=packing), 3)
        return jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), False))

    assert shapes("none") == shapes("4x2,2") == shapes("auto")

    def first_weights(packing):
        model = UNet(ModelConfig((3,), 3, 1, 1, packing=packing), 1)
        return jax.jit(lambda: model.init(jax.random.key(0), jnp.zeros((1, 2, 2, 3)), False))()

    jax.tree.map(np.testing.assert_array_equal, first_weights("none"), first_weights("2"))


def test_factors_of_a_config():
    assert parse_packing("4,1x2", 3) == [(4, 4), (1, 2), (1, 1)]
    assert parse_packing("none", 2) == [(1, 1), (1, 1)]
    seed = ModelConfig(packing="auto")
    assert level_factors(seed, "tpu") == [(4, 4), (2, 4), (2, 2), (1, 2)] + 4 * [(1, 1)]
    assert level_factors(ModelConfig((8,), 8, packing="auto"), "tpu") == [(2, 2), (1, 1)]  # 4 would not divide
    assert level_factors(seed, "an unknown kind") == [(1, 1)] * 8
    # Two classes on blocks of 4x4 are 32 logits: 8x8 fill the 128 lanes. Three would be 192.
    assert logits_factor(seed, 2, "tpu") == (8, 8)
    assert logits_factor(seed, 3, "tpu") == (4, 8)
    assert logits_factor(seed, 2, "cpu") == (1, 1)
    assert logits_factor(ModelConfig((8,), 8, packing="2"), 1, "cpu") == (2, 2)  # more would not divide
    for table in AUTO.values():
        assert all(f & (f - 1) == 0 for factor in table.values() for f in factor)


@pytest.mark.parametrize(
    ("packing", "words"),
    [
        ("some", ["'some'", "'none'", "4,2,2"]),
        ("2,3", ["'3'", "powers of two"]),
        ("2,0", ["'0'"]),
        ("2x", ["'2x'"]),
        ("8,2", ["level 0", "at most 4", "use"]),
        ("1,1x4", ["level 1", "at most 2"]),
        ("1,1,2", ["level 2", "at most 1"]),
    ],
)
def test_factors_that_do_not_fit_are_refused(packing, words):
    with pytest.raises(InputError, match=r"model\.packing") as error:
        ModelConfig(widths=(4, 8), packing=packing)
    assert all(word in str(error.value) for word in words)


def test_packing_survives_json_and_may_change_when_a_run_continues():
    config = Config(model=ModelConfig(packing="4,1x2"))
    assert config_from_dict(config_to_dict(config)) == config
    assert config_differences(config, Config()) == {}
