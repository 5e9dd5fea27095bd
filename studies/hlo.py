"""Reads what a compiler says of a program from the text of the compiled program (`compiled.as_text()`).

The text is HLO after scheduling: computations, each with one instruction a line. The instructions that run are those of
the entry computation, and those of the bodies of loops and branches that run from there. Instructions inside a fused
computation are one kernel together with their fusion.

The TPU's compiler writes `estimated_cycles` into the `backend_config` of the instructions that take time. The estimate
of a computation is the sum over its instructions. A loop adds its body as often as its known trip count says, a branch
adds its dearest side. A program of many updates has one loop whose count is an argument, so no trip count is known: the
update is one pass through the body of that loop. If there is no such loop, the program is one update.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

HEAD = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{$")
LINE = re.compile(r"^\s+(?:ROOT )?%?(?P<name>[\w.\-]+) = (?P<rest>.*)$")
OPCODE = re.compile(r"^([a-z][\w\-]*)\(")
ARRAY = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]")
CALLED = re.compile(r"\b(body|condition|to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)")
BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
CYCLES, TRIPS = re.compile(r'"estimated_cycles":"?(\d+)'), re.compile(r'"known_trip_count":\{"n":"(\d+)"')
SOURCE = re.compile(r'op_name="([^"]*)"')
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
NAMES = ("parameter", "tuple", "get-tuple-element", "bitcast", "constant", "while", "conditional", "call")  # no work
CONVOLUTION = "__cudnn$conv"
SIZES = {"pred": 1, "s4": 0.5, "u4": 0.5, "bf16": 2, "c64": 8, "c128": 16}


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
        name: its name.
        opcode: "fusion", "copy", "custom-call", ...
        shapes: (type, dimensions) of each array that it returns.
        text: its line, without the name.
    """

    name: str
    opcode: str
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    text: str

    @functools.cached_property
    def cycles(self) -> int:
        """The compiler's estimate of the instruction itself; 0 where it gives none."""
        found = CYCLES.search(self.text)
        return int(found[1]) if found else 0

    @property
    def source(self) -> str:
        """The operation of the traced program that the instruction comes from."""
        found = SOURCE.search(self.text)
        return found[1] if found else ""

    @property
    def called(self) -> dict[str, str]:
        """Role ("body", "to_apply", ...) -> name of the computation that the instruction runs."""
        return dict(CALLED.findall(self.text))

    @property
    def bytes(self) -> int:
        """Bytes of the arrays that it returns, without padding."""
        return sum(int(math.prod(dims) * _size(dtype)) for dtype, dims in self.shapes)


def _size(dtype: str) -> float:
    return SIZES.get(dtype) or int(re.search(r"\d+", dtype)[0]) / 8


def parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """Returns (name of a computation -> its instructions, the name of the entry computation)."""
    found, entry, current = {}, "", None
    for line in text.splitlines():
        if head := HEAD.match(line):
            current = found[head["name"]] = []
            entry = head["name"] if head["entry"] else entry
        elif (match := LINE.match(line)) and current is not None:
            shape, rest = _split(match["rest"])
            if opcode := OPCODE.match(rest):
                arrays = [
                    (dtype, tuple(map(int, filter(None, dims.split(","))))) for dtype, dims in ARRAY.findall(shape)
                ]
                current.append(Instruction(match["name"], opcode[1], tuple(arrays), rest))
    return found, entry


def _numbers(dims: str) -> tuple[int, ...]:
    return tuple(int(number) for number in dims.split(",") if number)


def _split(text: str) -> tuple[str, str]:
    """Splits "SHAPE opcode(...)"; a tuple's shape is in parentheses."""
    if not text.startswith("("):
        shape, _, rest = text.partition(" ")
        return shape, rest
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return text[: place + 1], text[place + 1 :].lstrip()
    return text, ""


class Program:
    """A compiled program.

    Args:
        text: `compiled.as_text()`.
    """

    def __init__(self, text: str):
        self.computations, self.entry = parse(text)
        loops = [x for x in self.computations[self.entry] if x.opcode == "while" and not TRIPS.search(x.text)]
        # The counts of other loops are known. The loop over updates is the longest of those whose count is not.
        self.loop = max(loops, key=lambda x: len(self.computations[x.called["body"]]), default=None)

    def runs(self, name: str) -> Iterator[tuple[Instruction, int]]:
        """Yields (instruction, how often) of all instructions that run in a computation, but in the loop of updates."""
        for instruction in self.computations[name]:
            if instruction is self.loop and name == self.entry:
                continue
            yield instruction, 1
            called = instruction.called
            if instruction.opcode == "while":
                known = TRIPS.search(instruction.text)
                times = int(known[1]) if known else 1
                yield from ((inner, times * count) for inner, count in self.runs(called["body"]))
            elif instruction.opcode == "call":
                yield from self.runs(called["to_apply"])
            elif instruction.opcode == "conditional":
                sides = BRANCHES.search(instruction.text)
                sides = sides[1].replace("%", "").split(", ") if sides else list(called.values())
                yield from max((list(self.runs(side)) for side in sides), key=_total)

    @functools.cached_property
    def update(self) -> list[tuple[Instruction, int]]:
        """(instruction, how often) of all instructions of one update."""
        return list(self.runs(self.loop.called["body"] if self.loop else self.entry))

    @functools.cached_property
    def once(self) -> list[tuple[Instruction, int]]:
        """The same of what runs once a call, beside the updates; empty if the program is one update."""
        return list(self.runs(self.entry)) if self.loop else []

    @property
    def cycles(self) -> int:
        """The estimate of one update."""
        return _total(self.update)

    @property
    def entry_cycles(self) -> int:
        """The estimate of what runs once a call."""
        return _total(self.once)

    @property
    def collectives(self) -> dict[str, dict[str, int]]:
        """Kind -> {"count", "bytes"} of an update."""
        found = {}
        for instruction, times in self.update:
            kind = instruction.opcode.removesuffix("-start")
            if kind in COLLECTIVES:
                own = found.setdefault(kind, {"count": 0, "bytes": 0})
                own["count"] += times
                own["bytes"] += times * instruction.bytes
        return found

    def kernels(self) -> int:
        """The number of kernels and library calls of an update on a GPU."""
        return sum(times for instruction, times in self.update if _launches(instruction))

    def convolutions(self) -> int:
        """The number of calls of cuDNN's convolutions in an update."""
        return sum(times for instruction, times in self.update if CONVOLUTION in instruction.text)

    def over(self, values: int) -> list[Instruction]:
        """The instructions that write an array of `values` values or more, or so many values of uint8 in several
        arrays: passes over the data set, for its size."""

        def large(x):
            sizes = [(dtype, math.prod(dims)) for dtype, dims in x.shapes]
            return max(size for _, size in sizes) >= values or sum(s for dtype, s in sizes if dtype == "u8") >= values

        return [x for x, _ in [*self.once, *self.update] if x.opcode not in NAMES and x.shapes and large(x)]

    def dearest(self, count: int) -> list[tuple[int, Instruction]]:
        """(cycles, instruction) of the dearest instructions of an update."""
        return sorted(((times * x.cycles, x) for x, times in self.update), key=lambda pair: -pair[0])[:count]


def _total(instructions: list[tuple[Instruction, int]]) -> int:
    return sum(times * instruction.cycles for instruction, times in instructions)


def _launches(instruction: Instruction) -> bool:
    name = instruction.opcode.removesuffix("-start")
    return name not in NAMES and not instruction.opcode.endswith("-done")
