"""Devices to compile for: TPU topologies, which need not be present, or the devices of this machine."""

import importlib.metadata
import importlib.util
import os
from typing import Any, NamedTuple

import jax

from unet_jax._types import InputError


class Chip(NamedTuple):
    """Published figures of one chip (Google Cloud's TPU documentation: system architecture, per version)."""

    hbm_bytes: float  # size of its main memory (HBM)
    flops_per_s: float  # peak in bfloat16
    bytes_per_s: float  # peak of reading and writing its HBM
    clock_hz: float | None  # derived: peak FLOP/s / (matrix units * 128 * 128 * 2); None if that is not known


CHIPS: dict[str, Chip] = {
    "v4": Chip(34.4e9, 275e12, 1228e9, 275e12 / (8 * 2 * 128**2)),
    "v5e": Chip(17.2e9, 197e12, 819e9, 197e12 / (4 * 2 * 128**2)),
    "v5p": Chip(102e9, 459e12, 2765e9, 459e12 / (8 * 2 * 128**2)),
    "v6e": Chip(34.4e9, 918e12, 1640e9, None),
}

_EXAMPLES = "v5e:1x1, v5e:2x2, v5e:16x16, v4:2x2x1, v5p:2x2x1, v5p:4x4x4, v6e:2x2"


class Target(NamedTuple):
    """Devices that a program is compiled for, and their compiler."""

    name: str  # topology of a TPU, such as v5e:2x2; otherwise cpu or gpu
    backend: str  # tpu, cpu or gpu
    devices: list[Any]
    chip: Chip | None  # None if its figures are not known
    compiler: str  # package and version of the compiler, such as "libtpu 0.0.1"


def tpu_target(topology: str) -> Target:
    """Return a TPU topology by libtpu's name for it; no TPU is needed.

    Args:
      topology: KIND:SHAPE, such as "v5e:2x2".

    Raises:
      InputError: libtpu is not installed, or does not know the topology.
    """
    kind = topology.partition(":")[0]
    if kind not in CHIPS or ":" not in topology:
        raise InputError(
            f"--topology is {topology!r}, but must be a TPU as KIND:SHAPE where KIND is one of {', '.join(CHIPS)} "
            f"(examples: {_EXAMPLES}), or GPUs such as h100 or h100:8."
        )
    if importlib.util.find_spec("libtpu") is None:
        raise InputError(
            "compiling for a TPU needs the package libtpu: pip install 'unet_jax[tpu]' (no TPU is needed). "
            "Or use --platform cpu for the compiler of this machine's processor."
        )
    # Without these, libtpu looks for the TPU machine: its metadata server, its workers, a lock against a second user.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "none")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    os.environ.setdefault("TPU_MIN_LOG_LEVEL", "3")
    from jax.experimental import topologies

    one_chip = {"chips_per_host_bounds": (1, 1, 1)} if topology.endswith((":1x1", ":1x1x1")) else {}
    try:
        description = topologies.get_topology_desc(platform="tpu", topology_name=topology, **one_chip)
    except Exception as error:  # the type differs between versions of jaxlib
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"--topology is {topology!r}, which libtpu refuses: {reason}. Examples of known ones: {_EXAMPLES}."
        ) from error
    import libtpu

    return Target(topology, "tpu", list(description.devices), CHIPS[kind], f"libtpu {libtpu.__version__}")


def local_target(platform: str) -> Target:
    """Return the devices of this machine as a target.

    Args:
      platform: kind of device: cpu, gpu or tpu.

    Raises:
      InputError: the machine has no such device.

    Example:
      >>> local_target("cpu").backend
      'cpu'
    """
    try:
        devices = jax.devices(platform)
    except RuntimeError as error:
        raise InputError(
            f"--platform is {platform!r}, but jax finds no such device here: use tpu (with --topology) or cpu."
        ) from error
    return Target(platform, platform, devices, None, f"jaxlib {importlib.metadata.version('jaxlib')}")
