"""ELF files of A64 code, assembled by hand: no cross compiler is needed."""

import random
import struct
from typing import Final

NOP: Final = 0xD503201F
TEXT: Final = 0x1000
DATA: Final = 0x21000
"""Addresses of the sections of `make_elf`."""


def make_elf(words: list[int], data: bytes = bytes(0x2000), *, hole: int = 0) -> bytes:
    """A library of .text at `TEXT`, and of .data at `DATA` + `hole`."""
    text = struct.pack(f"<{len(words)}I", *words)
    names = b"\0.text\0.data\0.shstrtab\0"
    rows = [
        (0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
        (1, 1, 6, TEXT, 64, len(text), 0, 0, 4, 0),
        (7, 1, 3, DATA + hole, 64 + len(text), len(data), 0, 0, 8, 0),
        (13, 3, 0, 0, 64 + len(text) + len(data), len(names), 0, 0, 1, 0),
    ]
    body = text + data + names
    body += bytes(-len(body) % 8)
    head = struct.pack(
        "<16sHHIQQQIHHHHHH",
        *(b"\x7fELF\x02\x01\x01", 3, 183, 1, 0, 0, 64 + len(body), 0, 64, 0, 0, 64, 4, 3),
    )
    return head + body + b"".join(struct.pack("<IIQQQQIIQQ", *row) for row in rows)


def program(version: int) -> bytes:
    """Functions that call each other and use data; version 1 has one more and moves .data."""
    count = 400
    chance = random.Random(5)
    names = list(range(count))
    plans = {
        name: [(chance.choice("cdl"), chance.randrange(count)) for _ in range(9)]
        for name in [*names, count]
    }
    if version:
        names.insert(100, count)
    place = {name: 40 * index for index, name in enumerate(names)}
    hole = 0x1238 * version
    words: list[int] = []
    for name in names:
        start = len(words)
        for kind, other in plans[name]:
            here = len(words)
            if kind == "c":
                words.append(0x94000000 | (place[other] - here) & 0x3FFFFFF)  # bl
                continue
            target = DATA + hole + 8 * other
            pages = (target >> 12) - (TEXT + 4 * here >> 12)
            adrp = 0x90000000 | (pages & 3) << 29 | (pages >> 2 & 0x7FFFF) << 5
            low = target & 0xFFF
            half = 0x91000000 | low << 10 if kind == "d" else 0xF9400000 | low // 8 << 10
            words += [adrp | 9, half | 9 << 5 | 9]
        # Something of its own: mov w3, #name; mov w4, #2 name + 1.
        words += [0x52800003 | name << 5, 0x52800004 | (2 * name + 1) << 5]
        words += [NOP] * (start + 40 - len(words))
    return make_elf(words, bytes(range(256)) * 32, hole=hole)
