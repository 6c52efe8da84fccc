"""Runs of all releases, which this one must read: what they predict, how they score, and that they go on.

`scripts/make_golden_run.py` writes one at each release, and none is ever written again. Where a test fails, correct the
reader, not the run.
"""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers import ONE_DEVICE

import unet_jax
from unet_jax.cli.main import main
from unet_jax.inference.calibration_file import with_calibration
from unet_jax.inference.evaluate import evaluate_run, select_records

GOLDEN = Path(__file__).parent / "golden"
RELEASES = sorted(path.name for path in GOLDEN.glob("run_*.zip"))


@pytest.fixture(scope="module", params=RELEASES)
def release(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("release")
    with zipfile.ZipFile(GOLDEN / request.param) as file:
        file.extractall(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder, dict(np.load(folder / "expected.npz")), unet_jax.load_run("RUN")


def test_releases_are_there():
    assert "run_0.1.0.zip" in RELEASES


def test_a_run_predicts_what_its_release_predicted(release):
    _, expected, run = release
    np.testing.assert_array_equal(unet_jax.read_pixels("DATA/images/0000.png"), expected["image"])
    (probs,) = unet_jax.predict_images(run, [expected["image"]])
    assert np.ptp(probs) > 0.1  # what is compared says something
    np.testing.assert_allclose(probs, expected["probs"], atol=1e-4)


def test_a_run_says_and_scores_what_its_release_said(release):
    folder, expected, run = release
    assert (run.step, run.class_names) == (expected["step"], ("disk", "square"))
    assert run.info.image_format is not None and run.info.image_format.types == ("uint16",)
    np.testing.assert_allclose(run.metrics["dice"], expected["dice"], rtol=1e-6)
    assert [row["step"] for row in run.history] == [60, 120]
    stored = json.loads((folder / "RUN" / "calibration.json").read_text())
    np.testing.assert_allclose(with_calibration(run).threshold, [c["threshold"] for c in stored["classes"].values()])
    _, layout, records = select_records(run, run.config.data, "val")
    np.testing.assert_allclose(evaluate_run(run, layout, records).dice_mean, expected["dice"], atol=0.01)


# 5 s: a training step is compiled. Fast tests load the same files.
@pytest.mark.slow
def test_a_run_of_a_release_goes_on(release, tmp_path, monkeypatch, capsys):
    folder, _, run = release
    shutil.copytree(folder, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    longer = unet_jax.replace(run.config, {"train.num_steps": 180, "optim.when_longer": "restart"})
    result = unet_jax.train(longer, "RUN", mesh=ONE_DEVICE)
    assert result.history[-1]["step"] == 180
    main(["verify", "RUN"])
    assert "RUN" in capsys.readouterr().out
