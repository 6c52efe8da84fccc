"""Random numbers that are drawn in blocks are those of the key, bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unet_jax import UNet
from unet_jax.config import ModelConfig
from unet_jax.program.initial_state import init_state
from unet_jax.program.random_blocks import in_blocks


@pytest.mark.parametrize(
    "draw",
    [
        lambda key: jax.random.bits(key, (5,)),
        lambda key: jax.random.bits(key, (7, 9), "uint8"),
        lambda key: jax.random.bits(key, (2**14,)),  # one block
        lambda key: jax.random.uniform(key, (3, 3, 50, 75), minval=-1.0),  # two blocks, the second one not full
        lambda key: jax.random.normal(jax.random.split(key, 3)[2], (3, 5)),
        lambda key: jax.random.truncated_normal(jax.random.fold_in(key, 99), -2.0, 2.0, (4,)),
    ],
)
def test_blocks_hold_the_numbers_of_the_key(draw):
    key = jax.random.key(7)
    plain = jax.jit(draw)(key)
    drawn = jax.jit(lambda key: draw(in_blocks(key)))(key)
    np.testing.assert_array_equal(drawn, plain)


def test_the_second_half_of_a_block_is_not_the_first():
    bits = np.asarray(jax.random.bits(in_blocks(jax.random.key(0)), (3 * 2**14,)))
    assert len(np.unique(bits)) > 0.99 * len(bits)


def test_other_keys_stay_as_they_are():
    for key in (jax.random.key(0, impl="rbg"), jax.random.PRNGKey(0)):
        assert in_blocks(key) is key


def test_first_weights_are_those_of_flax():
    model = UNet(
        ModelConfig(widths=(4,), center_width=64, num_convs_down=1, num_convs_up=1, kernel_init="he_normal"), 2
    )
    key, images = jax.random.key(3), jnp.zeros((1, 2, 2, 3))
    state = jax.jit(lambda key: init_state(key, model, optax.sgd(0.1)))(key)
    variables = jax.jit(lambda key: model.init(key, images, False))(key)
    jax.tree.map(np.testing.assert_array_equal, state.params, variables["params"])
