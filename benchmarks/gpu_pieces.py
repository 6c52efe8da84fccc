"""What `gpu.py` measures, the most important first: pieces, and the variants of each piece.

A variant is a dictionary that the worker understands (`gpu_jax.py`, `gpu_torch.py`). To measure something else, add a
variant to a piece: for example to FLAGS, or one with `settings` of the model.
"""

import dataclasses
from typing import Any

Variant = dict[str, Any]
"""Values of one measurement: `name`, `kind` (what to do), and what that kind needs. All of them are JSON."""


@dataclasses.dataclass(frozen=True)
class Piece:
    """Some variants that one worker measures one after the other."""

    name: str
    worker: str
    """Worker that measures them: jax or torch."""
    variants: tuple[Variant, ...]
    limit_s: float
    """Longest time in seconds, compilation included. Variants that are finished by then are kept."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of everything that is measured."""

    image_size: int = 1024
    seed: tuple[int, ...] = (8, 16, 32, 64, 128, 256, 512, 1024)
    """Channels of the Keras original's network; the last is the centre."""
    short: tuple[int, ...] = (8, 16, 32, 64, 128)
    """The highest levels of the same network, which move 98 % of its bytes and compile in half the time."""
    original_size: int = 576
    """The U-Net of 2015 has images of 572; our convolutions are padded, and sides must be multiples of 16."""
    original: tuple[int, ...] = (64, 128, 256, 512, 1024)
    batches: tuple[int, ...] = (8, 32)
    convolutions: tuple[tuple[int, int, int], ...] = (
        (1024, 8, 8), (1024, 24, 8), (512, 16, 16), (128, 64, 64), (16, 512, 512),
    )  # fmt: skip
    """Side of the image, and channels of input and output."""
    matrix: int = 8192
    copied_bytes: int = 2**31
    num_images: int = 16
    block_s: float = 0.4
    """Seconds of one timed block of steps."""


SMALL = Sizes(
    image_size=32, seed=(2, 4, 4), short=(2, 4), original_size=16, original=(4, 8), batches=(2, 4),
    convolutions=((16, 2, 2), (8, 3, 2)), matrix=64, copied_bytes=2**16, num_images=4, block_s=0.0,
)  # fmt: skip
"""Sizes to try everything with, on any machine."""
LOW = Sizes(
    image_size=128, seed=(8, 16), short=(8, 16), original_size=64, original=(64, 128), batches=(2, 4),
    convolutions=((128, 8, 8), (128, 24, 8)), matrix=1024, copied_bytes=2**20,
)  # fmt: skip
"""The highest level of each network, which compiles in seconds."""

FLAGS: dict[str, dict[str, Any]] = {
    "not autotuned": {"xla_gpu_autotune_level": 0},
    "no command buffers": {"xla_gpu_enable_command_buffer": ""},
    "latency hiding": {"xla_gpu_enable_latency_hiding_scheduler": True},
    "same-shape fusion": {"xla_gpu_experimental_enable_same_shape_multi_output_fusion": True},
    "fusions by Triton": {"xla_gpu_experimental_all_fusions_with_triton": True},
    "fusions autotuned": {"xla_gpu_experimental_enable_fusion_autotuner": True},
    "convolution fusion": {"xla_gpu_experimental_enable_conv_fusion": True},  # last: compiling it takes the longest
}
"""XLA's options that only a card can judge, by name."""

FORMULATIONS: dict[str, list[str]] = {
    "head_by_sums": ["train"],
    "joined_by_transposition": ["train"],
    "winner_in_int8": ["train"],
    "sums_in_one": ["train"],
    "flat_gradients": ["train"],
    "norm_in_kernel": ["predict"],
}
"""What the library computes in its own way on GPUs (`unet_jax/_formulations.py`), each left out once, with the programs
that it is for."""

PACKINGS = ("1x2", "2")
LOSSES = ("focal", "lovasz_hinge", "soft_cldice")
CPU_FLAGS = {"a flag": {"xla_llvm_disable_expensive_passes": True}}  # one that CPUs know, to try flags there


def list_pieces(sizes: Sizes = Sizes(), flags: dict[str, dict[str, Any]] = FLAGS) -> list[Piece]:
    """Return all pieces in these sizes, the most important first."""
    low, high = sizes.batches
    short = _steps("unet_jax", sizes.short, sizes, low)
    base = {**short, "name": "4 levels"}
    convolutions = tuple(
        {"name": f"{side}x{side}, {own} to {out}", "kind": "convolution", "side": side, "channels": [own, out],
         "batch_size": low, "dtype": "bfloat16", "block_s": sizes.block_s / 4}
        for side, own, out in sizes.convolutions
    )  # fmt: skip
    ceilings = {"name": "machine", "kind": "ceilings", "matrix": sizes.matrix, "copied_bytes": sizes.copied_bytes}
    seed = [_steps("unet_jax", sizes.seed, sizes, batch, programs=["train", "predict"]) for batch in (low, high)]
    both = ["train", "predict"]
    graphs = "PyTorch compiled, CUDA graphs"
    torch_seed = [
        _steps("PyTorch", sizes.seed, sizes, low, programs=both),
        _steps("PyTorch", sizes.seed, sizes, high, programs=both),
        _steps(graphs, sizes.seed, sizes, high, programs=both),
    ]
    torch_more = [
        _steps("PyTorch, CUDA graph of the step", sizes.seed, sizes, low),
        _steps(graphs, sizes.seed, sizes, low, programs=both),
        _steps("PyTorch compiled", sizes.seed, sizes, high),
    ]
    original = {"image_size": sizes.original_size, "num_convs_up": 2, "num_classes": 1}
    changes = [{**short, "name": f"without {name}", "without": [name], "programs": programs}
               for name, programs in FORMULATIONS.items()]  # fmt: skip
    none = {**short, "name": "without all of them", "without": list(FORMULATIONS), "programs": both}
    packings = [{**short, "name": f"packing {p}", "settings": {"model.packing": p}} for p in PACKINGS]
    flagged = [{**short, "name": name, "flags": options} for name, options in flags.items()]
    losses = [{**short, "name": name, "loss": name} for name in LOSSES]
    end_to_end = {**seed[0], "kind": "end_to_end", "name": "cache in memory, changed on the device", "where": "device",
                  "num_images": sizes.num_images}  # fmt: skip
    pieces = [
        Piece("sanity", "jax", (ceilings, *convolutions), 70.0),
        Piece("sanity_torch", "torch", (ceilings, *convolutions), 40.0),
        Piece("seed", "jax", tuple(seed), 180.0),
        Piece("seed_torch", "torch", tuple(torch_seed), 150.0),
        # The program is in the cache by now, and what comes later is judged by it.
        Piece("profile", "jax", ({**seed[0], "kind": "profile", "name": "seed"},), 60.0),
        Piece("changes", "jax", ({**base, "programs": both}, none, *changes), 150.0),
        Piece("packing", "jax", (base, *packings), 90.0),
        Piece("flags", "jax", (base, *flagged), 120.0),
        Piece("float32", "jax", (_steps("unet_jax", sizes.seed, sizes, low, dtype="float32", programs=both),), 90.0),
        Piece("float32_torch", "torch", (_steps("PyTorch", sizes.seed, sizes, low, dtype="float32", programs=both),),
              45.0),
        Piece("original", "jax", (_steps("unet_jax", sizes.original, sizes, low, **original),), 70.0),
        Piece("original_torch", "torch", (_steps("PyTorch", sizes.original, sizes, low, **original),), 40.0),
        Piece("losses", "jax", (base, *losses), 90.0),
        Piece("end_to_end", "jax", (end_to_end,), 90.0),
        Piece("seed_torch_more", "torch", tuple(torch_more), 150.0),
        Piece("textbook", "jax", (_steps("textbook JAX", sizes.seed, sizes, low),), 90.0),
        Piece("batches", "jax", tuple(_steps("unet_jax", sizes.seed, sizes, b) for b in (low // 2, 2 * low)), 150.0),
    ]  # fmt: skip
    # Tiny sizes are for CPUs, on which compilers take longer.
    scale = 5.0 if sizes == SMALL else 1.0
    return [dataclasses.replace(piece, limit_s=scale * piece.limit_s) for piece in pieces]


def _steps(implementation: str, widths: tuple[int, ...], sizes: Sizes, batch_size: int, **values: Any) -> Variant:
    """Return a variant that times steps of a network: training, and prediction if `programs` says so."""
    values = {"image_size": sizes.image_size, "dtype": "bfloat16", "num_convs_up": 3, "num_classes": 2,
              "programs": ["train"], "block_s": sizes.block_s, **values}  # fmt: skip
    return {
        "name": f"{implementation}, batch {batch_size}",
        "kind": "steps",
        "implementation": implementation,
        "widths": list(widths[:-1]),
        "center_width": widths[-1],
        "batch_size": batch_size,
        **values,
    }
