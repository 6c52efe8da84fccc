"""`unet-jax export` from the command line: what it checks with, what it prints, what it refuses."""

import dataclasses

import pytest
from etils import epath
from export_runs import random_run, save_run

from unet_jax import InputError
from unet_jax.cli import export as cli
from unet_jax.cli.main import main
from unet_jax.config.dicts import replace
from unet_jax.data.images.format import RGB8
from unet_jax.export.onnx_model import SCRIPTS
from unet_jax.interop import export_keras


@pytest.fixture(scope="module")
def run_path(synthetic_root, tmp_path_factory):
    """A run directory whose validation images are those of the synthetic set."""
    path = epath.Path(tmp_path_factory.mktemp("runs") / "run")
    run = random_run(RGB8, size=32)
    info = dataclasses.replace(run.info, config=replace(run.config, {"data.root": str(synthetic_root)}))
    save_run(run, path, config=info.config, splits={"train": [], "val": ["0003", "0008"], "test": []})
    return path


def export(*args):
    main(["export", *map(str, args)])


def test_the_run_is_checked_with_its_validation_images(run_path, tmp_path, capsys):
    export(run_path, "--to", "onnx", "--out", tmp_path / "m.onnx")
    said = capsys.readouterr().out
    assert "m.onnx: checked on 2 images: probabilities within" in said
    assert "masks differ in 0 of 4096 pixels" in said
    assert {p.name for p in tmp_path.iterdir()} == {"m.onnx", *SCRIPTS}


def test_other_images_may_be_named(run_path, synthetic_root, tmp_path, capsys):
    images = synthetic_root / "images"
    export(
        run_path,
        "--to",
        "onnx",
        "--heads",
        "--out",
        tmp_path / "m.onnx",
        "--images",
        images / "0001.png",
        images / "0002.png",
    )
    assert "checked on 2 images" in capsys.readouterr().out
    assert {p.name for p in tmp_path.iterdir()} == {"m.onnx"}


def test_what_is_missing_is_said_in_one_line(run_path, tmp_path, capsys, monkeypatch):
    with pytest.raises(SystemExit):
        export(run_path, "--to", "onnx", "--out", tmp_path / "m.onnx", "--data-root", tmp_path)
    said = capsys.readouterr().err
    assert "the export needs images of the run's split val, but" in said and "--data-root. Or check with other" in said
    unknown = tmp_path / "without"
    save_run(random_run(RGB8), epath.Path(unknown))
    with pytest.raises(SystemExit):
        export(unknown, "--to", "onnx", "--out", tmp_path / "m.onnx")
    assert (
        "has no images of the split val, which the export needs. Or check with other images" in capsys.readouterr().err
    )
    with pytest.raises(InputError, match=r"needs the package not_there, .*pip install 'unet_jax\[onnx\]'"):
        cli.needs("onnx", "not_there")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--to", "onnx", "--quantize", "bfloat16"], "--quantize bfloat16 is for --to stablehlo, not for onnx"),
        (["--to", "stablehlo", "--quantize", "int8"], "--quantize int8 is for --to onnx, not for stablehlo"),
        (["--to", "stablehlo", "--heads"], "--heads is for --to onnx, not for stablehlo"),
        (["--to", "onnx", "--platforms", "cpu"], "--platforms is for --to stablehlo, not for onnx"),
        (["--to", "stablehlo"], "m.onnx: does not end in .stablehlo"),
        (["--to", "onnx", "--heads", "--quantize", "int8"], "--quantize is not for --heads"),
        (["--to", "onnx", "--heads", "--fit", "crop"], "--fit has no effect with --heads"),
    ],
)
def test_options_without_effect_are_refused(flags, message, run_path, capsys):
    with pytest.raises(SystemExit):
        export(run_path, "--out", "m.onnx", *flags)
    assert message in capsys.readouterr().err


def test_export_keras_names_the_export_for_other_networks(tmp_path):
    grouped = epath.Path(tmp_path / "grouped")
    save_run(random_run(RGB8, norm="group", group_size=2), grouped)
    with pytest.raises(InputError, match=r"group normalisation.*unet-jax export RUN --to onnx"):
        export_keras(grouped, tmp_path / "a.weights.h5")
