"""References: fields of an ELF file that hold, one way or another, an address.

A field's value is `target - base` modulo its width: an absolute pointer has base 0, a call the
address behind its own field. A field may be a few bits of an instruction, see `encodings`. Fields
come in groups of one shape, so that each step is a few numpy passes; groups that come first win
where fields overlap.
"""

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
from msgspec.structs import replace

from hacktree.common.delta.elf import SHF_WRITE, U8, Elf, Section
from hacktree.common.delta.encodings import Encoding
from hacktree.common.delta.varint import I64

ABSOLUTE: Final = -(1 << 62)
"""The base of fields that hold their target itself."""


class Group(msgspec.Struct, frozen=True):
    """Fields of `width` bytes at file offsets `at`, ascending.

    `base` is an address for each field, or None: then it is the field's own address + `bias`.
    With `sign` -1 the value is `base - target`. `scale` divides it: an index into a table.
    `encoding` says which bits of the field hold the value.
    """

    width: int
    at: I64
    target: I64
    base: I64 | None = None
    bias: int = 0
    sign: int = 1
    scale: int = 1
    encoding: Encoding = Encoding.WHOLE

    @property
    def bits(self) -> int:
        """Of the value."""
        return self.encoding.bits(self.width)

    def take(self, chosen: np.ndarray) -> "Group":
        """The fields that an index or mask array chooses."""
        base = None if self.base is None else self.base[chosen]
        return replace(self, at=self.at[chosen], target=self.target[chosen], base=base)


def fields(data: U8, width: int) -> np.ndarray:
    """Little-endian integers of `width` bytes at every offset of `data`, as a view."""
    count = max(len(data) - width + 1, 0)
    return np.ndarray((count,), f"<i{width}", buffer=data if count else b"", strides=(1,))


def read_values(data: U8, group: Group, at: I64) -> I64:
    """The values of fields of the group's shape at file offsets `at`."""
    words: I64 = fields(data, group.width)[at].astype(np.int64)
    return group.encoding.extract(words)


def write_values(data: U8, group: Group, at: I64, values: I64) -> None:
    """Set such fields; they must not overlap. Other bits of an instruction stay as they are."""
    view = fields(data, group.width)
    if group.encoding is not Encoding.WHOLE:
        values = group.encoding.insert(view[at].astype(np.int64), values)
    view[at] = values.astype(f"<i{group.width}")


def without_overlaps(size: int, groups: Sequence[Group]) -> list[Group]:
    """The groups without fields that overlap one of an earlier group, or an earlier one of theirs.

    A local rule, without cascades: what is dropped still drops what it overlaps in its own group.
    Empty groups are left out. `size` is the file's, in bytes.
    """
    taken = np.zeros(size + 8, np.uint8)
    kept = []
    for group in groups:
        at = group.at
        if len(at) == 0:
            continue
        # All bytes of a field at once.
        marks = fields(taken, group.width)
        free = marks[at] == 0
        free[1:] &= at[1:] - at[:-1] >= group.width
        chosen = group if free.all() else group.take(np.flatnonzero(free))
        marks[chosen.at] = -1
        kept.append(chosen)
    return kept


_FEW: Final = 8
"""Ranges that are quicker compared one by one than searched."""

Ranges = tuple[I64, I64]
"""Starts and ends of address ranges, ascending."""


class Reach(msgspec.Struct, frozen=True):
    """Where references may lead: what is executed, written to, and loaded at all."""

    executed: Ranges
    written: Ranges
    loaded: Ranges

    @classmethod
    def of(cls, elf: Elf) -> "Reach":
        """The ranges of a file's sections."""
        loaded = [section for section in elf.sections if section.size and section.is_loaded]
        written = [section for section in loaded if section.flags & SHF_WRITE]
        return cls(
            ranges_of([s for s in loaded if s.is_code]), ranges_of(written), ranges_of(loaded)
        )


def ranges_of(sections: Sequence[Section]) -> Ranges:
    """The sections' addresses; neighbours with small holes are one range."""
    merged: list[list[int]] = []
    for start, end in sorted((s.address, s.address + s.size) for s in sections):
        if merged and start <= merged[-1][1] + 4096:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([start, end])
    table = np.array(merged, np.int64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def in_ranges(values: I64, ranges: Ranges) -> np.ndarray:
    """Which values lie in one of the ranges."""
    starts, ends = ranges
    if len(starts) > _FEW:
        index = starts.searchsorted(values, side="right") - 1
        return (index >= 0) & (values < ends[index])
    inside = np.zeros(len(values), bool)
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        inside |= (values >= start) & (values < end)
    return inside
