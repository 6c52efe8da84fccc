"""Compiles a config's step for a target and reads what the compiler expects of it. Nothing is run or timed."""

import dataclasses
import hashlib
import json
import os
import re
import time
from collections.abc import Sequence
from typing import Any, Literal

import jax
from etils import epath

from unet_jax._types import InputError
from unet_jax.config import Config
from unet_jax.config.packing import UNPACKED
from unet_jax.devices.compilation import compiler_options
from unet_jax.devices.mesh import check_batch_size, make_mesh
from unet_jax.plan.floor import floor
from unet_jax.plan.hlo import Instruction, collectives, parse_entry, stage_of
from unet_jax.plan.targets import Target
from unet_jax.program.build import batch_shapes, build, num_micro_batches, state_shapes
from unet_jax.program.steps import make_predict_step

LABEL = "the compiler's estimates, not timings"
_NUM_TOP = 10
_WRITES_NOTHING = ("get-tuple-element", "tuple", "parameter", "bitcast", "constant")
_NUM_STEPS = 1000  # the schedule's length changes constants in the program, nothing else


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What a compiler says of one program on one device of the target; sizes in bytes. None where it does not say."""

    target: str
    num_devices: int
    program: str  # train or predict
    images_per_device: float
    packing: str
    cycles: int | None
    flops: float
    bytes_accessed: float
    argument_bytes: int
    temporary_bytes: int
    output_bytes: int  # beyond those that take an argument's place
    hbm_bytes: float | None  # of the chip
    collectives: list[dict[str, Any]]
    padding: list[dict[str, Any]]  # by level: bytes of the numbers, and with padding
    top: list[dict[str, Any]]  # the most expensive instructions
    floor: dict[str, float]
    compile_s: float
    lower_s: float
    compiler: str

    @property
    def total_bytes(self) -> int:
        """Memory that the program needs at most."""
        return self.argument_bytes + self.temporary_bytes + self.output_bytes

    @property
    def fits(self) -> bool | None:
        """Whether that is there."""
        return None if self.hbm_bytes is None else self.total_bytes <= self.hbm_bytes


class DoesNotFitError(InputError):
    """The compiler found no way to run the program in the device's memory."""


def estimate(
    config: Config,
    num_classes: int,
    target: Target,
    *,
    program: Literal["train", "predict"] = "train",
    cache: epath.Path | None = None,
) -> Estimate:
    """Compiles the step that training (or prediction) would run.

    Args:
      config: of which the network, image size, batch size, loss and optimizer count.
      num_classes: output channels.
      target: from `tpu_target` or `local_target`.
      program: the training step, or the prediction step on a batch of the same size.
      cache: folder of finished estimates, by a hash of the lowered program and the compiler.

    Raises:
      DoesNotFitError: the program needs more memory than the device has.
      InputError: the batch cannot be divided among the devices.
    """
    mesh = make_mesh(target.devices, space=config.train.devices_per_image)
    check_batch_size(config.train.batch_size, mesh)
    start = time.perf_counter()
    built = build(config, num_classes, _NUM_STEPS, backend=target.backend)
    state = state_shapes(built, mesh)
    if program == "train":
        lowered = built.train_step.lower(state, batch_shapes(config, num_classes, built.packing, mesh))  # type: ignore[attr-defined]
    else:
        step = make_predict_step(
            built.model.apply,
            size_multiple=config.model.size_multiple,
            compiler_options=compiler_options(target.backend),
        )
        images = batch_shapes(config, num_classes, UNPACKED, mesh).image
        lowered = step.lower(state.params, state.batch_stats, images)  # type: ignore[attr-defined]
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
    # What the analyses count once is done for every micro-batch, but for the optimizer, which is small beside it.
    loops = num_micro_batches(config.train) if program == "train" else 1
    instructions = parse_entry(compiled.as_text(), loop_count=loops)
    cycles = sum(i.cycles for i in instructions)
    result = Estimate(
        target=target.name,
        num_devices=mesh.size,
        program=program,
        images_per_device=config.train.batch_size / mesh.size,
        packing=built.model.config.packing,
        cycles=cycles or None,
        flops=loops * cost.get("flops", 0.0),
        bytes_accessed=loops * cost.get("bytes accessed", 0.0),
        argument_bytes=memory.argument_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        output_bytes=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        hbm_bytes=target.chip.hbm_bytes if target.chip else None,
        collectives=[c._asdict() for c in collectives(instructions)],
        padding=padding_by_level(instructions, len(config.model.widths)) if target.backend == "tpu" else [],
        top=[
            {"cycles": i.cycles, "instruction": i.name, "operation": i.op_name, "source": i.source}
            for i in sorted(instructions, key=lambda i: -i.cycles)[:_NUM_TOP]
            if i.cycles
        ],
        floor=floor(config, num_classes, program, config.train.batch_size / mesh.size, target.chip),
        lower_s=lower_s,
        compile_s=compile_s,
        compiler=target.compiler,
    )
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{time.time_ns()}.tmp")
        partial.write_text(json.dumps(dataclasses.asdict(result)))
        partial.rename(file)  # so that a kill leaves no half of a file
    return result


def _what_is_missing(message: str) -> str:
    """One line of the compiler's page about memory."""
    found = re.search(r"Used ([\d.]+\w) of ([\d.]+\w) hbm", message)
    need = f"needs {found[1]} of {found[2]} of the device's memory" if found else "needs more memory than there is"
    remedies = "a smaller --train.batch-size, --train.accumulation, --model.remat full, or more devices"
    return f"the program {need}: use {remedies}."


def padding_by_level(instructions: Sequence[Instruction], num_levels: int) -> list[dict[str, Any]]:
    """Bytes written to the chip's memory by each resolution's stages, without and with the padding of tiles."""
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
