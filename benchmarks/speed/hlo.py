"""Collectives in the text of a compiled program: how many of each kind, and the bytes that they give back."""

import math
import re
from typing import TypedDict

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_INSTRUCTION = re.compile(rf"=\s+(?P<shape>\(.*?\)|\S+)\s+(?P<kind>{'|'.join(KINDS)})(?P<start>-start)?\(")
_ARRAY = re.compile(r"\b(?P<type>pred|bf16|[a-z]\d+\w*)\[(?P<axes>[\d,]*)\]")


class Count(TypedDict):
    """Of one kind.

    Attributes:
      count: instructions.
      bytes: of their results, on one device.
    """

    count: int
    bytes: int


def collectives(text: str) -> dict[str, Count]:
    """Collectives by kind in `text`, the HLO of a compiled program; an instruction inside a loop counts once.

    Asynchronous ones count at their start, whose result, where it pairs operands with results, is taken by half.
    """
    found: dict[str, Count] = {}
    for match in _INSTRUCTION.finditer(text):
        kind, sizes = match["kind"], [_bytes(array) for array in _ARRAY.finditer(match["shape"])]
        if match["start"] and kind != "all-reduce":
            sizes = sizes[len(sizes) // 2 :]
        entry = found.setdefault(kind, {"count": 0, "bytes": 0})
        entry["count"] += 1
        entry["bytes"] += sum(sizes)
    return found


def _bytes(array: re.Match[str]) -> int:
    elements = math.prod(int(size) for size in array["axes"].split(",") if size)
    bits = re.search(r"\d+", array["type"])
    return math.ceil(elements * (int(bits[0]) if bits else 8) / 8)
