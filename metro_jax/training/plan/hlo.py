"""XLA's optimised program, read from its text: instructions, their sizes, and how often each computation runs.

The compiler's own cost analysis counts the body of a loop once; layers are scanned here, so everything is multiplied
by the trip counts of the loops around it.
"""

import dataclasses
import functools
import re
from collections.abc import Iterator, Mapping

BYTES = {"pred": 1, "bf16": 2, "f16": 2, "f32": 4, "f64": 8, "c64": 8, "c128": 16, "token": 0, "opaque": 0}
ARRAY = re.compile(r"\b(pred|token|opaque|bf16|[sufc]\d+(?:e\d+m\d+\w*)?)\[([\d,]*)\](\{[^{}]*\})?")
HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) (?:\([^\n]*\) -> .*)?\{$")
INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
CALLED = re.compile(
    r"\b(calls|to_apply|body|condition|branch_computations|called_computations)=(?:%?([\w.\-]+)|\{([^}]*)\})"
)
QUOTE = re.compile(r'(?<!\\)(?:\\\\)*"')
NAME = re.compile(r"%([\w.\-]+)")
ON_CHIP = re.compile(r"S\([1-9]\d*\)")  # memory spaces other than the main memory, in an array's layout


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Args:
        shape: its result as written: an array type, or a tuple of them.
        operands: names of instructions of the same computation.
        rest: everything after the operands: attributes and metadata.
    """

    name: str
    opcode: str
    shape: str
    operands: tuple[str, ...]
    rest: str
    arguments: str
    root: bool

    @property
    def bytes(self) -> int:
        """Of the result."""
        return shape_bytes(self.shape)

    def called(self, *kinds: str) -> list[str]:
        """Computations that it runs, by attribute name."""
        return [
            name.strip().lstrip("%")
            for kind, one, several in CALLED.findall(self.rest)
            if kind in kinds
            for name in (one or several).split(",")
        ]


def shape_bytes(shape: str, main_memory_only: bool = False) -> int:
    """Bytes of an array type or of all arrays of a tuple, without the padding of tiles.

    Args:
        main_memory_only: leave out arrays that the compiler keeps in a faster memory on the chip.
    """
    total = 0
    for kind, sizes, layout in ARRAY.findall(shape):
        if main_memory_only and ON_CHIP.search(layout):
            continue
        count = 1
        for size in filter(None, sizes.split(",")):
            count *= int(size)
        total += int(count * element_bytes(kind))
    return total


def element_bytes(kind: str) -> float:
    """Of one number of an XLA type such as bf16, f8e4m3fn or s4."""
    if kind in BYTES:
        return BYTES[kind]
    bits = int(re.findall(r"\d+", kind)[0])
    return bits / 8 if bits < 8 else bits // 8


class Program:
    """A compiled module.

    Args:
        text: of `compiled.as_text()`.
        loop: how often a loop of unknown length is taken to run.

    Raises:
        ValueError: the text has no entry computation.
    """

    def __init__(self, text: str, loop: int = 1) -> None:
        self.loop = loop
        self.computations: dict[str, dict[str, Instruction]] = {}
        self.entry = ""
        current: dict[str, Instruction] | None = None
        in_string = False  # custom calls hold whole programs in strings with line breaks
        for line in text.splitlines():
            was_in_string, in_string = in_string, in_string ^ (len(QUOTE.findall(line)) % 2 == 1)
            if was_in_string:
                continue
            if current is None or not line.startswith(" "):
                header = HEADER.match(line)
                if header and not line.startswith("HloModule"):
                    current = self.computations.setdefault(header[2], {})
                    self.entry = header[2] if header[1] else self.entry
                continue
            if INSTRUCTION.match(line):
                instruction = parse_instruction(line)
                current[instruction.name] = instruction
        if not self.entry:
            raise ValueError("this is not the text of a compiled program: it has no ENTRY computation")

    @functools.cached_property
    def times(self) -> Mapping[str, int]:
        """How often each computation runs in one execution of the program."""
        found: dict[str, int] = {}
        self._count(self.entry, 1, found)
        return found

    def _count(self, name: str, times: int, found: dict[str, int]) -> None:
        found[name] = found.get(name, 0) + times
        for instruction in self.computations[name].values():
            if instruction.opcode == "while":
                body, condition = instruction.called("body"), instruction.called("condition")
                trips = self.trip_count(instruction)
                for inner in body + condition:
                    self._count(inner, times * trips, found)
            else:
                kinds = ["calls", "branch_computations", "called_computations"]
                if instruction.opcode == "call":
                    kinds.append("to_apply")
                for inner in instruction.called(*kinds):
                    if inner in self.computations:
                        self._count(inner, times, found)

    def trip_count(self, loop: Instruction) -> int:
        """How often a loop runs: what the compiler says, else the constant that its counter is compared with.

        Loops of unknown length, such as generation up to the end mark, run `self.loop` times.
        """
        stated = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.rest)
        if stated:
            return int(stated[1])
        bounds = list(self._compared(loop.called("condition")[0]))
        return bounds[0] if len(bounds) == 1 else self.loop

    def _compared(self, name: str) -> Iterator[int]:
        """Constants of a condition `counter < constant`, fused or not; none where it looks otherwise."""
        instructions = self.computations[name].values()
        directions = [i for inner in (name, *self._inside(name)) for i in self.computations[inner].values()]
        compares = [i for i in directions if i.opcode == "compare"]
        if len(compares) != 1 or "direction=LT" not in compares[0].rest:
            return
        for instruction in [*instructions, *directions]:
            if instruction.opcode == "constant" and re.fullmatch(r"[su]\d+\[\](\{.*\})?", instruction.shape):
                yield int(instruction.arguments)
                return

    def _inside(self, name: str) -> list[str]:
        return [c for i in self.computations[name].values() for c in i.called("calls") if c in self.computations]

    def walk(self) -> Iterator[tuple[str, Instruction, int]]:
        """(computation, instruction, executions) of everything that runs, fused computations included."""
        for name, times in self.times.items():
            for instruction in self.computations[name].values():
                yield name, instruction, times

    def operand_bytes(self, computation: str, instruction: Instruction) -> int:
        """Of all operands together."""
        known = self.computations[computation]
        return sum(known[name].bytes for name in instruction.operands if name in known)


def parse_instruction(line: str) -> Instruction:
    """One line such as `ROOT %add.1 = f32[8]{0} add(%a, %b), metadata={...}`."""
    match = INSTRUCTION.match(line)
    if match is None:
        raise ValueError(f"not an instruction: {line[:80]!r}")
    body = line[match.end() :]
    end = closing(body, 0) + 1 if body.startswith("(") else body.index(" ")
    shape, body = body[:end], body[end:].lstrip()
    opening = body.index("(")
    shut = closing(body, opening)
    arguments = body[opening + 1 : shut]
    operands = tuple(NAME.findall(arguments)) if body[:opening] not in ("constant", "parameter") else ()
    return Instruction(match[2], body[:opening], shape, operands, body[shut + 1 :], arguments, bool(match[1]))


def closing(text: str, start: int) -> int:
    """Where the parenthesis that opens at `start` closes."""
    depth = 0
    for i in range(start, len(text)):
        if text[i] == "(":
            depth += 1
        elif text[i] == ")":
            depth -= 1
            if depth == 0:
                return i
    return len(text) - 1
