"""References in x86-64 code, found by their opcodes without disassembling.

`call` and `jmp` rel32 (E8, E9), conditional jumps (0F 80 to 0F 8F), and ModRM bytes that say
[rip + disp32] (mod 0, r/m 5). Intel SDM, volume 2, sections 2.1.5 and 2.2.1.6. A candidate counts
only if its target lies in a section that is loaded: executed for jumps.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np

from hacktree.common.delta.elf import U8, Elf, Section
from hacktree.common.delta.references import Group, Reach, fields, in_ranges
from hacktree.common.delta.varint import I64

_CHUNK: Final = 1 << 17
"""Bytes looked at in one go: what stays in a processor's cache."""


def code_references(elf: Elf, section: Section, reach: Reach) -> Iterator[Group]:
    """The groups of one executable section: jumps, conditional jumps, RIP-relative operands."""
    code = elf.bytes_of(section)
    jumps, conditional, rip = _candidates(code)
    pairs = ((jumps, reach.executed), (conditional, reach.executed), (rip, reach.loaded))
    for at, ranges in pairs:
        at = at[at + 4 <= len(code)]
        values = fields(code, 4)[at].astype(np.int64) if len(at) else at
        targets = section.address + at + 4 + values
        inside = in_ranges(targets, ranges)
        yield Group(4, at[inside] + section.offset, targets[inside], bias=4)


def _candidates(code: U8) -> tuple[I64, I64, I64]:
    """Offsets of the fields behind each kind of opcode."""
    found: tuple[list[I64], list[I64], list[I64]] = ([], [], [])
    for start in range(0, len(code), _CHUNK):
        part = code[start : start + _CHUNK]
        found[0].append(np.flatnonzero((part & 0xFE) == 0xE8) + (start + 1))
        # One byte more at the end: the second byte of an opcode may be the next part's first.
        two = code[start : start + _CHUNK + 1]
        second = (two[:-1] == 0x0F) & ((two[1:] & 0xF0) == 0x80)
        found[1].append(np.flatnonzero(second) + (start + 2))
        found[2].append(np.flatnonzero((part & 0xC7) == 0x05) + (start + 1))
    empty = np.zeros(0, np.int64)
    jumps, conditional, rip = (np.concatenate([empty, *part]) for part in found)
    return jumps, conditional, rip
