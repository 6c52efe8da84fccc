"""Several runs that predict together, against the mean of their own logits; what cannot be averaged is refused."""

import csv
import dataclasses
import json

import jax
import numpy as np
import pytest
from etils import epath
from export_runs import random_image, random_run, save_run
from helpers import ONE_DEVICE
from scipy import special

from unet_jax import Ensemble, InputError, predict_images, predict_probs_unresized
from unet_jax.cli.main import main
from unet_jax.config.dicts import replace
from unet_jax.config.predict import PredictConfig
from unet_jax.data.images.format import ImageFormat
from unet_jax.data.masks.read import read_mask
from unet_jax.devices.mesh import put_replicated
from unet_jax.inference import fits
from unet_jax.inference.evaluate import copies_of_training, data_of, evaluate_run, select_records, trained_on
from unet_jax.inference.fold_scores import check_folds
from unet_jax.inference.way import way_of
from unet_jax.metrics.calibration import Calibration
from unet_jax.runs.ensemble import check_distinct, image_formats

CROP = PredictConfig(fit="crop", overlap=0.5)
GRAY16 = ImageFormat(channels=(0,), file_channels=1, bits=16, low=(0.0,), high=(1000.0,), types=("uint16",))


def member(seed, path, **options):
    """A random run whose weights depend on the seed."""
    run = random_run(**options)
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda leaf: leaf * rng.uniform(0.8, 1.2, leaf.shape).astype(np.float32), run.state.params)
    state = put_replicated(dataclasses.replace(run.state, params=params), ONE_DEVICE)
    return dataclasses.replace(run, state=state, path=run.path / path)


@pytest.fixture(scope="module")
def members():
    """Two of one network, and one of another that takes other multiples of pixels."""
    return member(0, "a"), member(1, "b"), member(2, "c", widths=(4, 4))


def mean_of(members, images, how):
    each = [special.logit(np.stack(list(predict_images(run, images, how))).astype(np.float64)) for run in members]
    return special.expit(np.mean(each, axis=0))


def test_logits_are_averaged_and_equal_networks_share_one_program(members):
    fits._step.cache_clear()
    large = [random_image(members[0], 40, 37, seed) for seed in (0, 1)]
    found = np.stack(list(predict_images(Ensemble(members[:2]), large, CROP)))
    np.testing.assert_allclose(found, mean_of(members[:2], large, CROP), atol=1e-5)
    assert np.abs(found - np.stack(list(predict_images(members[0], large, CROP)))).max() > 0.01
    ensemble = Ensemble(members)
    assert way_of(ensemble, CROP).tiling.multiple == 4  # that of the deepest network
    small = [random_image(members[0], 16, 16, seed) for seed in range(8)]  # one tile each, with the same in all runs
    expected = mean_of(members, small, CROP)
    for how in (CROP, PredictConfig()):  # stretched to the size that they have
        np.testing.assert_allclose(np.stack(list(predict_images(ensemble, small, how))), expected, atol=1e-5)
    np.testing.assert_allclose(predict_probs_unresized(ensemble, np.stack(small)), expected, atol=1e-5)
    programs = [fits._step_of(run, "none", logits=True) for run in members]
    assert programs[0] is programs[1] is not programs[2]
    assert [program._cache_size() for program in programs] == [1, 1, 1]  # type: ignore[attr-defined]


def test_each_run_maps_intensities_by_its_own_limits():
    other = dataclasses.replace(GRAY16, high=(3000.0,))
    formats = [GRAY16, other, GRAY16]
    members = tuple(member(i, "abc"[i], image_format=image_format) for i, image_format in enumerate(formats))
    ensemble = Ensemble(members)
    assert image_formats(ensemble) == (GRAY16, other)
    images = [np.random.default_rng(0).integers(0, 2500, (40, 33, 1), np.uint16)]
    found = np.stack(list(predict_images(ensemble, images, CROP)))
    np.testing.assert_allclose(found, mean_of(members, images, CROP), atol=1e-5)
    of_first = [dataclasses.replace(run, info=members[0].info) for run in members]
    assert np.abs(found - mean_of(of_first, images, CROP)).max() > 1e-3


def test_the_calibration_is_the_mean_in_logits(members):
    first = dataclasses.replace(members[0], calibration=Calibration((2.0, 1.0), (0.9, 0.5)))
    second = dataclasses.replace(members[1], calibration=Calibration((1.0, 1.0), (0.5, 0.5)))
    ensemble = Ensemble((first, second))
    assert ensemble.calibration is not None
    np.testing.assert_allclose(ensemble.calibration.temperature, [4 / 3, 1.0])  # 1 / mean(1/2, 1)
    np.testing.assert_allclose(ensemble.threshold, [0.75, 0.5], rtol=1e-6)  # half of logit(0.9) = log(9) is log(3)
    twice = Ensemble((first, first))
    assert twice.calibration == first.calibration or np.allclose(twice.threshold, first.threshold)
    with pytest.raises(InputError, match=r"random/b: it is not calibrated, but in random/a calibrated"):
        Ensemble((first, members[1]))


def with_config(run, **settings):
    config = replace(run.config, {name.replace("__", "."): value for name, value in settings.items()})
    return dataclasses.replace(run, config=config, info=dataclasses.replace(run.info, config=config))


def test_what_cannot_be_averaged_is_refused_by_name(members):
    first, second, _ = members
    deeper = member(0, "d", image_format=GRAY16)
    for other, message in (
        (
            dataclasses.replace(second, class_names=("square", "disk")),
            "b: the classes are square, disk, but in",
        ),
        (deeper, r"d: the images have channels .*bits 16.*, but in random/a 8-bit RGB of any file"),
        (with_config(second, data__fit="crop"), r"b: data.fit is crop, but in random/a stretch"),
        (with_config(second, data__image_size=32), r"b: data.image_size is \(32, 32\), but in random/a \(16, 16\)"),
    ):
        with pytest.raises(InputError, match=message):
            Ensemble((first, other))
    with pytest.raises(InputError, match="at least one run"):
        Ensemble(())
    with pytest.raises(InputError, match="RUN: is named twice"):
        check_distinct(["RUN", "OTHER", "RUN"])
    larger = {"smallest": [64, 64], "largest": [64, 64]}
    other = dataclasses.replace(second, info=dataclasses.replace(second.info, audit=larger))
    with pytest.raises(InputError, match=r"b: was trained at the scale 0.25, but .*random/a at 1\. .*--scale 1\."):
        way_of(Ensemble((first, other)), CROP)
    way_of(Ensemble((first, other)), dataclasses.replace(CROP, scale=0.5))
    with pytest.raises(InputError, match=r"b: data.soft_masks is True, but in random/a it is False"):
        data_of(Ensemble((first, with_config(second, data__soft_masks=True))))


@pytest.fixture(scope="module")
def saved(synthetic_root, tmp_path_factory):
    """Two saved runs with other training images, of which one is a copy's original; test is the same."""
    folder = tmp_path_factory.mktemp("ensemble")
    paths = []
    for number, train in enumerate((["0000", "0001"], ["0002"])):
        run = with_config(member(number, "r"), data__root=str(synthetic_root))
        splits = {"train": train, "val": [f"002{number}"], "test": ["0003", "0004"]}
        paths.append(folder / f"run{number}")
        save_run(run, paths[-1], splits=splits, config=run.config)
    return paths


def test_commands_take_several_runs(saved, synthetic_root, tmp_path, capsys):
    first, second = map(str, saved)
    images, out = str(synthetic_root / "images"), tmp_path / "masks"
    main(["predict", first, images, second, "--out", str(out), "--no-overlay"])
    mark = json.loads((out / "predict.json").read_text())
    assert mark["run"] == [first, second] and mark["step"] == [0, 0]
    main(["evaluate", first, second, "--split", "all"])
    captured = capsys.readouterr()
    result = json.loads(captured.out.splitlines()[-1])
    assert result["runs"] == [first, second] and result["num_images"] == 30
    said = " ".join((captured.out + captured.err).split())
    assert f"WARNING: 3 of these images were used for training of {first}, {second}, the first is '0000'" in said
    assert "mean logits of 2 runs" in said
    # The masks of predict are those that evaluate scored.
    dice = []
    for path in sorted((out / "disk").iterdir()):
        files = (path, synthetic_root / "masks" / "disk" / path.name)
        mask, truth = (read_mask(epath.Path(file)) > 127 for file in files)
        total = mask.sum() + truth.sum()
        dice.append(2 * (mask & truth).sum() / total if total else 1.0)
    assert result["dice"]["disk"] == pytest.approx(np.mean(dice), abs=1e-9)


def test_copies_of_images_of_any_member_are_found(members, synthetic_root):
    """An image that one run was trained on under another name, in the format of that run."""
    data = dataclasses.replace(members[0].config.data, root=str(synthetic_root))
    _, layout, records = select_records(members[0], data, "all")
    scores = evaluate_run(Ensemble(members[:2]), layout, records[:3])
    splits = {"train": ["x"], "val": [], "test": []}
    seen = dataclasses.replace(members[1].info, splits=splits, audit={"digests": {"x": scores.digests[1][0]}})
    none = dataclasses.replace(members[0].info, audit={"digests": {}})
    both = Ensemble((dataclasses.replace(members[0], info=none), dataclasses.replace(members[1], info=seen)))
    assert copies_of_training(both, scores) == {records[1].id: ["x"]}
    assert trained_on(both, scores) == {}
    with pytest.raises(InputError, match=r"b: has other images in the split 'train' than .*random/a\. Say with --data"):
        select_records(both, data, "train")


def test_folds_are_scored_on_their_own_images(saved, tmp_path, members):
    first, second = map(str, saved)
    main(["fold-scores", first, second, "--csv", str(tmp_path / "folds.csv")])
    rows = list(csv.DictReader((tmp_path / "folds.csv").read_text().splitlines()))
    dice = {(row["fold"], row["class"]): float(row["dice"]) for row in rows}
    assert [row["images"] for row in rows if row["fold"] == "all images"] == ["2", "2"]
    for name in ("disk", "square"):
        each = [dice[fold, name] for fold in (first, second)]
        assert dice["mean of folds", name] == pytest.approx(np.mean(each), abs=1e-4)
        assert dice["all images", name] == pytest.approx(np.mean(each), abs=1e-4)  # one image each
        assert dice["standard deviation", name] == pytest.approx(abs(each[0] - each[1]) / np.sqrt(2), abs=2e-4)
    with pytest.raises(InputError, match=r"b: data.image_size is .*32.*, but in .*random/a .*: folds have the same"):
        check_folds([members[0], with_config(members[1], data__image_size=32)], "val")
    same = [dataclasses.replace(m, info=dataclasses.replace(m.info, splits={"val": ["x"]})) for m in members[:2]]
    with pytest.raises(InputError, match=r"b: has 'x' in val, as random/a has"):
        check_folds(same, "val")
    with pytest.raises(InputError, match="two runs or more"):
        check_folds(same[:1], "val")
