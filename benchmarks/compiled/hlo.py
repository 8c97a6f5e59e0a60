"""Read the text of a compiled program: what its instructions are, and what they were in the model.

Text that is not a compiled program is a ValueError.
"""

import collections
import dataclasses
import re

# Named scopes of the model code -> what a breakdown calls them. The innermost counts.
SCOPES = {
    "norm": "norms",
    "attention": "attention",
    "resample": "resampling",
    "optimizer": "optimizer",
    "draws": "noise and time steps",
}
LAYOUT = {"copy", "transpose", "bitcast", "reshape", "copy-start", "copy-done"}
EXCHANGE = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
CONTAINERS = ("while", "conditional", "call")  # their time is that of what they call
KINDS = ("convolutions", "matrix products", *SCOPES.values(), "layout changes", "exchange", "other")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a program."""

    name: str
    opcode: str
    result: str  # its type: f32[8,64]{1,0}, or a tuple of such
    text: str

    @property
    def scope(self) -> str | None:
        """The innermost named scope it comes from, by `SCOPES`."""
        found = re.search(r'op_name="([^"]*)"', self.text)
        words = re.findall(r"\w+", found[1]) if found else []
        return next((SCOPES[word] for word in reversed(words) if word in SCOPES), None)

    @property
    def calls(self) -> str | None:
        """The computation that it runs, of a fusion or a call."""
        found = re.search(r"(?:calls|to_apply)=%?([\w.\-]+)", self.text)
        return found[1] if found else None


@dataclasses.dataclass(frozen=True)
class Program:
    """Computations by name, each a list of instructions in the order they are run."""

    entry: str
    computations: dict[str, list[Instruction]]

    def inside(self, instruction: Instruction) -> list[Instruction]:
        """The instruction itself, or what it is made of."""
        body = self.computations.get(instruction.calls or "", [])
        return [inner for part in body for inner in self.inside(part)] or [instruction]

    def kind(self, instruction: Instruction) -> str:
        """One of `KINDS`: what the instruction is in the model."""
        parts = [part for part in self.inside(instruction) if part.opcode != "parameter"]
        opcodes = {part.opcode for part in parts}
        scopes = collections.Counter(part.scope for part in (*parts, instruction) if part.scope)
        scope = scopes.most_common(1)[0][0] if scopes else None
        library = re.search(r'custom_call_target="([^"]*)"', instruction.text)
        library = library[1].lower() if library else ""
        if "convolution" in opcodes or "conv" in library:
            return "convolutions"
        if "dot" in opcodes or "gemm" in library or "matmul" in library:
            return "attention" if scope == "attention" else "matrix products"
        if instruction.opcode.startswith(EXCHANGE):
            return "exchange"
        if opcodes <= LAYOUT:
            return "layout changes"
        return scope or "other"


def parse(text: str) -> Program:
    """The program that `compiled.as_text()` gives."""
    entry, computations, current = None, {}, None
    for line in text.splitlines():
        header = re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line)
        if header and not line.startswith("HloModule"):
            current = computations.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        found = re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\(", line)
        if found and current is not None:
            current.append(Instruction(found[1], found[3], found[2], line))
    if entry is None:
        raise ValueError(f"not the text of a compiled program: {text[:80]!r}")
    return Program(entry, computations)
