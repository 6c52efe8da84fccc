"""One mesh axis, `data`: batches are split over it, everything else is replicated."""

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from unet_jax._types import Batch, InputError, PyTree


def make_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """All devices (or those given) along the axis `data`."""
    return Mesh(np.asarray(devices if devices is not None else jax.devices()), ("data",))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first dimension is split over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Raises `InputError` when a batch cannot be split evenly."""
    if batch_size % mesh.size:
        raise InputError(
            f"train.batch_size is {batch_size}, but must be a multiple of the {mesh.size} devices: "
            f"use --train.batch-size {-(-batch_size // mesh.size) * mesh.size}."
        )


def put_rows(tree: PyTree, mesh: Mesh) -> PyTree:
    """Global arrays from this process's rows of each array; the only way from host to device in the loops."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda a: jax.make_array_from_process_local_data(sharding, np.asarray(a)), tree)


def put_batch(batch: Batch, mesh: Mesh) -> Batch:
    """A global batch from this process's share of it."""
    return put_rows(batch, mesh)


def put_replicated(tree: PyTree, mesh: Mesh) -> PyTree:
    """The tree on every device."""
    return jax.device_put(tree, replicated(mesh))
