"""Steps on one and on eight fake devices."""

import functools

import jax
import numpy as np
import optax
import pytest
from helpers import ONE_DEVICE

from unet_jax import Batch, UNet
from unet_jax.config import ModelConfig
from unet_jax.devices.mesh import check_batch_size, make_mesh, put_batch, put_replicated
from unet_jax.losses import bce_dice_loss
from unet_jax.program.initial_state import init_state
from unet_jax.program.predict_step import make_predict_step
from unet_jax.program.steps import make_eval_step, make_train_step, norm_by_parts

CONFIG = ModelConfig(widths=(4, 8), center_width=8, num_convs_down=1, num_convs_up=1)
MODEL = UNet(CONFIG, 2)
TX = optax.sgd(0.1, momentum=0.9)
TRAIN_STEP = make_train_step(MODEL.apply, bce_dice_loss, TX)
EVAL_STEP = make_eval_step(MODEL.apply, bce_dice_loss, threshold=0.5)
PREDICT_STEP = make_predict_step(MODEL.apply, size_multiple=CONFIG.size_multiple)


@functools.cache
def new_state():
    """On the host, from where every test puts it on devices of its own."""
    return jax.device_get(jax.jit(lambda key: init_state(key, MODEL, TX))(jax.random.key(0)))


def new_batch(seed=0, size=8):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (size, 16, 16, 3), np.uint8)
    label = (image[..., :2] > 128).astype(np.uint8) * np.uint8(255)
    return Batch(image, label, np.ones(size, np.float32))


def train_on(mesh, num_steps):
    state = put_replicated(new_state(), mesh)
    losses = []
    for i in range(num_steps):
        state, metrics = TRAIN_STEP(state, put_batch(new_batch(i), mesh))
        losses.append(float(metrics["loss"]))
    return jax.device_get(state), losses


def test_one_and_eight_devices_agree():
    one, losses_one = train_on(ONE_DEVICE, 3)
    eight, losses_eight = train_on(make_mesh(), 3)
    np.testing.assert_allclose(losses_one, losses_eight, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), one, eight)
    assert one.step == eight.step == 3


def test_a_step_changes_everything_and_lowers_the_loss():
    mesh = ONE_DEVICE
    before = new_state()
    state, batch = put_replicated(new_state(), mesh), put_batch(new_batch(), mesh)
    losses = []
    for _ in range(10):
        state, metrics = TRAIN_STEP(state, batch)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0]
    for tree in ("params", "batch_stats"):
        old, new = (jax.tree_util.tree_leaves_with_path(getattr(s, tree)) for s in (before, state))
        for (path, x), (_, y) in zip(old, new, strict=True):
            name = jax.tree_util.keystr(path)
            # Batch normalisation takes out the bias before it: it has no gradient, and stays.
            stays = tree == "params" and "conv" in name and "bias" in name
            assert np.array_equal(x, y) == stays, name


def test_state_is_donated():
    mesh = ONE_DEVICE
    state = put_replicated(new_state(), mesh)
    TRAIN_STEP(state, put_batch(new_batch(), mesh))
    assert jax.tree.leaves(state.params)[0].is_deleted()


def test_compiled_step_names_the_shape_that_changed():
    mesh = ONE_DEVICE
    state, batch = put_replicated(new_state(), mesh), put_batch(new_batch(), mesh)
    compiled = TRAIN_STEP.lower(state, batch).compile()
    with pytest.raises(TypeError, match=r"uint8\[8,16,16,3\].*uint8\[4,16,16,3\]"):
        compiled(state, put_batch(new_batch(size=4), mesh))


def test_eval_step_counts_do_not_see_padding_in_the_loss():
    mesh = make_mesh()
    state = put_replicated(new_state(), mesh)
    batch = new_batch()
    padded = batch._replace(weight=np.array([1, 1, 1, 1, 1, 0, 0, 0], np.float32))
    other = padded._replace(image=np.where(np.arange(8)[:, None, None, None] < 5, padded.image, 77).astype(np.uint8))
    terms, counts = EVAL_STEP(state.params, state.batch_stats, put_batch(padded, mesh))
    terms_other, counts_other = EVAL_STEP(state.params, state.batch_stats, put_batch(other, mesh))
    np.testing.assert_allclose(terms["loss"], terms_other["loss"], rtol=1e-6)
    assert counts.tp.shape == (8, 2)
    np.testing.assert_array_equal(counts.tp[:5], counts_other.tp[:5])


@pytest.mark.parametrize("size", [(16, 16), (13, 16), (5, 18), (1, 1)])
def test_prediction_takes_any_size(size):
    state = new_state()
    images = np.random.default_rng(0).integers(0, 256, (2, *size, 3), np.uint8)
    probs = PREDICT_STEP(state.params, state.batch_stats, images)
    assert probs.shape == (2, *size, 2) and probs.dtype == np.float32
    assert ((probs >= 0) & (probs <= 1)).all()


def test_padding_for_prediction_equals_padding_by_hand():
    state = new_state()
    images = np.random.default_rng(0).integers(0, 256, (1, 14, 15, 3), np.uint8)
    by_hand = np.pad(images, ((0, 0), (0, 2), (0, 1), (0, 0)), mode="symmetric")
    expected = PREDICT_STEP(state.params, state.batch_stats, by_hand)[:, :14, :15]
    np.testing.assert_array_equal(PREDICT_STEP(state.params, state.batch_stats, images), expected)


def test_norm_of_parts_is_that_of_all_numbers():
    rng = np.random.default_rng(0)
    shapes = {"a": (3, 3, 4, 5), "b": (5,), "c": {"d": (), "e": (7,), "f": (2, 6)}}
    tree = jax.tree.map(lambda shape: rng.normal(size=shape), shapes, is_leaf=lambda x: isinstance(x, tuple))
    for part in (tree, {"a": tree["a"]}, {"b": tree["b"]}):
        expected = np.sqrt(sum(np.sum(x**2) for x in jax.tree.leaves(part)))
        found = jax.jit(norm_by_parts)(jax.tree.map(np.float32, part))
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_batch_that_does_not_split_names_one_that_does():
    with pytest.raises(ValueError, match=r"train.batch_size is 6.*8 devices.*--train.batch-size 8"):
        check_batch_size(6, make_mesh())
