"""Parser for the text of an optimised XLA program (`compiled.as_text()`).

TPU programs hold the compiler's estimate of cycles for each instruction, and the tiles that arrays are stored in; CPU
and GPU programs hold neither. The parser reads the entry computation and the bodies of its loops (the loop over
micro-batches is one). It skips computations that other instructions call: their cost is part of the instruction.
"""

import itertools
import math
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

_ITEM_BYTES = {"pred": 1, "bf16": 2, "f16": 2, "f32": 4, "f64": 8}
_SHAPE = re.compile(r"\b(pred|bf16|[a-z]+\d+)\[([\d,]*)\](?:\{([\d,]*)(?::([^}]*))?\})?")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = ")
_COLLECTIVE = re.compile(r"(all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?$")


class Buffer(NamedTuple):
    """One array that an instruction writes."""

    num_bytes: int  # bytes of the array's elements
    stored_bytes: int  # bytes with the padding of its tiles
    in_hbm: bool  # True if the array is in the device's main memory (HBM), False if it stays in the chip's own memory


class Instruction(NamedTuple):
    """One instruction of the entry computation or of a loop in it."""

    name: str
    opcode: str  # for example "fusion" or "all-reduce"
    cycles: int  # the compiler's estimate; 0 if it gives none
    op_name: str  # path of the JAX operation that the instruction comes from, "" if unknown
    source: str  # file:line of that operation, "" if unknown
    outputs: tuple[Buffer, ...]  # of all rounds, one round after the other
    rounds: int = 1  # how often it is executed: the rounds of the loop that it is in


class Collective(NamedTuple):
    """Sum over all instructions of one kind that exchange data between devices."""

    opcode: str  # for example "all-reduce"
    count: int  # number of executions; an instruction in a loop counts once for every round
    num_bytes: int  # bytes of their results on one device, of all executions


def parse_entry(text: str, *, loop_count: int = 1) -> list[Instruction]:
    """Return the instructions of the entry computation in order of execution.

    Args:
      text: text of a compiled program.
      loop_count: number of rounds of each loop, which the text does not say. The instructions of a loop's body follow
        the loop, with the cycles and the outputs of all rounds together.

    Example:
      >>> text = '''
      ... ENTRY %main (x: f32[4]) -> f32[4] {
      ...   ROOT %y = f32[4]{0} negate(%x), backend_config={"estimated_cycles":"12"}
      ... }'''
      >>> [(i.name, i.opcode, i.cycles, i.outputs[0].num_bytes) for i in parse_entry(text)]
      [('y', 'negate', 12, 16)]
    """
    source_of = source_locations(text)
    instructions = []
    for line in text[text.index("\nENTRY ") :].splitlines():
        instruction = parse_instruction(line, source_of)
        if instruction is None:
            continue
        instructions.append(instruction)
        body = re.search(r"\bbody=%?([\w.\-]+)", line) if instruction.opcode == "while" else None
        if body:
            inner = (parse_instruction(row, source_of) for row in _computation(text, body[1]).splitlines())
            instructions += [
                i._replace(cycles=loop_count * i.cycles, outputs=loop_count * i.outputs, rounds=loop_count)
                for i in inner
                if i is not None
            ]
    return instructions


def _computation(text: str, name: str) -> str:
    """Return the text of a computation by its name, "" if there is none of that name."""
    computation = re.search(rf"^%?{re.escape(name)} \(.*?^\}}", text, re.M | re.S)
    return computation[0] if computation else ""


def parse_instruction(line: str, source_of: dict[str, str]) -> Instruction | None:
    """Parse a line of a computation; None if it holds no instruction."""
    start = _INSTRUCTION.match(line)
    if not start:
        return None
    shapes, opcode = _split_result(line[start.end() :])
    cycles = re.search(r'"estimated_cycles":"(\d+)"', line)
    op_name = re.search(r'op_name="([^"]*)"', line)
    return Instruction(
        start[1],
        opcode,
        int(cycles[1]) if cycles else 0,
        op_name[1] if op_name else "",
        _source(line, source_of),
        tuple(_buffers(shapes)),
    )


def _split_result(rest: str) -> tuple[str, str]:
    """Return `(shapes, opcode)` of text like "SHAPES opcode(operands), ..."; a tuple's shapes are in parentheses."""
    if rest.startswith("("):
        depths = itertools.accumulate((character == "(") - (character == ")") for character in rest)
        end = next(i for i, depth in enumerate(depths, start=1) if depth == 0)
        shapes, rest = rest[:end], rest[end:].lstrip()
    else:
        shapes, _, rest = rest.partition(" ")
    return shapes, rest.partition("(")[0].strip()


def _buffers(shapes: str) -> list[Buffer]:
    """Return one buffer for each shape in text like "(bf16[8,4]{1,0:T(8,128)}, f32[])"."""
    buffers = []
    for dtype, dims, order, storage in _SHAPE.findall(shapes):
        item = _ITEM_BYTES.get(dtype) or max(1, int(re.sub(r"\D", "", dtype) or 8) // 8)
        sizes = [int(d) for d in dims.split(",") if d]
        minor_to_major = [int(d) for d in order.split(",") if d] or list(range(len(sizes)))[::-1]
        tile = re.match(r"T\(([\d,]+)\)", storage)
        padded = _padded(sizes, minor_to_major, [int(t) for t in tile[1].split(",")] if tile else [])
        buffers.append(Buffer(math.prod(sizes) * item, padded * item, "S(" not in storage))
    return buffers


def _padded(sizes: Sequence[int], minor_to_major: Sequence[int], tile: Sequence[int]) -> int:
    """Return the number of elements after padding the minor-most dimensions to multiples of the tile's dimensions."""
    ordered = [sizes[d] for d in minor_to_major]
    for i, t in enumerate(reversed(tile)):
        if i < len(ordered):
            ordered[i] = -(-ordered[i] // t) * t
    return math.prod(ordered)


def source_locations(text: str) -> dict[str, str]:
    """Return file:line for each stack_frame_id, from the tables at the head of the text."""
    files = dict(re.findall(r'^(\d+) "([^"]*)"$', _table(text, "FileNames"), re.M))
    locations = {
        number: f"{os.path.basename(files.get(file, ''))}:{line}"
        for number, file, line in re.findall(
            r"^(\d+) \{file_name_id=(\d+) .*?\bline=(\d+)", _table(text, "FileLocations"), re.M
        )
    }
    frames = re.findall(r"^(\d+) \{file_location_id=(\d+)", _table(text, "StackFrames"), re.M)
    return {number: locations.get(location, "") for number, location in frames}


def _table(text: str, name: str) -> str:
    """Return the lines of one of the tables at the head of the text, "" if it is not there."""
    table = re.search(rf"^{name}\n(.*?)\n\n", text, re.M | re.S)
    return table[1] if table else ""


def _source(line: str, source_of: dict[str, str]) -> str:
    """Return file:line of an instruction: from its stack frame, or from the line itself if it names none."""
    frame = re.search(r"stack_frame_id=(\d+)", line)
    if frame:
        return source_of.get(frame[1], "")
    source = re.search(r'source_file="([^"]*)" source_line=(\d+)', line)
    return f"{os.path.basename(source[1])}:{source[2]}" if source else ""


def collectives(instructions: Sequence[Instruction]) -> list[Collective]:
    """Sum up the exchange of data between devices, by kind of instruction, sorted by name."""
    of_kind: dict[str, Collective] = {}
    for instruction in instructions:
        kind = _COLLECTIVE.match(instruction.opcode)
        if kind:
            num_bytes = instruction.rounds * sum(buffer.num_bytes for buffer in _results(instruction))
            before = of_kind.get(kind[1], Collective(kind[1], 0, 0))
            of_kind[kind[1]] = Collective(kind[1], before.count + instruction.rounds, before.num_bytes + num_bytes)
    return [of_kind[opcode] for opcode in sorted(of_kind)]


def _results(instruction: Instruction) -> Sequence[Buffer]:
    """Return what an instruction results in, in one round.

    Asynchronous instructions list operands and contexts among their outputs too.
    """
    outputs = instruction.outputs[: len(instruction.outputs) // instruction.rounds]
    if instruction.opcode == "all-gather-start":  # (operands, results)
        return outputs[len(outputs) // 2 :]
    if instruction.opcode == "collective-permute-start":  # (operand, result, contexts)
        return outputs[1:2]
    return outputs


def stage_of(instruction: Instruction) -> str | None:
    """Return the U-Net's stage that an instruction belongs to by its `op_name`; None if it belongs to none.

    Example:
      >>> stage_of(Instruction("y", "fusion", 0, "jit(train_step)/jvp(UNet)/down0/conv0/add", "", ()))
      'down0'
    """
    stage = re.search(r"/(down\d+|center|up\d+|head)/", instruction.op_name + "/")
    return stage[1] if stage else None
