"""The library's own steps, exactly as training, evaluation and prediction build them, ready to be timed."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from network import Network, num_parameters, random_pixels

from unet_jax._types import Batch, Sample
from unet_jax.config import Config
from unet_jax.data.packing import pack_sample
from unet_jax.devices.mesh import make_mesh, put_batch, put_replicated, put_whole_batch
from unet_jax.program.build import Program, build
from unet_jax.program.state import TrainState

KINDS = ("train", "evaluate", "predict")
_NUM_STEPS = 1000  # of the run that schedules think they are in


class LibrarySteps(NamedTuple):
    """Steps that run to their end, and what was learnt while they were made."""

    steps: dict[str, Callable[[], None]]
    facts: dict[str, dict[str, float]]
    program: Program
    box: list[TrainState]  # the state, which training steps replace


def network_of(config: Config, num_classes: int) -> Network:
    model = config.model
    return Network(model.widths, model.center_width, num_classes, model.num_convs_down, model.num_convs_up)


def packed_batch(program: Program, image: np.ndarray, label: np.ndarray) -> Batch:
    """On the host, as the input pipeline would give it."""
    samples = [pack_sample(Sample(*pair), program.packing) for pair in zip(image, label, strict=True)]
    images, labels = (np.stack(arrays) for arrays in zip(*samples, strict=True))
    return Batch(images, labels, np.ones(len(image), np.float32))


def make_library_steps(
    config: Config, num_classes: int, kinds: tuple[str, ...] = ("train",), num_devices: int = 0
) -> LibrarySteps:
    """Compiles the steps for `config.train.batch_size` random images; `num_devices` 0 takes all devices."""
    mesh = make_mesh(jax.devices()[:num_devices] if num_devices else None)
    program = build(config, num_classes, _NUM_STEPS)
    image, label = random_pixels(config.train.batch_size, config.data.image_size, num_classes)
    batch = put_batch(packed_batch(program, image, label), mesh)
    box = [put_replicated(jax.jit(program.init)(jax.random.key(0)), mesh)]
    # The network is there twice, in two libraries' words; the formulas that rates come from are of one of them.
    wanted = num_parameters(network_of(config, num_classes))
    found = sum(x.size for x in jax.tree.leaves(box[0].params))
    assert config.model.norm != "batch" or wanted == found, f"{found} parameters, but the formula says {wanted}"
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
        step()  # too large for this device is known only when it has run
    return LibrarySteps(steps, facts, program, box)


def compiled(step: Any, *arguments: Any) -> tuple[Any, dict[str, float]]:
    """The step for these arguments; seconds to compile it, and what the compiler says of memory and bytes."""
    start = time.perf_counter()
    lowered = step.lower(*arguments)
    program = lowered.compile()
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


def reason(error: Exception) -> str:
    """The first line of an error, cut: what is said of a variant that could not run."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"
