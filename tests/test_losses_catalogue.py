"""Every loss of the catalogue: against float64 loops, and what must hold for all of them, from one table."""

import functools
import inspect
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from helpers import OPTIMIZED
from jax.sharding import NamedSharding, PartitionSpec

from unet_jax import losses
from unet_jax.config.loss_catalogue import LOSSES
from unet_jax.devices.mesh import make_mesh
from unet_jax.losses import Term, make_objective, stack_images

# Small windows and few iterations, so that 16x16 pixels are enough.
OPTIONS: dict[str, dict] = {
    "topk_bce": {"fraction": 0.3},
    "border_bce": {"border_width": 2.0},
    "hausdorff_erosion": {"num_erosions": 3},
    "soft_cldice": {"num_iterations": 2},
    "ssim": {"window_size": 5},
    "ms_ssim": {"window_size": 3, "scale_weights": (0.4, 0.6)},
}
# Where theory does not promise that putting one pixel right lowers the loss: a distance, a skeleton, a window or the
# length of a contour also changes elsewhere.
NOT_MONOTONE = {"hausdorff_dt", "hausdorff_erosion", "soft_cldice", "active_contour", "ssim", "ms_ssim"}
# The length of the contour asks for smaller masks than the true one.
NOT_MINIMAL_WHEN_PERFECT = {"active_contour"}
# False positives in images without the class cost nothing, or nothing that a gradient sees (docs/losses.md).
BLIND_TO_EMPTY = {"balanced_bce", "boundary", "ssim", "ms_ssim"}
# Options whose number is also tested at another value than the default.
OTHER_NUMBERS = {"pos_weight": 0.3, "gamma": 1.5, "smooth": 0.25, "fp_weight": 0.6, "fraction": 0.15, "clip": 0.1}

RNG = np.random.default_rng(3)
SHAPE = (2, 16, 16, 2)


def blobs(shape, rng=RNG):
    """0 or 1, in rectangles, a fifth to a half of each image and class."""
    out = np.zeros(shape, np.float32)
    for b in range(shape[0]):
        for k in range(shape[3]):
            i, j = rng.integers(2, 6, 2)
            out[b, i : i + rng.integers(7, 10), j : j + rng.integers(7, 10), k] = 1.0
    return out


LABELS = blobs(SHAPE)
MIXED = LABELS.copy()  # one class present, one absent, one everywhere
MIXED[0, ..., 1], MIXED[1, ..., 0] = 0.0, 1.0
LOGITS = ((LABELS - 0.5) * 3.0 + RNG.normal(0.0, 2.0, SHAPE)).astype(np.float32)
ONES = np.ones(SHAPE, np.float32)


# One loss of each way to compute: those that share it with one of these repeat what it shows of weights and axes.
DISTINCT = {"focal", "topk_bce", "soft_dice", "batch_soft_dice", "lovasz_hinge", "hausdorff_dt", "soft_cldice", "ssim"}


@pytest.fixture(params=LOSSES)
def name(request):
    return request.param


def distinct_first(names=tuple(LOSSES)):
    """Parameter `name`; the losses that are not in `DISTINCT` are slow, because each compiles a program of its own."""
    slow = [pytest.param(name, marks=pytest.mark.slow) for name in names if name not in DISTINCT]
    return pytest.mark.parametrize("name", [name for name in names if name in DISTINCT] + slow)


def function(name, **more):
    return functools.partial(getattr(losses, f"{name}_loss"), **(OPTIONS.get(name, {}) | more))


@functools.cache
def compiled(name):
    """`(logits, labels, weight) -> (values, gradient of their sum)`, compiled once for all tests."""

    def total(logits, labels, weight):
        values = function(name)(logits, labels, weight=weight)
        return jnp.sum(values), values

    # The gradient of a minimum or maximum goes to the pixels that equal it, and the unoptimised program of this loss,
    # which computes both in two places, rounds them differently: none is equal, and 0 divided by 0 is NaN.
    how = OPTIMIZED if name == "hausdorff_erosion" else None
    step = jax.jit(jax.value_and_grad(total, has_aux=True), compiler_options=how)

    def run(logits, labels, weight=ONES):
        (_, values), grad = step(jnp.asarray(logits), jnp.asarray(labels), jnp.asarray(weight))
        return np.asarray(values), np.asarray(grad)

    return run


def mean(name, logits, labels=LABELS):
    return float(compiled(name)(logits, labels)[0].mean())


def assert_close(found, expected, tolerance=1e-5):
    scale = max(float(np.abs(expected).max()), 1e-6)
    np.testing.assert_allclose(np.asarray(found) / scale, np.asarray(expected) / scale, atol=tolerance, rtol=0)


# --- the table --------------------------------------------------------------------------------------------------------


def test_the_table_says_what_the_functions_take(name):
    parameters = inspect.signature(getattr(losses, f"{name}_loss")).parameters
    options = set(parameters) - {"logits", "labels", "weight", "num_subpixels", "distance"}
    assert options == set(LOSSES[name].options)
    packed = LOSSES[name].accepts_packed and LOSSES[name].output != "pixel"
    assert ("num_subpixels" in parameters) == packed


def test_every_loss_function_is_in_the_table_or_a_known_exception():
    found = {n.removesuffix("_loss") for n in vars(losses) if n.endswith("_loss")}
    scalars = {"bce_dice"} | {n for n in found if "_border" in n and n != "border_bce"}
    assert found - scalars == set(LOSSES)


def test_the_page_on_losses_names_each():
    text = (Path(__file__).parent.parent / "docs" / "losses.md").read_text()
    assert set(re.findall(r"^\| `(\w+)` \|", text, flags=re.M)) == set(LOSSES)


# --- values -----------------------------------------------------------------------------------------------------------


def test_against_float64_loops(name):
    rng = np.random.default_rng(11)
    shape = (2, 10, 8, 2)
    labels = np.zeros(shape, np.float32)
    labels[0, 2:8, 1:6, 0] = labels[0, 4:10, 3:8, 1] = labels[1, 1:9, 2:5, 0] = 1.0
    logits = ((labels - 0.4) * 2.0 + rng.normal(0.0, 2.0, shape)).astype(np.float32)
    logits[1, :6, :6, 1] = 3.0  # one wrong blob where the class is absent
    # Soft labels for those that take them; the others see a mask.
    if not LOSSES[name].spatial and name not in ("lovasz_hinge", "topk_bce"):
        labels = np.clip(labels * 0.9 + 0.05 * rng.uniform(size=shape), 0.0, 1.0).astype(np.float32)
    weight = rng.choice([0.0, 0.5, 1.0, 2.0], shape, p=[0.1, 0.1, 0.7, 0.1]).astype(np.float32)
    parameters = inspect.signature(getattr(losses, f"{name}_loss")).parameters
    defaults = {
        option: OPTIONS.get(name, {}).get(option, parameters[option].default) for option in LOSSES[name].numbers
    }
    others = {option: OTHER_NUMBERS.get(option, default) for option, default in defaults.items()}
    static = {option: value for option, value in OPTIONS.get(name, {}).items() if option in LOSSES[name].static}
    run = jax.jit(
        lambda numbers: getattr(losses, f"{name}_loss")(logits, labels, weight=weight, **static, **numbers)
    )  # so the table's numbers can be traced
    for numbers in (defaults, others):
        assert_close(run(numbers), reference.evaluate(name, logits, labels, weight, static | numbers))
    assert run._cache_size() == 1


def test_shape_and_dtype_in_bfloat16_too(name):
    b, _, _, k = SHAPE
    shapes = {"pixel": SHAPE, "image_class": (b, k), "image": (b,), "class": (k,), "scalar": ()}
    for dtype in (jnp.bfloat16, jnp.float32):
        found = jax.eval_shape(function(name), jax.ShapeDtypeStruct(SHAPE, dtype), LABELS)
        assert found.dtype == jnp.float32 and found.shape == shapes[LOSSES[name].output]


@distinct_first()
def test_logits_in_bfloat16_are_computed_in_float32(name):
    low = jnp.asarray(LOGITS, jnp.bfloat16)
    both = jax.jit(lambda x: [function(name)(x.astype(d), LABELS) for d in (jnp.bfloat16, jnp.float32)])
    np.testing.assert_array_equal(*both(low))  # of the same rounded logits


@distinct_first([name for name in LOSSES if LOSSES[name].output not in ("class", "scalar")])  # not one for the batch
def test_leading_axes_and_vmap_are_the_same(name):
    x, t = (jnp.stack([y, jnp.roll(y, 3, axis=1)]) for y in (jnp.asarray(LOGITS), jnp.asarray(MIXED)))
    leading, mapped, image = jax.jit(
        lambda x, t: (function(name)(x, t), jax.vmap(function(name))(x, t), function(name)(x[1, 0], t[1, 0]))
    )(x, t)
    np.testing.assert_allclose(leading, mapped, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(leading[0], compiled(name)(x[0], t[0])[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(leading[1, 0], image, rtol=1e-5, atol=1e-6)


# --- properties -------------------------------------------------------------------------------------------------------


def test_order_of_images_and_classes_does_not_matter(name):
    values, grad = compiled(name)(LOGITS, MIXED)
    batch, classes = np.array([1, 0]), np.array([1, 0])
    output = LOSSES[name].output
    swapped, swapped_grad = compiled(name)(LOGITS[batch], MIXED[batch])
    assert_close(swapped, values if output in ("class", "scalar") else values[batch])
    assert_close(swapped_grad, grad[batch])
    swapped, swapped_grad = compiled(name)(LOGITS[..., classes], MIXED[..., classes])
    assert_close(swapped, values if output in ("image", "scalar") else values[..., classes])
    assert_close(swapped_grad, grad[..., classes])


@pytest.mark.parametrize("name", [n for n in LOSSES if n not in NOT_MINIMAL_WHEN_PERFECT])
def test_the_right_answer_costs_least(name):
    sign = 2.0 * MIXED - 1.0
    perfect = mean(name, 20.0 * sign, MIXED)
    flipped = sign.copy()
    flipped[0, 5:9, 5:9, 0] *= -1.0
    for other in (4.0 * flipped, 20.0 * flipped, -20.0 * sign, LOGITS, 0.0 * sign):
        assert perfect <= mean(name, other, MIXED) + 1e-6


@pytest.mark.parametrize("name", [n for n in LOSSES if n not in NOT_MONOTONE])
def test_putting_a_wrong_pixel_right_never_costs(name):
    rng = np.random.default_rng(5)
    logits = (4.0 * (2.0 * LABELS - 1.0) * rng.choice([1.0, -1.0], SHAPE, p=[0.8, 0.2])).astype(np.float32)
    logits += rng.normal(0.0, 0.01, SHAPE).astype(np.float32)
    before = mean(name, logits)
    lower = 0
    for b, i, j, k in rng.permutation(np.argwhere(logits * (2.0 * LABELS - 1.0) < 0.0))[:8]:
        better = logits.copy()
        better[b, i, j, k] *= -1.0
        after = mean(name, better)
        assert after <= before + 1e-6 * abs(before)
        lower += after < before - 1e-6 * abs(before)
    assert lower >= 4  # topk and boundary may be indifferent to some pixels


def test_claims_where_the_class_is_absent_are_pushed_down(name):
    labels = LABELS.copy()
    labels[..., 1] = 0.0
    logits = LOGITS.copy()
    logits[:, 3:12, 3:12, 1] = 3.0 + 0.1 * RNG.uniform(size=(2, 9, 9))
    _, grad = compiled(name)(logits, labels)
    push = grad[..., 1][logits[..., 1] > 0.0]
    elsewhere = np.abs(grad[..., 0]).sum()
    assert push.sum() < 1e-3 * elsewhere if name in BLIND_TO_EMPTY else push.sum() > 1e-3 * elsewhere


@pytest.mark.parametrize("labels", [0.0 * LABELS, 0.0 * LABELS + 1.0, MIXED], ids=["empty", "full", "mixed"])
def test_extreme_logits_are_finite(name, labels):
    noise = RNG.choice([-1e4, 1e4], SHAPE)
    for logits in (1e4 * ONES, -1e4 * ONES, noise, 1e4 * (2.0 * labels - 1.0), 0.0 * ONES):
        values, grad = compiled(name)(logits.astype(np.float32), labels)
        assert np.isfinite(values).all() and np.isfinite(grad).all()


# --- weights ----------------------------------------------------------------------------------------------------------


@distinct_first()
def test_weight_one_is_no_weight_and_weights_broadcast(name):
    weights = [RNG.choice([0.5, 1.0], shape).astype(np.float32) for shape in [(2, 1, 1, 2), (2, 16, 16, 1), (2,)]]
    if LOSSES[name].output in ("class", "scalar"):
        weights.pop()  # one axis means one per image there
    run = jax.jit(lambda ws: [function(name)(LOGITS, MIXED, weight=w) for w in ws])
    for weight, found in zip([ONES, *weights], run([None, *weights]), strict=True):
        np.testing.assert_allclose(found, compiled(name)(LOGITS, MIXED, weight * ONES)[0], rtol=1e-5, atol=1e-6)


def test_what_is_ignored_changes_nothing(name):
    weight = ONES.copy()
    weight[0, :5, :, 0] = 0.0  # a region
    weight[1, ..., 1] = 0.0  # a class that was not annotated in an image
    hidden = weight == 0.0
    logits = LOGITS.copy()
    logits[0, 2:9, 4:12, 0] = 4.0 * (1.0 - 2.0 * MIXED[0, 2:9, 4:12, 0])  # a wrong blob, half of it ignored
    values, grad = compiled(name)(logits, MIXED, weight)
    labels = np.where(hidden, 1.0 - MIXED, MIXED).astype(np.float32)
    wrong = (1.0 - 2.0 * labels) * (5.0 + RNG.uniform(size=SHAPE))  # everywhere, so that no erosion removes it
    logits = np.where(hidden, wrong, logits).astype(np.float32)
    again, grad_again = compiled(name)(logits, labels, weight)
    assert_close(again, values)
    assert_close(grad_again, grad)
    np.testing.assert_array_equal(grad[hidden], 0.0)
    assert np.abs(grad[~hidden]).max() > 0.0


def test_with_all_ignored_nothing_is_learnt(name):
    values, grad = compiled(name)(LOGITS, MIXED, 0.0 * ONES)
    assert np.isfinite(values).all()
    np.testing.assert_array_equal(grad, 0.0)


# --- layouts and devices ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n, entry in LOSSES.items() if entry.accepts_packed])
def test_packed_logits_give_the_same(name):
    def pack(x):
        return x.reshape(2, 8, 2, 8, 2, -1).transpose(0, 1, 3, 2, 4, 5).reshape(2, 8, 8, -1)

    more = {} if LOSSES[name].output == "pixel" else {"num_subpixels": 4}
    weight = RNG.choice([0.0, 1.0], SHAPE).astype(np.float32)
    expected = compiled(name)(LOGITS, MIXED, weight)[0]
    packed = jax.jit(lambda w: function(name, **more)(pack(LOGITS), pack(MIXED), weight=w))
    found = packed(pack(weight))
    np.testing.assert_allclose(found, pack(expected) if not more else expected, rtol=1e-5, atol=1e-6)
    if more and LOSSES[name].output in ("image_class", "image"):  # a weight per class is repeated for each sub-pixel
        weight = np.array([1.0, 0.5], np.float32)
        found = packed(weight)
        expected = compiled(name)(LOGITS, MIXED, weight * ONES)[0]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_eight_devices_see_one_batch():
    """Values per image, and with gradients those that are one number for the batch, as on one device."""
    rng = np.random.default_rng(1)
    labels = blobs((8, *SHAPE[1:]), rng)
    logits = ((labels - 0.5) * 3.0 + rng.normal(0.0, 2.0, labels.shape)).astype(np.float32)
    weight = np.array([1, 1, 1, 1, 1, 1, 1, 0], np.float32)
    over_batch = ("batch_soft_dice", "class_soft_dice", "lovasz_hinge", "topk_bce", "tversky")
    batch_wide = make_objective(
        [Term(n, over="batch" if LOSSES[n].output == "image_class" else "image") for n in over_batch]
    )

    def values(names, x, t, w):
        each = {n: function(n)(x, t) for n in names}
        return each, jax.value_and_grad(lambda x: batch_wide(x, t, w), has_aux=True)(x)

    arrays = logits, labels, weight
    of_images = [n for n in LOSSES if LOSSES[n].output not in ("class", "scalar")]
    of_batches = [n for n in LOSSES if n not in of_images]
    alone, of_batch = jax.jit(functools.partial(values, of_batches))(*arrays)
    for n in of_images:  # by the programs of the other tests, two images at a time
        pairs = [compiled(n)(logits[i : i + 2], labels[i : i + 2])[0] for i in range(0, 8, 2)]
        alone[n] = np.concatenate(pairs)
    mesh = make_mesh()
    assert mesh.size == 8
    split = NamedSharding(mesh, PartitionSpec("data"))
    everything = jax.jit(functools.partial(values, tuple(LOSSES)))
    sharded = everything(*(jax.device_put(a, split) for a in arrays))
    jax.tree.map(lambda a, b: assert_close(b, a), (alone, of_batch), sharded)
    # Hardest of all pixels and of each shard's own: not the same, so that the above says something.
    whole = losses.topk_bce_loss(stack_images(logits), stack_images(labels))
    assert np.abs(whole - losses.topk_bce_loss(logits, labels).mean(0)).min() > 1e-3


@pytest.mark.parametrize("name", ["soft_dice", "class_soft_dice", "batch_soft_dice", "tversky", "mcc", "soft_cldice"])
def test_without_smoothing_nothing_counts_is_no_nan(name):
    """Every pixel ignored, or none of the class: 0 / 0 counts as 0, and the gradient is finite."""
    loss = getattr(losses, f"{name}_loss")
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 2)), jnp.float32)
    step = jax.jit(
        jax.value_and_grad(lambda x, t, w: jnp.sum(loss(x, t, smooth=0.0, weight=jnp.full(x.shape, w))), argnums=0)
    )
    for labels, weight in ((x > 0, 0.0), (x > 9, 0.0), (x > 9, 1.0), (x > -9, 1.0)):
        value, gradient = step(x, labels.astype(jnp.float32), weight)
        assert jnp.isfinite(value) and jnp.isfinite(gradient).all()
