"""The terminal: lines and bars at 80 columns, names of other programs, settings from a file, doctor."""

import io
import re
import sys

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

from unet_jax import Config, InputError
from unet_jax.cli.flags import _SYNONYMS, config_and_flags
from unet_jax.cli.main import main
from unet_jax.cli.options import print_json
from unet_jax.config.dicts import flatten_config
from unet_jax.config.loss_catalogue import _OTHER_NAMES, LOSSES, check_loss
from unet_jax.config.presets import PRESETS
from unet_jax.report.display import Display, print_table

NOTE = "loss 0.1234  val Dice 0.9123  1234.5 images/s  12% waiting for data"


def terminal(width):
    return Display(Console(file=io.StringIO(), width=width, force_terminal=True, highlight=False, color_system=None))


@pytest.mark.parametrize("width", [80, 120])
def test_the_bar_keeps_count_and_time_beside_a_long_note(width):
    display = terminal(width)
    with display.bar("training", 12500, 0, "steps") as show:
        show(3750, NOTE)
    last = display.console.file.getvalue().split("\r")[-2:]
    shown = [line for line in display.console.file.getvalue().replace("\r", "\n").splitlines() if "3750" in line][-1]
    assert "━" in shown and "3750/12500" in shown and "steps" in shown and "loss 0.1234" in shown, last
    assert ("waiting for data" in shown) == (width == 120) and len(shown.split("\x1b[2K")[-1]) <= width


def test_a_line_drops_what_does_not_fit():
    first, more = ["epoch 3/25", "val Dice 0.9"], ["(" + "x" * 60 + ")", "lr 1e-3"]
    assert terminal(80).fitted(first, more) == "epoch 3/25  val Dice 0.9  lr 1e-3"
    log_file = Display(Console(file=io.StringIO(), width=80))
    assert log_file.fitted(first, more) == "  ".join([*first, *more])


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_tables_are_neither_torn_nor_cut_in_a_terminal(width):
    table = Table(title="scores")
    table.add_column("class", no_wrap=True)
    table.add_column("score")
    for title in ("mean of images", "95 % interval", "pooled", "over all of the seeds"):
        table.add_column(title, justify="right", no_wrap=True)
    for k in range(3):
        table.add_row(f"class{k}", "dice", f"0.{k}123", f"[0.{k}000, 0.{k}999]", f"0.{k}456", f"+0.{k}789")
        table.add_section()
    console = terminal(width).console
    print_table(table, terminal=console)
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in console.file.getvalue().splitlines()]
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    for k in range(3):  # every number is there, beside the names of its row
        for number in (f"0.{k}123", f"0.{k}999]", f"0.{k}456", f"+0.{k}789"):
            assert number in text
        assert any(f"class{k}" in line and "dice" in line and f"+0.{k}789" in line for line in lines)
    assert ("│" in text) == (width == 200)


def test_tables_in_files_keep_their_rules():
    table = Table("a", "b")
    table.add_row("x" * 60, "y" * 60)
    console = Console(file=io.StringIO(), width=80)
    print_table(table, 130, console)
    assert "│ " + "x" * 60 + " │ " + "y" * 60 + " │" in console.file.getvalue()


def test_names_of_other_programs_are_answered_with_the_flag():
    known = flatten_config(Config())
    for flag, names in _SYNONYMS.items():
        setting = flag.split()[0].rstrip(",").removeprefix("--").replace("-", "_")
        assert setting in known or setting == "out"
        for name in names:
            assert name not in known
            with pytest.raises(InputError, match=f"--{name} is not an option. Use {flag}".replace("(", r"\(")[:30]):
                config_and_flags(Config(), [f"--{name}", "3"])
            with pytest.raises(InputError):
                config_and_flags(Config(), [f"--{name}=3"])


def test_settings_from_a_file_stand_between_preset_and_flags(tmp_path):
    file = tmp_path / "my.toml"
    file.write_text(
        'train.num_epochs = 7\n[data]\nroot = "images"\nimage_size = [64, 128]\n[loss]\nterms = [{name = "bce"}]\n'
    )
    for args in (["--config", str(file), "--out", "RUN"], [f"--config={file}", "--out", "RUN"]):
        config, flags, named = config_and_flags(PRESETS["small"](), args)
        assert flags == ["--out", "RUN"]
        assert named == ["--train.num_epochs", "--data.root", "--data.image_size", "--loss.terms"]
        assert (config.train.num_epochs, config.data.image_size) == (7, (64, 128))
        assert config.data.root == str(tmp_path / "images")
        assert config.loss.terms[0].name == "bce" and config.model == PRESETS["small"]().model
    file.write_text("train.epochs = 7\n")
    with pytest.raises(InputError, match=r"my.toml: config field 'train.epochs' does not exist"):
        config_and_flags(PRESETS["small"](), ["--config", str(file)])
    file.write_text("train = = 7\n")
    with pytest.raises(InputError, match=r"my.toml: is not TOML"):
        config_and_flags(PRESETS["small"](), ["--config", str(file)])
    with pytest.raises(InputError, match="needs the name"):
        config_and_flags(PRESETS["small"](), ["--config"])


def test_doctor_says_what_is_there(capsys):
    main(["doctor"])
    said = capsys.readouterr().out
    for words in (f"numpy {np.__version__}", "8 cpu", "huge pages:", "preset seed:", "caches:", "batch size 4: not a"):
        assert words in said, said


def test_json_is_for_scripts(monkeypatch, capsys):
    """A person at a terminal gets it on request only."""
    for is_terminal, wanted, said in ((True, False, ""), (True, True, '{"a": 1}'), (False, False, '{"a": 1}')):
        monkeypatch.setattr(sys.stdout, "isatty", lambda answer=is_terminal: answer, raising=False)
        print_json({"a": 1}, wanted=wanted)
        assert capsys.readouterr().out.strip() == said


def test_other_names_of_losses_are_answered_with_ours():
    for name, ours in (("dice", "soft_dice"), ("CE", "bce"), ("iou", "jaccard"), ("tverski", "tversky")):
        with pytest.raises(InputError, match=f"Did you mean '{ours}'"):
            check_loss(name, ())
    assert set(_OTHER_NAMES.values()) <= set(LOSSES) and not set(_OTHER_NAMES) & set(LOSSES)
