"""Strict JAX, quick compilation, eight fake devices, and what several test files share."""

import gc
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Compiling is most of the suite's time, and most of that goes to machine code that then runs for milliseconds: it is
# left unoptimised, and equal programs of several tests, runs and processes are compiled once. Where the last digits of
# optimised programs matter, tests ask for them (helpers.OPTIMIZED); all tests meet the programs that users have with
# `XLA_FLAGS=--xla_backend_optimization_level=3 scripts/test.sh`.
QUICK_COMPILATION = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
EIGHT_DEVICES = "--xla_force_host_platform_device_count=8"


def flags_are_known(flags: str) -> bool:
    """Whether this version of XLA has these flags; one that it does not know ends the process."""
    code = "from jaxlib import xla_client; xla_client.make_cpu_client()"
    environment = {**os.environ, "XLA_FLAGS": flags}
    return subprocess.run([sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL).returncode == 0


def known_flags(flags: str) -> str:
    """Those of the flags that this version of XLA has: jax 0.12 has no other emitters to choose any more."""
    if flags_are_known(flags):
        return flags
    return " ".join(flag for flag in flags.split() if flags_are_known(flag))


def set_environment() -> None:
    """Set what jax reads when it is imported, here and in the processes that tests start."""
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_backend_optimization_level" not in flags:
        flags = f"{flags} {known_flags(QUICK_COMPILATION)}"
    if EIGHT_DEVICES not in flags:
        flags = f"{flags} {EIGHT_DEVICES}"
    os.environ["XLA_FLAGS"] = flags.strip()
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(__file__).parent / ".jax_cache")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"


set_environment()

import hypothesis  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402
from etils import epath  # noqa: E402

from unet_jax.data.synthetic import write_synthetic  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")

hypothesis.settings.register_profile("unet_jax", deadline=None, max_examples=25, derandomize=True)
hypothesis.settings.load_profile("unet_jax")


def pytest_collection_finish() -> None:
    """Look for garbage seldom: tracing makes millions of objects, of which few are garbage that refers to itself."""
    gc.freeze()  # what is imported stays
    gc.set_threshold(50_000, 20, 20)


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Iterator[None]:
    """No test talks to another machine: the sockets of Python reach this one only."""
    connect = socket.socket.connect

    def connect_here(self: socket.socket, address: Any) -> None:
        is_here = self.family == socket.AF_UNIX or str(address[0]) in ("127.0.0.1", "::1", "localhost", "0.0.0.0")
        assert is_here, f"something wants to talk to {address}"
        connect(self, address)

    socket.socket.connect = connect_here
    yield
    socket.socket.connect = connect


@pytest.fixture(scope="session")
def synthetic_root(tmp_path_factory: pytest.TempPathFactory) -> epath.Path:
    """Thirty synthetic images of 32x32 pixels with two overlapping classes."""
    root = epath.Path(tmp_path_factory.mktemp("synthetic"))
    write_synthetic(root, num_images=30, image_size=32, num_classes=2, seed=0)
    return root
