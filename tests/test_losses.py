import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unet_jax.losses import batch_soft_dice_loss, bce_dice_loss, bce_loss, class_soft_dice_loss, soft_dice_loss

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0.0, 3.0, (3, 5, 4, 2)).astype(np.float32)
LABELS = RNG.uniform(size=LOGITS.shape).astype(np.float32)
WEIGHT = np.array([1.0, 1.0, 0.0], np.float32)


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-np.float64(x)))


def dice_by_loop(logits, labels, smooth):
    """One ratio over everything given, in float64."""
    p, t = sigmoid(logits).reshape(-1), np.float64(labels).reshape(-1)
    return 1.0 - (2.0 * sum(p * t) + smooth) / (sum(p) + sum(t) + smooth)


def test_bce_against_probabilities_in_float64():
    p, t = sigmoid(LOGITS), np.float64(LABELS)
    expected = -(t * np.log(p) + (1.0 - t) * np.log(1.0 - p))
    np.testing.assert_allclose(bce_loss(LOGITS, LABELS), expected, rtol=1e-5, atol=1e-6)


def test_bce_of_huge_logits_is_finite_and_linear():
    logits = jnp.array([1e4, -1e4])
    np.testing.assert_allclose(bce_loss(logits, jnp.array([0.0, 1.0])), [1e4, 1e4])
    np.testing.assert_allclose(bce_loss(logits, jnp.array([1.0, 0.0])), [0.0, 0.0])


def test_dice_in_three_reductions_against_a_loop():
    per_image = [[dice_by_loop(LOGITS[b, ..., k], LABELS[b, ..., k], 1.0) for k in range(2)] for b in range(3)]
    np.testing.assert_allclose(soft_dice_loss(LOGITS, LABELS), per_image, rtol=1e-5)
    per_class = [dice_by_loop(LOGITS[:2, ..., k], LABELS[:2, ..., k], 1.0) for k in range(2)]  # image 2 weighs 0
    np.testing.assert_allclose(class_soft_dice_loss(LOGITS, LABELS, WEIGHT), per_class, rtol=1e-5)
    whole = dice_by_loop(LOGITS[:2], LABELS[:2], 1.0)
    np.testing.assert_allclose(batch_soft_dice_loss(LOGITS, LABELS, WEIGHT), whole, rtol=1e-5)


def test_dice_against_optax():
    # optax sums over the axes given and its smooth counts twice; one class at a time keeps its softmax away.
    ours = soft_dice_loss(LOGITS, LABELS, smooth=0.5)
    theirs = optax.losses.dice_loss(LOGITS[..., None], LABELS[..., None], axis=(1, 2), smooth=0.25)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_dice_by_hand():
    # p = 0.5 on four pixels, t = 1 on two: 1 - (2 * 1 + 1) / (2 + 2 + 1)
    logits, labels = jnp.zeros((1, 2, 2, 1)), jnp.array([1.0, 1.0, 0.0, 0.0]).reshape(1, 2, 2, 1)
    np.testing.assert_allclose(soft_dice_loss(logits, labels), [[0.4]], rtol=1e-6)


@pytest.mark.parametrize("reduction", ["batch", "class", "image"])
def test_objective_is_the_weighted_sum_and_padding_weighs_nothing(reduction):
    options = {"bce_weight": 0.2, "dice_weight": 0.8, "dice_reduction": reduction, "dice_smooth": 0.5}
    objective = jax.jit(functools.partial(bce_dice_loss, **options))
    loss, terms = objective(LOGITS, LABELS, WEIGHT)
    np.testing.assert_allclose(loss, 0.2 * terms["bce"] + 0.8 * terms["dice_loss"], rtol=1e-6)
    alone, _ = objective(LOGITS[:2], LABELS[:2], np.ones(2, np.float32))
    np.testing.assert_allclose(loss, alone, rtol=1e-6)
    expected = {
        "batch": dice_by_loop(LOGITS[:2], LABELS[:2], 0.5),
        "class": np.mean([dice_by_loop(LOGITS[:2, ..., k], LABELS[:2, ..., k], 0.5) for k in range(2)]),
        "image": np.mean([dice_by_loop(LOGITS[b, ..., k], LABELS[b, ..., k], 0.5) for b in range(2) for k in range(2)]),
    }
    np.testing.assert_allclose(terms["dice_loss"], expected[reduction], rtol=1e-5)


def test_unknown_reduction_is_refused():
    with pytest.raises(ValueError, match="dice_reduction is 'pixel'"):
        bce_dice_loss(LOGITS, LABELS, WEIGHT, dice_reduction="pixel")  # type: ignore[arg-type]


def test_gradient_on_an_empty_class_pushes_false_positives_down():
    """Where a class is absent, the seed's whole-batch Dice and BCE both still penalise claiming it."""
    labels = np.zeros_like(LABELS)
    labels[..., 0] = 1.0
    grad = jax.jit(jax.grad(lambda x: bce_dice_loss(x, labels, np.ones(3, np.float32))[0]))(LOGITS)
    assert (grad[..., 1] > 0.0).all()


def test_extreme_logits_and_uniform_masks_stay_finite():
    step = jax.jit(jax.value_and_grad(lambda x, t: bce_dice_loss(x, t, jnp.ones(1))[0]))
    for fill, scale in itertools.product((0.0, 1.0), (1e4, -1e4)):
        loss, grad = step(*(np.full((1, 4, 4, 2), number, np.float32) for number in (scale, fill)))
        assert np.isfinite(loss) and np.isfinite(grad).all(), (fill, scale)
