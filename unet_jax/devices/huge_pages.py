"""Huge memory pages for the arrays that XLA's CPU programs allocate.

This module imports neither jax nor other modules of this library, because it restarts the process before they load.
"""

import os
import sys
from pathlib import Path

_TUNABLE = "glibc.malloc.hugetlb"
_STATE = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def restart_with_huge_pages() -> None:
    """Restart the command of this process once, with huge pages enabled for its memory.

    The temporary arrays of a training step are allocated again for every step, page by page. Allocating and looking up
    pages of 4 kB took a quarter of the time of steps on a CPU (docs/cpu.md). glibc (2.35 or newer) asks the kernel for
    huge pages only if the environment variable GLIBC_TUNABLES says so when a process starts. So this function sets the
    variable and replaces the process by the same command; the process id stays the same.

    The function returns and does nothing where a restart has no effect (other systems than Linux, another or an older C
    library, kernels that always or never give huge pages), and where GLIBC_TUNABLES names glibc.malloc.hugetlb already.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if sys.platform != "linux" or _TUNABLE in tunables or not _are_given_on_request() or not _has_tunable():
        return
    os.environ["GLIBC_TUNABLES"] = f"{tunables}:{_TUNABLE}=1".lstrip(":")
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def describe_huge_pages() -> str:
    """Return in words whether this process has huge pages, or why not."""
    if sys.platform != "linux":
        return "not on this system"
    try:
        state = _STATE.read_text().strip()
    except OSError:
        return "this kernel has none"
    if "[always]" in state:
        return "the kernel always gives them"
    if "[never]" in state:
        return f"the kernel never gives them ({_STATE} is {state})"
    if not _has_tunable():
        return "the C library cannot ask for them (glibc 2.35 or newer can)"
    asks = f"{_TUNABLE}=1" in os.environ.get("GLIBC_TUNABLES", "")
    return "in use" if asks else f"not asked for (GLIBC_TUNABLES={_TUNABLE}=1; the command unet-jax does it by itself)"


def _are_given_on_request() -> bool:
    """Return whether the kernel gives huge pages to the processes that ask for them, and only to those."""
    try:
        return "[madvise]" in _STATE.read_text()
    except OSError:
        return False


def _has_tunable() -> bool:
    """Return whether the C library is glibc 2.35 or newer, which knows the tunable."""
    try:
        name, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()
        return name == "glibc" and tuple(int(part) for part in version.split(".")[:2]) >= (2, 35)
    except (ValueError, OSError):
        return False
