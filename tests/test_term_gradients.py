"""Gradients of terms and classes against plain `jax.grad`, and by hand."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unet_jax import PRESETS, Batch, UNet, losses, replace
from unet_jax.config import LossConfig, LossTermConfig, ModelConfig, RampConfig
from unet_jax.losses.term_gradients import TermGradients, term_gradients
from unet_jax.model.packing import pack
from unet_jax.program.build import build, make_term_gradients

RNG = np.random.default_rng(0)
MODEL = UNet(ModelConfig((4,), 8, num_convs_down=1, num_convs_up=1, norm="group", group_size=2), 3)
IMAGES = jnp.asarray(RNG.uniform(size=(2, 8, 8, 3)), jnp.float32)
LABELS = jnp.asarray(RNG.integers(0, 2, (2, 8, 8, 3)), jnp.float32)


@functools.cache
def params():
    return jax.jit(MODEL.init, static_argnums=2)(jax.random.key(0), IMAGES, True)["params"]


def logits_of(params):
    return MODEL.apply({"params": params}, IMAGES, True)


def bce(logits, labels=LABELS):
    return 0.5 * jnp.mean(losses.bce_loss(logits, labels))


def dice(logits, labels=LABELS):
    return 2.0 * jnp.mean(losses.soft_dice_loss(logits, labels))


@pytest.fixture(scope="module")
def found():
    return jax.jit(lambda params: term_gradients(logits_of, {"bce": bce, "dice": dice}, params))(params())


def gradient(function, *arguments):
    tree = function(params(), *arguments)
    return np.concatenate([np.ravel(x).astype(np.float64) for x in jax.tree.leaves(tree)])


def test_terms_are_their_gradients(found):
    a, b = (gradient(jax.jit(jax.grad(lambda p, term=term: term(logits_of(p))))) for term in (bce, dice))
    np.testing.assert_allclose(found.term_norms(), [np.linalg.norm(a), np.linalg.norm(b)], rtol=1e-5)
    cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    np.testing.assert_allclose(found.term_cosines(), [[1.0, cosine], [cosine, 1.0]], rtol=1e-4)


def test_classes_are_gradients_with_the_other_logits_held(found):
    def through_each(*terms):
        def loss(params, k):
            logits = logits_of(params)
            mine = jnp.arange(3) == k
            held = jnp.where(mine[None, None, None], logits, jax.lax.stop_gradient(logits))
            return sum(term(held) for term in terms)

        compiled = jax.jit(jax.grad(loss))
        return [gradient(compiled, k) for k in range(3)]

    for t, term in enumerate((bce, dice)):
        expected = [np.linalg.norm(g) for g in through_each(term)]
        np.testing.assert_allclose(found.norms()[t], expected, rtol=1e-5)
    whole = through_each(bce, dice)
    norms = [np.linalg.norm(g) for g in whole]
    np.testing.assert_allclose(found.class_norms(), norms, rtol=1e-5)
    expected = [[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in whole] for a in whole]
    np.testing.assert_allclose(found.class_cosines(), expected, rtol=1e-3, atol=1e-5)


def test_packed_logits_give_the_same(found):
    labels = pack(LABELS, (2, 2))

    def mean_dice(logits):
        return 2.0 * jnp.mean(losses.soft_dice_loss(logits, labels, num_subpixels=4))

    terms = {"bce": lambda x: bce(x, labels), "dice": mean_dice}
    packed = jax.jit(
        lambda params: term_gradients(lambda p: pack(logits_of(p), (2, 2)), terms, params, num_subpixels=4)
    )(params())
    np.testing.assert_allclose(packed.gram, found.gram, rtol=1e-4, atol=1e-7)


def test_opposite_terms_by_hand():
    """Two parameters, one per class; the terms pull at the first in opposite directions."""
    terms = {"up": lambda x: 3.0 * jnp.sum(x[..., 0]), "down": lambda x: -4.0 * jnp.sum(x)}

    @jax.jit
    def measured(w):
        found = term_gradients(lambda w: jnp.broadcast_to(w, (1, 1, 1, 2)), terms, w)
        of_terms = found.norms(), found.term_norms(), found.term_cosines()
        return *of_terms, found.class_norms(), found.class_cosines()

    norms, term_norms, term_cosines, class_norms, class_cosines = measured(np.array([1.0, 2.0], np.float32))
    np.testing.assert_allclose(norms, [[3.0, 0.0], [4.0, 4.0]])
    np.testing.assert_allclose(term_norms, [3.0, np.sqrt(32.0)], rtol=1e-6)
    np.testing.assert_allclose(term_cosines[0, 1], -np.sqrt(0.5), rtol=1e-6)
    np.testing.assert_allclose(class_norms, [1.0, 4.0])
    np.testing.assert_allclose(class_cosines, [[1.0, 0.0], [0.0, 1.0]])
    still = TermGradients(jnp.zeros((2, 2, 2, 2)))
    assert not np.any(still.term_cosines()) and not np.any(still.class_cosines())


@pytest.mark.parametrize("packing", [pytest.param("none", marks=pytest.mark.slow), "2"])
def test_the_landscape_of_a_config(packing):
    """Weights and ramps are in the terms; the terms' gradients add up to the training step's."""
    ramped = LossTermConfig("tversky", 3.0, ramp=RampConfig(stop=0.5))
    network = {"widths": (4,), "center_width": 8, "num_convs_up": 1, "num_convs_down": 1, "packing": packing}
    config = replace(PRESETS["small"](), {f"model.{name}": value for name, value in network.items()})
    config = dataclasses.replace(config, loss=LossConfig(terms=(LossTermConfig("bce"), ramped)))
    program = build(config, 2, 100)
    initial = jax.device_get(jax.jit(program.init)(jax.random.key(0)))
    state = dataclasses.replace(initial, step=jnp.int32(25))  # half way up the ramp
    image = RNG.integers(0, 256, (2, 16, 16, 3), np.uint8)
    label = RNG.integers(0, 2, (2, 16, 16, 2), np.uint8) * np.uint8(255)
    image, label = pack(image, program.packing.image), pack(label, program.packing.label)
    batch = Batch(image, label, np.array([1.0, 0.5], np.float32))
    landscape_of = make_term_gradients(config, program, ("cell", "nucleus"), 100)
    found = landscape_of(state, batch)
    assert set(found) == {
        *(f"gradient/norm/{term}" for term in ("bce", "tversky")),
        *(f"gradient/norm/{term}/{name}" for term in ("bce", "tversky") for name in ("cell", "nucleus")),
        "gradient/cosine/bce/tversky",
        "gradient/cosine/cell/nucleus",
    }
    a, b, cosine = (found[f"gradient/{x}"] for x in ("norm/bce", "norm/tversky", "cosine/bce/tversky"))
    whole = program.train_step(state, batch)[1]["grad_norm"]
    np.testing.assert_allclose(jnp.sqrt(a**2 + b**2 + 2 * a * b * cosine), whole, rtol=1e-4)
    later = dataclasses.replace(initial, step=jnp.int32(60))
    np.testing.assert_allclose(landscape_of(later, batch)["gradient/norm/tversky"], 2.0 * b, rtol=1e-4)
