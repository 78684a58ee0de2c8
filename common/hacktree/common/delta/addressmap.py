"""Where the addresses of an old ELF file are in the new one, by a copy list.

An address moves with the longest copy that covers it. What no copy covers moves with what is
covered before it; a section that nothing covers moves to where the new file has the section of its
name. docs/format.md, "Entries".
"""

import msgspec
import numpy as np

from hacktree.common.delta.copies import Copies, split_rows
from hacktree.common.delta.elf import Elf
from hacktree.common.delta.references import ABSOLUTE
from hacktree.common.delta.varint import I64


class Places(msgspec.Struct, frozen=True):
    """Ranges of file offsets that have addresses, ascending; `shift` is address - offset."""

    start: I64
    end: I64
    shift: I64

    @classmethod
    def of(cls, elf: Elf) -> "Places":
        """Those of every section that has bytes in the file."""
        rows = sorted((s.offset, s.end, s.address - s.offset) for s in elf.sections)
        table = np.array([row for row in rows if row[0] < row[1]], np.int64).reshape(-1, 3)
        start, end = table[:, 0], table[:, 1]
        # Sections that overlap are legal nowhere, so any rule will do as long as it is one.
        if len(table) > 1:
            start = np.maximum(start, np.concatenate([start[:1], np.maximum.accumulate(end)[:-1]]))
        kept = start < end
        return cls(start[kept], end[kept], table[kept, 2])

    def addresses(self, offsets: I64) -> tuple[I64, np.ndarray]:
        """The address of every offset, and which have one."""
        if len(self.start) == 0:
            return offsets, np.zeros(len(offsets), bool)
        index = self.start.searchsorted(offsets, side="right") - 1
        known = (index >= 0) & (offsets < self.end[index])
        return offsets + self.shift[index], known


class AddressMap(msgspec.Struct, frozen=True):
    """Addresses from `start[i]` on move by `shift[i]`; those in `point` go to `moved`."""

    start: I64
    shift: I64
    point: I64
    moved: I64

    def __call__(self, addresses: I64) -> I64:
        """The new address of every old one; `ABSOLUTE` becomes 0."""
        index = np.maximum(self.start.searchsorted(addresses, side="right") - 1, 0)
        result: I64 = addresses + self.shift[index]
        if len(self.point):
            index = np.minimum(self.point.searchsorted(addresses), len(self.point) - 1)
            found = self.point[index] == addresses
            result = np.where(found, self.moved[index], result)
        return np.where(addresses == ABSOLUTE, 0, result)


def map_addresses(copies: Copies, old: Elf, new: Elf) -> AddressMap:
    """The map without exceptions."""
    before, after = Places.of(old), Places.of(new)
    rows = np.stack([copies.new, copies.old, copies.length], axis=1)
    owner, start, end = split_rows(rows, _edges(after), _edges(before))
    source, known = before.addresses(rows[owner, 1] + start)
    target, placed = after.addresses(rows[owner, 0] + start)
    good = known & placed
    pieces = np.stack([source, end - start, target - source], axis=1)[good]
    table = _longest(np.concatenate([pieces, _sections(old, new)]))
    none = np.zeros(0, np.int64)
    if len(table) == 0:
        return AddressMap(np.zeros(1, np.int64), np.zeros(1, np.int64), none, none)
    return AddressMap(table[:, 0], table[:, 2], none, none)


def _edges(places: Places) -> I64:
    return np.unique(np.concatenate([places.start, places.end]))


def _sections(old: Elf, new: Elf) -> I64:
    """One row of one byte for each old section whose name and type the new file has too."""
    there = {(s.name, s.type): s.address for s in reversed(new.sections) if s.type}
    rows = [
        (s.address, 1, there[s.name, s.type] - s.address)
        for s in old.sections
        if (s.name, s.type) in there
    ]
    return np.array(rows, np.int64).reshape(-1, 3)


def _longest(rows: I64) -> I64:
    """Rows (start, length, shift) by start, without those inside a longer one.

    Where two neighbours overlap, the border is the end of the longer one.
    """
    rows = rows[np.lexsort((rows[:, 2], -rows[:, 1], rows[:, 0]))]
    if len(rows) < 2:
        return rows
    ends = rows[:, 0] + rows[:, 1]
    reach = np.maximum.accumulate(ends)
    kept = np.concatenate([[True], ends[1:] > reach[:-1]])
    rows, ends = rows[kept], ends[kept]
    longer = rows[:-1, 1] >= rows[1:, 1]
    starts = rows[:, 0].copy()
    starts[1:] = np.where(longer, np.maximum(starts[1:], ends[:-1]), starts[1:])
    rows[:, 0] = starts
    return rows
