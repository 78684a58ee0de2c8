"""Copy lists: which ranges of a new file come from which ranges of an old one.

Arrays of one row for each copy, ascending and disjoint in the new file. What no copy covers is new
("extra") content. docs/format.md, "Entries".
"""

from typing import Final

import msgspec
import numpy as np

from hacktree.common.delta.varint import I64, decode_varints, encode_varints, unzigzag, zigzag
from hacktree.common.objects.errors import FormatError

SHORTEST: Final = 8
"""Bytes of a copy at least: what a decoder does for each is bounded by the new file's size."""


class Copies(msgspec.Struct, frozen=True):
    """`length[i]` bytes at `new[i]` come from `old[i]`; offsets in bytes, lengths too, >= 8."""

    new: I64
    old: I64
    length: I64

    def __len__(self) -> int:
        return len(self.new)

    def gaps(self, size: int) -> tuple[I64, I64]:
        """(start, length) of what no copy covers in a new file of `size` bytes, zero lengths too.

        One row before each copy, and one after the last.
        """
        starts = np.concatenate([np.zeros(1, np.int64), self.new + self.length])
        ends = np.concatenate([self.new, np.full(1, size, np.int64)])
        return starts, ends - starts


def split_rows(rows: I64, new_cuts: I64, old_cuts: I64) -> tuple[I64, I64, I64]:
    """Cut copies (new, old, length) where a cut of either file lies inside; cuts ascend.

    Returns, for each piece, the row it comes from, and the offsets within it of start and end.
    """
    start, source, length = rows[:, 0], rows[:, 1], rows[:, 2]
    pieces = [np.stack([np.arange(len(rows)), np.zeros(len(rows), np.int64)], axis=1)]
    for cuts, base in ((new_cuts, start), (old_cuts, source)):
        first = np.searchsorted(cuts, base, side="right")
        last = np.searchsorted(cuts, base + length, side="left")
        owner, inner = spread(np.maximum(last - first, 0))
        pieces.append(np.stack([owner, cuts[first[owner] + inner] - base[owner]], axis=1))
    points = np.concatenate(pieces)
    points = points[np.lexsort((points[:, 1], points[:, 0]))]
    distinct = np.ones(len(points), bool)
    distinct[1:] = (points[1:] != points[:-1]).any(axis=1)
    owner, offset = points[distinct, 0], points[distinct, 1]
    ends = length[owner]
    same = owner[1:] == owner[:-1]
    ends[:-1][same] = offset[1:][same]
    return owner, offset, ends


def spread(counts: I64) -> tuple[I64, I64]:
    """For `counts` items of each owner: the owner of every item, and its number there."""
    owner = np.repeat(np.arange(len(counts)), counts)
    number = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    return owner, number


class EncodedCopies(msgspec.Struct, frozen=True):
    """The columns of a copy list as varints: each goes into a stream of its own."""

    lengths: bytes | memoryview
    gaps: bytes | memoryview
    seeks: bytes | memoryview


def encode_copies(copies: Copies) -> EncodedCopies:
    """Lengths, new bytes before each copy, and where each continues in the old file."""
    before = copies.new.copy()
    before[1:] -= copies.new[:-1] + copies.length[:-1]
    seeks = copies.old.copy()
    seeks[1:] -= copies.old[:-1] + copies.length[:-1]
    return EncodedCopies(
        encode_varints(copies.length.view(np.uint64)),
        encode_varints(before.view(np.uint64)),
        encode_varints(zigzag(seeks)),
    )


def decode_copies(encoded: EncodedCopies, old_size: int, new_size: int) -> Copies:
    """The inverse; raises `FormatError` unless every copy lies within both files."""
    raw = np.frombuffer(encoded.lengths, np.uint8)
    count = int(np.count_nonzero(raw < 0x80))
    length = decode_varints(encoded.lengths, count)
    before = decode_varints(encoded.gaps, count)
    seeks = unzigzag(decode_varints(encoded.seeks, count))
    limit = np.uint64(max(old_size, new_size))
    if count and (int(length.max()) > limit or int(before.max()) > limit):
        raise FormatError("a copy is longer than the files")
    if count and int(length.min()) < SHORTEST:
        raise FormatError(f"a copy has fewer than {SHORTEST} bytes")
    if count and not -int(limit) <= int(seeks.min()) <= int(seeks.max()) <= int(limit):
        raise FormatError("a copy lies outside the old file")
    lengths = length.view(np.int64)
    ends = np.cumsum(lengths + before.view(np.int64))
    old_ends = np.cumsum(lengths + seeks)
    copies = Copies(ends - lengths, old_ends - lengths, lengths)
    # A sum of fewer than 2**29 values below 2**34 can't wrap around.
    if count and (
        int(ends[-1]) > new_size
        or int(copies.old.min()) < 0
        or int(old_ends.max()) > old_size
        or count >= 1 << 29
    ):
        raise FormatError("a copy lies outside the files")
    return copies


def apply_copies(copies: Copies, old: memoryview, extra: memoryview, output: memoryview) -> None:
    """Fill `output` with copies of `old` and with `extra`, which must just fit between them."""
    starts, lengths = copies.gaps(len(output))
    if int(lengths.sum()) != len(extra):
        raise FormatError("the new bytes of a delta do not fill its gaps")
    taken = 0
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        if length:
            output[start : start + length] = extra[taken : taken + length]
            taken += length
    rows = zip(copies.new.tolist(), copies.old.tolist(), copies.length.tolist(), strict=True)
    for new, source, length in rows:
        output[new : new + length] = old[source : source + length]
