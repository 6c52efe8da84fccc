"""Losses against public implementations: values and gradients that scripts/make_golden_losses.py wrote."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import OPTIMIZED

from unet_jax import losses
from unet_jax.config.loss_catalogue import LOSSES
from unet_jax.losses import structure

FILE = np.load(Path(__file__).parent / "golden" / "losses.npz")
ENTRIES = json.loads(str(FILE["about"]))["entries"]
GRADS = dict(zip(ENTRIES, FILE["grads"], strict=True))
LOGITS, HARD = jnp.asarray(FILE["logits"]), jnp.asarray(FILE["hard"])


def options_of(entry):
    def value(key, x):
        return tuple(x) if key == "scale_weights" else np.array(x, np.float32) if isinstance(x, list) else x

    return {key: value(key, x) for key, x in entry["options"].items()}


@functools.cache
def ours(name, labels, options):
    """Mean and its gradient, flat."""

    def mean(x):
        return jnp.mean(getattr(losses, f"{name}_loss")(x, jnp.asarray(FILE[labels]), **dict(options)))

    how = OPTIMIZED if name == "hausdorff_erosion" else None  # see test_losses_catalogue.compiled
    value, grad = jax.jit(jax.value_and_grad(mean), compiler_options=how)(LOGITS)
    return float(value), np.asarray(grad).reshape(-1)


def errors(value, grad, key):
    """Of value and gradient, relative to the reference's size."""
    expected, expected_grad = ENTRIES[key]["value"], GRADS[key]
    return abs(value - expected) / abs(expected), np.abs(grad - expected_grad).max() / np.abs(expected_grad).max()


def measured(key):
    """Errors of the loss that the entry is named after."""
    name, entry = key.split("/")[0], ENTRIES[key]
    options = options_of(entry)
    if any(isinstance(v, np.ndarray) for v in options.values()):
        return errors(*ours.__wrapped__(name, entry["labels"], tuple(options.items())), key)
    return errors(*ours(name, entry["labels"], tuple(options.items())), key)


@pytest.mark.parametrize("key", [key for key, entry in ENTRIES.items() if not entry["differs"]])
def test_value_and_gradient(key):
    value_error, grad_error = measured(key)
    assert value_error < 1e-5 and grad_error < 1e-5


def test_every_loss_has_a_reference():
    assert {key.split("/")[0] for key, entry in ENTRIES.items() if not entry["differs"]} == set(LOSSES)


# --- where a public implementation computes something else: what, and both numbers ------------------------------------


def compare(function, key, labels="hard", tolerance=1e-5):
    value, grad = jax.jit(jax.value_and_grad(lambda x: function(x, jnp.asarray(FILE[labels]))))(LOGITS)
    assert max(errors(float(value), np.asarray(grad).reshape(-1), key)) < tolerance


def assert_apart(key, least=1e-4):
    """Our loss with the same arguments is another number."""
    name, entry = key.split("/")[0], ENTRIES[key]
    value, _ = ours(name, entry["labels"], tuple(options_of(entry).items()))
    assert abs(value - entry["value"]) > least * abs(entry["value"])


def test_asl_adds_over_all_elements():
    assert_apart("asymmetric/asl_sum")
    compare(lambda x, t: jnp.sum(losses.asymmetric_loss(x, t)), "asymmetric/asl_sum")


def test_monai_adds_its_smooth_to_volumes_that_are_already_divided():
    """So that it is worth smooth T^2 pixels of the image's smallest class: the loss of a larger mask is smaller."""
    assert_apart("generalized_dice/monai_smooth")
    smooth = 0.01 * jnp.min(jnp.sum(HARD, axis=(1, 2)), axis=-1) ** 2
    compare(lambda x, t: jnp.mean(losses.generalized_dice_loss(x, t, smooth=smooth)), "generalized_dice/monai_smooth")


def test_smp_dice_is_over_the_batch_and_its_smooth_counts_twice():
    assert_apart("l1_dice/smp")
    compare(
        lambda x, t: jnp.mean(losses.l1_dice_loss(losses.stack_images(x), losses.stack_images(t), smooth=2.0)),
        "l1_dice/smp",
        labels="soft",
    )


def test_smp_lovasz_takes_all_classes_for_one():
    assert_apart("lovasz_hinge/smp")
    # smp computes in float32, and J_i - J_{i-1} as a difference.
    compare(
        lambda x, t: losses.lovasz_hinge_loss(x.reshape(-1, 1, 1), t.reshape(-1, 1, 1))[0],
        "lovasz_hinge/smp",
        tolerance=1e-4,
    )


def test_combo_as_printed_is_lower_by_a_constant():
    value, grad = ours("combo", "hard", (("ce_weight", 0.7), ("pos_weight", 0.4)))
    np.testing.assert_allclose(value - 0.3, ENTRIES["combo/paper_offset"]["value"], rtol=1e-5)
    assert_close_grad(grad, "combo/paper_offset")


def assert_close_grad(grad, key):
    np.testing.assert_allclose(grad, GRADS[key], atol=1e-5 * np.abs(GRADS[key]).max())


def test_monai_takes_the_mean_over_both_sides_of_the_focal_half():
    """Half of the authors' sum over foreground and background."""
    options = (("focal_weight", 1.0), ("smooth", 1e-7))
    value, grad = ours("asymmetric_unified_focal", "hard", options)
    value_error, grad_error = errors(value / 2.0, grad / 2.0, "asymmetric_unified_focal/monai_focal")
    assert max(value_error, grad_error) < 1e-5


def test_monai_hausdorff_leaves_the_first_class_out_by_default():
    assert_apart("hausdorff_dt/monai_default")
    compare(lambda x, t: jnp.mean(losses.hausdorff_dt_loss(x, t)[..., 1]), "hausdorff_dt/monai_default")


def test_monai_cldice_adds_classes_up_first():
    assert_apart("soft_cldice/monai_default")

    def together(x, t):
        p = jax.nn.sigmoid(x)
        lines_p, lines_t = structure._soft_skeleton(p, 3), structure._soft_skeleton(t, 3)
        sums = [jnp.sum(y, axis=(1, 2, 3)) + 1.0 for y in (lines_p * t, lines_p, lines_t * p, lines_t)]
        precision, sensitivity = sums[0] / sums[1], sums[2] / sums[3]
        return jnp.mean(1.0 - 2.0 * precision * sensitivity / (precision + sensitivity + 1e-4))

    compare(together, "soft_cldice/monai_default")


def test_the_number_of_skeleton_iterations_matters():
    """The authors' code always takes ten, whatever it is given."""
    three, ten = (ENTRIES[key]["value"] for key in ("soft_cldice/monai", "soft_cldice/author"))
    assert abs(three - ten) > 1e-3


def test_the_active_contour_authors_differences_lie_at_different_pixels():
    assert_apart("active_contour/author")

    def authors(x, t):
        p = jax.nn.sigmoid(x)
        rows, columns = jnp.diff(p, axis=1), jnp.diff(p, axis=2)
        length = jnp.sqrt(rows[:, 1:, :-2] ** 2 + columns[:, :-2, 1:] ** 2 + 1e-8)
        return jnp.mean(length) + jnp.mean(p * (t - 1.0) ** 2) + jnp.mean((1.0 - p) * t**2)

    compare(authors, "active_contour/author")


def test_kornia_ssim_is_half():
    assert_apart("ssim/kornia")
    compare(lambda x, t: jnp.mean(losses.ssim_loss(x, t)) / 2.0, "ssim/kornia")


def test_torchmetrics_mirrors_the_coarsest_scale_at_its_border():
    """And averages over all of it; on the finer scales it leaves the mirrored part out, as we do everywhere."""

    def theirs(x, t):
        p, product = jax.nn.sigmoid(x), 1.0
        w = jnp.ones_like(p)
        _, fine = structure._similarity(p, t, w, 5, 0.7, 0.01, 0.03)
        p, t, w = (structure._halve(y) / 4.0 for y in (p, t, w))
        p, t, w = (jnp.pad(y, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect") for y in (p, t, w))
        whole, _ = structure._similarity(p, t, w, 5, 0.7, 0.01, 0.03)
        product = jax.nn.relu(fine) ** 0.3 * jax.nn.relu(whole) ** 0.7
        return 1.0 - jnp.mean(product)

    # Their variances are cut off at 0, ours carry the rounding of float32: hence the gradient's tolerance.
    compare(theirs, "ms_ssim/torchmetrics", tolerance=2e-4)
    assert abs(ENTRIES["ms_ssim/torchmetrics"]["value"] - ENTRIES["ms_ssim/monai"]["value"]) > 0.05


def test_product_dice_of_soft_labels_is_not_zero_where_the_answer_is_right():
    t = jnp.clip(jnp.asarray(FILE["soft"]), 1e-4, 1.0 - 1e-4)
    right = jnp.log(t) - jnp.log1p(-t)
    assert float(jnp.mean(losses.soft_dice_loss(right, t))) > 0.05
    for loss in (losses.l1_dice_loss, losses.l1_jaccard_loss, losses.l1_tversky_loss):
        np.testing.assert_allclose(loss(right, t), 0.0, atol=1e-5)


def _print_table():
    """For docs/losses.md: largest error against the references, and the push against claims of an absent class.

    The push is the gradient's sum over false positives of the absent class, over the sum of its sizes on the other.
    """
    labels = HARD.at[..., 1].set(0.0)
    for name in LOSSES:
        keys = [key for key, entry in ENTRIES.items() if key.startswith(f"{name}/") and not entry["differs"]]
        value_error, grad_error = np.max([measured(key) for key in keys], axis=0)
        options = options_of(ENTRIES[keys[0]]) if name == "ms_ssim" else {}
        loss = getattr(losses, f"{name}_loss")
        grad = jax.jit(jax.grad(lambda x, loss=loss, o=options: jnp.mean(loss(x, labels, **o))))(LOGITS)
        claimed = jnp.sum(jnp.where(LOGITS > 0.0, grad, 0.0)[..., 1])
        push = float(claimed / jnp.sum(jnp.abs(grad[..., 0])))
        print(f"{name:26} {value_error:.1e} {grad_error:.1e} {push:8.2g}  {', '.join(k.split('/')[1] for k in keys)}")


if __name__ == "__main__":
    _print_table()
