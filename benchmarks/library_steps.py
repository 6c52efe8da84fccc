"""The library's own steps, built exactly as training, evaluation and prediction build them, for timing."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from network import Network, by_stage, num_parameters, random_pixels

from unet_jax._types import Batch, Sample
from unet_jax.config import Config
from unet_jax.data.packing import pack_sample
from unet_jax.devices.mesh import make_mesh, put_batch, put_replicated, put_whole_batch
from unet_jax.program.build import Program, build
from unet_jax.program.state import TrainState

KINDS = ("train", "evaluate", "predict")
_NUM_STEPS = 1000  # number of steps of the imaginary run that schedules of the optimizer are made for


class LibrarySteps(NamedTuple):
    """Compiled steps of one config."""

    steps: dict[str, Callable[[], None]]
    """Functions that run one step to its end, by kind."""
    facts: dict[str, dict[str, float]]
    """Facts that `compiled` returned, by kind."""
    program: Program
    """Program that the steps come from."""
    box: list[TrainState]
    """List with one element, the state, which training steps replace."""


def network_of(config: Config, num_classes: int) -> Network:
    """Return the shape of a config's network."""
    model = config.model
    return Network(model.widths, model.center_width, num_classes, model.num_convs_down, model.num_convs_up)


def packed_batch(program: Program, image: np.ndarray, label: np.ndarray) -> Batch:
    """Return a batch on the host, packed as the input pipeline packs it."""
    samples = [pack_sample(Sample(*pair), program.packing) for pair in zip(image, label, strict=True)]
    images, labels = (np.stack([getattr(s, name) for s in samples]) for name in ("image", "mask"))
    return Batch(images, labels, np.ones(len(image), np.float32))


def make_library_steps(
    config: Config, num_classes: int, kinds: tuple[str, ...] = ("train",), num_devices: int = 0
) -> LibrarySteps:
    """Compile the steps of a config for random images, and run each of them once.

    Args:
      config: settings; `train.batch_size` is the number of images.
      num_classes: number of output channels.
      kinds: steps to compile, out of `KINDS`.
      num_devices: number of devices to use; 0 uses all.
    """
    mesh = make_mesh(jax.devices()[:num_devices] if num_devices else None)
    program = build(config, num_classes, _NUM_STEPS)
    image, label = random_pixels(config.train.batch_size, config.data.image_size, num_classes)
    batch = put_batch(packed_batch(program, image, label), mesh)
    box = [put_replicated(jax.jit(program.init)(jax.random.key(0)), mesh)]
    # Rates are computed by the formulas of `network`, which must describe the same network as the config.
    wanted = num_parameters(network_of(config, num_classes))
    count = sum(x.size for x in jax.tree.leaves(box[0].params))
    assert config.model.norm != "batch" or wanted == count, f"{count} parameters, but the formula says {wanted}"
    steps, facts = {}, {}
    if "train" in kinds:
        train, facts["train"] = compiled(program.train_step, box[0], batch)

        def train_step() -> None:
            box[0], metrics = train(box[0], batch)
            jax.block_until_ready((box[0], metrics))

        steps["train"] = train_step
    if "evaluate" in kinds:
        evaluate, facts["evaluate"] = compiled(program.eval_step, box[0].params, box[0].batch_stats, batch)
        steps["evaluate"] = lambda: jax.block_until_ready(evaluate(box[0].params, box[0].batch_stats, batch))
    if "predict" in kinds:
        images = put_whole_batch(image, mesh)
        predict, facts["predict"] = compiled(program.predict_step, box[0].params, box[0].batch_stats, images)
        steps["predict"] = lambda: jax.block_until_ready(predict(box[0].params, box[0].batch_stats, images))
    for step in steps.values():
        step()  # a step that needs too much memory fails only when it runs
    return LibrarySteps(steps, facts, program, box)


def compiled(step: Any, *arguments: Any) -> tuple[Any, dict[str, float]]:
    """Compile a jitted step for these arguments.

    Returns:
      The compiled step, and facts: the seconds of compilation, and the compiler's numbers of memory and bytes accessed.
    """
    start = time.perf_counter()
    lowered = step.lower(*arguments)
    lower_s = time.perf_counter() - start
    program, facts = compile_lowered(lowered)
    return program, {**facts, "compile_s": facts["compile_s"] + lower_s}


def compile_lowered(lowered: Any, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, float]]:
    """Compile a lowered program with XLA's options, and return it with the same facts as `compiled`."""
    start = time.perf_counter()
    program = lowered.compile(compiler_options=options or None)
    facts = {"compile_s": time.perf_counter() - start}
    memory = program.memory_analysis()
    if memory is not None:
        facts["temporary_bytes"] = memory.temp_size_in_bytes
        facts["memory_bytes"] = (
            memory.argument_size_in_bytes
            + memory.temp_size_in_bytes
            + memory.output_size_in_bytes
            - memory.alias_size_in_bytes
        )
    cost = program.cost_analysis()
    if cost and "bytes accessed" in cost:
        facts["bytes_accessed"] = float(cost["bytes accessed"])
    return program, facts


def state_with(program: Program, network: Network, weights: Sequence[np.ndarray]) -> TrainState:
    """Return a program's first state with given weights, in Keras's order (`network.random_weights`)."""
    params: dict[str, Any] = {}
    stats: dict[str, Any] = {}
    for name, arrays in by_stage(network, weights).items():
        stage, _, index = name.partition("/")
        conv = {"kernel": arrays[0], "bias": arrays[1]}
        if not index:
            params[stage] = conv
            continue
        params.setdefault(stage, {})[f"conv{index}"] = conv
        params[stage][f"norm{index}"] = {"scale": arrays[2], "bias": arrays[3]}
        stats.setdefault(stage, {})[f"norm{index}"] = {"mean": arrays[4], "var": arrays[5]}
    shapes = jax.eval_shape(program.init, jax.random.key(0))
    wanted = jax.tree.structure((shapes.params, shapes.batch_stats))
    assert wanted == jax.tree.structure((params, stats)), "the network of network.py differs from the library's"
    params, stats = jax.device_put((params, stats))
    return TrainState(jax.device_put(np.int32(0)), params, stats, jax.jit(program.tx.init)(params))


def reason(error: Exception) -> str:
    """Return the type and the first line of an error, cut to 200 characters, as the reason why a variant failed."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"
