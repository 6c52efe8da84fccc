"""Time of convolutions on a CPU, forward and backward, by XLA's method and by the library's (docs/cpu.md)."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np
import tyro
from measure import Step, finish, record, summary, time_in_turns
from rich.console import Console
from rich.table import Table

from unet_jax.devices.compilation import compiler_options
from unet_jax.devices.huge_pages import restart_with_huge_pages
from unet_jax.model.convolution import _convolve_apart_by_blocks, _convolve_concatenated
from unet_jax.model.patches import correlate_patches


@dataclasses.dataclass(frozen=True)
class Options:
    """Time both methods for each layer in turns, with the compiler options of the library's steps."""

    layers: tuple[str, ...] = ("4x1024x1024", "4x512x1024", "8x1536x512", "8x512x512", "16x768x256", "16x256x256",
                               "32x384x128")  # fmt: skip
    """Layers as SIZExINxOUT (image size, input and output channels): XLA's convolution against a product of patches."""
    joined: tuple[str, ...] = ("512x8", "256x16", "128x32", "64x64", "32x128")
    """Decoder layers as SIZExCHANNELS of the skip connection, which is joined with twice as many channels at half the
    size: the convolution of the concatenation against the sum of two convolutions."""
    batch_size: int = 2
    num_rounds: int = 11
    save: str = ""
    """Name of a copy of the report: results/SAVE.json, or a path that ends in .json. Empty: none."""


def step_of(function: Callable[..., jax.Array], *arrays: jax.Array) -> Step:
    """Return a step that computes a function and its gradients, compiled."""
    gradient = random(*jax.eval_shape(function, *arrays).shape)

    def both(arrays: tuple[jax.Array, ...], gradient: jax.Array) -> tuple[jax.Array, ...]:
        y, gradients = jax.vjp(function, *arrays)
        return y, *gradients(gradient)

    program = jax.jit(both, compiler_options=compiler_options()).lower(arrays, gradient).compile()
    return lambda: jax.block_until_ready(program(arrays, gradient))


def random(*shape: int) -> jax.Array:
    """Return a normal float32 array on the device."""
    return jax.device_put(np.random.default_rng(0).normal(size=shape).astype(np.float32))


def by_library(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolve by XLA's convolution."""
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def by_patches(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolve by one product of gathered patches and the kernel."""
    return correlate_patches(x, kernel, ((1, 1), (1, 1)))


def main(options: Options) -> None:
    """Time all layers, print a table, and finish the report."""
    report, b, rows = record("convolution", dataclasses.asdict(options)), options.batch_size, []
    pairs: dict[str, dict[str, Step]] = {}
    for layer in options.layers:
        size, c, d = map(int, layer.split("x"))
        arrays = random(b, size, size, c), random(3, 3, c, d)
        pairs[layer] = {"convolution": step_of(by_library, *arrays), "product": step_of(by_patches, *arrays)}
    for layer in options.joined:
        size, c = map(int, layer.split("x"))
        arrays = random(b, size, size, c), random(b, size // 2, size // 2, 2 * c), random(3, 3, 3 * c, c)
        ways = {"concatenated": _convolve_concatenated, "sum": _convolve_apart_by_blocks}
        pairs[f"{layer} joined"] = {way: step_of(function, *arrays) for way, function in ways.items()}
    table = Table("layer", "method", "median ms", "ratio", title=report["device"])
    for layer, steps in pairs.items():
        times = time_in_turns(steps, options.num_rounds)
        baseline = next(iter(times.values()))
        for way, seconds in times.items():
            rows.append({"layer": layer, "way": way, **summary(seconds, baseline)})
            table.add_row(layer, way, f"{rows[-1]['median_ms']:.1f}", f"{rows[-1]['ratio']:.2f}")
    Console(width=100).print(table)
    finish({**report, "results": rows}, options.save)


if __name__ == "__main__":
    restart_with_huge_pages()  # the same memory pages as in the library's command
    main(tyro.cli(Options))
