"""Finding copies: bsdiff's suffix sorting behind our own interface.

bsdiff4 needs 17 bytes of memory for each byte of the old file and is quadratic on long runs of one
byte, so runs are shortened before it sees them, and what both files begin and end with is left out.
"""

from typing import Final

import bsdiff4.core
import numpy as np
import numpy.typing as npt

from hacktree.common.delta.copies import Copies, split_rows
from hacktree.common.delta.varint import I64, U64

U8 = npt.NDArray[np.uint8]

_LONG_RUN: Final = 64
_KEPT_RUN: Final = 24
_SHORTEST: Final = 12
"""Bytes of a copy below which it costs more than what it copies."""

_LONG_STRETCH: Final = 1024
_MAX_SORTED: Final = 68 << 20
_WINDOW: Final = 34 << 20
"""Bytes of the old file that are sorted at once, and of the new file that are looked for there."""

_NEARLY: Final = 0.9
_AROUND: Final = 16 << 10
_ANCHORED: Final = 0.9
"""Share of the new file that anchors must explain to be believed."""


def find_copies(old: U8, new: U8) -> Copies:
    """Copies that explain `new` by `old`; the bytes of a copy may differ here and there.

    Long stretches that stand where they stood, counted from either end, are taken as they are; the
    suffix sorting sees what lies between them.
    """
    anchors = _bridge(_anchors(old, new), old, new)
    if anchors[:, 2].sum() >= _ANCHORED * len(new):
        return _merge(np.concatenate([anchors, _match_rest(anchors, old, new)]))
    prefix = _common_prefix(old, new)
    suffix = _common_prefix(old[prefix:][::-1], new[prefix:][::-1])
    middle = _match(old[prefix : len(old) - suffix], new[prefix : len(new) - suffix])
    middle[:, :2] += prefix
    ends = np.array([[0, 0, prefix], [len(new) - suffix, len(old) - suffix, suffix]], np.int64)
    return _merge(np.concatenate([ends, middle]))


def _anchors(old: U8, new: U8) -> I64:
    """Equal stretches (new, old, length) on the diagonals of both ends, ascending in both files."""
    rows = [np.array([[0, 0, 0], [len(new), len(old), 0]], np.int64)]
    for shift in dict.fromkeys((0, len(old) - len(new))):
        rows.append(_equal_stretches(old, new, shift))
    table = np.concatenate(rows)
    table = table[np.lexsort((table[:, 1], table[:, 0]))]
    # Where stretches of the two diagonals cross, the earlier one wins.
    for column in (0, 1):
        ends = np.maximum.accumulate(table[:, column] + table[:, 2])
        good = np.concatenate([[True], table[1:, column] >= ends[:-1]])
        table = table[good]
    return table


def _bridge(anchors: I64, old: U8, new: U8) -> I64:
    """Anchors that also span what lies between two on one diagonal, where nearly all is equal."""
    shifts = anchors[:, 1] - anchors[:, 0]
    ends = anchors[:, 0] + anchors[:, 2]
    spans = np.zeros(len(anchors), np.int64)
    for i in np.flatnonzero(shifts[1:] == shifts[:-1]).tolist():
        start, end, shift = int(ends[i]), int(anchors[i + 1, 0]), int(shifts[i])
        equal = np.count_nonzero(new[start:end] == old[start + shift : end + shift])
        spans[i] = end - start if equal >= _NEARLY * (end - start) else 0
    bridged = anchors.copy()
    bridged[:, 2] += spans
    return bridged


def _equal_stretches(old: U8, new: U8, shift: int) -> I64:
    """Stretches where new[i] == old[i + shift] for long enough."""
    start = max(0, -shift)
    size = min(len(new), len(old) - shift) - start
    if size <= _LONG_STRETCH:
        return np.zeros((0, 3), np.int64)
    different = new[start : start + size] != old[start + shift : start + shift + size]
    if np.count_nonzero(different) > size // 4:
        return np.zeros((0, 3), np.int64)  # Too few to anchor anything, and much to list.
    unequal = np.flatnonzero(different)
    bounds = np.concatenate([np.full(1, -1), unequal, np.full(1, size)])
    lengths = np.diff(bounds) - 1
    chosen = np.flatnonzero(lengths >= _LONG_STRETCH)
    begin = bounds[chosen] + 1 + start
    return np.stack([begin, begin + shift, lengths[chosen]], axis=1)


def _match_rest(anchors: I64, old: U8, new: U8) -> I64:
    """Copies (new, old, length) for what the anchors leave of `new`.

    They may come from anything that the anchors leave of `old`, and from some way around it.
    """
    ends = anchors[:-1] + anchors[:-1, 2:]
    starts = anchors[1:]
    wanted = ends[:, 0] < starts[:, 0]
    needle = _Pieces(new, ends[wanted, 0], starts[wanted, 0])
    first = np.maximum(ends[wanted, 1] - _AROUND, 0)
    last = np.minimum(starts[wanted, 1] + _AROUND, len(old))
    # Windows ascend, so those that overlap are neighbours.
    reach = np.maximum.accumulate(last)
    fresh = np.concatenate([[True], first[1:] > reach[:-1]])[: len(first)]
    hay = _Pieces(old, first[fresh], reach[np.append(fresh[1:], True)[: len(first)]])
    rows = _match(hay.data, needle.data)
    owner, begin, end = split_rows(rows, needle.at, hay.at)
    return np.stack(
        [
            needle.original(rows[owner, 0] + begin),
            hay.original(rows[owner, 1] + begin),
            end - begin,
        ],
        axis=1,
    )


class _Pieces:
    """Some ranges of a file, one after the other, and the map back."""

    def __init__(self, data: U8, starts: I64, ends: I64) -> None:
        pairs = zip(starts.tolist(), ends.tolist(), strict=True)
        self.data = np.concatenate([data[:0], *(data[start:end] for start, end in pairs)])
        lengths = ends - starts
        self.at = np.cumsum(lengths) - lengths
        self._shift = starts - self.at

    def original(self, position: I64) -> I64:
        """Where a byte of the pieces is in the file."""
        shift: I64 = self._shift[np.searchsorted(self.at, position, side="right") - 1]
        return position + shift


def _common_prefix(old: U8, new: U8) -> int:
    size = min(len(old), len(new))
    step = 1 << 16
    for start in range(0, size, step):
        end = min(start + step, size)
        unequal = old[start:end] != new[start:end]
        if unequal.any():
            return start + int(unequal.argmax())
    return size


def _merge(rows: I64) -> Copies:
    """Rows (new, old, length); neighbours on one diagonal become one, short ones are dropped."""
    rows = rows[rows[:, 2] > 0]
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    if len(rows) == 0:
        empty = np.zeros(0, np.int64)
        return Copies(empty, empty, empty)
    follows = (rows[1:, 0] == rows[:-1, 0] + rows[:-1, 2]) & (
        rows[1:, 1] == rows[:-1, 1] + rows[:-1, 2]
    )
    first = np.flatnonzero(np.concatenate([[True], ~follows]))
    lengths = np.add.reduceat(rows[:, 2], first)
    worth = lengths >= _SHORTEST
    return Copies(rows[first, 0][worth], rows[first, 1][worth], lengths[worth])


def _match(old: U8, new: U8) -> I64:
    """Copies (new, old, length) that the suffix sorting finds, window by window in large files.

    A window of the new file is looked for around the same relative place of the old one.
    """
    if len(old) <= _MAX_SORTED:
        return _match_window(old, new)
    rows = [np.zeros((0, 3), np.int64)]
    for start in range(0, len(new), _WINDOW):
        end = min(start + _WINDOW, len(new))
        middle = (start + end) * len(old) // (2 * len(new))
        first = max(min(middle - _MAX_SORTED // 2, len(old) - _MAX_SORTED), 0)
        found = _match_window(old[first : first + _MAX_SORTED], new[start:end])
        rows.append(found + np.array([start, first, 0], np.int64))
    return np.concatenate(rows)


def _match_window(old: U8, new: U8) -> I64:
    if len(new) == 0 or len(old) == 0:
        return np.zeros((0, 3), np.int64)
    old_runs, new_runs = _Runs(old), _Runs(new)
    control, _, _ = bsdiff4.core.diff(old_runs.short.tobytes(), new_runs.short.tobytes())
    table = _signed(np.frombuffer(control, "<u8")).reshape(-1, 3)
    lengths, extras, seeks = table[:, 0], table[:, 1], table[:, 2]
    ends = np.cumsum(lengths + extras)
    old_ends = np.cumsum(lengths + seeks)
    starts = ends - extras - lengths
    old_starts = old_ends - seeks - lengths
    rows = np.stack([starts, old_starts, lengths], axis=1)
    return _expand(rows[lengths > 0], old_runs, new_runs)


def _signed(raw: U64) -> I64:
    """bsdiff writes sign and magnitude."""
    magnitude = (raw & np.uint64((1 << 63) - 1)).view(np.int64)
    signed: I64 = np.where(raw >> np.uint64(63), -magnitude, magnitude)
    return signed


def _long_runs(data: U8) -> tuple[I64, I64]:
    """Starts and lengths of runs of one byte, in steps of 8 bytes so as not to need much memory."""
    words = data[: len(data) // 8 * 8].view("<u8")
    first_byte = (words & np.uint64(0xFF)) * np.uint64(0x0101010101010101)
    # Whether a word goes on with the run that the word before it is.
    goes_on = np.zeros(len(words) + 1, bool)
    goes_on[1:-1] = (words[1:] == words[:-1]) & (words[1:] == first_byte[1:])
    edges = np.flatnonzero(goes_on[1:] != goes_on[:-1])
    starts, ends = edges[0::2], edges[1::2] + 1
    long = ends - starts >= _LONG_RUN // 8
    return starts[long] * 8, (ends - starts)[long] * 8


class _Runs:
    """A file with its long runs of one byte shortened, and the map back."""

    def __init__(self, data: U8) -> None:
        starts, lengths = _long_runs(data)
        cut_from = starts + _KEPT_RUN
        cut = lengths - _KEPT_RUN
        keep = np.ones(len(data), bool)
        if len(cut):
            edges = np.zeros(len(data) + 1, np.int8)
            edges[cut_from] += 1
            edges[cut_from + cut] -= 1
            keep = np.cumsum(edges[:-1], dtype=np.int8) == 0
        self.short = data[keep]
        self.removed = np.concatenate([np.zeros(1, np.int64), np.cumsum(cut)])
        # In the shortened file: where the removed bytes would stand.
        self.at = cut_from - self.removed[:-1]

    def original(self, position: I64) -> I64:
        """Where a byte of the shortened file is in the original: a cut is before its position."""
        before: I64 = self.removed[np.searchsorted(self.at, position, side="right")]
        return position + before

    def cut_at(self, position: I64) -> I64:
        """Bytes removed just before the byte at `position` of the shortened file."""
        index = np.searchsorted(self.at, position, side="left")
        padded = np.append(self.at, -1)
        cuts = np.append(np.diff(self.removed), 0)
        found: I64 = np.where(padded[index] == position, cuts[index], 0)
        return found


def _expand(rows: I64, old: _Runs, new: _Runs) -> I64:
    """Copies of the shortened files as copies of the whole ones.

    A copy is split where either side had bytes removed; removed bytes on both sides are one run of
    the same byte, so the shorter run's length is copied too.
    """
    if len(old.at) == 0 and len(new.at) == 0:
        return rows
    owner, offset, ends = split_rows(rows, new.at, old.at)
    start, source = rows[:, 0], rows[:, 1]
    begin_new, begin_old = new.original(start[owner] + offset), old.original(source[owner] + offset)
    result = np.stack([begin_new, begin_old, ends - offset], axis=1)
    # The run in front of a piece, as far as both sides have it.
    cut_new = new.cut_at(start[owner] + offset)
    cut_old = old.cut_at(source[owner] + offset)
    inside = offset > 0
    shared = np.where(inside, np.minimum(cut_new, cut_old), 0)
    result[:, 0] -= shared
    result[:, 1] -= shared
    result[:, 2] += shared
    return result
