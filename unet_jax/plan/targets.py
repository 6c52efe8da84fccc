"""Devices to compile for: TPU topologies that need not be here, or the ones that are."""

import importlib.metadata
import importlib.util
import os
from typing import Any, NamedTuple

import jax

from unet_jax._types import InputError


class Chip(NamedTuple):
    """Public figures of one chip (Google Cloud's TPU documentation: system architecture, per version)."""

    hbm_bytes: float
    flops_per_s: float  # bfloat16
    bytes_per_s: float  # of its HBM
    clock_hz: float | None  # from the peak: flops / (matrix units * 128 * 128 * 2); None where that is not known


CHIPS: dict[str, Chip] = {
    "v4": Chip(34.4e9, 275e12, 1228e9, 275e12 / (8 * 2 * 128**2)),
    "v5e": Chip(17.2e9, 197e12, 819e9, 197e12 / (4 * 2 * 128**2)),
    "v5p": Chip(102e9, 459e12, 2765e9, 459e12 / (8 * 2 * 128**2)),
    "v6e": Chip(34.4e9, 918e12, 1640e9, None),
}

_EXAMPLES = "v5e:1x1, v5e:2x2, v5e:16x16, v4:2x2x1, v5p:2x2x1, v5p:4x4x4, v6e:2x2"


class Target(NamedTuple):
    """What a program is compiled for."""

    name: str  # v5e:2x2, cpu, gpu
    backend: str  # tpu, cpu, gpu
    devices: list[Any]
    chip: Chip | None
    compiler: str  # its version, as far as it says


def tpu_target(topology: str) -> Target:
    """A TPU topology by the name that libtpu knows it by; no TPU is needed.

    Raises:
      InputError: libtpu is not installed, or knows no such topology.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise InputError(
            "compiling for a TPU needs the package libtpu: pip install 'unet_jax[tpu]' (no TPU is needed), "
            "or use --platform cpu for the compiler of this machine's processor."
        )
    kind = topology.partition(":")[0]
    if kind not in CHIPS or ":" not in topology:
        raise InputError(
            f"--topology is {topology!r}, but must be KIND:SHAPE with KIND of {', '.join(CHIPS)}: {_EXAMPLES}."
        )
    # libtpu looks for its machine (metadata, workers, a lock against two users), which is not here.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "none")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    os.environ.setdefault("TPU_MIN_LOG_LEVEL", "3")
    from jax.experimental import topologies

    one_chip = {"chips_per_host_bounds": (1, 1, 1)} if topology.endswith((":1x1", ":1x1x1")) else {}
    try:
        description = topologies.get_topology_desc(platform="tpu", topology_name=topology, **one_chip)
    except Exception as error:  # jaxlib raises its own kinds, by version
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"--topology is {topology!r}, which libtpu refuses: {reason}. Known are {_EXAMPLES}."
        ) from error
    import libtpu

    return Target(topology, "tpu", list(description.devices), CHIPS[kind], f"libtpu {libtpu.__version__}")


def local_target(platform: str) -> Target:
    """The devices of this machine.

    Raises:
      InputError: there are none of that kind.
    """
    try:
        devices = jax.devices(platform)
    except RuntimeError as error:
        raise InputError(
            f"--platform is {platform!r}, but jax finds no such device here: use tpu (with --topology) or cpu."
        ) from error
    return Target(platform, platform, devices, None, f"jaxlib {importlib.metadata.version('jaxlib')}")
