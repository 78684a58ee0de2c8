"""Plain entries of one frame decoded together: a few numpy passes for all instead of for each.

A kernel's modules are thousands of small entries, for which numpy's calls cost more than its work.
What is accepted here decodes to the same bytes as one by one; anything that is not is refused as a
whole, and left to the single way to be told apart.
"""

from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import numpy as np

from hacktree.common.delta.btf import rewrite
from hacktree.common.delta.copies import SHORTEST
from hacktree.common.delta.elf import U8
from hacktree.common.delta.entry import StreamKind
from hacktree.common.delta.shared import Shared
from hacktree.common.delta.varint import I64, split_varints, unzigzag
from hacktree.common.objects.errors import FormatError

MAX_TOGETHER: Final = 1 << 30
"""Bytes of all bases, and of all results: sums below stay far from 64 bits."""


class Item(msgspec.Struct, frozen=True):
    """One plain entry: where its base and its result lie in the buffers."""

    old: slice
    new: slice


Joined = Callable[[StreamKind], tuple[bytes | memoryview, I64]]
"""The items' parts of a kind, one after the other, and their lengths."""


def decode_together(
    items: Sequence[Item], joined: Joined, olds: memoryview, output: memoryview, shared: Shared
) -> None:
    """Fill the items' ranges of `output`; their bases in `olds` are written over.

    Raises `FormatError` if anything is wrong with any of them.
    """
    if max(len(olds), len(output)) > MAX_TOGETHER:
        raise FormatError("too much to decode together")
    _renumber(items, joined, np.frombuffer(olds, np.uint8), shared)
    _apply_copies(items, joined, olds, output)
    _apply_differences(items, joined, np.frombuffer(output, np.uint8))


def _starts(slices: Sequence[slice]) -> tuple[I64, I64]:
    """Starts and lengths."""
    table = np.array([(s.start, s.stop - s.start) for s in slices], np.int64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _column(joined: Joined, kind: StreamKind) -> tuple[I64, I64]:
    """The integers of a part of every item, and how many each has; bits above 63 are a sign."""
    values, counts = split_varints(*joined(kind))
    return values.view(np.int64), counts


def _within(values: I64) -> bool:
    """Whether the magnitudes are no larger than any offset or length here."""
    if len(values) == 0:
        return True
    return int(values.min()) >= -MAX_TOGETHER and int(values.max()) <= MAX_TOGETHER


def _sums(values: I64, counts: I64) -> tuple[I64, I64]:
    """Running sums that begin anew with each item, and each item's sum."""
    sums = np.zeros(len(values) + 1, np.int64)
    np.cumsum(values, out=sums[1:])
    ends = np.cumsum(counts)
    before = sums[ends - counts]
    return sums[1:] - np.repeat(before, counts), sums[ends] - before


def _renumber(items: Sequence[Item], joined: Joined, olds: U8, shared: Shared) -> None:
    numbers, counts = _column(joined, StreamKind.PARAMETERS)
    chosen = np.flatnonzero(counts)
    if len(chosen) == 0:
        return
    if np.any(counts[chosen] != 2) or int(numbers.min()) < 0 or not _within(numbers):
        raise FormatError("the type information of a delta is nowhere")
    start, size = _starts([item.old for item in items])
    offset, length = numbers[0::2], numbers[1::2]
    if np.any(offset + length > size[chosen]):
        raise FormatError("the type information of a delta lies outside its base")
    first = start[chosen] + offset
    rewrite(
        [olds[a:b] for a, b in zip(first.tolist(), (first + length).tolist(), strict=True)],
        shared.types,
    )


def _apply_copies(
    items: Sequence[Item], joined: Joined, olds: memoryview, output: memoryview
) -> None:
    length, counts = _column(joined, StreamKind.COPY_LENGTHS)
    gap, gap_counts = _column(joined, StreamKind.COPY_GAPS)
    seek, seek_counts = _column(joined, StreamKind.COPY_SEEKS)
    seek = unzigzag(seek.view(np.uint64))
    if not np.array_equal(counts, gap_counts) or not np.array_equal(counts, seek_counts):
        raise FormatError("the columns of a copy list differ in length")
    if not _within(length) or not _within(gap) or not _within(seek):
        raise FormatError("a copy lies outside the files")
    old_start, old_size = _starts([item.old for item in items])
    new_start, new_size = _starts([item.new for item in items])
    if len(length) and (int(length.min()) < SHORTEST or int(gap.min()) < 0):
        raise FormatError(f"a copy has fewer than {SHORTEST} bytes")
    new_end, covered = _sums(length + gap, counts)
    old_end, _ = _sums(length + seek, counts)
    source = old_end - length
    if (
        np.any(covered > new_size)
        or np.any(source < 0)
        or np.any(old_end > np.repeat(old_size, counts))
    ):
        raise FormatError("a copy lies outside the files")
    extra, extra_size = joined(StreamKind.EXTRA)
    taken, gaps = _sums(gap, counts)
    tail = new_size - covered
    if np.any(gaps + tail != extra_size):
        raise FormatError("the new bytes of a delta do not fill its gaps")
    extra_start = np.cumsum(extra_size) - extra_size
    target = np.repeat(new_start, counts) + new_end - length
    fresh = np.concatenate([target - gap, new_start + covered])
    new_bytes = np.concatenate([gap, tail])
    origin = np.concatenate([np.repeat(extra_start, counts) + taken - gap, extra_start + gaps])
    some = np.flatnonzero(new_bytes)
    _copy(memoryview(extra), origin[some], output, fresh[some], new_bytes[some])
    _copy(olds, np.repeat(old_start, counts) + source, output, target, length)


def _copy(source: memoryview, at: I64, output: memoryview, to: I64, length: I64) -> None:
    rows = zip(
        at.tolist(), (at + length).tolist(), to.tolist(), (to + length).tolist(), strict=True
    )
    for start, end, first, behind in rows:
        output[first:behind] = source[start:end]


def _apply_differences(items: Sequence[Item], joined: Joined, output: U8) -> None:
    gap, counts = _column(joined, StreamKind.DIFF_GAPS)
    values, value_counts = joined(StreamKind.DIFF_VALUES)
    if not np.array_equal(counts, value_counts):
        raise FormatError("as many differences as values are due")
    if not _within(gap) or (len(gap) and int(gap.min()) < 0):
        raise FormatError("a difference lies outside the file")
    start, size = _starts([item.new for item in items])
    behind, last = _sums(gap + 1, counts)
    if np.any(last > size):
        raise FormatError("a difference lies outside the file")
    output[behind - 1 + np.repeat(start, counts)] += np.frombuffer(values, np.uint8)
