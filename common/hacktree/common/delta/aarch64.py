"""References in A64 code: branches, literals, and the pairs that make an address of a page.

Instructions are aligned words. Arm Architecture Reference Manual, C4.1 "A64 instruction set
encoding": masks and values below are its fixed bits. ADRP gives a page; the ADD or the load or
store that uses its register within a few instructions gives the rest. What lies between is not
followed, only watched for what changes the register. A candidate counts only if its target is
executed (branches) or loaded.
"""

from collections.abc import Iterator
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from hacktree.common.delta.elf import Elf, Section
from hacktree.common.delta.encodings import PAGE_BITS, PAGE_MASK, Encoding
from hacktree.common.delta.references import Group, Reach, in_ranges
from hacktree.common.delta.varint import I64

U32 = npt.NDArray[np.uint32]

_CHUNK: Final = 1 << 15
"""Words looked at in one go: what stays in a processor's cache."""

_WINDOW: Final = 16
"""Instructions behind an ADRP among which its other half is looked for."""

_SCALES: Final = (1, 2, 4, 8, 16)
"""Bytes that a load or store accesses: the units of its offset."""


class _Shape(msgspec.Struct, frozen=True):
    """Instructions whose bits under `mask` are `value`."""

    mask: int
    value: int

    def of(self, words: U32) -> np.ndarray:
        """Which words are such instructions."""
        found: np.ndarray = (words & np.uint32(self.mask)) == np.uint32(self.value)
        return found


_B: Final = _Shape(0x7C000000, 0x14000000)
"""B, BL: "Unconditional branch (immediate)"."""
_B_COND: Final = _Shape(0xFF000000, 0x54000000)
"""B.cond, BC.cond: "Conditional branch (immediate)"."""
_CBZ: Final = _Shape(0x7E000000, 0x34000000)
"""CBZ, CBNZ: "Compare and branch (immediate)"."""
_TBZ: Final = _Shape(0x7E000000, 0x36000000)
"""TBZ, TBNZ: "Test and branch (immediate)"."""
_LITERAL: Final = _Shape(0x3B000000, 0x18000000)
"""LDR, LDRSW, PRFM: "Load register (literal)"."""
_ADR: Final = _Shape(0x9F000000, 0x10000000)
"""ADR: "PC-rel. addressing"."""
_ADRP: Final = _Shape(0x9F000000, 0x90000000)
_ADD: Final = _Shape(0xFFC00000, 0x91000000)
"""ADD of 64 bits, not shifted: "Add/subtract (immediate)"."""
_ACCESS: Final = _Shape(0x3B000000, 0x39000000)
"""LDR, STR and the like: "Load/store register (unsigned immediate)"."""
_BRANCHES: Final = _Shape(0x1C000000, 0x14000000)
"""The whole group "Branches, Exception Generating and System instructions"."""
_JUMP: Final = _Shape(0xFC000000, 0x14000000)
_RETURN: Final = _Shape(0xFF9FFC1F, 0xD61F0000)
"""BR, BLR, RET: "Unconditional branch (register)"."""
_CALL: Final = _Shape(0xFC000000, 0x94000000)
_CALL_REGISTER: Final = _Shape(0xFFFFFC1F, 0xD63F0000)


def code_references(elf: Elf, section: Section, reach: Reach) -> Iterator[Group]:
    """The groups of one executable section, kind by kind; pairs, then pages without one."""
    code = elf.bytes_of(section)
    words = code[: len(code) // 4 * 4].copy().view("<u4")
    found = _find(words)
    for kind, at in zip(_KINDS, found, strict=False):
        ranges = reach.executed if kind.leads_to_code else reach.loaded
        yield _direct(section, words, at, kind, ranges)
    if not elf.is_relocatable:
        yield from _pairs(section, words, found[-1], reach)


class _Kind(msgspec.Struct, frozen=True):
    """Instructions with one immediate that says all."""

    shapes: tuple[_Shape, ...]
    encoding: Encoding
    scale: int
    leads_to_code: bool


_KINDS: Final = (
    _Kind((_B,), Encoding.BRANCH26, 4, leads_to_code=True),
    _Kind((_B_COND, _CBZ), Encoding.BRANCH19, 4, leads_to_code=True),
    _Kind((_LITERAL,), Encoding.BRANCH19, 4, leads_to_code=False),
    _Kind((_TBZ,), Encoding.BRANCH14, 4, leads_to_code=True),
    _Kind((_ADR,), Encoding.NEAR21, 1, leads_to_code=False),
)


def _find(words: U32) -> list[I64]:
    """The indexes of instructions of each kind, and last those of ADRP."""
    wanted = [*(kind.shapes for kind in _KINDS), (_ADRP,)]
    found: list[list[I64]] = [[np.zeros(0, np.int64)] for _ in wanted]
    for start in range(0, len(words), _CHUNK):
        part = words[start : start + _CHUNK]
        for shapes, indexes in zip(wanted, found, strict=True):
            which = shapes[0].of(part)
            for shape in shapes[1:]:
                which |= shape.of(part)
            indexes.append(np.flatnonzero(which) + start)
    return [np.concatenate(indexes) for indexes in found]


def _direct(
    section: Section, words: U32, index: I64, kind: _Kind, ranges: tuple[I64, I64]
) -> Group:
    values = kind.encoding.extract(words[index].astype(np.int64))
    target = section.address + 4 * index + values * kind.scale
    # What leads to itself is yet to be relocated.
    chosen = np.flatnonzero(in_ranges(target, ranges) & (values != 0))
    at = section.offset + 4 * index[chosen]
    return Group(4, at, target[chosen], scale=kind.scale, encoding=kind.encoding)


def _pairs(section: Section, words: U32, index: I64, reach: Reach) -> Iterator[Group]:
    """Pages, each as its first other half completes it, and other halves by their scale."""
    distance = Encoding.PAGE21.extract(words[index].astype(np.int64))
    page = ((section.address + 4 * index) >> PAGE_BITS) + distance << PAGE_BITS
    owner, half = _halves(words, index)
    low, scale = _offsets(words[half])
    target = page[owner] + low
    good = (low <= PAGE_MASK) & in_ranges(target, reach.loaded)
    owner, half, target, scale = owner[good], half[good], target[good], scale[good]
    # Halves stand in order, so the first of each owner is the nearest.
    paired, first = np.unique(owner, return_index=True)
    at = section.offset + 4 * index
    yield Group(4, at[paired], target[first], encoding=Encoding.PAGE21)
    alone = in_ranges(page, reach.loaded)
    alone[paired] = False
    yield Group(4, at[alone], page[alone], encoding=Encoding.PAGE21)
    for size in _SCALES:
        chosen = np.flatnonzero(scale == size)
        chosen = chosen[np.argsort(half[chosen], kind="stable")]
        places = section.offset + 4 * half[chosen]
        yield Group(4, places, target[chosen], scale=size, encoding=Encoding.LOW12)


def _halves(words: U32, index: I64) -> tuple[I64, I64]:
    """(number of the ADRP, index of a word that uses its register as a base), by distance."""
    owners, halves = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    number = np.arange(len(index), dtype=np.int64)
    register = words[index] & np.uint32(31)
    for step in range(1, _WINDOW + 1):
        inside = index[number] + step < len(words)
        number, register = number[inside], register[inside]
        here = index[number] + step
        word = words[here]
        adds, accesses = _ADD.of(word), _ACCESS.of(word)
        used = (adds | accesses) & ((word >> np.uint32(5) & np.uint32(31)) == register)
        owners.append(number[used])
        halves.append(here[used])
        alive = ~_ends(word, register, accesses)
        number, register = number[alive], register[alive]
    return np.concatenate(owners), np.concatenate(halves)


def _ends(word: U32, register: U32, accesses: np.ndarray) -> np.ndarray:
    """Where what is in the register is lost, or the next word runs on another path."""
    calls = _CALL.of(word) | _CALL_REGISTER.of(word)
    jumps = (_JUMP.of(word) | _RETURN.of(word)) & ~calls
    # Calls keep X19 to X28 (AAPCS64, 6.1.1).
    calls &= register < np.uint32(19)
    # Stores and loads of vectors have another register there, branches a part of an offset.
    kept = accesses & ((word & np.uint32(0x04000000)) != 0)
    kept |= accesses & ((word & np.uint32(0x00C00000)) == 0)
    kept |= _BRANCHES.of(word)
    ended: np.ndarray = jumps | calls | (((word & np.uint32(31)) == register) & ~kept)
    return ended


def _offsets(words: U32) -> tuple[I64, I64]:
    """The offsets in bytes of ADDs, loads and stores, and their units."""
    word = words.astype(np.int64)
    vector = ((word >> 26 & 1) == 1) & ((word >> 23 & 1) == 1)
    size = np.where(vector, 4, word >> 30)
    scale = np.where(_ADD.of(words), 1, np.int64(1) << size)
    return (word >> 10 & PAGE_MASK) * scale, scale
