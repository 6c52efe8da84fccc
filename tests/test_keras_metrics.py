"""The seed's metrics, and that the documents tell the truth."""

import doctest
from pathlib import Path

import jax
import numpy as np
import pytest

from unet_jax.interop.keras_metrics import accuracy, dice_coef

DOCS = Path(__file__).parent.parent / "docs"


@pytest.mark.parametrize("name", ["metrics.md", "from-keras.md"])
def test_code_in_the_documents_prints_what_they_say(name):
    result = doctest.testfile(str(DOCS / name), module_relative=False)
    assert result.attempted > 0
    assert result.failed == 0


def test_dice_coef_against_a_loop():
    rng = np.random.default_rng(0)
    probs, labels = rng.uniform(size=(2, 2, 3, 4, 2))
    intersection = sum(p * t for p, t in zip(probs.ravel(), labels.ravel(), strict=True))
    total = sum(probs.ravel()) + sum(labels.ravel())
    np.testing.assert_allclose(dice_coef(probs, labels), (2 * intersection + 1) / (total + 1), rtol=1e-6)
    np.testing.assert_allclose(dice_coef(0 * probs, 0 * labels), 1.0)


def test_accuracy_of_one_channel_asks_for_equality():
    labels = np.array([0.0, 1.0, 0.5, 1.0]).reshape(1, 2, 2, 1)
    probs = np.array([0.4, 0.6, 0.5, 0.5]).reshape(1, 2, 2, 1)
    assert accuracy(probs, labels) == 0.5  # 0.5 is not above 0.5, and a label of 0.5 equals neither 0 nor 1


def test_accuracy_of_two_channels_asks_for_the_largest():
    labels = np.array([[0, 0], [1, 1], [0, 1], [1, 0]], np.float32).reshape(1, 2, 2, 2)
    probs = np.array([[0.9, 0.8], [0.1, 0.2], [0.1, 0.2], [0.7, 0.7]], np.float32).reshape(1, 2, 2, 2)
    assert jax.jit(accuracy)(probs, labels) == 0.75
