"""`estimate`, which compiles a config's step for a target and reads the compiler's expectations of it.

Nothing is run or timed.
"""

import dataclasses
import hashlib
import json
import os
import re
import time
from collections.abc import Sequence
from typing import Any, Literal, cast

import jax
from etils import epath

from unet_jax._files import replace_text
from unet_jax._types import InputError
from unet_jax.config import Config
from unet_jax.config.packing import UNPACKED
from unet_jax.devices.mesh import make_mesh
from unet_jax.model import UNet
from unet_jax.plan.floor import floor
from unet_jax.plan.gpu_program import SMALL_BYTES, Kernel, list_kernels
from unet_jax.plan.hlo import Instruction, collectives, parse_entry, stage_of
from unet_jax.plan.targets import Target
from unet_jax.program.batch_shapes import batch_shapes, check_divisible
from unet_jax.program.build import build
from unet_jax.program.initial_state import state_shapes

LABEL = "the compiler's estimates, not timings"
_NUM_TOP = 10
_WRITES_NOTHING = ("get-tuple-element", "tuple", "parameter", "bitcast", "constant")
_NUM_STEPS = 1000  # length of the learning rate's schedule, which changes nothing in the program but constants


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A compiler's figures of one step of a program, for one device of the target."""

    target: str  # name of the target, such as v5e:2x2 or cpu
    num_devices: int  # devices of the target
    program: str  # train or predict
    images_per_device: float  # images in a step on one device
    packing: str  # packing of the levels, highest resolution first
    cycles: int | None  # sum over instructions; None if the compiler gives no estimate
    flops: float | None  # None if the compiler gives no estimate
    bytes_accessed: float  # for a GPU, what its kernels read and write (`gpu_program`)
    argument_bytes: int  # memory of the arguments
    temporary_bytes: int  # memory of temporary arrays
    output_bytes: int  # memory of the outputs that do not take an argument's place
    hbm_bytes: float | None  # size of the chip's main memory; None if it is not known
    collectives: list[dict[str, Any]]  # exchange of data between devices, by kind of instruction
    padding: list[dict[str, Any]]  # for each level: bytes written, without and with the padding of tiles
    top: list[dict[str, Any]]  # the most expensive instructions, with `cycles` or, for a GPU, with `num_bytes`
    kernels: dict[str, int]  # launches of a GPU: `count`, `small` (less than 1 MB each) and `copies`; else empty
    traffic_ms: float | None  # milliseconds to move bytes_accessed at a GPU's peak; not a time. None elsewhere
    floor: dict[str, float]  # rough lower bounds: flops, bytes and, for a known chip, ms and cycles
    compile_s: float  # seconds to compile
    lower_s: float  # seconds to trace and lower
    compiler: str  # package and version of the compiler

    @property
    def total_bytes(self) -> int:
        """Bytes of memory that the program needs on one device: arguments, temporaries and outputs."""
        return self.argument_bytes + self.temporary_bytes + self.output_bytes

    @property
    def fits(self) -> bool | None:
        """True if the device has that much memory; None if its size is not known."""
        return None if self.hbm_bytes is None else self.total_bytes <= self.hbm_bytes


class DoesNotFitError(InputError):
    """The program needs more memory than the device has, by the judgement of its compiler."""


def estimate(
    config: Config,
    num_classes: int,
    target: Target,
    *,
    program: Literal["train", "predict"] = "train",
    num_channels: int = 3,
    cache: epath.Path | None = None,
) -> Estimate:
    """Compile the step that training (or prediction) would run, and return the compiler's figures.

    Args:
      config: settings of the run; the network, image size, batch size, loss and optimizer matter.
      num_classes: number of output channels.
      target: devices to compile for, from `tpu_target`, `gpu_target` or `local_target`.
      program: the training step, or the prediction step on a batch of the same size.
      num_channels: channels of the images, of 8 bits.
      cache: folder of finished estimates, in files named by a hash of the lowered program and the compiler.

    Raises:
      DoesNotFitError: the program needs more memory than the device has.
      InputError: the batch cannot be divided among the devices.
    """
    mesh = make_mesh(target.devices, space=config.train.devices_per_image)
    check_divisible(config, mesh)
    start = time.perf_counter()
    built = build(config, num_classes, _NUM_STEPS, backend=target.backend)
    state = state_shapes(config, num_classes, _NUM_STEPS, mesh, num_channels)
    if program == "train":
        batch = batch_shapes(config, num_classes, built.packing, mesh, num_channels=num_channels)
        lowered = built.train_step.lower(state, batch)  # type: ignore[attr-defined]
    else:
        images = batch_shapes(config, num_classes, UNPACKED, mesh, num_channels=num_channels).image
        lowered = built.predict_step.lower(state.params, state.batch_stats, images)  # type: ignore[attr-defined]
    lower_s = time.perf_counter() - start
    flags = [os.environ.get(name, "") for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")]
    fields = [field.name for field in dataclasses.fields(Estimate)]
    identity = "\n".join((lowered.as_text(), target.name, target.compiler, jax.__version__, *flags, *fields))
    file = cache / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.json" if cache else None
    if file and file.exists():
        return Estimate(**json.loads(file.read_text()))
    start = time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise DoesNotFitError(_what_is_missing(str(error))) from error
    compile_s = time.perf_counter() - start
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    # The analyses count the body of the loop over micro-batches once, although it runs for each of them. The optimizer
    # is outside of the loop, but its part is small, so everything is multiplied.
    loops = config.train.accumulation if program == "train" else 1
    text = compiled.as_text()
    instructions = parse_entry(text, loop_count=loops)
    launches = list_kernels(text, loop_count=loops) if target.backend == "gpu" else []
    cycles = sum(i.cycles for i in instructions)
    if target.backend == "gpu":  # the GPU's compiler estimates neither FLOPs nor bytes
        flops, bytes_accessed = None, float(sum(kernel.num_bytes for kernel in launches))
    else:
        flops, bytes_accessed = loops * cost.get("flops", 0.0), loops * cost.get("bytes accessed", 0.0)
    result = Estimate(
        target=target.name,
        num_devices=mesh.size,
        program=program,
        images_per_device=config.train.batch_size / mesh.size,
        packing=cast(UNet, built.model).config.packing,
        cycles=cycles or None,
        flops=flops,
        bytes_accessed=bytes_accessed,
        argument_bytes=memory.argument_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        output_bytes=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        hbm_bytes=target.chip.hbm_bytes if target.chip else None,
        collectives=[c._asdict() for c in collectives(instructions)],
        padding=padding_by_level(instructions, config.model.depth) if target.backend == "tpu" else [],
        top=_most_bytes(launches) if launches else _most_cycles(instructions),
        kernels=_counts(launches) if launches else {},
        traffic_ms=1e3 * bytes_accessed / target.chip.bytes_per_s if launches and target.chip else None,
        floor=floor(config, num_classes, program, config.train.batch_size / mesh.size, target.chip, num_channels),
        lower_s=lower_s,
        compile_s=compile_s,
        compiler=target.compiler,
    )
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_text(file, json.dumps(dataclasses.asdict(result)))
    return result


def _most_cycles(instructions: Sequence[Instruction]) -> list[dict[str, Any]]:
    """Describe the instructions for which the compiler expects most cycles."""
    longest = sorted(instructions, key=lambda i: -i.cycles)[:_NUM_TOP]
    return [
        {"cycles": i.cycles, "instruction": i.name, "operation": i.op_name, "source": i.source}
        for i in longest
        if i.cycles
    ]


def _most_bytes(kernels: Sequence[Kernel]) -> list[dict[str, Any]]:
    """Describe the kernels that move most bytes."""
    largest = sorted(kernels, key=lambda kernel: -kernel.num_bytes)[:_NUM_TOP]
    return [
        {"num_bytes": k.num_bytes, "instruction": k.instruction.name, "operation": k.instruction.op_name,
         "source": k.instruction.source}
        for k in largest
    ]  # fmt: skip


def _counts(kernels: Sequence[Kernel]) -> dict[str, int]:
    """Count executions of kernels: all, those that move little, and those that only copy."""
    return {
        "count": sum(k.rounds for k in kernels),
        "small": sum(k.rounds for k in kernels if k.num_bytes < SMALL_BYTES * k.rounds),
        "copies": sum(k.rounds for k in kernels if k.instruction.opcode.startswith("copy")),
    }


def _what_is_missing(message: str) -> str:
    """Summarise the compiler's long message about memory in one line, with remedies."""
    used = re.search(r"Used ([\d.]+\w) of ([\d.]+\w) hbm", message)
    need = f"needs {used[1]} of {used[2]} of the device's memory" if used else "needs more memory than there is"
    remedies = "a smaller --train.batch-size, --train.accumulation, --model.remat full, or more devices"
    return f"the program {need}: use {remedies}."


def padding_by_level(instructions: Sequence[Instruction], num_levels: int) -> list[dict[str, Any]]:
    """Sum up the bytes that each resolution's stages write to the chip's memory, without and with the padding of tiles.

    Level 0 is the highest resolution, and `num_levels` is the level of the center.
    """
    sums: dict[int, list[int]] = {}
    for instruction in instructions:
        stage = stage_of(instruction)
        if stage is None or instruction.opcode in _WRITES_NOTHING:
            continue
        level = {"head": 0, "center": num_levels}.get(stage)
        if level is None:
            number = int(re.sub(r"\D", "", stage))
            level = number if stage.startswith("down") else num_levels - 1 - number
        of_level = sums.setdefault(level, [0, 0])
        for buffer in instruction.outputs:
            if buffer.in_hbm:
                of_level[0] += buffer.num_bytes
                of_level[1] += buffer.stored_bytes
    return [{"level": level, "num_bytes": n, "stored_bytes": s} for level, (n, s) in sorted(sums.items())]
