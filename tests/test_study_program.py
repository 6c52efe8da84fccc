"""Compiled steps that many losses share, against the steps that `build` makes for each."""

import dataclasses

import jax
import numpy as np
import pytest
from etils import epath
from helpers import tiny_config, with_optim

from unet_jax import Batch
from unet_jax.config import LossConfig, LossTermConfig
from unet_jax.data.synthetic import synthetic_sample
from unet_jax.devices.mesh import make_mesh, put_batch, put_replicated
from unet_jax.program.batch_shapes import batch_shapes
from unet_jax.program.build import build
from unet_jax.study.shared_program import SharedPrograms, structure

MESH = make_mesh(jax.devices()[:1])


def tversky(weight, fn_weight, class_weight=(1.0, 2.0)):
    return LossConfig(
        terms=(
            LossTermConfig("bce"),
            LossTermConfig("tversky", weight, {"fn_weight": fn_weight}, class_weight=class_weight),
        )
    )


def config_of(loss, seed=0):
    """With SGD: Adam makes whole steps of the rounding noise in a gradient that is 0."""
    config = with_optim(tiny_config(epath.Path("")), name="sgd", learning_rate=0.05)
    return dataclasses.replace(config, seed=seed, loss=loss)


@pytest.fixture(scope="module")
def batch():
    samples = [synthetic_sample(np.random.default_rng(i), 32, 2) for i in range(8)]
    image, label = (np.stack([getattr(s, name) for s in samples]) for name in ("image", "mask"))
    return put_batch(Batch(image, label, np.array([1, 1, 1, 1, 1, 1, 1, 0], np.float32)), MESH)


def two_steps(program, config, batch):
    state = put_replicated(jax.jit(program.init)(jax.random.key(3)), MESH)
    shapes = batch_shapes(config, 2, program.packing, MESH)
    step = program.train_step.lower(state, shapes).compile()
    with jax.transfer_guard("disallow"):
        state, first = step(state, batch)
        state, second = step(state, batch)
        scores = program.eval_step(state.params, state.batch_stats, batch)
    return jax.device_get((state.params, first, second, scores))


def test_each_run_has_its_own_numbers_and_all_have_one_step(batch):
    shared = SharedPrograms(MESH)
    losses = [tversky(1.0, 0.7), tversky(0.25, 0.7), tversky(1.0, 0.2), tversky(0.25, 0.2, (3.0, 0.0))]
    found = [two_steps(shared(config_of(loss), 2, 4), config_of(loss), batch) for loss in losses]
    config = config_of(losses[-1])  # differs from the one that was compiled in every number
    expected = two_steps(build(config, 2, 4), config, batch)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), found[-1], expected)
    values = [float(first["loss"]) for _, first, _, _ in found]
    assert shared.num_compiled == 1
    assert len({round(value, 4) for value in values}) == 4
    assert shared.step_bytes(config_of(losses[0], seed=5), 2, 4) > 100_000
    assert shared.step_bytes(config_of(LossConfig()), 2, 4) is None


def test_bce_and_dice_share_too(batch):
    shared = SharedPrograms(MESH)
    two_steps(shared(config_of(LossConfig()), 2, 4), config_of(LossConfig()), batch)
    config = config_of(LossConfig(bce_weight=0.1, dice_smooth=5.0))
    expected = two_steps(build(config, 2, 4), config, batch)
    found = two_steps(shared(config, 2, 4), config, batch)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), found, expected)
    assert shared.num_compiled == 1


def one(name, *args, **kwargs):
    return LossConfig(terms=(LossTermConfig(name, *args, **kwargs),))


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        (one("focal", 1.0, {"gamma": 1}), one("focal", 2.0, {"gamma": 2.5}), True),
        (one("focal", 1.0, {"gamma": 1}), one("focal"), False),  # the default is a constant of the program
        (one("focal"), one("poly1_focal"), False),
        (one("jaccard"), one("jaccard", over="batch"), False),
        (one("jaccard"), one("jaccard", label="j"), False),
        (one("jaccard", class_weight=(1.0, 2.0)), one("jaccard", class_weight=(1.0, 3.0)), True),
        (one("jaccard", class_weight=(1.0, 2.0)), one("jaccard"), False),
        (one("soft_cldice", options={"num_iterations": 3}), one("soft_cldice", options={"num_iterations": 4}), False),
        (one("a.b:c", 1.0, {"x": 1.0}), one("a.b:c", 2.0, {"x": 1.0}), True),
        (one("a.b:c", 1.0, {"x": 1.0}), one("a.b:c", 1.0, {"x": 2.0}), False),  # nothing is known of its options
        (LossConfig(), LossConfig(bce_weight=0.0, dice_smooth=0.0), True),
        (LossConfig(), LossConfig(dice_reduction="image"), False),
        (LossConfig(), one("bce"), False),
    ],
)
def test_what_may_share(first, second, same):
    assert (structure(first) == structure(second)) == same
