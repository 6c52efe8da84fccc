"""What is kept for the backward pass and what is computed again: less memory, the same numbers."""

import contextlib
import dataclasses
import io
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import print_saved_residuals

from unet_jax import UNet
from unet_jax.config import ModelConfig
from unet_jax.losses import bce_dice_loss

CONFIG = ModelConfig(widths=(4,), center_width=8, num_convs_down=2, num_convs_up=2, packing="none")
POLICIES = ("none", "conv", "block", "full")


def with_(**changes):
    return dataclasses.replace(CONFIG, **changes)


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.default_rng(0).random((2, 16, 16, 3)), jnp.float32)


def kept_bytes(config, images):
    """Of activations, by what jax says that it keeps between the passes."""
    model = UNet(config, 2)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, False), images)
    variables = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), variables)

    def loss(params):
        return model.apply({**variables, "params": params}, images, True, mutable=["batch_stats"])[0].sum()

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        print_saved_residuals(loss, variables["params"])
    total = 0
    for line in printed.getvalue().splitlines():
        bits, shape = re.match(r"[a-z]+(\d+)\[([\d,]*)\]", line).groups()
        sizes = [int(n) for n in shape.split(",") if n]
        # Not parameters and constants, of which the images are one; and not the few numbers of the statistics.
        if len(sizes) == 4 and " from " in line and not re.search(r"from (the argument|a constant)", line):
            total += math.prod(sizes) * int(bits) // 8
    return total


def test_what_each_policy_keeps(images):
    """By hand, in float32: level 0 has 512 pixels of 4 channels in an activation, the centre 128 of 8.

    conv: what the two, two and two convolutions give, and what each stage gives. block and full: what stages give. jax
    0.10 keeps the kernel of the output layer, 4 to 2 channels, beside them, because its gradient depends on the
    platform; jax 0.12 does not.
    """
    level, center, head = 4 * 512 * 4, 4 * 128 * 8, 4 * 4 * 2
    convolutions, stages = 4 * level + 2 * center, 2 * level + center
    kept = {remat: kept_bytes(with_(remat=remat), images) for remat in POLICIES}
    assert kept["conv"] - convolutions - stages in (0, head)
    assert kept["block"] == kept["full"]
    assert kept["block"] - stages in (0, head)
    assert kept["none"] > kept["conv"]


def value_and_grad(config, variables, images):
    labels = jnp.asarray(np.random.default_rng(1).random((2, 16, 16, 2)) > 0.5, jnp.float32)

    def loss(params):
        variables_now = {**variables, "params": params}
        logits, updated = UNet(config, 2).apply(variables_now, images, True, mutable=["batch_stats"])
        return bce_dice_loss(logits, labels, jnp.ones(2))[0], updated

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])


@pytest.fixture(scope="module")
def variables(images):
    return jax.jit(lambda x: UNet(CONFIG, 2).init(jax.random.key(0), x, False))(images)


@pytest.fixture(scope="module")
def plain(variables, images):
    return value_and_grad(CONFIG, variables, images)


SLOW = [pytest.param(remat, marks=pytest.mark.slow) for remat in ("conv", "block")]


@pytest.mark.parametrize("remat", [*SLOW, "full"])
def test_numbers_do_not_depend_on_it(variables, images, plain, remat):
    config = with_(remat=remat)
    own = jax.eval_shape(lambda: UNet(config, 2).init(jax.random.key(0), images, False))
    assert jax.tree.structure(own) == jax.tree.structure(variables)  # checkpoints do not depend on it either
    found = value_and_grad(config, variables, images)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, plain)


@pytest.mark.slow
@pytest.mark.parametrize("remat", POLICIES[1:])
@pytest.mark.parametrize("changes", [{"norm": "group", "group_size": 4}, {"norm": "none"}, {"packing": "2"}], ids=str)
def test_with_other_networks(variables, images, remat, changes):
    config = with_(**changes)
    own = jax.jit(UNet(config, 2).init, static_argnums=2)(jax.random.key(0), images, False)
    expected = value_and_grad(config, own, images)
    found = value_and_grad(dataclasses.replace(config, remat=remat), own, images)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected)
