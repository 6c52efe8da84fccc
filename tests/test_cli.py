"""The command line as a person meets it."""

import base64
import dataclasses
import hashlib
import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from etils import epath
from helpers import TINY

from unet_jax.cli.main import main
from unet_jax.config.dicts import flatten_config
from unet_jax.config.presets import PRESETS, auto
from unet_jax.metrics.estimates import MEAN
from unet_jax.metrics.score_sums import OBJECT_SCORES
from unet_jax.report.metrics_file import read_history
from unet_jax.report.val_pictures import read_shown
from unet_jax.runs.info import load_info, save_info
from unet_jax.training.report_page import make_page

CLASSES = ("disk", "square", "ring")
SMALL = (*TINY, "--train.num-pictures", "1")


def call(*args):
    main([str(a) for a in args])


def refused(capsys, *args):
    """The message of a command that must end with 2 and without a traceback."""
    with pytest.raises(SystemExit) as end:
        call(*args)
    assert end.value.code == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.err


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("cli") / "data"
    call("synth", "--out", root, "--num-images", 30, "--image-size", 32, "--num-classes", 3, "--seed", 1)
    return root


@pytest.fixture(scope="module")
def run(data):
    out = data.parent / "run"
    call("train", "small", "--data.root", data, "--out", out, "--train.num-epochs", 2, "--seed", 5, *SMALL)
    return out


def test_synth_train_evaluate_predict_info(data, run, tmp_path, capsys):
    capsys.readouterr()
    where = ("--data.root", data, "--data.splits", data / "splits.csv")
    scores = ("--scores", "dice", "nsd", "objects", "--nsd-tolerance", 1, "--group-key", "(.)$")
    call("evaluate", run, *where, "--split", "test", "--csv", tmp_path / "s.csv", *scores)
    said = capsys.readouterr().out
    result = json.loads(said.splitlines()[-1])
    assert list(result["scores"]) == ["dice", "nsd", *OBJECT_SCORES] and "groups of 6 images" in result["intervals"]
    assert all(name in said for name in ("mean of images", "pooled", "panoptic_quality", "few for a bootstrap"))
    assert {name: values["mean"] for name, values in result["scores"]["dice"].items()} == pytest.approx(
        {**result["dice"], MEAN: result["dice_mean"]}
    )
    header, *lines = (tmp_path / "s.csv").read_text().splitlines()
    assert header.startswith("id,dice/disk,") and header.endswith("present/square") and len(lines) == 6
    assert {"num_images", "dice", "dice_mean", "iou", "threshold"} <= set(result)
    assert result["num_images"] == 6 and set(result["dice"]) == {"disk", "square", "ring"}
    call("predict", run, data / "images", "--out", tmp_path / "out")
    for name in ("disk", "square", "ring", "overlay"):
        assert len(list((tmp_path / "out" / name).glob("*.png"))) == 30
    capsys.readouterr()
    call("info", run)
    said = capsys.readouterr().out
    assert "channel 1 = ring" in said and "seed = 5" in said and "(best)" in said


def test_calibrate_changes_what_evaluate_and_predict_say(data, run, tmp_path, capsys):
    where = ("--data.root", data, "--data.splits", data / "splits.csv")
    assert "is not calibrated. Do it once: unet-jax calibrate" in refused(
        capsys, "evaluate", run, *where, "--calibrated"
    )
    call("calibrate", run, *where)
    said = capsys.readouterr().out
    assert "val: " in said and "temperature" in said and "calibration.json" in said
    results = {}
    for options in ((), ("--calibrated",)):
        call("evaluate", run, *where, "--split", "val", *options)
        results[options] = json.loads(capsys.readouterr().out.splitlines()[-1])
    plain, calibrated = results.values()
    assert set(calibrated["threshold"]) == {"disk", "square", "ring"} and plain["threshold"] == 0.5
    assert calibrated["dice_mean"] > plain["dice_mean"]  # after two epochs the thresholds matter
    for options in ((), ("--calibrated",)):
        call("predict", run, data / "images", "--out", tmp_path / f"p{len(options)}", *options)
    masks = [[p.read_bytes() for p in sorted((tmp_path / f"p{i}" / "disk").iterdir())] for i in (0, 1)]
    assert masks[0] != masks[1]


def test_training_again_says_it_is_finished(data, run, capsys):
    call("train", "small", "--data.root", data, "--out", run, "--train.num-epochs", 2, "--seed", 5, *SMALL)
    assert "finished at step" in capsys.readouterr().out


def test_help_names_every_command_and_preset(capsys):
    call()
    said = capsys.readouterr().out
    for word in ("synth", "train", "evaluate", "predict", "info", "default", "seed", "small"):
        assert word in said
    call("train", "--help")
    assert "Keras original" in capsys.readouterr().out


@pytest.mark.parametrize("preset", ["auto", "default", "seed"])
def test_help_of_training_is_one_screen(capsys, preset):
    call("train", preset, "--help")
    said = capsys.readouterr().out
    assert len(said.splitlines()) <= 45 and max(map(len, said.splitlines())) <= 80
    assert ("--minutes" in said) == (preset == "auto") and "--help-all" in said
    config = {"auto": auto, **PRESETS}[preset]()
    assert f"--optim.learning-rate {config.optim.learning_rate}" in said
    for flag in re.findall(r"^  (--[\w.-]+)", said, flags=re.M):
        given = flag.removeprefix("--").replace("-", "_")
        assert given in (*flatten_config(config), "out", "minutes"), flag


def test_help_of_every_setting(capsys):
    with pytest.raises(SystemExit) as end:
        main(["train", "default", "--help-all"])
    said = capsys.readouterr().out
    assert not end.value.code and "--model.head-bias" in said and "--augment.gamma" in said


def test_the_page_of_a_run(run, tmp_path, capsys):
    written = (Path(run) / "report.html").read_text()  # by the last evaluation
    call("report", run)
    assert f"wrote {run}/report.html" in capsys.readouterr().out
    page = (Path(run) / "report.html").read_text()
    assert page.count('class="curve"') == 2 + 3 + 3 + 3 == written.count('class="curve"')  # losses, classes, diagrams
    shown = read_shown(epath.Path(run) / "pictures" / "evaluation.json", CLASSES)
    assert {image["rank"] for image in shown["images"]} == {"worst", "best"} and shown["step"] == 4
    for text in (page, written):
        assert text.count("data:image/jpeg;base64,") == len(shown["images"]) * (1 + 3) >= 8
    history = read_history(epath.Path(run))
    for row in history:
        assert f"<td>{row['step']}</td>" in page and f"<td>{row['eval/loss']:.4f}</td>" in page
    assert f"<td>{history[-1]['eval/dice']:.4f}</td>" in page and "default-src 'none'" in page
    assert "http" not in page.replace("http-equiv", "") and page.count("<script") == 1
    (script,) = re.findall(r"<script>(.*?)</script>", page, flags=re.S)
    assert f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in page
    assert "<td>model.widths</td>" in page and len(page) < 5_000_000
    call("report", run, "--out", tmp_path / "deep" / "page.html")
    assert (tmp_path / "deep" / "page.html").read_text() == page


def test_the_page_of_a_run_from_somebody_else(run, tmp_path, capsys):
    info = load_info(epath.Path(run))
    hostile = epath.Path(tmp_path / "<b>bold")
    save_info(hostile, dataclasses.replace(info, class_names=("<img src=x>", *info.class_names[1:])))
    page = make_page(hostile)  # nothing is trained there yet
    assert "<img src=x" not in page and "&lt;img src=x&gt;" in page and "<b>" not in page and "No evaluation" in page
    assert "is not a run" in refused(capsys, "report", tmp_path)
    file = tmp_path / "evaluation.json"
    good = json.loads((Path(run) / "pictures" / "evaluation.json").read_text())
    file.write_text(json.dumps(good))
    assert read_shown(epath.Path(file), CLASSES) == good
    image = good["images"][0]
    for change in (
        {"images": [{**image, "picture": "https://example.org/a.jpg"}]},
        {"images": [{**image, "picture": 'data:image/jpeg;base64,AA==" onerror="x'}]},
        {"images": [{**image, "id": 3}]},
        {"images": 5},
        {"dice": {"other": []}},
        {"thresholds": ["<b>"]},
        {"reliability": {name: [[0.1]] for name in CLASSES}},
        {"format": 99},
    ):
        file.write_text(json.dumps({**good, **change}))
        assert read_shown(epath.Path(file), CLASSES) == {}, change
    file.write_text(json.dumps(good)[:-9])
    assert read_shown(epath.Path(file), CLASSES) == read_shown(epath.Path(tmp_path / "no"), CLASSES) == {}


# 20 s on a busy machine: a browser is started twice.
@pytest.mark.slow
@pytest.mark.skipif(not Path("/usr/bin/chromium").exists(), reason="needs Chromium")
def test_the_page_in_a_browser(run, tmp_path):
    """Every part is there, charts zoom, and the browser has no complaint and asks nothing of the network."""
    call("report", run)
    page = (Path(run) / "report.html").read_text()
    (tmp_path / "page.html").write_text(page)
    dom, said, asked = browse(tmp_path / "page.html", tmp_path)
    assert "CONSOLE" not in said, said
    assert not [url for url in asked if not url.startswith(("file:", "data:"))], asked
    for part in ("classes", "data", "curves", "diagrams", "evaluations", "settings", "time"):
        assert f'id="{part}"' in dom, part
    # The rules of the page allow no other script, so they are taken out where one drags over a chart.
    drag = """<script>
      const box = document.querySelector("#curves .box"), frame = box.getBoundingClientRect();
      box.setPointerCapture = () => {};
      const event = (type, at) => box.dispatchEvent(new PointerEvent(type, {clientX: frame.left + at * frame.width}));
      event("pointerdown", 0.25); event("pointermove", 0.5); event("pointerup", 0.75);
    </script></body>"""
    (tmp_path / "drag.html").write_text(re.sub(r"<meta http-equiv[^>]*>", "", page).replace("</body>", drag))
    dom, said, _ = browse(tmp_path / "drag.html", tmp_path)
    assert re.search(r'<svg viewBox="25 [\d.]+ 50 [\d.]+"', dom) and "CONSOLE" not in said, said


def browse(page, folder):
    """Return the page as the browser has it, what it logs, and the addresses that it asks for."""
    log = folder / "net.json"
    quiet = ("--disable-background-networking", "--disable-component-update", "--no-first-run", "--disable-sync")
    done = subprocess.run(
        [
            *("/usr/bin/chromium", "--headless", "--no-sandbox", "--disable-gpu", *quiet, "--enable-logging=stderr"),
            *(f"--user-data-dir={folder}/profile", f"--log-net-log={log}", "--dump-dom", f"file://{page}"),
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )
    asked = [url for url in re.findall(r'"url":"([^"]+)"', log.read_text()) if "google" not in url]  # its own
    return done.stdout, done.stderr, asked


def test_typos_are_refused_with_a_suggestion(capsys, data, tmp_path):
    assert "Did you mean 'train'" in refused(capsys, "trian")
    assert "Did you mean 'default'" in refused(capsys, "train", "defualt")
    said = refused(capsys, "train", "small", "--data.root", data, "--out", tmp_path / "x", "--train.num-epoch", 2)
    assert "--train.num-epochs" in said


def test_mistakes_are_told_without_a_traceback(capsys, data, run, tmp_path):
    out = tmp_path / "x"
    assert "data.root is empty" in refused(capsys, "train", "small", "--out", out)
    assert "is not a folder" in refused(capsys, "train", "small", "--data.root", tmp_path / "no", "--out", out)
    said = refused(capsys, "train", "small", "--data.root", data, "--out", out, "--data.image-size", 100)
    assert "data.image_size is 100" in said and "multiple of 16" in said
    said = refused(capsys, "train", "small", "--data.root", data, "--out", run, "--seed", 6, *SMALL)
    assert "seed: was 5, now 6" in said
    assert "is not a run" in refused(capsys, "evaluate", tmp_path, "--data.root", data)
    assert "is not a run" in refused(capsys, "info", tmp_path)
    assert "no such file" in refused(capsys, "predict", run, tmp_path / "no.png", "--out", out)
    assert "num_images is 0" in refused(capsys, "synth", "--out", out, "--num-images", 0)
    assert not out.exists()
    (tmp_path / "file").write_text("x")
    assert "file" in refused(capsys, "train", "small", "--data.root", data, "--out", tmp_path / "file" / "run", *SMALL)
    assert "--out is empty" in refused(capsys, "train", "small", "--data.root", data, "--out", "")
    (run.parent / "damaged").mkdir()
    (run.parent / "damaged" / "run.json").write_text("[]")
    assert "run.json" in refused(capsys, "info", run.parent / "damaged")


def test_keras_weights_in_and_out(data, tmp_path, capsys):
    import h5py

    golden = Path(__file__).parent / "golden" / "keras3.weights.h5"
    call("import-keras", golden, "--out", tmp_path / "run", "--classes", "disk", "square", "--image-size", 32)
    assert "channels: disk, square" in capsys.readouterr().out
    call("info", tmp_path / "run")
    assert "imported from keras3.weights.h5 (bgr)" in capsys.readouterr().out
    call("evaluate", tmp_path / "run", "--data.root", data, "--split", "all")
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["num_images"] == 30
    call("export-keras", tmp_path / "run", "--out", tmp_path / "back.weights.h5")
    with h5py.File(golden) as before, h5py.File(tmp_path / "back.weights.h5") as after:
        first = "layers/conv2d/vars/0"
        np.testing.assert_array_equal(np.asarray(before[first]), np.asarray(after[first]))
    said = refused(capsys, "train", "small", "--data.root", data, "--out", tmp_path / "run", *SMALL)
    assert "--init-from" in said
    assert "no.h5" in refused(capsys, "import-keras", tmp_path / "no.h5", "--out", tmp_path / "x")
