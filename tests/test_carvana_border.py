"""Losses with weighted borders, against the originals' steps in PyTorch and against loops over pixels in float64."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import OPTIMIZED

from unet_jax import losses
from unet_jax.losses import (
    asanakoy_border_loss,
    killthekitten_bce_border_loss,
    killthekitten_dice_border_loss,
    lyakaap_border_loss,
    petrosgk_border_loss,
)

LOSSES = {
    "petrosgk": lambda x, t: petrosgk_border_loss(x, t, border_size=11),
    "asanakoy": lambda x, t: asanakoy_border_loss(x, t, border_size=11),
    "lyakaap": lyakaap_border_loss,
    "killthekitten_dice": killthekitten_dice_border_loss,
    "killthekitten_bce": killthekitten_bce_border_loss,
}


def windows(t, size):
    """For each pixel of `[b h w k]` the part of its window that lies inside the image."""
    before, after = (size - 1) // 2, size // 2
    b, h, w, k = t.shape
    for n in range(b):
        for i in range(h):
            for j in range(w):
                for c in range(k):
                    rows, columns = slice(max(0, i - before), i + after + 1), slice(max(0, j - before), j + after + 1)
                    yield (n, i, j, c), t[n, rows, columns, c]


def dice(pixels):
    intersection = sum(w * p * t for w, p, t in pixels)
    total = sum(w * p + w * t for w, p, t in pixels)
    return (2.0 * intersection + 1.0) / (total + 1.0)


def by_loop(name, logits, labels):
    """The loss, one pixel after the other."""
    x, t = np.float64(logits), np.float64(labels)
    p = 1.0 / (1.0 + np.exp(-x))
    size = {"petrosgk": 11, "asanakoy": 11, "lyakaap": 50}.get(name, 21)
    weight = np.zeros_like(x)
    for at, window in windows(t, size):
        if name == "petrosgk":
            weight[at] = 3.0 if 0.005 < window.mean() < 0.995 else 1.0
        elif name == "asanakoy":
            weight[at] = 3.0 if 0.01 <= window.sum() / 121.0 <= 0.99 else 1.0
        elif name == "lyakaap":
            weight[at] = 5.0 * np.exp(-5.0 * abs(window.mean() - 0.5))
        else:
            weight[at] = float(window.max() * (1.0 - window).max() > 0.5)
    if not name.startswith("killthekitten"):
        weight = weight / weight.sum() * weight.size
    at = list(np.ndindex(x.shape))
    cross_entropy = -(t * np.log(p) + (1.0 - t) * np.log(1.0 - p))
    weighted = sum(weight[i] * cross_entropy[i] for i in at) / sum(weight[i] for i in at)
    whole = dice([(1.0, p[i], t[i]) for i in at])
    match name:
        case "petrosgk":
            terms = [(1.0 - t[i]) * x[i] + (1.0 + (weight[i] - 1.0) * t[i]) * np.log1p(np.exp(-x[i])) for i in at]
            return sum(terms) / weight.sum() + 1.0 - dice([(weight[i] ** 2, p[i], t[i]) for i in at])
        case "asanakoy":
            scores = []
            for n in range(len(x)):
                own = [i for i in at if i[0] == n]
                intersection = sum(weight[i] ** 2 * p[i] * t[i] for i in own)
                total = sum(weight[i] ** 2 * (p[i] + t[i]) for i in own)
                scores.append(2.0 * (intersection + 1.0) / (total + 1.0))
            return weighted + 1.0 - np.mean(scores)
        case "lyakaap":
            return weighted + 1.0 - whole
        case "killthekitten_dice":
            border = dice([(1.0, p[i], t[i]) for i in at if weight[i]])
            return 0.05 * (1.0 - border) + 0.95 * (1.0 - whole)
        case _:
            return 0.05 * weighted + 0.95 * (1.0 - whole)


@pytest.mark.parametrize("name", LOSSES)
def test_against_the_steps_of_the_original_in_pytorch(name):
    with np.load(Path(__file__).parent / "golden" / "keras_border_losses.npz") as golden:
        found = LOSSES[name](golden["logits"], golden["label"] / np.float32(255))
        np.testing.assert_allclose(found, golden[name], rtol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_against_a_loop_over_pixels(name):
    rng = np.random.default_rng(0)
    labels = np.zeros((2, 26, 30, 2), np.float32)
    labels[0, 4:18, 3:22, 0] = 1.0
    labels[0, 4, 3:22, 0] = rng.uniform(size=19)  # a soft edge
    labels[1, 20:, :9, 1] = 1.0
    labels[1, :, :, 0] = 1.0
    logits = rng.normal(0.0, 2.0, labels.shape).astype(np.float32)
    loss, grads = jax.jit(jax.value_and_grad(LOSSES[name]), compiler_options=OPTIMIZED)(logits, labels)
    np.testing.assert_allclose(loss, by_loop(name, logits, labels), rtol=1e-5)
    assert np.isfinite(grads).all() and np.abs(grads).max() > 0


def test_windows_of_constants_are_not_left_to_the_compiler():
    """XLA would add them up one by one: for two images of 256x256 and windows of 50, compiling took 27 seconds."""
    arrays = [jax.ShapeDtypeStruct((1, 64, 64, 1), np.float32)] * 2
    for name in ("petrosgk", "lyakaap"):
        text = jax.jit(LOSSES[name]).lower(*arrays).as_text()
        assert text.count("stablehlo.reduce_window") == 2, name  # rows and columns of the labels


def test_the_empty_mask_of_each():
    logits, labels = np.full((1, 32, 32, 1), -30.0, np.float32), np.zeros((1, 32, 32, 1), np.float32)
    found = jax.jit(lambda x, t: {name: loss(x, t) for name, loss in LOSSES.items()})(logits, labels)
    np.testing.assert_allclose(found.pop("asanakoy"), -1.0, atol=1e-6)  # as documented
    np.testing.assert_allclose(list(found.values()), 0.0, atol=1e-6)


def test_petrosgk_leaves_the_outer_side_of_a_border_alone():
    # Dice apart, the cross entropy of a background pixel at the border counts like any other; the weights of 3 that
    # lie on background only make the mean weight larger.
    labels = np.zeros((1, 32, 32, 1), np.float32)
    labels[:, :, 16:] = 1.0
    logits = np.where(labels > 0, 30.0, -30.0).astype(np.float32)
    wrong = logits.copy()
    wrong[0, 5, 15, 0] = 1.0
    far = logits.copy()
    far[0, 5, 2, 0] = 1.0
    loss = jax.jit(functools.partial(petrosgk_border_loss, border_size=5))
    without_dice = [float(loss(x, labels)) - dice_part(x, labels) for x in (wrong, far)]
    np.testing.assert_allclose(without_dice[0], without_dice[1], rtol=1e-3)
    np.testing.assert_allclose(without_dice[0], np.log1p(np.e) / 1024.0, rtol=1e-3)


def dice_part(logits, labels):
    weight = np.ones_like(labels)
    weight[:, :, 14:18] = 3.0
    weight *= weight.size / weight.sum()
    p = 1.0 / (1.0 + np.exp(-np.float64(logits)))
    return 1.0 - dice(list(zip(weight.ravel() ** 2, p.ravel(), labels.ravel(), strict=True)))


@pytest.mark.parametrize(
    "loss",
    [
        lambda x, t: losses.petrosgk_border_loss(x, t, border_size=3),
        lambda x, t: losses.asanakoy_border_loss(x, t, border_size=3),
        losses.lyakaap_border_loss,
        losses.killthekitten_dice_border_loss,
        losses.killthekitten_bce_border_loss,
    ],
)
def test_shapes_must_be_equal(loss):
    with pytest.raises(ValueError, match=r"logits have shape \(1, 8, 8, 2\), but labels have \(1, 8, 8, 1\)"):
        loss(jnp.zeros((1, 8, 8, 2)), jnp.zeros((1, 8, 8, 1)))
