"""A copy of an ELF file in which references say what they refer to, not where it is.

Only the encoder uses it, to find copies: moved code then matches in long runs, and a table of
pointers matches where it points to the same things. Every reference becomes a label: a hash of the
symbol's name where a relocation gives one, else of the bytes at the target. Those bytes hold
references themselves, so labels are made twice.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from msgspec.structs import replace

from hacktree.common.delta.addressmap import Places
from hacktree.common.delta.elf import SHT_DYNSYM, SHT_NOBITS, SHT_RELA, U8, Elf
from hacktree.common.delta.references import ABSOLUTE, Group, fields, write_values
from hacktree.common.delta.varint import I64, U64

_ROUNDS: Final = 2
_WORDS: Final = (0, 8, 16)
"""Offsets of the 8-byte words at a target that make its label."""

_MULTIPLIER: Final = np.uint64(0x9E3779B97F4A7C15)


def alignment_image(elf: Elf, groups: Sequence[Group]) -> U8:
    """The file with labels in place of references; sizes stay as they are."""
    image = elf.data.copy()
    pointers = [group for group in groups if not _is_size(group)]
    for group in pointers:
        write_values(image, group, group.at, np.zeros(len(group.at), np.int64))
    named = _names(elf)
    places, regions = Places.of(elf), _Regions(elf)
    slots = [places.addresses(group.at)[0] for group in pointers]
    for _ in range(_ROUNDS):
        labels = [
            _by_name(named, slot, _labels(image, regions, named, group.target))
            for group, slot in zip(pointers, slots, strict=True)
        ]
        for group, label in zip(pointers, labels, strict=True):
            shape = group if group.width == 4 else replace(group, width=4)
            write_values(image, shape, group.at, label.view(np.int64))
    return image


def _is_size(group: Group) -> bool:
    """Whether the field holds a length: its base is an address that varies as its target does."""
    if group.base is None or len(group.at) < 2:
        return False
    return bool(np.any(group.base[1:] != group.base[:-1])) and int(group.base[0]) != ABSOLUTE


class _Regions:
    """File offsets by address: sections in order of address."""

    def __init__(self, elf: Elf) -> None:
        rows = sorted((s.address, s.end - s.offset, s.offset) for s in elf.sections)
        table = np.array([row for row in rows if row[1]], np.int64).reshape(-1, 3)
        self.start, self.size, self.offset = table[:, 0], table[:, 1], table[:, 2]

    def offsets(self, addresses: I64) -> I64:
        """The offset of every address, or -1."""
        index = np.maximum(np.searchsorted(self.start, addresses, side="right") - 1, 0)
        within = addresses - self.start[index]
        known = (within >= 0) & (within < self.size[index])
        return np.where(known, self.offset[index] + within, -1)


def _labels(image: U8, regions: _Regions, named: tuple[I64, U64], targets: I64) -> U64:
    words = fields(image, 8).view(np.int64)
    offsets = regions.offsets(targets)
    here = np.clip(offsets, 0, len(words) - 1)
    label = np.zeros(len(targets), np.uint64)
    for step in _WORDS:
        word = words[np.minimum(here + step, len(words) - 1)].view(np.uint64)
        label = (label ^ word) * _MULTIPLIER
        label ^= label >> np.uint64(29)
    label = np.where(offsets >= 0, label, np.uint64(1))
    return _by_name(named, targets, label)


def _by_name(named: tuple[I64, U64], addresses: I64, label: U64) -> U64:
    """The labels, but the name's where a relocation binds the address to a symbol."""
    bound, hashes = named
    if len(bound):
        index = np.minimum(np.searchsorted(bound, addresses), len(bound) - 1)
        label = np.where(bound[index] == addresses, hashes[index], label)
    return label & np.uint64(0xFFFFFFFF)


def _names(elf: Elf) -> tuple[I64, U64]:
    """Addresses that a relocation binds to a symbol, ascending, and hashes of the names."""
    none = np.zeros(0, np.int64), np.zeros(0, np.uint64)
    symbols = next((s for s in elf.sections if s.type == SHT_DYNSYM), None)
    if elf.is_relocatable or symbols is None or not 0 < symbols.link < len(elf.sections):
        return none
    table = _rows(elf.bytes_of(symbols))
    strings = elf.sections[symbols.link]
    if strings.type == SHT_NOBITS or strings.end - strings.offset < 8:
        return none
    names = strings.offset + (table[:, 0] & 0xFFFFFFFF)
    words = fields(elf.data, 8).view(np.int64)
    label = np.zeros(len(names), np.uint64)
    for step in _WORDS:
        word = words[np.clip(names + step, 0, len(words) - 1)].view(np.uint64)
        label = (label ^ word) * _MULTIPLIER
        label ^= label >> np.uint64(29)
    found = []
    for section in elf.sections:
        if section.type != SHT_RELA:
            continue
        rows = _rows(elf.bytes_of(section))
        number = (rows[:, 1] >> 32) & 0xFFFFFFFF
        bound = (number > 0) & (number < len(names))
        found.append(np.stack([rows[bound, 0], label[number[bound]].view(np.int64)], axis=1))
    if not found:
        return none
    pairs = np.concatenate(found)
    pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
    return np.ascontiguousarray(pairs[:, 0]), np.ascontiguousarray(pairs[:, 1]).view(np.uint64)


def _rows(raw: U8) -> I64:
    rows: I64 = raw[: len(raw) // 24 * 24].copy().view("<i8").reshape(-1, 3)
    return rows
