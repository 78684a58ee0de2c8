"""Type information of kernel modules (.BTF): one renumbering of the base image moves them all.

A module's types refer to the kernel's own by number, and to its strings by offset; a rebuilt kernel
numbers both differently, so every module changes in thousands of words. A pack stores once where
old numbers went, learnt from the modules themselves. Format: Documentation/bpf/btf.rst of Linux.

The words that hold numbers are found by a local rule, without walking the records: a word is a
record's `info` if it looks like one and so does that of the record behind it. A word that is
mistaken costs a few bytes, never correctness.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from hacktree.common.delta.copies import spread
from hacktree.common.delta.varint import I64

U32 = npt.NDArray[np.uint32]

_MAGIC: Final = 0xEB9F
_HEADER: Final = 24
_RESERVED: Final = np.uint32(0x60FF0000)
_KINDS: Final = 32
_ARRAY, _STRUCT, _UNION, _ENUM, _PROTO, _DATASEC, _ENUM64 = 3, 4, 5, 6, 13, 15, 19
_REFERRING: Final = (2, 8, 9, 10, 11, 12, 13, 14, 17, 18)
"""Kinds whose third word is a type: pointers, typedefs, qualifiers, functions, variables, tags."""


def _table(default: int, values: dict[int, int]) -> I64:
    table = np.full(_KINDS, default, np.int64)
    for kind, value in values.items():
        table[kind] = value
    return table


_FIXED: Final = _table(0, {1: 1, _ARRAY: 3, 14: 1, 17: 1})
"""Words behind the first three of a record, by kind."""

_PER_ITEM: Final = _table(0, {_STRUCT: 3, _UNION: 3, _ENUM: 2, _PROTO: 2, _DATASEC: 3, _ENUM64: 3})
"""Words of each of a record's items, by kind."""

_IS_REFERRING: Final = _table(0, dict.fromkeys(_REFERRING, 1)).astype(bool)


@dataclass(frozen=True, slots=True)
class NumberMap:
    """Numbers from `start[i]` on move by `shift[i]`; smaller ones than `start[0]` stay."""

    start: I64
    shift: I64

    def __call__(self, numbers: U32) -> U32:
        """The new number of every old one."""
        if len(self.start) == 0:
            return numbers
        index = np.searchsorted(self.start, numbers, side="right") - 1
        moved = numbers + self.shift[np.maximum(index, 0)]
        result: U32 = np.where(index >= 0, moved, numbers).astype(np.uint32)
        return result


@dataclass(frozen=True, slots=True)
class TypeMap:
    """Where a kernel's type numbers and string offsets went."""

    types: NumberMap
    strings: NumberMap


def find_words(section: npt.NDArray[np.uint8]) -> tuple[U32, I64, I64]:
    """The words of a .BTF section's types, and which hold type numbers and which string offsets.

    All empty for anything that does not look like BTF.
    """
    none = np.zeros(0, np.uint32), np.zeros(0, np.int64), np.zeros(0, np.int64)
    if len(section) < _HEADER or int(section[:2].view("<u2")[0]) != _MAGIC:
        return none
    length, offset, size = (int(word) for word in section[4:16].view("<u4"))
    if offset % 4 or length % 4 or size < 12 or length + offset + size > len(section):
        return none
    words: U32 = section[length + offset : length + offset + size // 4 * 4].view("<u4")
    heads = _heads(words)
    info = words[heads + 1]
    kinds, counts = ((info >> 24) & 31).astype(np.int64), (info & 0xFFFF).astype(np.int64)
    if int(counts[_PER_ITEM[kinds] > 0].sum()) > len(words):
        # Records that overlap are none, and their items could be without number.
        return none
    types, names = [heads[_IS_REFERRING[kinds]] + 2], [heads]
    arrays = heads[kinds == _ARRAY]
    types += [arrays + 3, arrays + 4]
    for kind, name, refers in (
        (_STRUCT, 0, 1),
        (_UNION, 0, 1),
        (_ENUM, 0, None),
        (_PROTO, 0, 1),
        (_DATASEC, None, 0),
        (_ENUM64, 0, None),
    ):
        chosen = np.flatnonzero(kinds == kind)
        if len(chosen) == 0:
            continue
        owner, number = spread(counts[chosen])
        item = heads[chosen[owner]] + 3 + number * int(_PER_ITEM[kind])
        if name is not None:
            names.append(item + name)
        if refers is not None:
            types.append(item + refers)
    return words, np.concatenate(types), np.concatenate(names)


def _heads(words: U32) -> I64:
    """Where records begin."""
    count = len(words)
    kinds = (words >> 24) & 31
    likely = ((words & _RESERVED) == 0) & (kinds > 0) & (kinds < 20)
    likely[0] = False
    info = np.flatnonzero(likely)
    kind = kinds[info]
    vlen = (words[info] & 0xFFFF).astype(np.int64)
    behind = info + 3 + _FIXED[kind] + _PER_ITEM[kind] * vlen
    # `behind` is where the next record's info stands; the last record ends the section.
    last = behind == count + 1
    within = np.minimum(behind, count - 1)
    good = (last | ((behind < count) & likely[within])) & (info + 1 < count)
    heads: I64 = info[good] - 1
    return heads


def rewrite(section: npt.NDArray[np.uint8], type_map: TypeMap) -> None:
    """Renumber a .BTF section in place."""
    words, types, names = find_words(section)
    if len(words) == 0:
        return
    words[types] = type_map.types(words[types])
    words[names] = type_map.strings(words[names])


def learn(pairs: Iterable[tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]]) -> TypeMap:
    """The map that most modules agree on, from old and new .BTF sections of the same shape."""
    collected: list[list[npt.NDArray[np.uint64]]] = [[], []]
    for old, new in pairs:
        before, after = find_words(old), find_words(new)
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
    if not found:
        return NumberMap(np.zeros(0, np.int64), np.zeros(0, np.int64))
    pairs, votes = np.unique(np.concatenate(found), return_counts=True)
    source = (pairs >> np.uint64(32)).astype(np.int64)
    shift = (pairs & np.uint64(0xFFFFFFFF)).astype(np.int64) - source
    best = np.lexsort((votes, source))
    best = best[np.append(source[best][1:] != source[best][:-1], True)]
    source, shift = source[best], shift[best]
    first = np.append(True, shift[1:] != shift[:-1])
    return NumberMap(source[first], shift[first])
