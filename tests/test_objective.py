"""Objectives as sums of terms: what they reduce to, schedules, users' own losses, and clear refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unet_jax import InputError, losses
from unet_jax.config import LossConfig, LossTermConfig, RampConfig
from unet_jax.losses import Term, deep_supervision, make_objective, ramp, stack_images
from unet_jax.program.objective import make_loss

RNG = np.random.default_rng(0)
LABELS = (RNG.uniform(size=(3, 8, 8, 2)) > 0.6).astype(np.float32)
LOGITS = RNG.normal(0.0, 2.0, LABELS.shape).astype(np.float32)
WEIGHT = np.array([1.0, 0.5, 0.0], np.float32)


def squared_error_loss(logits, labels, *, weight=None, power=2.0):
    """A user's loss, found by its name."""
    return weight * jnp.abs(jax.nn.sigmoid(logits) - labels) ** power


def value(term, weight=WEIGHT, logits=LOGITS, labels=LABELS):
    total, values = jax.jit(make_objective([term]))(logits, labels, weight)
    assert len(values) == 1
    return float(total)


def test_the_default_objective_as_terms():
    """The same numbers as `bce_dice_loss` in its three reductions."""
    reductions = {
        "batch": Term("batch_soft_dice", 0.8, {"smooth": 0.5}),
        "class": Term("class_soft_dice", 0.8, {"smooth": 0.5}),
        "image": Term("soft_dice", 0.8, {"smooth": 0.5}),
    }
    for reduction, dice in reductions.items():
        # Where one weight multiplies sums and the other does not, only weights of 0 and 1 mean the same.
        weight = WEIGHT if reduction != "class" else np.array([1.0, 1.0, 0.0], np.float32)
        found, values = jax.jit(make_objective([Term("bce", 0.2), dice]))(LOGITS, LABELS, weight)
        numbers = {"bce_weight": 0.2, "dice_weight": 0.8, "dice_reduction": reduction, "dice_smooth": 0.5}
        expected, terms = jax.jit(functools.partial(losses.bce_dice_loss, **numbers))(LOGITS, LABELS, weight)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        named = [values["bce"], values[dice.loss]]
        np.testing.assert_allclose(named, [terms["bce"], terms["dice_loss"]], rtol=1e-6)


def test_pixels_are_averaged_with_their_weights():
    weight = RNG.choice([0.0, 1.0, 3.0], LABELS.shape)
    bce = np.asarray(losses.bce_loss(LOGITS, LABELS), np.float64)
    np.testing.assert_allclose(value(Term("bce"), weight), (weight * bce).sum() / weight.sum(), rtol=1e-6)


def test_images_and_classes_are_averaged_over_those_annotated():
    weight = np.ones((3, 1, 1, 2), np.float32)
    weight[0, ..., 1] = weight[2, ..., 0] = 0.0
    each = np.asarray(losses.soft_dice_loss(LOGITS, LABELS))
    expected = np.mean([each[0, 0], each[1, 0], each[1, 1], each[2, 1]])
    np.testing.assert_allclose(value(Term("soft_dice"), weight), expected, rtol=1e-6)


def test_an_ignored_region_leaves_its_image_as_important_as_the_others():
    weight = np.ones(LABELS.shape, np.float32)
    weight[0, :7] = 0.0
    each = np.asarray(losses.soft_dice_loss(LOGITS, LABELS, weight=weight))
    np.testing.assert_allclose(value(Term("soft_dice"), weight), each.mean(), rtol=1e-6)


@pytest.mark.parametrize("name", ["bce", "soft_dice", "lovasz_hinge", "class_soft_dice", "generalized_dice"])
def test_only_ratios_of_weights_matter(name):
    if name == "class_soft_dice":  # smooth is relative to the largest weight of a class
        np.testing.assert_allclose(value(Term(name), 4.0 * WEIGHT), value(Term(name), WEIGHT), rtol=1e-6)
        return
    doubled = np.stack([LOGITS[0], LOGITS[0], LOGITS[1]]), np.stack([LABELS[0], LABELS[0], LABELS[1]])
    twice = value(Term(name), np.ones(3, np.float32), *doubled)
    np.testing.assert_allclose(value(Term(name), WEIGHT), twice, rtol=1e-6)


@pytest.mark.parametrize("name", ["bce", "jaccard", "class_soft_dice", "lovasz_hinge"])
def test_class_weights(name):
    alone = [value(Term(name), logits=LOGITS[..., k : k + 1], labels=LABELS[..., k : k + 1]) for k in range(2)]
    found = value(Term(name, class_weight=(3.0, 1.0)))
    np.testing.assert_allclose(found, (3.0 * alone[0] + alone[1]) / 4.0, rtol=1e-5)
    np.testing.assert_allclose(value(Term(name, class_weight=(0.0, 2.0))), alone[1], rtol=1e-6)


def test_over_the_batch_is_one_ratio_per_class():
    weight = np.array([1.0, 1.0, 0.0], np.float32)
    found = value(Term("soft_dice", over="batch"), weight)
    np.testing.assert_allclose(found, losses.class_soft_dice_loss(LOGITS, LABELS, weight).mean(), rtol=1e-6)
    hinge = jax.jit(losses.lovasz_hinge_loss)(stack_images(LOGITS[:2]), stack_images(LABELS[:2])).mean()
    np.testing.assert_allclose(value(Term("lovasz_hinge", over="batch"), weight), hinge, rtol=1e-6)


def test_schedules_are_functions_of_the_step():
    factor = ramp(10, 20, 0.25, 1.25)
    steps = [0, 10, 12, 20, 1000]
    np.testing.assert_allclose([factor(s) for s in steps], [0.25, 0.25, 0.45, 1.25, 1.25])
    objective = jax.jit(make_objective([Term("jaccard"), Term("boundary", 0.5, schedule=ramp(0, 100))]))
    for step in (0, 50, 200):
        total, values = objective(LOGITS, LABELS, WEIGHT, step)
        expected = values["jaccard"] + 0.5 * min(step / 100, 1.0) * values["boundary"]
        np.testing.assert_allclose(total, expected, rtol=1e-6)
    assert objective._cache_size() == 1
    with pytest.raises(InputError, match="'boundary' has a schedule"):
        objective(LOGITS, LABELS, WEIGHT)
    with pytest.raises(InputError, match="from step 5 to step 5"):
        ramp(5, 5)


def test_weights_and_options_can_be_traced():
    @jax.jit
    def loss(term_weight, gamma):
        return make_objective([Term("focal", term_weight, {"gamma": gamma})])(LOGITS, LABELS, WEIGHT)[0]

    for gamma in (0.5, 2.0):
        np.testing.assert_allclose(loss(3.0, gamma), 3.0 * value(Term("focal", options={"gamma": gamma})), rtol=1e-6)
    assert loss._cache_size() == 1


def test_packed_logits_give_the_same():
    def pack(x):
        return x.reshape(3, 4, 2, 4, 2, 2).transpose(0, 1, 3, 2, 4, 5).reshape(3, 4, 4, 8)

    terms = [
        Term("bce", class_weight=(1.0, 2.0)),
        Term("jaccard", class_weight=(1.0, 2.0)),
        Term("generalized_dice"),
        Term("class_soft_dice", class_weight=(2.0, 1.0)),
        Term("batch_soft_dice"),
        Term("tversky", over="batch"),
    ]
    expected = jax.jit(make_objective(terms))(LOGITS, LABELS, WEIGHT)
    packed = functools.partial(make_objective(terms), num_subpixels=4)
    found = jax.jit(packed)(pack(LOGITS), pack(LABELS), WEIGHT)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, expected)
    with pytest.raises(InputError, match="'boundary' cannot be computed from packed logits"):
        make_objective([Term("boundary")])(pack(LOGITS), pack(LABELS), WEIGHT, num_subpixels=4)


def test_a_users_loss_by_name_or_as_a_function():
    p = 1.0 / (1.0 + np.exp(-np.float64(LOGITS)))
    error = ((p - LABELS) ** 2).mean(axis=(1, 2, 3))
    expected = (WEIGHT * error).sum() / WEIGHT.sum()
    named = Term(f"{__name__}:squared_error_loss")
    np.testing.assert_allclose(value(named), expected, rtol=1e-5)
    np.testing.assert_allclose(value(Term(squared_error_loss)), expected, rtol=1e-5)
    assert value(Term(squared_error_loss, options={"power": 1.0})) > expected
    per_class = Term(lambda x, t, weight: losses.soft_dice_loss(x, t, weight=weight), label="mine")
    np.testing.assert_allclose(value(per_class), value(Term("soft_dice")), rtol=1e-6)


@pytest.mark.parametrize(
    "term, message",
    [
        (Term("dise"), "'dise', which is no loss.*one of bce, .*, ms_ssim, or 'module:function'"),
        (Term("soft_dise"), "Did you mean 'soft_dice'"),
        (Term("tversky", options={"alpha": 0.3}), "no option 'alpha': it has fp_weight, fn_weight, smooth"),
        (Term("bce", options={"smooth": 1.0}), "it has no options"),
        (Term("no_such_module:loss"), "cannot be imported: No module named"),
        (Term("unet_jax.losses:no_loss"), "cannot be imported: .*no_loss"),
        (Term("not a module:loss"), "written as 'package.module:function'"),
        (Term(squared_error_loss, options={"gamma": 1.0}), "does not take 'gamma', only logits, labels, weight, power"),
        (Term(lambda x, t: x, label="f"), "does not take 'weight'"),
        (Term("boundary", over="batch"), "looks at neighbouring pixels"),
        (Term("batch_soft_dice", over="batch"), "over the batch already"),
        (Term("generalized_dice", class_weight=(1.0, 1.0)), "cannot have a class_weight"),
    ],
)
def test_what_does_not_exist_is_refused_when_the_objective_is_made(term, message):
    with pytest.raises(InputError, match=message):
        make_objective([term])


def test_other_refusals():
    with pytest.raises(InputError, match="at least one term"):
        make_objective([])
    with pytest.raises(InputError, match="two terms are called 'bce'"):
        make_objective([Term("bce"), Term("bce", 2.0)])
    assert set(make_objective([Term("bce"), Term("bce", label="again")])(LOGITS, LABELS)[1]) == {"bce", "again"}
    with pytest.raises(InputError, match="class_weight of loss 'bce' has 3 values, but there are 2 classes"):
        make_objective([Term("bce", class_weight=(1.0, 1.0, 1.0))])(LOGITS, LABELS)
    with pytest.raises(InputError, match=r"returns the shape \(5,\)"):
        make_objective([Term(lambda x, t, weight: jnp.zeros(5), label="f")])(LOGITS, LABELS)
    with pytest.raises(ValueError, match="logits have shape"):
        losses.jaccard_loss(LOGITS, LABELS[:2])


def test_deep_supervision_is_the_weighted_mean_over_scales():
    objective = jax.jit(deep_supervision(make_objective([Term("bce"), Term("l1_dice")]), (1.0, 0.5)))
    coarse = RNG.normal(size=(3, 4, 4, 2)).astype(np.float32)
    found, values = objective([LOGITS, coarse], LABELS, WEIGHT)
    small = LABELS.reshape(3, 4, 2, 4, 2, 2).mean((2, 4))
    one_scale = jax.jit(make_objective([Term("bce"), Term("l1_dice")]))
    parts = [one_scale(x, t, WEIGHT) for x, t in ((LOGITS, LABELS), (coarse, small))]
    np.testing.assert_allclose(found, (parts[0][0] + 0.5 * parts[1][0]) / 1.5, rtol=1e-6)
    np.testing.assert_allclose(values["l1_dice/1"], parts[1][1]["l1_dice"], rtol=1e-6)
    # Ignored pixels have no part in the coarse labels.
    weight = np.ones(LABELS.shape, np.float32)
    weight[:, ::2] = 0.0
    hidden = np.where(weight > 0, LABELS, 1.0 - LABELS)
    again = [objective([LOGITS, coarse], t, weight)[0] for t in (LABELS, hidden)]
    np.testing.assert_allclose(*again, rtol=1e-6)
    with pytest.raises(InputError, match="there are 1 resolutions, but 2 scale_weights"):
        objective([LOGITS], LABELS)
    with pytest.raises(InputError, match="3x3 pixels do not divide labels of 8x8"):
        objective([LOGITS, coarse[:, :3, :3]], LABELS)


def test_the_loss_of_a_config():
    found, values = jax.jit(make_loss(LossConfig(0.2, 0.8, "image", 0.5)))(LOGITS, LABELS, WEIGHT)
    numbers = {"bce_weight": 0.2, "dice_weight": 0.8, "dice_reduction": "image", "dice_smooth": 0.5}
    expected, terms = jax.jit(functools.partial(losses.bce_dice_loss, **numbers))(LOGITS, LABELS, WEIGHT)
    assert found == expected and values == terms
    configs = (
        LossTermConfig("bce", 0.5, class_weight=(1.0, 3.0)),
        LossTermConfig("tversky", options={"fn_weight": 0.9}, over="batch", label="overlap"),
    )
    found, values = jax.jit(make_loss(LossConfig(terms=configs)))(LOGITS, LABELS, WEIGHT)
    same = [
        Term("bce", 0.5, class_weight=(1.0, 3.0)),
        Term("tversky", 1.0, {"fn_weight": 0.9}, over="batch", label="overlap"),
    ]
    expected, terms = jax.jit(make_objective(same))(LOGITS, LABELS, WEIGHT)
    assert found == expected and values == terms and list(values) == ["bce", "overlap"]


def test_the_ramp_of_a_term():
    """Parts of the run in the config; the validation loss has what it ends with."""
    ramped = LossTermConfig("boundary", 2.0, ramp=RampConfig(start=0.25, stop=0.75, first=0.1, last=0.6))
    loss = jax.jit(make_loss(LossConfig(terms=(LossTermConfig("bce"), ramped)), num_steps=100))
    for step, factor in ((0, 0.1), (25, 0.1), (50, 0.35), (75, 0.6), (99, 0.6), (np.inf, 0.6)):
        found, values = loss(LOGITS, LABELS, WEIGHT, jnp.float32(step))
        np.testing.assert_allclose(found, values["bce"] + 2.0 * factor * values["boundary"], rtol=1e-5)
    with pytest.raises(InputError, match="must be called with the step"):
        loss(LOGITS, LABELS, WEIGHT)
    for wrong in ({"start": 0.5, "stop": 0.5}, {"stop": 1.5}, {"first": -1.0}):
        with pytest.raises(InputError, match=r"loss\.terms\.ramp"):
            RampConfig(**wrong)


def test_a_user_loss_per_class_is_not_taken_for_one_per_image():
    """With two images and two classes, `[k]` has the shape of `[b]`."""
    logits = np.random.default_rng(0).normal(size=(2, 4, 4, 2)).astype(np.float32)
    with pytest.raises(InputError, match=r"loss 'per_class' returns the shape \(2,\), but must return one of"):

        def per_class(x, t, *, weight):
            return jnp.mean(weight * (jax.nn.sigmoid(x) - t) ** 2, axis=(0, 1, 2))

        make_objective([Term(per_class)])(logits, np.zeros_like(logits))

    def per_image(x, t, *, weight):
        return jnp.mean(weight * (jax.nn.sigmoid(x) - t) ** 2, axis=(1, 2, 3))

    total, _ = jax.jit(make_objective([Term(per_image)]))(logits, np.zeros_like(logits))
    np.testing.assert_allclose(total, np.mean(1 / (1 + np.exp(-np.asarray(logits))) ** 2 * 1.0), rtol=1e-5)


def test_partial_functions_are_terms_too():
    tversky = functools.partial(losses.tversky_loss, fn_weight=0.8, fp_weight=0.2)
    x = np.ones((1, 4, 4, 1), np.float32)
    total, values = jax.jit(make_objective([Term(tversky)]))(x, x)
    named, _ = jax.jit(make_objective([Term("tversky", options={"fn_weight": 0.8, "fp_weight": 0.2})]))(x, x)
    assert list(values) == ["tversky_loss"] and float(total) == float(named)
