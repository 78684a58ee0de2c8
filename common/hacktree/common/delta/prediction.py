"""What the references of an old file become in a new one, where copies bring them."""

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec
import numpy as np

from hacktree.common.delta.addressmap import AddressMap, Places
from hacktree.common.delta.copies import Copies
from hacktree.common.delta.elf import U8
from hacktree.common.delta.encodings import PAGE_BITS, PAGE_MASK, Encoding
from hacktree.common.delta.references import Group, read_values, write_values
from hacktree.common.delta.varint import I64
from hacktree.common.objects.errors import FormatError

_MAX_LOOKUPS: Final = 1 << 29


class Landed(msgspec.Struct, frozen=True):
    """The fields of one group in the new file: where, and which of the old group's they were."""

    group: Group
    at: I64
    index: I64
    address: I64

    def predict(self, move: AddressMap) -> I64:
        """The value of every field after the move; only the low bits of its width count."""
        group = self.group
        target = move(group.target)[self.index]
        match group.encoding:
            case Encoding.PAGE21:
                return (target >> PAGE_BITS) - (self.address >> PAGE_BITS)
            case Encoding.LOW12:
                return (target & PAGE_MASK) // group.scale
        value: I64 = (target - self._bases(move)) * group.sign
        return value if group.scale == 1 else value // group.scale

    def targets(self, values: I64, move: AddressMap) -> I64:
        """The inverse of `predict`: the target that a field of this value would have.

        Not for encodings that are partial.
        """
        return values * (self.group.sign * self.group.scale) + self._bases(move)

    def _bases(self, move: AddressMap) -> I64:
        group = self.group
        if group.base is None:
            return self.address + group.bias
        moved: I64 = move(group.base)[self.index]
        return moved


def land(copies: Copies, groups: Sequence[Group], places: Places) -> Iterator[Landed]:
    """For each group its fields that lie wholly in a copy and land in a section of the new file.

    Raises `FormatError` where that would be work without end: no linker makes so many sections.
    """
    if len(groups) * len(copies) > _MAX_LOOKUPS:
        raise FormatError("an ELF file of too many sections for so many copies")
    shift = copies.new - copies.old
    for group in groups:
        first = group.at.searchsorted(copies.old)
        last = group.at.searchsorted(copies.old + copies.length - group.width, side="right")
        counts = np.maximum(last - first, 0)
        before = counts.cumsum() - counts
        index = np.repeat(first - before, counts)
        index += np.arange(len(index))
        at = group.at[index]
        at += np.repeat(shift, counts)
        address, known = places.addresses(at)
        if not known.all():
            at, index, address = at[known], index[known], address[known]
        yield Landed(group, at, index, address)


def read_fields(data: U8, landed: Landed) -> I64:
    """The values that the new file has there."""
    return read_values(data, landed.group, landed.at)


def write_fields(data: U8, landed: Landed, values: I64) -> None:
    """Set the fields; fields of one group never overlap in the new file."""
    write_values(data, landed.group, landed.at, values)
