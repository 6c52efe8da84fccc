"""What a compiled program says of itself: parses the text of an XLA program (`compiled.as_text()`) after optimisation.

TPU programs carry the compiler's estimate of cycles for each instruction, and the tiles that arrays are stored in; CPU
and GPU programs carry neither. Only the entry computation is read, and the bodies of its loops (micro-batches are one):
what other instructions call is part of them.
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

    num_bytes: int  # of the numbers in it
    stored_bytes: int  # with the padding of its tiles
    in_hbm: bool  # otherwise it stays on the chip


class Instruction(NamedTuple):
    """One instruction of the entry computation."""

    name: str
    opcode: str
    cycles: int  # the compiler's estimate; 0 where it has none
    op_name: str  # path of the operation that it comes from, as JAX names it
    source: str  # file:line of that operation, "" where unknown
    outputs: tuple[Buffer, ...]


class Collective(NamedTuple):
    """All instructions of one kind that exchange data between devices."""

    opcode: str
    count: int
    num_bytes: int  # of results on one device


def parse_entry(text: str, *, loop_count: int = 1) -> list[Instruction]:
    """The instructions of the entry computation, in order of execution.

    Those of a loop's body follow the loop, with cycles and outputs of `loop_count` rounds: the text does not say how
    many there are.
    """
    source_of = _stack_frames(text)
    instructions = []
    for line in text[text.index("\nENTRY ") :].splitlines():
        instruction = _parse_line(line, source_of)
        if instruction is None:
            continue
        instructions.append(instruction)
        body = re.search(r"\bbody=%?([\w.\-]+)", line) if instruction.opcode == "while" else None
        if body:
            found = (_parse_line(inner, source_of) for inner in _computation(text, body[1]).splitlines())
            instructions += [
                i._replace(cycles=loop_count * i.cycles, outputs=loop_count * i.outputs) for i in found if i is not None
            ]
    return instructions


def _computation(text: str, name: str) -> str:
    """The lines between a computation's braces."""
    found = re.search(rf"^%?{re.escape(name)} \(.*?^\}}", text, re.M | re.S)
    return found[0] if found else ""


def _parse_line(line: str, source_of: dict[str, str]) -> Instruction | None:
    found = _INSTRUCTION.match(line)
    if not found:
        return None
    shapes, opcode = _split_result(line[found.end() :])
    cycles = re.search(r'"estimated_cycles":"(\d+)"', line)
    op_name = re.search(r'op_name="([^"]*)"', line)
    return Instruction(
        found[1],
        opcode,
        int(cycles[1]) if cycles else 0,
        op_name[1] if op_name else "",
        _source(line, source_of),
        tuple(_buffers(shapes)),
    )


def _split_result(rest: str) -> tuple[str, str]:
    """`(shapes, opcode)` of "SHAPES opcode(operands), ..."; shapes of a tuple are in parentheses."""
    if rest.startswith("("):
        depths = itertools.accumulate((character == "(") - (character == ")") for character in rest)
        end = next(i for i, depth in enumerate(depths, start=1) if depth == 0)
        shapes, rest = rest[:end], rest[end:].lstrip()
    else:
        shapes, _, rest = rest.partition(" ")
    return shapes, rest.partition("(")[0].strip()


def _buffers(shapes: str) -> list[Buffer]:
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
    """Elements of an array whose minor-most dimensions are filled up to multiples of the tile's."""
    ordered = [sizes[d] for d in minor_to_major]
    for i, t in enumerate(reversed(tile)):
        if i < len(ordered):
            ordered[i] = -(-ordered[i] // t) * t
    return math.prod(ordered)


def _stack_frames(text: str) -> dict[str, str]:
    """file:line by stack_frame_id, from the tables at the head of the text."""
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
    found = re.search(rf"^{name}\n(.*?)\n\n", text, re.M | re.S)
    return found[1] if found else ""


def _source(line: str, source_of: dict[str, str]) -> str:
    frame = re.search(r"stack_frame_id=(\d+)", line)
    if frame:
        return source_of.get(frame[1], "")
    found = re.search(r'source_file="([^"]*)" source_line=(\d+)', line)
    return f"{os.path.basename(found[1])}:{found[2]}" if found else ""


def collectives(instructions: Sequence[Instruction]) -> list[Collective]:
    """What goes between devices, by kind."""
    found: dict[str, list[int]] = {}
    for instruction in instructions:
        kind = _COLLECTIVE.match(instruction.opcode)
        if kind:
            found.setdefault(kind[1], []).append(sum(b.num_bytes for b in _results(instruction)))
    return [Collective(opcode, len(sizes), sum(sizes)) for opcode, sizes in sorted(found.items())]


def _results(instruction: Instruction) -> Sequence[Buffer]:
    """Outputs without the operands that asynchronous instructions list before them."""
    outputs = instruction.outputs
    if instruction.opcode == "all-gather-start":  # (operands, results)
        return outputs[len(outputs) // 2 :]
    if instruction.opcode == "collective-permute-start":  # (operand, result, contexts)
        return outputs[1:2]
    return outputs


def stage_of(instruction: Instruction) -> str | None:
    """The U-Net's stage (down0, center, up1, head) that an instruction belongs to, by its name."""
    found = re.search(r"/(down\d+|center|up\d+|head)/", instruction.op_name + "/")
    return found[1] if found else None
