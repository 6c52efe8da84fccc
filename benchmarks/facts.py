"""Facts that belong to every measurement: machine, driver, versions and commit. Nothing here imports jax."""

import contextlib
import hashlib
import importlib.metadata
import os
import pathlib
import platform
import subprocess


def version_of(package: str) -> str:
    """Return the version of an installed package; empty if it is not installed."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return ""


def commit(package: pathlib.Path) -> str:
    """Return the commit of a package's folder, with a plus if files have changed since then; empty without git."""
    head = _said("git", "-C", str(package), "rev-parse", "--short", "HEAD")
    changed = _said("git", "-C", str(package), "status", "--porcelain", "--", ".")
    return head + ("+" if changed else "")


def digest(*folders: pathlib.Path) -> str:
    """Return a short digest of all modules in the folders, which tells other code where git does not."""
    files = [file for folder in folders for file in sorted(folder.rglob("*.py"))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def driver() -> str:
    """Return the driver version of the NVIDIA GPUs; empty if there are none."""
    return _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").partition("\n")[0]


def machine() -> str:
    """Return architecture, number of cores and processor."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{platform.machine()}, {count} cores, {_processor()}"


def _processor() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        return next((line.split(":")[1].strip() for line in file if line.startswith("model name")), "")
    return platform.processor()


def _said(*command: str) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
