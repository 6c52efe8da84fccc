"""Huge pages for what XLA's CPU programs allocate. Imports nothing of ours, and no jax: it comes before them."""

import os
import sys
from pathlib import Path

_TUNABLE = "glibc.malloc.hugetlb"
_STATE = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def restart_with_huge_pages() -> None:
    """Starts this process's command again, once, with memory in huge pages: the same process, from its beginning.

    A training step's temporary arrays are allocated anew for every step, page by page; that, and looking up pages of
    4 kB, took a quarter of the time of steps on a CPU (docs/cpu.md). glibc (2.35 or newer) asks the kernel for huge
    pages only where the environment says so when a process starts. Returns, and does nothing, where that has no
    effect (other systems, kernels that give huge pages always or never), and where GLIBC_TUNABLES speaks of it already.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if sys.platform != "linux" or _TUNABLE in tunables or not _are_given_on_request() or not _has_tunable():
        return
    os.environ["GLIBC_TUNABLES"] = f"{tunables}:{_TUNABLE}=1".lstrip(":")
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _are_given_on_request() -> bool:
    try:
        return "[madvise]" in _STATE.read_text()
    except OSError:
        return False


def _has_tunable() -> bool:
    try:
        name, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()
        return name == "glibc" and tuple(int(part) for part in version.split(".")[:2]) >= (2, 35)
    except (ValueError, OSError):
        return False
