"""Calibration against direct minimisation over all pixels, and of a real run."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from etils import epath
from helpers import run, tiny_config
from scipy import optimize

from unet_jax import Ensemble, InputError, load_run, metrics, predict_probs
from unet_jax.config.predict import PredictConfig
from unet_jax.devices.mesh import make_mesh
from unet_jax.inference.calibrate import calibrate_run, fit_objects
from unet_jax.inference.calibration_file import calibration_path, save_calibration, way_difference, with_calibration
from unet_jax.inference.evaluate import evaluate_run, probs_and_truths, select_records
from unet_jax.inference.way import way_of
from unet_jax.metrics.calibration import Calibration, dice_curves, fit_calibration, histogram, reliability
from unet_jax.metrics.object_rules import ObjectRules
from unet_jax.report.display import Quiet

RNG = np.random.default_rng(0)
# A network that is three times too sure of class 0, too unsure of class 1, and sees class 2 in no pixel.
TRUE = RNG.normal([-1.0, 0.5, -2.0], 1.5, (6, 24, 24, 3))
LABELS = RNG.uniform(size=TRUE.shape) < 1.0 / (1.0 + np.exp(-TRUE))
LABELS[..., 2] = False
LOGITS = (TRUE * [3.0, 0.5, 1.0]).astype(np.float32)
PROBS = (1.0 / (1.0 + np.exp(-LOGITS))).astype(np.float32)


@pytest.fixture(scope="module")
def fit():
    return fit_calibration(np.stack([histogram(p, t) for p, t in zip(PROBS, LABELS, strict=True)]), 0.5)


def nll(logits, labels):
    return np.mean(np.logaddexp(0.0, logits) - logits * labels)


def test_temperature_minimises_the_cross_entropy_of_all_pixels(fit):
    for k in (0, 1):
        z, t = LOGITS[..., k].astype(np.float64), LABELS[..., k]
        found = optimize.minimize_scalar(
            lambda log, z=z, t=t: nll(z / np.exp(log), t), bounds=(-3, 3), method="bounded"
        )
        assert fit.calibration.temperature[k] == pytest.approx(np.exp(found.x), rel=5e-3)
        before, after = (values[k] for values in fit.nll)
        assert before == pytest.approx(nll(z, t), abs=1e-4) and after == pytest.approx(found.fun, abs=1e-4)
        assert after < before and fit.ece[1][k] < 0.5 * fit.ece[0][k]
    assert fit.calibration.temperature[0] == pytest.approx(3.0, rel=0.1)
    assert fit.calibration.temperature[2] == 1.0  # nothing to be learned of a class that is nowhere


def test_calibration_error_is_that_of_all_pixels(fit):
    for k in (0, 1):
        p, t = PROBS[..., k].ravel().astype(np.float64), LABELS[..., k].ravel()
        bins = np.minimum((p * 15).astype(int), 14)
        expected = sum(abs((t - p)[bins == i].sum()) for i in range(15)) / p.size
        assert fit.ece[0][k] == pytest.approx(expected, abs=2e-3)


def test_threshold_maximises_the_mean_dice_over_images(fit):
    calibrated = fit.calibration.probs(PROBS)
    for k in (0, 1):

        def dice(threshold, k=k):
            counts = [metrics.counts_from_masks(p > threshold, t) for p, t in zip(calibrated, LABELS, strict=True)]
            return np.mean([metrics.dice(c)[k] for c in counts])

        chosen = dice(fit.calibration.threshold[k])
        assert chosen == pytest.approx(fit.dice[1][k], abs=2e-3)
        assert chosen >= max(dice(t) for t in np.linspace(0.05, 0.95, 181)) - 2e-3
        assert fit.dice[1][k] >= fit.dice[0][k]
    # Of a class that is nowhere, the best threshold would be 1: it would never be predicted again.
    assert fit.calibration.threshold[2] == pytest.approx(0.5) and fit.dice[1][2] == fit.dice[0][2]


def test_probabilities_stay_probabilities():
    calibration = Calibration((2.0, 1.0), (0.4, 0.5))
    extreme = np.array([[0.0, 1.0], [1.0, 0.0], [0.5, 0.25]], np.float32)
    found = calibration.probs(extreme)
    assert found.dtype == np.float32 and np.all((found >= 0.0) & (found <= 1.0))
    np.testing.assert_allclose(found[2], [0.5, 0.25], rtol=1e-6)
    # By hand: logit(0.9) / 2 = log(3).
    assert calibration.probs(np.array([0.9, 0.9], np.float32))[0] == pytest.approx(0.75, rel=1e-5)


@pytest.fixture(scope="module")
def trained(synthetic_root, tmp_path_factory):
    mesh = make_mesh(jax.devices()[:1])
    path = tmp_path_factory.mktemp("calibrated") / "run"
    run(tiny_config(synthetic_root), path, Quiet(), mesh)
    return load_run(path, mesh=mesh)


def test_a_run_keeps_its_calibration(trained, synthetic_root):
    with pytest.raises(InputError, match=r"is not calibrated\. Do it once: unet-jax calibrate"):
        with_calibration(trained)
    split, layout, records = select_records(trained, trained.config.data, "val")
    fit = calibrate_run(trained, layout, records)
    save_calibration(trained, fit, split=split, num_images=len(records))
    run = with_calibration(trained)
    assert run.calibration == fit.calibration
    np.testing.assert_allclose(run.threshold, fit.calibration.threshold, rtol=1e-6)
    scores = evaluate_run(run, layout, records)
    assert scores.dice_mean == pytest.approx(fit.dice[1].mean(), abs=2e-3)
    plain = evaluate_run(trained, layout, records).dice_mean
    assert plain == pytest.approx(fit.dice[0].mean(), abs=2e-3) and scores.dice_mean >= plain - 2e-3
    images = np.zeros((1, 32, 32, 3), np.uint8)
    expected = fit.calibration.probs(predict_probs(trained, images))
    np.testing.assert_array_equal(predict_probs(run, images), expected)
    probs, *_ = next(probs_and_truths(run, layout, records, soft_masks=False))
    assert probs.dtype == np.float32
    with pytest.raises(InputError, match="was loaded with its calibration"):
        calibrate_run(run, layout, records)


def test_rules_for_objects_and_the_way_are_kept_and_compared(trained, synthetic_root, tmp_path):
    _, layout, records = select_records(trained, trained.config.data, "all")
    with pytest.raises(InputError, match=r"is not calibrated\. Fit temperatures"):
        fit_objects(trained, layout, records)
    fit = calibrate_run(trained, layout, records)
    calibrated = dataclasses.replace(trained, calibration=fit.calibration)
    calibration, tried = fit_objects(calibrated, layout, records)
    assert len(tried) == len(calibration.rules) == 2 and calibration.threshold == fit.calibration.threshold
    before = evaluate_run(calibrated, layout, records).per_image(metrics.dice)
    after = evaluate_run(dataclasses.replace(trained, calibration=calibration), layout, records).per_image(metrics.dice)
    for (name, old), of_class in zip(before.items(), tried, strict=True):
        assert of_class[0].dice[0] == pytest.approx(old, abs=1e-9)  # scored in the same way as by evaluate
        assert after[name] == pytest.approx([old, *(t.dice[1] for t in of_class if t.is_kept)][-1], abs=1e-9)
    rules = (ObjectRules(largest_only=True), ObjectRules(4, 16))
    forced = dataclasses.replace(fit, calibration=dataclasses.replace(calibration, rules=rules))
    other = dataclasses.replace(trained, path=epath.Path(tmp_path))
    how = PredictConfig(tta="flips")
    save_calibration(other, forced, split="all", num_images=30, how=how, tried=tried)
    loaded = with_calibration(other)
    assert loaded.calibration == forced.calibration
    assert way_difference(loaded, way_of(loaded, how)) == ""
    said = way_difference(Ensemble((loaded,)), way_of(loaded, PredictConfig(fit="crop", scale=0.5)))
    assert (
        "was fitted with --fit stretch (now crop), --scale unused (now 0.5)" in said
        and "--tta flips (now none)" in said
    )
    file = calibration_path(other.path)
    values = json.loads(file.read_text())
    del values["digest"]
    for of_class in values["classes"].values():
        del of_class["objects"], of_class["objects_tried"]
    file.write_text(json.dumps({**values, "format": 1, "way": None}))  # as the first version wrote it
    assert with_calibration(other).calibration == fit.calibration
    assert way_difference(with_calibration(other), way_of(other, how)) == ""
    for rule in ({"smallest_hole": -1}, {"smallest_object": 2**31 + 1}, {"largest_only": 1}, {"largest": True}):
        values["classes"]["disk"]["objects"] = rule
        file.write_text(json.dumps(values))
        with pytest.raises(InputError, match=r"calibration\.json: is damaged"):
            with_calibration(other)


def test_a_calibration_of_something_else_is_refused(trained, tmp_path):
    other = dataclasses.replace(trained, path=epath.Path(tmp_path))
    fit = fit_calibration(np.stack([histogram(PROBS[0, ..., :2], LABELS[0, ..., :2])]), 0.5)
    save_calibration(other, fit, split="val", num_images=1)
    with pytest.raises(InputError, match=r"belongs to the checkpoint of step \d+, but that of step 0"):
        with_calibration(dataclasses.replace(other, step=0))
    file = calibration_path(other.path)
    values = json.loads(file.read_text())
    file.write_text(json.dumps(values | {"format": 99}))
    with pytest.raises(InputError, match="has format 99"):
        with_calibration(other)
    file.write_text(json.dumps(values | {"classes": {}}))
    with pytest.raises(InputError, match=r"calibration\.json: is damaged"):
        with_calibration(other)


def test_curves_of_thresholds_and_reliability_are_those_of_loops():
    rng = np.random.default_rng(0)
    truths = [rng.random((9, 8, 2)) < 0.4 for _ in range(3)]
    truths[0][..., 1] = False
    images = [np.clip(truth * 0.3 + rng.random((9, 8, 2)) * 0.7, 0.01, 0.99) for truth in truths]
    valid = rng.random((9, 8, 2)) < 0.8
    thresholds = np.array([0.21, 0.5, 0.77])
    histograms = [
        histogram(image, truth, valid if i == 1 else None)
        for i, (image, truth) in enumerate(zip(images, truths, strict=True))
    ]
    expected = np.zeros((2, 3))
    for i, (image, truth) in enumerate(zip(images, truths, strict=True)):
        for k in range(2):
            counted = valid[..., k] if i == 1 else np.full((9, 8), True)
            for t, threshold in enumerate(thresholds):
                chosen, right = (image[..., k] > threshold)[counted], truth[..., k][counted]
                total = chosen.sum() + right.sum()
                expected[k, t] += (2 * (chosen & right).sum() / total if total else 1.0) / 3
    np.testing.assert_allclose(dice_curves(histograms, thresholds), expected, atol=0.02)  # a bin is 1/40 of a logit
    bins = reliability(sum(histograms), num_bins=4)
    p, inside = (
        np.concatenate([x[..., 0].ravel()[(valid[..., 0] | (i != 1)).ravel()] for i, x in enumerate(of)])
        for of in (images, truths)
    )
    for m in range(4):
        here = (p >= m / 4) & (p < (m + 1) / 4)
        np.testing.assert_allclose(bins[0, m], [p[here].mean(), inside[here].mean(), here.sum()], rtol=0.02)
    nothing = np.zeros_like(histograms[0])
    assert np.isnan(dice_curves([nothing], thresholds)).all() and np.isnan(reliability(nothing)[..., :2]).all()
