"""Run directories from other people: names that lead elsewhere, links, control characters, formulas."""

import copy
import json
import os
import sys

import pytest
from etils import epath
from helpers import run, tiny_config

from unet_jax import InputError
from unet_jax._files import csv_text, plain_cell, replace_text
from unet_jax.cli.main import main
from unet_jax.data.images.format import RGB8
from unet_jax.report.display import Display
from unet_jax.runs.info import RunInfo, load_info, save_info
from unet_jax.runs.load import abstract_state
from unet_jax.runs.lock import lock_run
from unet_jax.runs.loss_code import loss_code

SPLITS = {"train": ["a", "deep/b"], "val": ["c"], "test": []}


@pytest.fixture
def stored(tmp_path):
    """run.json of a run of two classes, as values."""
    info = RunInfo(tiny_config(epath.Path("data")), ("cell", "b c"), SPLITS, {"prevalence": [0.5, 0.1]}, {}, RGB8)
    save_info(epath.Path(tmp_path), info)
    values = json.loads((tmp_path / "run.json").read_text())
    del values["digest"]  # a stranger would write the right one
    return values


def put(values, place, value):
    values = copy.deepcopy(values)
    *parents, last = place
    level = values
    for key in parents:
        level = level[key]
    level[last] = value
    return values


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("class_names",), ["../x", "/abs"]),
        (("class_names",), ["cell", "cell"]),
        (("class_names",), ["cell", "overlay"]),
        (("class_names",), ["cell", "\x1b[2J"]),
        (("class_names",), []),
        (("class_names",), "ab"),
        (("splits", "test"), ["../../etc/x"]),
        (("splits", "test"), ["/etc/x"]),
        (("splits", "train"), ["a", "a"]),
        (("splits", "val"), ["a\nb"]),
        (("splits", "val"), {"a": 1}),
        (("splits",), {"train": []}),
        (("audit", "prevalence"), [float("nan"), 0.0]),
        (("audit", "prevalence"), [0.5]),
        (("audit", "digests"), {"a": 1}),
        (("versions", "jax"), 3),
        (("images", "channels"), [5]),
        (("images", "bits"), 32),
        (("config", "train"), []),
        (("config", "train", "num_epochs"), -1),
        (("config", "data", "root"), 5),
        (("changes",), [{"step": "x"}]),
    ],
)
def test_a_run_json_that_no_training_writes_is_refused_by_name(stored, tmp_path, place, value):
    (tmp_path / "run.json").write_text(json.dumps(put(stored, place, value)))
    with pytest.raises(InputError, match=r"run\.json: .*(Restore)") as refused:
        load_info(epath.Path(tmp_path))
    assert "\x1b" not in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"null", b"[]", b"9" * 5000])
def test_a_file_that_is_no_json_is_refused_by_name(tmp_path, content):
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(InputError, match=r"run\.json: "):
        load_info(epath.Path(tmp_path))


def test_loading_a_run_imports_none_of_its_losses(stored, tmp_path, monkeypatch):
    """A module of that name would be found, and would say so."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "hostile_losses.py").write_text("raise SystemExit('imported')")
    terms = [{"name": "hostile_losses:mine", "weight": 1.0}]
    (tmp_path / "run.json").write_text(json.dumps(put(stored, ("config", "loss", "terms"), terms)))
    info = load_info(epath.Path(tmp_path))
    assert info.config.loss.terms[0].name == "hostile_losses:mine"
    abstract_state(info)
    main(["info", str(tmp_path)])
    assert "hostile_losses" not in sys.modules
    with pytest.raises(SystemExit, match="imported"):  # only a command that names it imports it
        loss_code(info.config.loss)


def test_names_that_earlier_runs_may_have_still_load(stored, tmp_path):
    names = ["Zellkern (groß)", "a\\b "]
    (tmp_path / "run.json").write_text(json.dumps(put(stored, ("class_names",), names)))
    assert load_info(epath.Path(tmp_path)).class_names == tuple(names)


def test_nothing_is_written_through_links(synthetic_root, tmp_path):
    """A file of ours replaces a link, a link in a run that trains is refused, and a link to the run is a run."""
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (tmp_path / "calibration.json").symlink_to(precious)
    replace_text(epath.Path(tmp_path / "calibration.json"), "{}")
    assert precious.read_text() == "mine" and (tmp_path / "calibration.json").read_text() == "{}"
    for name in ("lock", "metrics.jsonl", "pictures/curves.png", "checkpoints/1"):
        out = tmp_path / "hostile"
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).symlink_to(precious)
        with pytest.raises(InputError, match=rf"{name}: is a symbolic link to {precious}"):
            run(tiny_config(synthetic_root), out)
        (out / name).unlink()
    assert precious.read_text() == "mine"
    (tmp_path / "real").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path / "real")
    with lock_run(epath.Path(tmp_path / "linked")):
        assert (tmp_path / "real/lock").exists()


def test_a_lock_that_becomes_a_link_between_check_and_use_is_not_followed(tmp_path, monkeypatch):
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/lock").symlink_to(precious)
    monkeypatch.setattr("unet_jax.runs.lock.check_no_links", lambda out: None)
    with pytest.raises(OSError, match="lock"), lock_run(epath.Path(tmp_path / "run")):
        pass
    assert precious.read_text() == "mine"


def test_no_name_reaches_the_terminal_as_a_command(tmp_path, capsys):
    Display().line("a\x1b[2Jb\nc\u202ed")
    assert capsys.readouterr().err == "a\\x1b[2Jb\nc\\u202ed\n"
    with pytest.raises(SystemExit):
        main(["info", str(tmp_path / "\x1b]0;owned\x07")])
    assert "\x1b" not in (said := capsys.readouterr().err) and r"\x1b]0;owned\x07: is not a run" in said


@pytest.mark.parametrize("text", ["=1+1", "+a", "-a", "@a", "\tx", "'=1", "''-x", "a", "'a", "-0.5", "1e5"])
def test_cells_are_no_formulas_and_come_back(text):
    written = csv_text(["id"], [[text]]).splitlines()[1].strip('"')
    assert written[0] not in "=+-@\t\r" or written == "-0.5"
    assert plain_cell(written) == text


def test_a_reader_that_closes_the_pipe_is_no_error(tmp_path):
    """`unet-jax info RUN | head -1`, with a pipe that is closed before anything is read."""
    import subprocess

    from helpers import environment

    reading, writing = os.pipe()
    os.close(reading)
    code = "import sys; from unet_jax.cli.main import main; main(['--help'])"
    done = subprocess.run([sys.executable, "-c", code], stdout=writing, stderr=subprocess.PIPE, env=environment())
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")
