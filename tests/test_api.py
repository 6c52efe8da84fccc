import subprocess
import sys

import unet_jax


def test_public_names_can_be_listed_and_used():
    assert dir(unet_jax) == sorted(unet_jax.__all__)
    for name in unet_jax.__all__:
        assert getattr(unet_jax, name).__module__.startswith("unet_jax") if name != "PRESETS" else unet_jax.PRESETS


def test_help_does_not_wait_for_jax():
    code = "import sys; from unet_jax.cli import main; main(['--help']); sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0
