"""Damaged files of a run: what `unet-jax verify` finds, and what training says and goes on with."""

import json
import shutil

import numpy as np
import pytest
from etils import epath
from helpers import ONE_DEVICE, tiny_config
from test_checkpoints import state_at

from unet_jax import InputError
from unet_jax.cli.main import main
from unet_jax.data.images.format import RGB8
from unet_jax.inference.calibration_file import read_calibration, save_calibration
from unet_jax.metrics.calibration import fit_calibration, histogram
from unet_jax.report.metrics_file import MetricsFile
from unet_jax.runs.checkpoints import open_store
from unet_jax.runs.data_files import save_identities
from unet_jax.runs.info import RunInfo, load_info, save_info
from unet_jax.runs.load import Run
from unet_jax.training.goodput import Ledger


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run directory with one of every file, without the hours of training."""
    out = epath.Path(tmp_path_factory.mktemp("verify") / "run")
    save_info(
        out, RunInfo(tiny_config(epath.Path("data")), ("cell",), {"train": ["a"], "val": [], "test": []}, {}, {}, RGB8)
    )
    with open_store(out / "checkpoints", keep_last=2, best_metric="dice", best_is_larger=True) as store:
        for step in (1, 2):
            store.save(step, state_at(step, ONE_DEVICE), progress={"step": step}, metrics={"dice": 0.5, "loss": 1.0})
    file = MetricsFile(out / "metrics.jsonl")
    for step in (1, 2, 3):
        file.write({"step": step, "step/loss": float("nan") if step == 3 else 0.5})
    Ledger(out).write(2)
    probs = np.random.default_rng(0).random((8, 8, 1), np.float32)
    fit = fit_calibration(np.stack([histogram(probs, probs > 0.4)]), 0.5)
    info = load_info(out)
    run = Run(out, 2, state_at(2, ONE_DEVICE), info.config, info.class_names, info, {}, ONE_DEVICE)
    save_calibration(run, fit, split="val", num_images=1)
    return out


@pytest.fixture
def damaged(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    return epath.Path(tmp_path / "run")


def verify(out, capsys):
    try:
        main(["verify", str(out)])
    except SystemExit as ended:
        said = capsys.readouterr()
        return ended.code, said.out + said.err
    return 0, capsys.readouterr().out


def test_a_whole_run_is_good(whole, capsys):
    status, said = verify(whole, capsys)
    assert status == 0 and said.count(": good") == 3 and said.endswith("nothing is damaged\n")


def cut(content):
    return content[: len(content) // 2]


@pytest.mark.parametrize("damage", [cut, lambda content: b"", lambda content: b"\xff" + content[1:]])
@pytest.mark.parametrize(
    "name", ["checkpoints/2/metrics/metrics", "checkpoints/1/state/_METADATA", "goodput.json", "calibration.json"]
)
def test_every_damaged_file_is_named(damaged, capsys, name, damage):
    path = damaged / name
    path.write_bytes(damage(path.read_bytes()))
    status, said = verify(damaged, capsys)
    assert status == 1 and "damaged" in said and said.count("good") >= 2
    assert (name.rsplit("/", 1)[-1] if "checkpoints" in name else str(path)) in said


def test_an_edited_calibration_is_noticed_and_an_old_one_read(damaged):
    path = damaged / "calibration.json"
    values = json.loads(path.read_text())
    values["classes"]["cell"]["threshold"] = 0.123
    path.write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"calibration\.json: is damaged .*Calibrate again"):
        read_calibration(path, ["cell"])
    del values["digest"]
    path.write_text(json.dumps(values))
    assert read_calibration(path, ["cell"])[1].threshold == (0.123,)
    values["classes"]["cell"]["temperature"] = -1.0
    path.write_text(json.dumps(values))
    with pytest.raises(InputError, match="temperatures are"):
        read_calibration(path, ["cell"])


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("run.json", '"learning_rate": 0.01', '"learning_rate": 0.02'),
        ("data.json", '"a": [[5', '"a": [[6'),
        ("goodput.json", '"starts": 1', '"starts": 2'),
        ("calibration.json", '"split": "val"', '"split": "vam"'),
    ],
)
def test_another_digit_is_noticed_and_an_edit_on_purpose_is_possible(damaged, capsys, name, before, after):
    save_identities(damaged, "data", {"a": [[5, 6, 7, "ab"]]})
    path = damaged / name
    text = path.read_text()
    assert text.count(before) == 1
    path.write_text(text.replace(before, after))
    status, said = verify(damaged, capsys)
    assert status in (1, 2) and f"{path}: " in said and "damaged (" in said and 'delete the entry "digest"' in said
    edited = json.loads(path.read_text())
    del edited["digest"]
    path.write_text(json.dumps(edited, indent=3))
    assert verify(damaged, capsys)[0] == 0
    path.write_text(json.dumps({**edited, "digesu": "0" * 32}))  # two faults are seen too
    assert verify(damaged, capsys)[0] != 0


def test_the_line_of_the_digest_can_be_deleted_with_an_editor(damaged):
    lines = (damaged / "run.json").read_text().replace("0.01", "0.02").splitlines()
    (damaged / "run.json").write_text("\n".join(line for line in lines if '"digest"' not in line))
    assert load_info(damaged).config.optim.learning_rate == 0.02


def test_bad_lines_of_metrics_are_counted_kept_and_do_not_hide_good_ones(damaged):
    path = damaged / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    bad = [b"\xff\xfe\n", b'{"step": "x"}\n', b'{"step": 1, "a": [1]}\n', b"null\n"]
    content = lines[0] + b"".join(bad) + lines[1] + lines[2] + b'{"step": 4, "lo'
    path.write_bytes(content)
    file = MetricsFile(path)
    assert [row["step"] for row in file.read()] == [1, 2, 3] and file.damaged_lines() == [2, 3, 4, 5]
    warning = file.rewind(2)
    assert "4 lines cannot be read, the first is line 2" in warning and f"{path}.damaged" in warning
    assert path.read_bytes() == lines[0] + lines[1]
    assert (damaged / "metrics.jsonl.damaged").read_bytes() == content
    assert file.rewind(2) == ""


def test_a_damaged_record_of_time_is_said_and_goes_on_from_the_checkpoint(damaged):
    for content in (b"", b"{", b"\xff", b"[]", b'{"step": 2, "starts": 1, "seconds": {"step": -1}}'):
        (damaged / "goodput.json").write_bytes(content)
        ledger = Ledger(damaged, now=lambda: 0.0)
        assert f"{damaged / 'goodput.json'}: is damaged" in ledger.resume(2, {"step": 7.0})
        assert ledger.seconds["step"] == 7.0
    (damaged / "goodput.json").unlink()
    assert Ledger(damaged).resume(2, {}) == ""
