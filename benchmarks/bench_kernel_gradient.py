"""Time of several methods for the gradient of a 3x3 convolution's kernel, which agree up to rounding, by layer.

On a CPU this gradient is the part of a training step that is slowest compared with the forward pass (docs/cpu.md).
Where PyTorch is installed (extra `bench`), its three parts of the layer are timed as well; they are oneDNN's.
"""

import dataclasses
import functools
import importlib.util
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from measure import finish, record
from rich.console import Console
from rich.table import Table

from unet_jax.devices.compilation import compiler_options
from unet_jax.model.packing import pack_kernel

Way = Callable[[jax.Array, jax.Array], jax.Array]
"""Function from the input x `[b h w i]` and the gradient g `[b h w o]` of the result to that of the kernel."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Time all methods in turns; the forward pass and the gradient of the input are timed for comparison."""

    layers: tuple[str, ...] = ("512x8x8", "512x24x8", "256x16x16", "256x48x16", "128x32x32", "64x64x64")
    """Layers as SIZExINxOUT: image size, input channels, output channels."""
    batch_size: int = 2
    num_rounds: int = 9
    save: str = ""
    """Name of a copy of the report: results/SAVE.json, or a path that ends in .json. Empty: none."""


def convolve(x: jax.Array, kernel: jax.Array, padding: Any = "SAME") -> jax.Array:
    """Convolve by XLA's convolution."""
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def derived(x: jax.Array, g: jax.Array, padding: Any = "SAME") -> jax.Array:
    """Compute what XLA derives: a convolution of the transposed input with the gradient as a large kernel."""
    kernel = jax.ShapeDtypeStruct((3, 3, x.shape[-1], g.shape[-1]), x.dtype)
    return jax.linear_transpose(lambda k: convolve(x, k, padding), kernel)(g)[0]


def taps(x: jax.Array, g: jax.Array) -> jax.Array:
    """Compute one matrix product for each of the nine taps."""
    h, w, p = *x.shape[1:3], jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    products = [jnp.einsum("bhwi,bhwo->io", p[:, d : d + h, e : e + w], g) for d in range(3) for e in range(3)]
    return jnp.stack(products).reshape(3, 3, *products[0].shape)


def patches(x: jax.Array, g: jax.Array) -> jax.Array:
    """Compute one matrix product with the nine taps side by side."""
    h, w, p = *x.shape[1:3], jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    side_by_side = jnp.concatenate([p[:, d : d + h, e : e + w] for d in range(3) for e in range(3)], axis=-1)
    product = side_by_side.reshape(-1, 9 * x.shape[-1]).T @ g.reshape(-1, g.shape[-1])
    return product.reshape(3, 3, x.shape[-1], -1)


def packed(x: jax.Array, g: jax.Array) -> jax.Array:
    """Compute `derived` with two columns packed as channels, which moves no data; then add the kernel's taps."""
    kernel = jax.ShapeDtypeStruct((3, 3, x.shape[-1], g.shape[-1]), x.dtype)
    wide = derived(*(a.reshape(*a.shape[:2], -1, 2 * a.shape[-1]) for a in (x, g)))
    return jax.linear_transpose(lambda k: pack_kernel(k, (1, 2), (1, 2)).kernel, kernel)(wide)[0]


def tiles(x: jax.Array, g: jax.Array, count: int) -> jax.Array:
    """Compute `derived` with `count` bands of rows as further images of the batch."""
    b, h, w, _ = x.shape
    p, rows = jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0))), h // count
    bands = jnp.concatenate([p[:, i * rows : (i + 1) * rows + 2] for i in range(count)])
    gradient = g.reshape(b, count, rows, w, -1).swapaxes(0, 1).reshape(b * count, rows, w, -1)
    return derived(bands, gradient, ((0, 0), (1, 1)))


def swapped(x: jax.Array, g: jax.Array) -> jax.Array:
    """Compute `derived` with input and gradient exchanged."""
    return derived(g, x)[::-1, ::-1].transpose(0, 1, 3, 2)


WAYS: dict[str, Way] = {
    "derived": derived,
    "taps": taps,
    "patches": patches,
    "packed 1x2": packed,
    "4 bands of rows": functools.partial(tiles, count=4),
    "swapped": swapped,
}


def torch_ways(x: np.ndarray, g: np.ndarray, kernel: np.ndarray) -> dict[str, Callable[[], np.ndarray]]:
    """Return PyTorch's gradient of the kernel, forward pass and gradient of the input, in channels-last layout."""
    import torch

    parts = [torch.from_numpy(np.array(a)).permute(0, 3, 1, 2) for a in (x, g)]
    x_, g_ = (part.contiguous(memory_format=torch.channels_last) for part in parts)
    k_ = torch.from_numpy(np.array(kernel)).permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)

    def gradient(*wanted: bool) -> Any:
        padding, ones = [1, 1], [1, 1]
        return torch.ops.aten.convolution_backward(
            g_, x_, k_, None, ones, padding, ones, False, [0, 0], 1, [*wanted, False]
        )

    return {
        "PyTorch": lambda: gradient(False, True)[1].permute(2, 3, 1, 0).numpy(),
        "(forward, PyTorch)": lambda: torch.conv2d(x_, k_, padding=1).permute(0, 2, 3, 1).numpy(),
        "(gradient of the input, PyTorch)": lambda: gradient(True, False)[0].permute(0, 2, 3, 1).numpy(),
    }


def measure_layer(layer: str, options: Options) -> list[dict[str, Any]]:
    """Check that all methods agree for one layer, time them, and return one row for each."""
    size, channels_in, channels_out = (int(n) for n in layer.split("x"))
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (options.batch_size, size, size, channels_in))
    g = jax.random.normal(keys[1], (options.batch_size, size, size, channels_out))
    kernel = jax.random.normal(keys[2], (3, 3, channels_in, channels_out))
    compiled = functools.partial(jax.jit, compiler_options=compiler_options())  # as the library's steps
    ways = {name: compiled(way) for name, way in WAYS.items()}
    wanted = np.asarray(ways["derived"](x, g))
    for name, way in ways.items():
        np.testing.assert_allclose(way(x, g), wanted, rtol=0, atol=1e-4 * np.abs(wanted).max(), err_msg=name)
    ways["(forward)"] = compiled(lambda x, g: convolve(x, kernel))
    ways["(gradient of the input)"] = compiled(
        lambda x, g: jax.linear_transpose(lambda x: convolve(x, kernel), x)(g)[0]
    )
    calls = {name: functools.partial(way, x, g) for name, way in ways.items()}
    if importlib.util.find_spec("torch"):
        others = torch_ways(np.asarray(x), np.asarray(g), np.asarray(kernel))
        for ours, theirs in (("derived", "PyTorch"), *((name, f"({name[1:-1]}, PyTorch)") for name in list(ways)[-2:])):
            expected = np.asarray(calls[ours]())
            np.testing.assert_allclose(
                others[theirs](), expected, rtol=0, atol=1e-4 * np.abs(expected).max(), err_msg=theirs
            )
        calls |= others
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for round_ in range(options.num_rounds + 1):
        for name, call in calls.items():
            start, start_processor = time.perf_counter(), time.process_time()
            jax.block_until_ready(call())
            if round_:
                times[name].append((time.perf_counter() - start, time.process_time() - start_processor))
    rows = []
    for name, values in times.items():
        wall, processor = 1e3 * np.median(values, axis=0)
        rows.append({"layer": layer, "way": name, "median_ms": float(wall), "processor_ms": float(processor)})
    return rows


def main(options: Options) -> None:
    """Measure all layers, print a table, and finish the report."""
    report = record("kernel gradient", dataclasses.asdict(options))
    rows = [row for layer in options.layers for row in measure_layer(layer, options)]
    table = Table("layer", "method", "median ms", "processor ms", title=report["device"])
    for row in rows:
        table.add_row(row["layer"], row["way"], f"{row['median_ms']:.1f}", f"{row['processor_ms']:.1f}")
    Console(width=100).print(table)
    finish({**report, "results": rows}, options.save)


if __name__ == "__main__":
    main(tyro.cli(Options))
