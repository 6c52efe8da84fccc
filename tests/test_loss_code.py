"""The code of users' own losses is a part of what a run is."""

import importlib
import sys

import pytest
from etils import epath
from helpers import tiny_config

from unet_jax import InputError
from unet_jax.config import LossConfig, LossTermConfig
from unet_jax.config.dicts import replace
from unet_jax.data.layout import find_layout
from unet_jax.data.splits import assign_splits
from unet_jax.losses import soft_dice_loss
from unet_jax.runs.info import RunInfo, load_info, save_info
from unet_jax.runs.loss_code import loss_code
from unet_jax.training.continuing import continue_info

CODE = """
import jax.numpy as jnp

POWER = 2.0

def _helper(x):
    return x**POWER

def mine(logits, labels, *, weight=None):
    return _helper(logits - labels)

def another(logits, labels, *, weight=None):
    return logits
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Writes the module of a user, and returns the digest of its loss."""
    monkeypatch.syspath_prepend(tmp_path)
    config = LossConfig(terms=(LossTermConfig("own_losses:mine"),))

    def write(code):
        (tmp_path / "own_losses.py").write_text(code)
        sys.modules.pop("own_losses", None)
        importlib.invalidate_caches()
        import linecache

        linecache.clearcache()
        return loss_code(config)["own_losses:mine"]

    yield write
    sys.modules.pop("own_losses", None)


def test_the_digest_follows_what_the_function_uses_and_nothing_else(own):
    digest = own(CODE)
    assert own(CODE.replace("return logits\n", "return labels\n")) == digest  # another loss of the same module
    assert own("# remark\n" + CODE.replace("logits - labels", "logits  -  labels")) == digest
    for old, new in (("logits - labels", "labels - logits"), ("POWER = 2.0", "POWER = 1.0"), ("x**POWER", "x * x")):
        assert own(CODE.replace(old, new)) != digest


def test_a_run_does_not_go_on_with_another_loss_of_the_same_name(own, synthetic_root, tmp_path):
    own(CODE)
    config = replace(tiny_config(synthetic_root), {"loss.terms": [{"name": "own_losses:mine"}]})
    layout, out = find_layout(config.data), epath.Path(tmp_path / "run")
    splits = assign_splits(layout, config.data)
    save_info(out, RunInfo(config, layout.class_names, splits, {}, {}, loss_code=loss_code(config.loss)))
    assert continue_info(config, layout, out)[0] == load_info(out)
    own(CODE.replace("POWER = 2.0", "POWER = 3.0"))
    with pytest.raises(InputError, match=r"run: the loss 'own_losses:mine' has other code now.*--init-from"):
        continue_info(config, layout, out)
    save_info(out, RunInfo(config, layout.class_names, splits, {}, {}))  # as earlier versions did
    assert continue_info(config, layout, out)[0].loss_code == loss_code(config.loss)


def test_a_function_is_accepted_where_a_name_is():
    assert LossTermConfig(soft_dice_loss).name == f"{soft_dice_loss.__module__}:soft_dice_loss"
    with pytest.raises(InputError, match=r"lambda.*cannot be found again.*top of a module"):
        LossTermConfig(lambda logits, labels, *, weight=None: logits)
