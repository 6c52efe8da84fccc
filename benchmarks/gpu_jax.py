"""Measurements of the variants of `gpu_pieces.py` in JAX, for `gpu_worker.py`."""

import functools
import itertools
import math
import pathlib
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from bench_end_to_end import first_batch, open_feed, photo_settings, summary_of, timed_round, timed_steps
from etils import epath
from gpu_pieces import Variant
from gpu_profile import kernels_of, trace
from gpu_programs import NUM_CALLS, SEPARATE_KERNELS, build_program, config_of, lower, network_of, textbook_of
from gpu_timing import NUM_BLOCKS, convolution_rates, time_blocks
from library_steps import compile_lowered, packed_batch, state_with
from measure import peak_bytes
from network import forward_flops, random_pixels, random_weights, training_flops
from textbook import textbook_variables

from unet_jax.config.dicts import replace
from unet_jax.devices.mesh import make_mesh, put_replicated
from unet_jax.plan.floor import floor
from unet_jax.plan.gpu_program import SMALL_BYTES, list_kernels
from unet_jax.runs.info import current_versions

Row = dict[str, Any]


def facts() -> dict[str, Any]:
    """Return device and versions."""
    return {"device": jax.devices()[0].device_kind, "versions": current_versions()}


def measure(variant: Variant) -> Iterator[Row]:
    """Measure a variant, and yield a row for each of its programs as soon as it is finished."""
    kinds = {"ceilings": _ceilings, "convolution": _convolution, "steps": _steps, "profile": _profile,
             "end_to_end": _end_to_end}  # fmt: skip
    yield from kinds[variant["kind"]](variant)


def _mesh() -> Any:
    return make_mesh(jax.devices()[:1])


def _random_arguments(shapes: Any) -> Any:
    """Return normal random arrays of these shapes, all of them different; on zeros hardware is faster."""
    leaves, tree = jax.tree.flatten(shapes)
    make = jax.jit(jax.random.normal, static_argnums=(1, 2))
    keys = jax.random.split(jax.random.key(0), len(leaves))
    arrays = [make(key, leaf.shape, leaf.dtype) for key, leaf in zip(keys, leaves, strict=True)]
    return jax.device_put(jax.tree.unflatten(tree, arrays), jax.tree.map(lambda leaf: leaf.sharding, shapes))


def _ceilings(variant: Variant) -> Iterator[Row]:
    """Time a large matrix product of each dtype, and a large copy."""
    # cuBLAS only: Triton's kernels would be tried one after the other for longer than everything else takes here.
    options = {"xla_gpu_enable_triton_gemm": False} if jax.default_backend() == "gpu" else {}
    for name, (lowered, shapes) in lower(variant, _mesh()).items():
        program, _ = compile_lowered(lowered, options)
        arguments = _random_arguments(shapes)
        launch = _copy_in_place(program, arguments) if name == "copy" else functools.partial(program, *arguments)
        row = {"program": name, **time_blocks(launch, jax.block_until_ready, 0.1)}
        if name == "copy":
            yield {**row, "bytes_per_s": 2e3 * variant["copied_bytes"] / row["ms"]}
        else:
            yield {**row, "flops_per_s": 2e3 * variant["matrix"] ** 3 / row["ms"]}


def _copy_in_place(program: Any, arguments: tuple[Any, ...]) -> Callable[[], Any]:
    """Return a function that calls a program with its last result, which it may overwrite."""
    box = [arguments]

    def launch() -> Any:
        box[0] = (program(*box[0]),)
        return box[0]

    return launch


def _convolution(variant: Variant) -> Iterator[Row]:
    """Time one convolution and its two gradients."""
    for name, (lowered, shapes) in lower(variant, _mesh()).items():
        program, compiled = compile_lowered(lowered)
        arguments = _random_arguments(shapes)
        row = time_blocks(functools.partial(program, *arguments), jax.block_until_ready, variant["block_s"])
        row["ms"] /= NUM_CALLS
        yield {"program": name, **row, "compile_s": compiled["compile_s"], **convolution_rates(variant, row["ms"])}


def _program_facts(program: Any, variant: Variant, name: str, ms: float) -> Row:
    """Return what the text of a compiled program says, and the rates of a step of `ms` milliseconds."""
    count = training_flops if name == "train" else forward_flops
    images_per_s = 1e3 * variant["batch_size"] / ms
    row: Row = {"images_per_s": images_per_s}
    row["flops_per_s"] = images_per_s * count(network_of(variant), variant["image_size"])
    row["floor_bytes"] = floor(config_of(variant), variant["num_classes"], name, variant["batch_size"], None)["bytes"]
    if jax.default_backend() == "gpu":
        kernels = list_kernels(program.as_text())
        row["kernel_bytes"] = sum(kernel.num_bytes for kernel in kernels)
        row["kernels"] = sum(kernel.rounds for kernel in kernels)
        row["small_kernels"] = sum(kernel.rounds for kernel in kernels if kernel.num_bytes < SMALL_BYTES)
    return row


def _train_launcher(program: Any, variant: Variant) -> tuple[Any, Any]:
    """Return a function that starts an update of a state, and one that waits for it and returns the loss."""
    network, mesh = network_of(variant), _mesh()
    weights = random_weights(network)
    image, label = random_pixels(variant["batch_size"], variant["image_size"], network.num_classes)
    if variant["implementation"] == "textbook JAX":
        params, stats = textbook_variables(network, weights)
        state = params, stats, jax.jit(textbook_of(variant)[1].init)(params)
        batch = put_replicated((image, label), mesh)
        box = [put_replicated(state, mesh)]

        def launch_textbook() -> Any:
            *state, loss = program(*box[0], *batch)
            box[0] = tuple(state)
            return loss

        return launch_textbook, jax.block_until_ready
    built = build_program(variant, jax.default_backend())
    batch = put_replicated(packed_batch(built, image, label), mesh)
    box = [put_replicated(state_with(built, network, weights), mesh)]
    return _launch_library(program, box, batch), jax.block_until_ready


def _launch_library(program: Any, box: list[Any], batch: Any) -> Any:
    def launch() -> Any:
        box[0], metrics = program(box[0], batch)
        return metrics["loss"]

    return launch


def _steps(variant: Variant) -> Iterator[Row]:
    """Time the training step, with the losses of the first two, and the prediction step."""
    lowered = lower(variant, _mesh())
    if "train" in lowered:
        program, facts = compile_lowered(lowered["train"].program, variant.get("flags"))
        launch, wait = _train_launcher(program, variant)
        losses = [float(wait(launch())) for _ in range(2)]
        row = {"program": "train", **time_blocks(launch, wait, variant["block_s"]), "losses": losses, **facts}
        yield {**row, **_program_facts(program, variant, "train", row["ms"]), "peak_bytes": peak_bytes()}
        del program, launch
    if "predict" in lowered:
        program, facts = compile_lowered(lowered["predict"].program, variant.get("flags"))
        network, mesh = network_of(variant), _mesh()
        built = build_program(variant, jax.default_backend())
        state = put_replicated(state_with(built, network, random_weights(network)), mesh)
        image, _ = random_pixels(variant["batch_size"], variant["image_size"], network.num_classes)
        arguments = state.params, state.batch_stats, put_replicated(image, mesh)
        mean = float(np.mean(program(*arguments)))
        row = time_blocks(lambda: program(*arguments), jax.block_until_ready, variant["block_s"])
        row = {"program": "predict", **row, "mean_probability": mean, **facts}
        yield {**row, **_program_facts(program, variant, "predict", row["ms"])}


def _profile(variant: Variant) -> Iterator[Row]:
    """Profile training steps, as they are and without command buffers, under which every kernel has its name."""
    lowered = lower(variant, _mesh())["train"]
    plain = SEPARATE_KERNELS if jax.default_backend() == "gpu" else {}
    for name, flags in {"as it is": {}, "no command buffers": plain}.items():
        program, _ = compile_lowered(lowered.program, flags)
        launch, wait = _train_launcher(program, variant)
        row = time_blocks(launch, wait, variant["block_s"])
        with tempfile.TemporaryDirectory() as folder:
            events = trace(launch, wait, pathlib.Path(folder), NUM_BLOCKS)
        yield {"program": name, **row, **kernels_of(events, program.as_text(), NUM_BLOCKS)}


def _end_to_end(variant: Variant) -> Iterator[Row]:
    """Time training from a cache in memory, with the same program as in piece `seed`, against the step alone."""
    mesh, network = _mesh(), network_of(variant)
    program, facts = compile_lowered(lower(variant, mesh)["train"].program)
    built = build_program(variant, jax.default_backend())
    with tempfile.TemporaryDirectory() as folder:
        data = photo_settings(epath.Path(folder), num_images=variant["num_images"], num_classes=variant["num_classes"])
        settings = {**data, "data.cache": "memory", "augment.where": variant["where"]}
        feed = open_feed(replace(config_of(variant), settings))
        fixed = first_batch(feed, mesh, built.packing)
        state = put_replicated(state_with(built, network, random_weights(network)), mesh)
        state, *_ = timed_steps(program, state, itertools.repeat(fixed), 2)
        state, one_s, _ = timed_steps(program, state, itertools.repeat(fixed), 2)
        count, rounds = max(2, min(100, math.ceil(2 * variant["block_s"] / one_s))), []
        for _ in range(NUM_BLOCKS):
            state, seconds = timed_round(program, state, fixed, feed, mesh, built.packing, count)
            rounds.append(seconds)
    row = summary_of(rounds)
    yield {"program": "train", "ms": 1e3 * row["step_s"], "images_per_s": variant["batch_size"] / row["step_s"],
           "steps_in_block": count, **row, "compile_s": facts["compile_s"]}  # fmt: skip
