"""The command `unet-jax doctor`: print what this machine has, and what a run would use of it."""

import dataclasses
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import tyro

_EXTRAS = {
    "tpu": "libtpu",
    "gpu": "jax_cuda13_plugin",
    "keras": "h5py",
    "onnx": "onnx",
    "tiff": "imagecodecs",
    "tensorboard": "tensorboardX",
}


@dataclasses.dataclass(frozen=True)
class _Doctor:
    """Show devices, versions, memory and caches of this machine, and what a run would use. Paste it into a report."""


def doctor(args: Sequence[str]) -> None:
    """Run `unet-jax doctor`."""
    tyro.cli(_Doctor, args=args, prog="unet-jax doctor")
    for name, text in (*_machine(), *_folders(), *_devices()):
        print(f"{name + ':':19} {text}")


def _machine() -> Iterator[tuple[str, str]]:
    """Yield the facts about system and packages."""
    from unet_jax.data.shared_memory import FOLDER, free_bytes
    from unet_jax.data.threads import num_cores
    from unet_jax.devices.huge_pages import describe_huge_pages
    from unet_jax.runs.info import current_versions

    yield "system", f"{platform.platform()}, {num_cores()} cores"
    yield "python", f"{platform.python_version()}, {sys.executable}"
    yield "versions", ", ".join(f"{name} {version}" for name, version in current_versions().items() if name != "python")
    there = [extra for extra, module in _EXTRAS.items() if importlib.util.find_spec(module)]
    missing = [extra for extra in _EXTRAS if extra not in there]
    yield "extras", f"installed: {', '.join(there) or 'none'}; not installed: {', '.join(missing) or 'none'}"
    yield "huge pages", describe_huge_pages()
    if sys.platform == "linux":
        yield "shared memory", f"{free_bytes() / 2**30:.1f} GiB free in {FOLDER}, for data.num_workers above 0"
    given = {name: os.environ[name] for name in sorted(os.environ) if name.startswith(("JAX_", "XLA_", "LIBTPU_"))}
    yield "environment", ", ".join(f"{name}={value}" for name, value in given.items()) or "no JAX_ or XLA_ variables"


def _folders() -> Iterator[tuple[str, str]]:
    """Yield the caches."""
    from unet_jax._files import user_cache

    try:
        cache = user_cache()
    except OSError as error:
        yield "caches", f"none: {error}"
        return
    there = cache
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free / 2**30
    writable = "" if os.access(there, os.W_OK) else " BUT CANNOT BE WRITTEN TO"
    yield "caches", f"{cache} ({free:.0f} GiB free){writable}"
    for folder in sorted(cache.iterdir()) if cache.is_dir() else ():
        size = sum(_size(path) for path in folder.rglob("*"))
        yield f"  {folder.name}", f"{size / 2**20:.1f} MiB; may be removed at any time"


def _size(path: Path) -> int:
    """Return the size of a file; 0 for a folder or a file that is gone."""
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0


def _devices() -> Iterator[tuple[str, str]]:
    """Yield the devices, and what a run of each preset would use."""
    import jax

    from unet_jax.config.presets import PRESETS
    from unet_jax.model.packing import level_factors

    backend = jax.default_backend()
    devices = jax.devices()
    kinds = ", ".join(sorted({device.device_kind for device in devices}))
    yield "devices", f"{len(devices)} {backend} ({kinds}), of {jax.process_count()} process"
    stats = devices[0].memory_stats() or {}
    if "bytes_limit" in stats:
        yield "device memory", f"{stats['bytes_limit'] / 2**30:.1f} GiB each"
    for name, make in PRESETS.items():
        config = make()
        factors = " ".join(f"{rows}x{columns}" for rows, columns in level_factors(config.model, backend)[:-1])
        batch = config.train.batch_size
        share = "" if batch % len(devices) == 0 else f": not a multiple of {len(devices)} devices, change it"
        yield f"preset {name}", f"batch size {batch}{share}; {config.model.dtype}; packing {factors}"
