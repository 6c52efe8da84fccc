import subprocess
import sys

import pytest

import unet_jax


def test_public_names_can_be_listed_and_used():
    assert set(unet_jax.__all__) < set(dir(unet_jax))
    assert unet_jax.losses.bce_loss and unet_jax.steps.make_train_step and unet_jax.data.__doc__
    with pytest.raises(AttributeError):
        _ = unet_jax.no_such_name
    for name in unet_jax.__all__:
        assert getattr(unet_jax, name).__module__.startswith("unet_jax") if name != "PRESETS" else unet_jax.PRESETS


def test_help_does_not_wait_for_jax():
    code = "import sys; from unet_jax.cli.main import main; main(['--help']); sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0
