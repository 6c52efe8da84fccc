"""NVIDIA GPUs to compile for that need not be present."""

import importlib.metadata
import importlib.util
import os
import re
from typing import NamedTuple

from unet_jax._types import InputError
from unet_jax.plan.targets import Chip, Target


class GpuFacts(NamedTuple):
    """Facts of a GPU that its compiler asks for. Limits that these four have in common are in `_description`."""

    compute_capability: tuple[int, int]
    has_accelerated_features: bool  # the instructions of sm_90a and sm_100a
    num_cores: int  # streaming multiprocessors
    fpus_per_core: int
    clock_ghz: float
    shared_bytes_per_core: int
    shared_bytes_per_block: int  # the most that a block can ask for
    l2_bytes: int
    chip: Chip


# From the target descriptions that XLA keeps for these GPUs (openxla/xla, xla/backends/gpu/target_config/specs), all of
# the SXM kind; dense bfloat16 FLOP/s from NVIDIA's data sheets.
GPUS: dict[str, GpuFacts] = {
    "a100": GpuFacts((8, 0), False, 108, 64, 1.41, 167936, 166912, 41943040, Chip(85.1e9, 312e12, 2039e9, None)),
    "h100": GpuFacts((9, 0), True, 132, 128, 1.98, 233472, 232448, 52428800, Chip(84.9e9, 989e12, 3352e9, None)),
    "h200": GpuFacts((9, 0), True, 132, 128, 1.98, 233472, 232448, 52428800, Chip(151.4e9, 989e12, 4800e9, None)),
    "b200": GpuFacts((10, 0), True, 148, 128, 1.965, 233472, 232448, 132644864, Chip(191.5e9, 2250e12, 7672e9, None)),
}
_MAX_GPUS = 8  # of one host
_PACKAGES = ("jax_cuda13_plugin", "jax_plugins.xla_cuda13", "nvidia.cu13")


def is_gpu(topology: str) -> bool:
    """Return whether a topology names one of these GPUs, such as "h100" or "h100:8"."""
    return topology.partition(":")[0] in GPUS


def gpu_target(topology: str) -> Target:
    """Return GPUs of one host by their name; no GPU, driver or cuDNN is needed.

    Nothing is tried out on a GPU, so the compiler's autotuning is missing: on a card, convolutions may get other
    algorithms.

    Args:
      topology: KIND or KIND:COUNT, such as "h100" or "h100:8".

    Raises:
      InputError: the packages are not installed, or the topology is not one of these.
    """
    kind, colon, count = topology.partition(":")
    if kind not in GPUS or (colon and not (re.fullmatch(r"[1-9]\d*", count) and int(count) <= _MAX_GPUS)):
        raise InputError(
            f"--topology is {topology!r}, but must be KIND or KIND:COUNT where KIND is one of {', '.join(GPUS)} and "
            f"COUNT is 1 to {_MAX_GPUS}, such as h100 or h100:8."
        )
    if not all(_is_installed(package) for package in _PACKAGES):
        raise InputError("compiling for a GPU that is not here needs more packages: pip install 'unet_jax[plan-gpu]'.")
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")  # it would look for cuDNN and others
    from jax.experimental import topologies

    try:
        description = topologies.get_topology_desc(
            platform="cuda",
            topology_name=kind,
            target_config=_description(GPUS[kind]),
            topology=f"1x1x{count or 1}",
        )
    except Exception as error:  # the type differs between versions of jaxlib
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"--topology is {topology!r}, which the compiler refuses: {reason}.") from error
    compiler = f"jax-cuda13-plugin {importlib.metadata.version('jax-cuda13-plugin')}"
    return Target(topology, "gpu", list(description.devices), GPUS[kind].chip, compiler)


def _is_installed(module: str) -> bool:
    """Return whether a module can be imported, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its parent is missing
        return False


def _description(facts: GpuFacts) -> str:
    """Return the facts as text of XLA's message GpuTargetConfigProto."""
    major, minor = facts.compute_capability
    features = "ACCELERATED_FEATURES" if facts.has_accelerated_features else "NONE"
    return f"""
        gpu_device_info {{
          threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
          registers_per_core_limit: 65536 registers_per_block_limit: 65536
          block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
          shared_memory_per_block: 49152
          shared_memory_per_block_optin: {facts.shared_bytes_per_block}
          shared_memory_per_core: {facts.shared_bytes_per_core}
          core_count: {facts.num_cores} fpus_per_core: {facts.fpus_per_core} clock_rate_ghz: {facts.clock_ghz}
          memory_bandwidth: {facts.chip.bytes_per_s:.0f} device_memory_size: {facts.chip.hbm_bytes:.0f}
          l2_cache_size: {facts.l2_bytes}
          cuda_compute_capability {{ major: {major} minor: {minor} feature_extension: {features} }}
        }}
        platform_name: "CUDA"
        dnn_version_info {{ major: 9 minor: 20 }}
        runtime_version {{ major: 13 }}
    """
