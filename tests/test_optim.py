import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unet_jax.config import OptimConfig
from unet_jax.program.optim import make_optimizer, make_schedule, scale_learning_rate

PARAMS = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones((2,))}
GRADS = {"kernel": jnp.full((2, 2), 0.1), "bias": jnp.full((2,), -0.2)}


def first_update(config, params=PARAMS, grads=GRADS, num_steps=10):
    tx = make_optimizer(config, num_steps)
    return tx.update(grads, tx.init(params), params)[0]


def test_schedules_at_their_ends():
    base = OptimConfig(learning_rate=1.0)
    constant = make_schedule(dataclasses.replace(base, schedule="constant"), 100)
    assert constant(0) == constant(99) == 1.0
    cosine = make_schedule(dataclasses.replace(base, schedule="cosine"), 100)
    np.testing.assert_allclose([cosine(0), cosine(50), cosine(100)], [1.0, 0.5, 0.0], atol=1e-7)
    polynomial = make_schedule(dataclasses.replace(base, schedule="polynomial", polynomial_power=2.0), 100)
    np.testing.assert_allclose([polynomial(0), polynomial(50), polynomial(100)], [1.0, 0.25, 0.0], atol=1e-7)


def test_warmup_rises_linearly_from_a_25th_and_then_falls_to_zero():
    schedule = make_schedule(OptimConfig(learning_rate=1.0, schedule="cosine", warmup_fraction=0.2), 100)
    np.testing.assert_allclose([schedule(0), schedule(10), schedule(20)], [0.04, 0.52, 1.0], atol=1e-6)
    np.testing.assert_allclose([schedule(60), schedule(100)], [0.5, 0.0], atol=1e-6)


def test_adamw_decays_kernels_only():
    zero = jax.tree.map(jnp.zeros_like, GRADS)
    config = OptimConfig(name="adamw", learning_rate=0.1, schedule="constant", weight_decay=0.5)
    update = first_update(config, grads=zero)
    np.testing.assert_allclose(update["kernel"], -0.05, rtol=1e-6)
    np.testing.assert_array_equal(update["bias"], 0.0)


def test_sgd_first_step_has_nesterov_momentum():
    update = first_update(OptimConfig(name="sgd", learning_rate=0.1, schedule="constant", momentum=0.9))
    np.testing.assert_allclose(update["bias"], 0.1 * 0.2 * 1.9, rtol=1e-6)


def test_clip_norm_scales_gradients():
    config = OptimConfig(name="sgd", learning_rate=1.0, schedule="constant", momentum=0.0, clip_norm=0.1)
    update = first_update(config)
    norm = np.sqrt(sum(np.sum(np.square(u)) for u in jax.tree.leaves(update)))
    np.testing.assert_allclose(norm, 0.1, rtol=1e-6)


@pytest.mark.parametrize("name", ["rmsprop", "adamw", "sgd"])
def test_scale_learning_rate_is_absolute(name):
    tx = make_optimizer(OptimConfig(name=name, weight_decay=0.0), 10)
    state = tx.init(PARAMS)
    full, _ = tx.update(GRADS, state, PARAMS)
    scaled = scale_learning_rate(scale_learning_rate(state, 0.5), 0.1)
    tenth, after = tx.update(GRADS, scaled, PARAMS)
    np.testing.assert_allclose(tenth["kernel"], 0.1 * full["kernel"], rtol=1e-6)
    np.testing.assert_allclose(after[-1], 0.1, rtol=1e-6)
