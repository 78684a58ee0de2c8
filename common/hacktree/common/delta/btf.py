"""Type information of kernel modules (.BTF): one renumbering of the base image moves them all.

A module's types refer to the kernel's own by number, and to its strings by offset; a rebuilt kernel
numbers both differently, so every module changes in thousands of words. A pack stores once where
old numbers went, learnt from the modules themselves. Format: Documentation/bpf/btf.rst of Linux.

The words that hold numbers are found by a local rule, without walking the records: a word is a
record's `info` if it looks like one and so does that of the record behind it. A word that is
mistaken costs a few bytes, never correctness.
"""

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from hacktree.common.delta.varint import I64

U32 = npt.NDArray[np.uint32]

_MAGIC: Final = 0xEB9F
_HEADER: Final = 24
_RESERVED: Final = np.uint32(0x60FF0000)
_KIND: Final = np.uint32(31 << 24)
_FIRST_KIND: Final = np.uint32(1 << 24)
_KINDS_BEHIND: Final = np.uint32(18 << 24)
"""Kind 0 becomes a very large number: one comparison for both ends."""
_KINDS: Final = 32
_ARRAY, _STRUCT, _UNION, _ENUM, _PROTO, _DATASEC, _ENUM64 = 3, 4, 5, 6, 13, 15, 19
_REFERRING: Final = (2, 8, 9, 10, 11, 12, 13, 14, 17, 18)
"""Kinds whose third word is a type: pointers, typedefs, qualifiers, functions, variables, tags."""


def _table(default: int, values: dict[int, int]) -> I64:
    table = np.full(_KINDS, default, np.int64)
    for kind, value in values.items():
        table[kind] = value
    return table


_AHEAD: Final = _table(3, {1: 4, _ARRAY: 6, 14: 4, 17: 4})
"""Words of a record ahead of its items, by kind."""

_PER_ITEM: Final = _table(0, {_STRUCT: 3, _UNION: 3, _ENUM: 2, _PROTO: 2, _DATASEC: 3, _ENUM64: 3})
"""Words of each of a record's items, by kind."""

_ITEMS: Final = tuple(
    _table(0, dict.fromkeys(kinds, 1)).astype(bool)
    for kinds in ((_STRUCT, _UNION, _PROTO), (_ENUM, _ENUM64), (_DATASEC,))
)
"""Kinds whose items begin with a string's offset and a type's number, with the one, the other."""

_NO_WORDS: Final[U32] = np.zeros(0, np.uint32)

_IS_REFERRING: Final = _table(0, dict.fromkeys(_REFERRING, 1)).astype(bool)


_DENSE: Final = 1 << 21
"""Numbers below are looked up in a table, which is quicker than a search; a kernel has about
200,000 types, and a few million bytes of strings.
"""


class NumberMap(msgspec.Struct, frozen=True, dict=True):
    """Numbers from `start[i]` on move by `shift[i]`; smaller ones than `start[0]` stay."""

    start: I64
    shift: I64

    def __call__(self, numbers: U32) -> U32:
        """The new number of every old one."""
        if len(self.start) == 0:
            return numbers
        table = self._dense
        moved: U32 = numbers + table.take(numbers, mode="clip")
        if self.start[-1] >= len(table):
            large = np.flatnonzero(numbers >= len(table))
            moved[large] = self._search(numbers[large])
        return moved

    @cached_property
    def _dense(self) -> U32:
        """By how much each number below `_DENSE` moves, modulo 2**32, up to the last start: all
        that are beyond move by as much as that.
        """
        end = min(int(self.start[-1]) + 1, _DENSE)
        lengths = np.diff(np.minimum(self.start, end), prepend=0, append=end)
        return np.repeat(np.append(0, self.shift).astype(np.uint32), lengths)

    def _search(self, numbers: U32) -> U32:
        index = np.searchsorted(self.start, numbers, side="right") - 1
        moved = numbers + self.shift[np.maximum(index, 0)]
        result: U32 = np.where(index >= 0, moved, numbers).astype(np.uint32)
        return result


class TypeMap(msgspec.Struct, frozen=True):
    """Where a kernel's type numbers and string offsets went."""

    types: NumberMap
    strings: NumberMap


def find_words(sections: Sequence[npt.NDArray[np.uint8]]) -> tuple[U32, I64, I64, I64]:
    """The words of .BTF sections' types, which hold type numbers and which string offsets.

    Those of all sections one after the other, each of which begins at its place in the fourth array
    (of one place more). What does not look like BTF has none.
    """
    return _find([_type_words(section) for section in sections])


def _find(views: Sequence[U32]) -> tuple[U32, I64, I64, I64]:
    """As `find_words`, for the words of each section."""
    bounds = np.zeros(len(views) + 1, np.int64)
    np.cumsum([len(view) for view in views], out=bounds[1:])
    words: U32 = np.concatenate([_NO_WORDS, *views])
    heads = _heads(words, bounds[:1] if len(words) == 0 else np.unique(bounds))
    info = words.take(heads + 1)
    kinds, counts = ((info >> 24) & 31).astype(np.int64), (info & 0xFFFF).astype(np.int64)
    counts[_PER_ITEM.take(kinds) == 0] = 0
    possible = _have_room(heads, counts, bounds)
    if not possible.all():
        heads, kinds, counts = heads[possible], kinds[possible], counts[possible]
    arrays = heads[kinds == _ARRAY]
    both, named, typed = (_items(heads, kinds, counts, chosen) for chosen in _ITEMS)
    types = [heads[_IS_REFERRING.take(kinds)] + 2, arrays + 3, arrays + 4, both + 1, typed]
    return words, np.concatenate(types), np.concatenate([heads, both, named]), bounds


def _items(heads: I64, kinds: I64, counts: I64, chosen: npt.NDArray[np.bool_]) -> I64:
    """Where the items begin of the records of `chosen` kinds, which have `counts` of them."""
    some = np.flatnonzero(chosen.take(kinds) & (counts > 0))
    if len(some) == 0:
        return heads[:0]
    first, size, counts = heads[some] + 3, _PER_ITEM.take(kinds[some]), counts[some]
    # From one item to the next, summed: quicker than the place of each by itself.
    steps = np.repeat(size, counts)
    last = first + size * (counts - 1)
    steps[0] = first[0]
    steps[np.cumsum(counts)[:-1]] = first[1:] - last[:-1]
    places: I64 = np.cumsum(steps)
    return places


def _type_words(section: npt.NDArray[np.uint8]) -> U32:
    """A view of the words of a section's types."""
    if len(section) < _HEADER or int(section[:2].view("<u2")[0]) != _MAGIC:
        return _NO_WORDS
    length, offset, size = section[4:16].view("<u4").tolist()
    if offset % 4 or length % 4 or size < 12 or length + offset + size > len(section):
        return _NO_WORDS
    words: U32 = section[length + offset : length + offset + size // 4 * 4].view("<u4")
    return words


def _heads(words: U32, bounds: I64) -> I64:
    """Where records begin; `bounds` are those of sections that have words, ascending."""
    likely = ((words & _RESERVED) == 0) & ((words & _KIND) - _FIRST_KIND <= _KINDS_BEHIND)
    likely[bounds[:-1]] = False
    info = np.flatnonzero(likely)
    end = np.repeat(bounds[1:], np.diff(np.searchsorted(info, bounds)))
    found = words.take(info)
    kind = (found >> 24) & 31
    vlen = (found & 0xFFFF).astype(np.int64)
    behind = info + _AHEAD.take(kind) + _PER_ITEM.take(kind) * vlen
    # `behind` is where the next record's info stands; the last record ends the section.
    last = behind == end + 1
    within = np.minimum(behind, end - 1)
    good = (last | ((behind < end) & likely.take(within))) & (info + 1 < end)
    heads: I64 = info[good] - 1
    return heads


def _have_room(heads: I64, counts: I64, bounds: I64) -> npt.NDArray[np.bool_]:
    """For each record whether its section has words for all items of its records.

    Records that overlap are none, and their items could be without number.
    """
    sums = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    place = np.searchsorted(heads, bounds)
    return np.repeat(np.diff(sums[place]) <= np.diff(bounds), np.diff(place))


def rewrite(sections: Sequence[npt.NDArray[np.uint8]], type_map: TypeMap) -> None:
    """Renumber .BTF sections in place."""
    views = [_type_words(section) for section in sections]
    words, types, names, bounds = _find(views)
    words[types] = type_map.types(words.take(types))
    words[names] = type_map.strings(words.take(names))
    ends = bounds.tolist()
    for view, start, end in zip(views, ends[:-1], ends[1:], strict=True):
        view[:] = words[start:end]


def learn(pairs: Iterable[tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]]) -> TypeMap:
    """The map that most modules agree on, from old and new .BTF sections of the same shape."""
    collected: list[list[npt.NDArray[np.uint64]]] = [[], []]
    for old, new in pairs:
        before, after = find_words([old]), find_words([new])
        same_shape = len(before[0]) == len(after[0]) and all(
            np.array_equal(before[k], after[k]) for k in (1, 2)
        )
        if not same_shape:
            continue
        for k in (1, 2):
            source = before[0][before[k]].astype(np.uint64) << np.uint64(32)
            collected[k - 1].append(np.unique(source | after[0][after[k]]))
    types, strings = (_agree(found) for found in collected)
    return TypeMap(types, strings)


def _agree(found: list[npt.NDArray[np.uint64]]) -> NumberMap:
    if not any(len(pairs) for pairs in found):
        return NumberMap(np.zeros(0, np.int64), np.zeros(0, np.int64))
    pairs, votes = np.unique(np.concatenate(found), return_counts=True)
    source = (pairs >> np.uint64(32)).astype(np.int64)
    shift = (pairs & np.uint64(0xFFFFFFFF)).astype(np.int64) - source
    best = np.lexsort((votes, source))
    best = best[np.append(source[best][1:] != source[best][:-1], True)]
    source, shift = source[best], shift[best]
    first = np.append(True, shift[1:] != shift[:-1])
    return NumberMap(source[first], shift[first])
