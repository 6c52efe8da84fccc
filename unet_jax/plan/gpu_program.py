"""Kernels of an optimised GPU program, and the bytes that each moves, from the program's text.

For GPUs the compiler gives neither cycles nor bytes, so the bytes are counted here: what every kernel reads and writes,
if nothing stays in the cache between two kernels.
"""

import dataclasses
import re
from collections.abc import Iterator

from unet_jax.plan.hlo import Instruction, parse_instruction, source_locations

SMALL_BYTES = 1_000_000  # a kernel that moves less takes about as long as its launch
_NO_KERNEL = {
    "after-all", "bitcast", "call", "conditional", "constant", "get-tuple-element", "parameter", "partition-id",
    "replica-id", "tuple", "while",
}  # fmt: skip
_SLICES = {"slice", "dynamic-slice", "gather"}


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One launch, or one call of a library such as cuDNN."""

    instruction: Instruction
    read_bytes: int  # of one round
    written_bytes: int  # of one round
    rounds: int  # how often it is executed

    @property
    def num_bytes(self) -> int:
        """Bytes read and written in all rounds."""
        return self.rounds * (self.read_bytes + self.written_bytes)


@dataclasses.dataclass(frozen=True)
class _Line:
    """An instruction with the names of its operands and of the computation that it calls."""

    instruction: Instruction
    operands: tuple[str, ...]
    called: tuple[str, ...]
    number: int  # of a parameter, else -1
    is_root: bool
    rounds: int | None  # of a loop, where the text says it

    @property
    def num_bytes(self) -> int:
        return sum(buffer.num_bytes for buffer in self.instruction.outputs)


def list_kernels(text: str, *, loop_count: int = 1) -> list[Kernel]:
    """Return the kernels of the entry computation and of its loops, in order.

    An input that a fusion only slices counts as the slices. A fusion that only updates a part of an array in place
    counts as that part.

    Args:
      text: text of a compiled program.
      loop_count: number of rounds of loops for which the text does not say it.

    Example:
      >>> text = '''
      ... ENTRY %main (x: f32[4]) -> f32[4] {
      ...   %x = f32[4]{0} parameter(0)
      ...   ROOT %y = f32[4]{0} negate(%x)
      ... }'''
      >>> [(k.instruction.name, k.read_bytes, k.written_bytes) for k in list_kernels(text)]
      [('y', 16, 16)]
    """
    locations = source_locations(text)
    computations = {name: _lines(body, locations) for name, body in _computations(text)}
    entry = next(name for name in computations if name.startswith("ENTRY "))
    return list(_kernels(computations, entry, 1, loop_count))


def _computations(text: str) -> Iterator[tuple[str, str]]:
    """Yield name and body of every computation; the entry's name begins with "ENTRY "."""
    for found in re.finditer(r"^(ENTRY )?%?([\w.\-]+) \([^\n]*\{\n(.*?)^\}", text, re.M | re.S):
        yield (found[1] or "") + found[2], found[3]


def _lines(body: str, locations: dict[str, str]) -> list[_Line]:
    """Parse the instructions of a computation."""
    lines = []
    for row in body.splitlines():
        instruction = parse_instruction(row, locations)
        if instruction is None:
            continue
        opcode = instruction.opcode
        arguments = row[row.index(f" {opcode}(") + len(opcode) + 2 :]
        number = int(arguments.partition(")")[0]) if opcode == "parameter" else -1
        rounds = re.search(r'"known_trip_count":\{"n":"(\d+)"', arguments)
        lines.append(
            _Line(
                instruction,
                tuple(re.findall(r"%([\w.\-]+)", _until_closed(arguments))),
                tuple(re.findall(r"\b(?:calls|to_apply|body|branch_computations)=\{?%?([\w.\-]+)", arguments)),
                number,
                row.lstrip().startswith("ROOT "),
                int(rounds[1]) if rounds else None,
            )
        )
    return lines


def _until_closed(text: str) -> str:
    """Return the text before the parenthesis that closes the one before its first character."""
    depth = 1
    for i, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return text[:i]
    return text


def _kernels(computations: dict[str, list[_Line]], name: str, rounds: int, loop_count: int) -> Iterator[Kernel]:
    """Yield the kernels of a computation that runs `rounds` times."""
    lines = computations.get(name, [])
    num_bytes = {line.instruction.name: line.num_bytes for line in lines}
    for line in lines:
        opcode = line.instruction.opcode
        if opcode in ("while", "call", "conditional"):
            inner = rounds * (line.rounds or loop_count) if opcode == "while" else rounds
            for called in line.called[:1]:
                yield from _kernels(computations, called, inner, loop_count)
        elif opcode not in _NO_KERNEL and not opcode.endswith("-done"):
            read = [num_bytes.get(operand, 0) for operand in line.operands]
            written = line.num_bytes
            if opcode == "fusion" and line.called and line.called[0] in computations:
                read, written = _of_fusion(computations[line.called[0]], read, written)
            elif opcode.endswith("-start"):  # its outputs hold its operands too
                written -= min(written, sum(read))
            yield Kernel(line.instruction, sum(read), written, rounds)


def _of_fusion(lines: list[_Line], read: list[int], written: int) -> tuple[list[int], int]:
    """Return what a fusion really reads of each operand, and what it writes."""
    by_name = {line.instruction.name: line for line in lines}
    read = list(read)
    for line in lines:
        users = [user for user in lines if line.instruction.name in user.operands]
        if 0 <= line.number < len(read) and users and all(u.instruction.opcode in _SLICES for u in users):
            # The start of a dynamic slice is an operand too, but of no size worth counting.
            read[line.number] = min(read[line.number], sum(user.num_bytes for user in users))
    for line in lines:
        if not (line.is_root and line.instruction.opcode == "dynamic-update-slice"):
            continue
        updated, update = (by_name.get(operand) for operand in line.operands[:2])
        if update is not None:
            written = min(written, update.num_bytes)
        if updated is not None and 0 <= updated.number < len(read):
            read[updated.number] = 0
    return read, written
