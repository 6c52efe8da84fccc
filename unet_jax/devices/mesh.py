"""One mesh of two axes: batches are divided over `data`, the rows of each image over `space`, all else is replicated.

Nothing here sends pixels from device to device: where a convolution needs a neighbour's rows, or a mean all of them,
XLA's partitioner puts the exchange into the compiled step.
"""

import functools
import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from unet_jax._types import Batch, InputError, PyTree, Share


def make_mesh(devices: Sequence[jax.Device] | None = None, *, space: int = 1) -> Mesh:
    """A grid `(data, space)` of devices: all, or those given.

    Args:
      devices: sorted by process here, so that each process holds neighbouring rows of the grid.
      space: devices that an image is divided over, which must divide their number.

    Raises:
      InputError: it does not, or images would be divided over parts of two processes.
    """
    devices = sorted(jax.devices() if devices is None else devices, key=lambda d: (d.process_index, d.id))
    if space < 1 or len(devices) % space:
        divisors = ", ".join(str(n) for n in range(1, len(devices) + 1) if len(devices) % n == 0)
        raise InputError(
            f"an image cannot be divided over {space} devices (--train.devices-per-image, or --devices-per-image) "
            f"where there are {len(devices)}: use one of {divisors}."
        )
    in_process = len(devices) // len({d.process_index for d in devices})
    if max(space, in_process) % min(space, in_process):
        raise InputError(
            f"an image cannot be divided over {space} devices (--train.devices-per-image) where each process has "
            f"{in_process}: use a divisor or a multiple of that."
        )
    return Mesh(np.asarray(devices).reshape(-1, space), ("data", "space"))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first dimension is divided over `data`; the devices of an image hold the same."""
    return NamedSharding(mesh, PartitionSpec("data"))


def image_sharding(mesh: Mesh) -> NamedSharding:
    """The first dimension is divided over `data`, and the second, the rows, over `space`."""
    return NamedSharding(mesh, PartitionSpec("data", "space"))


def batch_shardings(mesh: Mesh) -> Batch:
    """Of a batch's arrays, as the steps take them."""
    return Batch(image_sharding(mesh), image_sharding(mesh), batch_sharding(mesh))


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Raises `InputError` when a batch cannot be divided evenly."""
    data, space = mesh.shape["data"], mesh.shape["space"]
    if batch_size % data:
        groups = f"{data} devices" if space == 1 else f"{data} groups of {space} devices"
        raise InputError(
            f"train.batch_size is {batch_size}, but must be a multiple of the {groups}: "
            f"use --train.batch-size {-(-batch_size // data) * data}."
        )


def check_rows(rows: int, size_multiple: int, mesh: Mesh) -> None:
    """Raises `InputError` when images of so many rows cannot be divided evenly at all resolutions of a network.

    At the lowest, one row is left of `size_multiple`. Packed activations are then divided evenly too: their blocks have
    at most so many rows.
    """
    space, lowest = mesh.shape["space"], rows / size_multiple
    if space > 1 and lowest % space:
        most = max((n for n in range(1, space) if space % n == 0 and lowest % n == 0), default=1)
        unit = size_multiple * space
        raise InputError(
            f"images of {rows} rows have {lowest:g} rows at the network's lowest resolution, which cannot be divided "
            f"over {space} devices (--train.devices-per-image, or --devices-per-image): use images of "
            f"{math.ceil(rows / unit) * unit} rows (--data.image-size), {most} devices, or fewer --model.widths."
        )


@functools.lru_cache(maxsize=8)  # every array of every batch asks, and a pod has thousands of devices
def process_share(mesh: Mesh) -> Share:
    """This process's. Processes that hold parts of the same images have the same share."""
    me = jax.process_index()
    mine = [i for i, row in enumerate(mesh.devices) if any(d.process_index == me for d in row)]
    return Share(mine[0] // len(mine), mesh.shape["data"] // len(mine))


def _from_own_part(a: np.ndarray, sharding: NamedSharding, shape: tuple[int, ...]) -> jax.Array:
    with jax.transfer_guard("allow"):  # it takes this for an implicit transfer where there are several processes
        return jax.make_array_from_process_local_data(sharding, a, shape)


def _put(a: np.ndarray, sharding: NamedSharding) -> jax.Array:
    a = np.asarray(a)
    shape = (len(a) * process_share(sharding.mesh).count, *a.shape[1:])  # type: ignore[arg-type]
    return _from_own_part(a, sharding, shape)


def put_rows(tree: PyTree, mesh: Mesh) -> PyTree:
    """Global arrays from this process's share of each array's first dimension; with `put_batch` and
    `put_replicated` the only way from host to device in the loops."""
    return jax.tree.map(lambda a: _put(a, batch_sharding(mesh)), tree)


def put_batch(batch: Batch, mesh: Mesh) -> Batch:
    """A global batch from this process's share of it, which has all rows of its images."""
    return jax.tree.map(_put, batch, batch_shardings(mesh))


def put_images(images: np.ndarray, mesh: Mesh) -> jax.Array:
    """`[n h w c]`, any number of images which every process has: all n in every group of devices, divided by rows."""
    sharding = NamedSharding(mesh, PartitionSpec(None, "space"))
    return _from_own_part(np.asarray(images), sharding, images.shape)


def put_whole_batch(images: np.ndarray, mesh: Mesh) -> jax.Array:
    """`[b h w c]`, which every process has as a whole, divided over both axes."""
    return _from_own_part(images, image_sharding(mesh), images.shape)


def put_replicated(tree: PyTree, mesh: Mesh) -> PyTree:
    """The tree, which every process has, on every device."""
    return jax.device_put(tree, replicated(mesh))


def fetch(tree: PyTree, mesh: Mesh) -> PyTree:
    """Whole arrays on the host, on every process; each must call it."""
    if jax.process_count() > 1:
        tree = jax.jit(_identity, out_shardings=replicated(mesh))(tree)
    return jax.device_get(tree)


def _identity(tree: PyTree) -> PyTree:  # with a name, so that it is compiled once
    return tree
