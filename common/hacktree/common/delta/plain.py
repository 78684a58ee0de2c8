"""Plain deltas: copies with sparse byte differences, and new bytes between them."""

from collections.abc import Mapping

import numpy as np

from hacktree.common.delta.copies import (
    Copies,
    EncodedCopies,
    apply_copies,
    decode_copies,
    encode_copies,
)
from hacktree.common.delta.entry import EncodedEntry, EntryKind, StreamKind
from hacktree.common.delta.matcher import U8, find_copies
from hacktree.common.delta.varint import I64, decode_varints, encode_varints
from hacktree.common.objects.errors import FormatError

Parts = Mapping[StreamKind, memoryview]


def encode_plain(before: U8, after: U8) -> EncodedEntry:
    """A delta that knows nothing of what the bytes mean."""
    copies = find_copies(before, after)
    parts = encode_parts(copies, before, after)
    cost = 100 + len(after) // 2000 + len(copies) // 3
    return EncodedEntry(EntryKind.DELTA, parts, cost)


def encode_parts(copies: Copies, before: U8, after: U8) -> dict[StreamKind, bytes]:
    """The parts that turn `before` into `after` by way of `copies`."""
    copied, extra = lay_copies(copies, before, after)
    return {
        **copy_parts(copies),
        StreamKind.EXTRA: extra,
        **encode_differences(copied, after),
    }


def copy_parts(copies: Copies) -> dict[StreamKind, bytes]:
    """The columns of a copy list."""
    encoded = encode_copies(copies)
    return {
        StreamKind.COPY_LENGTHS: bytes(encoded.lengths),
        StreamKind.COPY_GAPS: bytes(encoded.gaps),
        StreamKind.COPY_SEEKS: bytes(encoded.seeks),
    }


def encode_differences(copied: U8, after: U8) -> dict[StreamKind, bytes]:
    """Where and by how much single bytes differ."""
    differing = np.flatnonzero(copied != after)
    return {
        StreamKind.DIFF_GAPS: encode_positions(differing),
        StreamKind.DIFF_VALUES: (after[differing] - copied[differing]).tobytes(),
    }


def lay_copies(copies: Copies, before: U8, after: U8) -> tuple[U8, bytes]:
    """What the copies and the new bytes of `after` give without differences; the new bytes."""
    starts, lengths = copies.gaps(len(after))
    pairs = zip(starts.tolist(), lengths.tolist(), strict=True)
    extra = b"".join(after[start : start + length].tobytes() for start, length in pairs if length)
    copied = np.empty(len(after), np.uint8)
    apply_copies(copies, before.data, memoryview(extra), copied.data)
    return copied, extra


def encode_positions(positions: I64) -> bytes:
    """Ascending positions as the distances between them."""
    gaps = np.diff(positions, prepend=-1) - 1
    return encode_varints(gaps.astype(np.uint64))


def decode_positions(data: memoryview, count: int, size: int) -> I64:
    """The inverse; every position is below `size`, or `FormatError`."""
    gaps = decode_varints(data, count)
    if count and (int(gaps.max()) >= size or count > size):
        raise FormatError("a difference lies outside the file")
    positions = np.cumsum(gaps.view(np.int64) + 1) - 1
    # Steps are small enough that a sum which wraps around is negative somewhere.
    if count and (int(positions.max()) >= size or int(positions.min()) < 0):
        raise FormatError("a difference lies outside the file")
    return positions


def decode_plain(parts: Parts, old: memoryview, output: memoryview) -> Copies:
    """Fill `output`, of the object's size, and return the copies; raises `FormatError`."""
    empty = memoryview(b"")
    encoded = EncodedCopies(
        parts.get(StreamKind.COPY_LENGTHS, empty),
        parts.get(StreamKind.COPY_GAPS, empty),
        parts.get(StreamKind.COPY_SEEKS, empty),
    )
    copies = decode_copies(encoded, len(old), len(output))
    apply_copies(copies, old, parts.get(StreamKind.EXTRA, empty), output)
    values = np.frombuffer(parts.get(StreamKind.DIFF_VALUES, empty), np.uint8)
    positions = decode_positions(parts.get(StreamKind.DIFF_GAPS, empty), len(values), len(output))
    target = np.frombuffer(output, np.uint8)
    target[positions] += values
    return copies
