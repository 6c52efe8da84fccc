"""The Python of README and docs/python.md runs as printed."""

import functools
import operator
import re
import sys
import unittest.mock
from pathlib import Path

import jax
import pytest
from etils import epath

import unet_jax
from unet_jax.data.synthetic import write_synthetic
from unet_jax.report.writers import load_writers, write_row

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture
def smaller(monkeypatch):
    """The preset "small" with a smaller network, which is compiled sooner."""
    network = {"model.widths": (4,), "model.center_width": 8, "model.num_convs_down": 1, "model.num_convs_up": 1}
    network |= {"train.num_pictures": 0}
    config = unet_jax.replace(unet_jax.PRESETS["small"](), network)
    monkeypatch.setitem(unet_jax.PRESETS, "small", lambda: config)


def test_python_example_runs(tmp_path, monkeypatch, capsys, smaller):
    write_synthetic(epath.Path(tmp_path / "DATA"), num_images=20, image_size=48, num_classes=2, seed=0)
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(), flags=re.S)
    exec(compile(code, "README.md", "exec"), {})
    said = capsys.readouterr().out.split()
    assert said[0] == "disk" and said[2] == "square"
    assert all(0.0 <= float(share) <= 1.0 for share in said[1::2])
    for code in re.findall(r"```python\n(.*?)```", (REPOSITORY / "docs" / "howto.md").read_text(), flags=re.S):
        exec(compile(code, "docs/howto.md", "exec"), {})


# 9 s: its programs train five networks. test_fit.py checks what they call.
@pytest.mark.slow
def test_programs_of_the_python_page_run(tmp_path, monkeypatch, capsys, smaller):
    """All in one process and on one device, as in a notebook. A block after `<!-- file: NAME -->` is a file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    fit = functools.partial(unet_jax.fit, mesh=unet_jax.make_mesh(jax.devices()[:1]))
    monkeypatch.setattr(unet_jax, "fit", fit)
    text = (REPOSITORY / "docs" / "python.md").read_text()
    names, said = {"__name__": "notebook"}, []
    for name, code in re.findall(r"(?:<!-- file: (\S+) -->\n)?```python\n(.*?)```", text, flags=re.S):
        assert len([line for line in code.splitlines() if line.strip()]) < 20
        if name:
            (tmp_path / name).write_text(code)
            continue
        exec(compile(code, "docs/python.md", "exec"), names)
        said.append(capsys.readouterr().out)
    arrays, _, curves, prediction, _, _, _, scores, looks, own = said
    assert 0.0 <= float(arrays) <= 1.0 and float(own) > 0.0
    assert re.match(r"0\.\d+ \{'red': 0\.\d+, 'green': 0\.\d+\}", scores)
    assert re.findall(r"^step (\d+): Dice 0\.\d+, mean probability 0\.\d+$", looks, flags=re.M) == ["4", "8"]
    assert [line.split()[0] for line in curves.splitlines()] == ["1", "2"]
    assert "Run('VOLUME': checkpoint" in prediction and "(64, 64, 2)" in prediction
    terms = unet_jax.load_run("EDGES").config.loss.terms
    assert [term.name for term in terms] == ["my_losses:edge_loss", "soft_dice"]
    assert [term.name for term in unet_jax.load_run("EDGE").config.loss.terms] == ["my_losses:edge_loss"]


def test_writers_of_the_python_page_pass_rows_on(tmp_path, monkeypatch):
    """Their packages are replaced: what is tested is our side, and that the files are Python."""
    monkeypatch.syspath_prepend(tmp_path)
    text = (REPOSITORY / "docs" / "python.md").read_text()
    files = dict(re.findall(r"<!-- file: (my_\w+)\.py -->\n```python\n(.*?)```", text, flags=re.S))
    for package, log in (("wandb", "init.return_value.log"), ("mlflow", "log_metrics"), ("trackio", "log")):
        monkeypatch.setitem(sys.modules, package, fake := unittest.mock.MagicMock())
        code = files[f"my_{package}"]
        assert len([line for line in code.splitlines() if line.strip()]) <= 6
        (tmp_path / f"my_{package}.py").write_text(code)
        assert list(write_row(load_writers([f"my_{package}:writer"]), {"step": 20, "eval/dice": 0.5})) == []
        operator.attrgetter(log)(fake).assert_called_once_with({"step": 20, "eval/dice": 0.5}, step=20)


def test_every_file_the_readme_links_to_exists():
    text = (REPOSITORY / "README.md").read_text()
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (REPOSITORY / target).exists(), target
