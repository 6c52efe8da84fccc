"""The device mesh, with two axes, and the transfer of arrays between the host and its devices.

Batches are sharded over the axis `data`, the rows of each image over the axis `space`; everything else is replicated.
No code here sends pixels from device to device. Where a convolution needs rows of a neighbouring device, or a mean
needs all rows, XLA's partitioner inserts the exchange into the compiled step.
"""

import functools
import math
import os
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from unet_jax._types import Batch, InputError, PyTree, Share


class _Fork:
    """Record of whether this process was forked from one that used its devices."""

    used = False
    forked = False

    @classmethod
    def in_child(cls) -> None:
        cls.forked = cls.forked or cls.used


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_Fork.in_child)


def check_not_forked() -> None:
    """Raise `InputError` in a process forked from one that used jax: its threads are not here, and jax would hang."""
    if _Fork.forked:
        raise InputError(
            "this process was forked from one that used jax, whose threads it does not have: jax would wait for "
            "them for ever. Start processes with multiprocessing.get_context('spawn'), or fork before anything is "
            "loaded, and load the run in each process."
        )


def make_mesh(devices: Sequence[jax.Device] | None = None, *, space: int = 1) -> Mesh:
    """Arrange devices in a mesh with the axes `data` and `space`.

    Args:
      devices: devices of the mesh, in any order; by default all. They are sorted by process, so that the devices of one
        process are neighbours in the mesh.
      space: number of devices that the rows of each image are divided over; a divisor of the number of devices.

    Returns:
      A mesh of shape (number of devices / space, space).

    Raises:
      InputError: `space` does not divide the number of devices, or neither divides the number of devices of a process
        nor is a multiple of it.

    Example:
      >>> import jax
      >>> import unet_jax
      >>> mesh = unet_jax.make_mesh(jax.devices()[:1])
      >>> dict(mesh.shape)
      {'data': 1, 'space': 1}
    """
    check_not_forked()
    _Fork.used = True
    # Sorted, so that each process reads one contiguous block of every batch (see `process_share`).
    devices = sorted(jax.devices() if devices is None else devices, key=lambda d: (d.process_index, d.id))
    if space < 1 or len(devices) % space:
        divisors = ", ".join(str(n) for n in range(1, len(devices) + 1) if len(devices) % n == 0)
        raise InputError(
            f"an image cannot be divided over {space} devices (--train.devices-per-image, or --devices-per-image), "
            f"which must be a divisor of the number of all devices, {len(devices)}: use one of {divisors}."
        )
    in_process = len(devices) // len({d.process_index for d in devices})
    if max(space, in_process) % min(space, in_process):
        raise InputError(
            f"an image cannot be divided over {space} devices (--train.devices-per-image), because each process has "
            f"{in_process} devices: use a divisor or a multiple of {in_process}."
        )
    return Mesh(np.asarray(devices).reshape(-1, space), ("data", "space"))


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of an array of which every device holds a whole copy."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding that divides the first dimension over `data`; devices along `space` hold copies."""
    return NamedSharding(mesh, PartitionSpec("data"))


def image_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding that divides the first dimension over `data` and the second, the rows, over `space`."""
    return NamedSharding(mesh, PartitionSpec("data", "space"))


def batch_shardings(mesh: Mesh, *, has_valid: bool = False) -> Batch:
    """Return the shardings of the arrays of a batch, as the compiled steps expect them.

    Args:
      mesh: mesh of devices.
      has_valid: whether the batch says which pixels are ignored (`Batch.valid`).
    """
    pixels = image_sharding(mesh)
    return Batch(pixels, pixels, batch_sharding(mesh), pixels if has_valid else None)


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Raise `InputError` if a batch of `batch_size` images cannot be divided evenly over the axis `data`."""
    data, space = mesh.shape["data"], mesh.shape["space"]
    if batch_size % data:
        groups = f"{data} devices" if space == 1 else f"{data} groups of {space} devices"
        raise InputError(
            f"train.batch_size is {batch_size}, but must be a multiple of {data}, to be divided evenly over {groups}: "
            f"use --train.batch-size {-(-batch_size // data) * data}."
        )


def check_rows(rows: int, size_multiple: int, mesh: Mesh) -> None:
    """Raise `InputError` if images cannot be divided evenly over the axis `space` at every resolution of a network.

    The lowest resolution decides. Packed activations need no further check: their blocks have at most `size_multiple`
    rows.

    Args:
      rows: number of rows of an image.
      size_multiple: number of rows that become one row at the lowest resolution (`ModelConfig.size_multiple`).
      mesh: mesh of devices.
    """
    space, lowest = mesh.shape["space"], rows / size_multiple
    if space > 1 and lowest % space:
        most = max((n for n in range(1, space) if space % n == 0 and lowest % n == 0), default=1)
        unit = size_multiple * space
        raise InputError(
            f"images of {rows} rows have {lowest:g} rows at the network's lowest resolution, which cannot be divided "
            f"over {space} devices (--train.devices-per-image, or --devices-per-image): use images of "
            f"{math.ceil(rows / unit) * unit} rows (--data.image-size), {most} device(s), or fewer --model.widths."
        )


@functools.lru_cache(maxsize=8)  # called for every array of every batch, and a pod has thousands of devices
def process_share(mesh: Mesh) -> Share:
    """Return the share of every global batch that this process reads.

    Processes whose devices hold parts of the same images have the same share.
    """
    me = jax.process_index()
    mine = [i for i, row in enumerate(mesh.devices) if any(d.process_index == me for d in row)]
    return Share(mine[0] // len(mine), mesh.shape["data"] // len(mine))


def _from_own_part(a: np.ndarray, sharding: NamedSharding, shape: tuple[int, ...]) -> jax.Array:
    """Return the global array of the given shape, of which this process passes its own part."""
    with jax.transfer_guard("allow"):  # with several processes, the guard takes this for an implicit transfer
        return jax.make_array_from_process_local_data(sharding, a, shape)


def _put(a: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """Return the global array whose first dimension consists of the shares of all processes."""
    check_not_forked()
    a = np.asarray(a)
    shape = (len(a) * process_share(sharding.mesh).count, *a.shape[1:])  # type: ignore[arg-type]
    return _from_own_part(a, sharding, shape)


def put_rows(tree: PyTree, mesh: Mesh) -> PyTree:
    """Make global arrays, divided over `data`, from this process's share of the first dimension of each array.

    The loops move arrays from host to device only by this function, `put_batch` and `put_replicated`.
    """
    return jax.tree.map(lambda a: _put(a, batch_sharding(mesh)), tree)


def put_batch(batch: Batch, mesh: Mesh) -> Batch:
    """Make a global batch from this process's share of it, which has all rows of its images."""
    return jax.tree.map(_put, batch, batch_shardings(mesh, has_valid=batch.valid is not None))


def put_images(images: np.ndarray, mesh: Mesh) -> jax.Array:
    """Put any number of images `[n h w c]`, which every process has, on the devices, their rows divided over `space`.

    All n images are replicated along `data`.
    """
    sharding = NamedSharding(mesh, PartitionSpec(None, "space"))
    return _from_own_part(np.asarray(images), sharding, images.shape)


def put_whole_batch(images: np.ndarray, mesh: Mesh) -> jax.Array:
    """Put a batch of images `[b h w c]`, which every process has as a whole, on the devices, divided over both axes."""
    return _from_own_part(images, image_sharding(mesh), images.shape)


def put_replicated(tree: PyTree, mesh: Mesh) -> PyTree:
    """Copy the arrays of a tree, which every process has, to every device."""
    return jax.device_put(tree, replicated(mesh))


def fetch(tree: PyTree, mesh: Mesh) -> PyTree:
    """Return the whole arrays of a tree on the host, as NumPy arrays, in every process.

    All processes must call it, because divided arrays are gathered from all devices.
    """
    if jax.process_count() > 1:
        tree = jax.jit(_identity, out_shardings=replicated(mesh))(tree)
    return jax.device_get(tree)


def _identity(tree: PyTree) -> PyTree:  # a named function, because `jit` would compile a lambda at every call
    return tree
