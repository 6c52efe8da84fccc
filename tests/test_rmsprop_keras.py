"""RMSprop as three versions of Keras compute it, against published first steps and a float64 loop."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unet_jax.program.optim import rmsprop_keras

LEARNING_RATE = 1e-4
# Sizes of the first update for gradients of 1e-2, 1e-4 and 1e-6.
FIRST_STEPS = {
    "keras2.0": (3.16e-4, 3.16e-4, 3.07e-4),
    "keras2.1": (3.16e-4, 3.15e-4, 2.40e-4),
    "keras3": (3.15e-4, 3.15e-5, 3.2e-7),
}


def by_loop(variant, gradients):
    """Parameters after each step, from 0, in float64; written from the formulas of each version."""
    accumulator = parameter = 0.0
    found = []
    for g in gradients:
        accumulator = 0.9 * accumulator + 0.1 * g * g
        if variant == "keras2.0":
            parameter -= LEARNING_RATE * g / (np.sqrt(accumulator) + 1e-8)
        elif variant == "keras2.1":
            parameter -= LEARNING_RATE * g / (np.sqrt(accumulator) + 1e-7)
        else:
            parameter -= LEARNING_RATE * g / np.sqrt(accumulator + 1e-7)
        found.append(parameter)
    return np.array(found)


def by_optax(variant, gradients):
    tx = rmsprop_keras(LEARNING_RATE, variant=variant)
    params = jnp.zeros(())
    state = tx.init(params)
    found = []
    for g in gradients:
        updates, state = tx.update(jnp.float32(g), state, params)
        params = optax.apply_updates(params, updates)
        found.append(float(params))
    return np.array(found)


@pytest.mark.parametrize("variant", FIRST_STEPS)
def test_first_steps(variant):
    for gradient, wanted in zip((1e-2, 1e-4, 1e-6), FIRST_STEPS[variant], strict=True):
        [found] = by_optax(variant, [gradient])
        # Given to two or three digits, cut off rather than rounded in places.
        np.testing.assert_allclose(-found, wanted, rtol=0.015)
        np.testing.assert_allclose(found, by_loop(variant, [gradient])[0], rtol=1e-5)


@pytest.mark.parametrize("variant", FIRST_STEPS)
@pytest.mark.parametrize("scale", [1e-1, 1e-4, 1e-7])
def test_five_steps_against_float64(variant, scale):
    gradients = scale * np.random.default_rng(0).normal(size=5)
    np.testing.assert_allclose(by_optax(variant, gradients), by_loop(variant, gradients), rtol=2e-5)
