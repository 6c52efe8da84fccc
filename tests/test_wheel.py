"""What is in the wheel, and that nothing talks to the network."""

import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_tests_cannot_talk_to_other_machines():
    with socket.socket() as one, pytest.raises(AssertionError, match="wants to talk to"):
        one.connect(("192.0.2.1", 80))  # an address of documentation (RFC 5737)


@pytest.mark.slow  # a build in an environment of its own, with a download
def test_the_wheel_holds_the_package_its_type_marker_and_nothing_else(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    of_package = {name for name in names if name.startswith("unet_jax/")}
    wanted = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "unet_jax").rglob("*")
        if path.suffix in (".py", ".jinja", ".js")
    }
    assert of_package == wanted | {"unet_jax/py.typed"}
    assert all(".dist-info/" in name for name in names - of_package)
