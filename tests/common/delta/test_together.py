"""Promise: decoding many plain entries together gives what each gives alone, or nothing."""

import bisect
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hacktree.common.delta.btf import NumberMap, TypeMap, find_words, rewrite
from hacktree.common.delta.codec import decode_entry
from hacktree.common.delta.entry import EntryKind, StreamKind
from hacktree.common.delta.plain import encode_plain
from hacktree.common.delta.shared import Shared
from hacktree.common.delta.together import Item, decode_together
from hacktree.common.delta.varint import I64, encode_varints, split_varints
from hacktree.common.objects.errors import FormatError

SHIFTS = NumberMap(np.array([3, 50], np.int64), np.array([7, -2], np.int64))
SHARED = Shared(TypeMap(SHIFTS, SHIFTS))
Parts = dict[StreamKind, bytes]
KINDS = (
    *(StreamKind.PARAMETERS, StreamKind.COPY_LENGTHS, StreamKind.COPY_GAPS, StreamKind.COPY_SEEKS),
    *(StreamKind.DIFF_GAPS, StreamKind.DIFF_VALUES, StreamKind.EXTRA),
)


def type_section(records: list[int]) -> bytes:
    """A .BTF section of pointers, structures, arrays and enumerations, by the given numbers."""
    words: list[int] = []
    for number in records:
        kind = (2, 4, 3, 6, 13)[number % 5]
        items = number % 3 if kind in (4, 6, 13) else 0
        words += [number, kind << 24 | items, number * 7 % 90]
        words += [number * (k + 1) % 90 for k in range({4: 3, 3: 3, 6: 2, 13: 2}.get(kind, 0))][
            : 3 if kind == 3 else 0
        ]
        per_item = {4: 3, 6: 2, 13: 2}.get(kind, 0)
        words += [number * (k + 2) % 90 for k in range(per_item * items)]
    types = np.array(words, "<u4").tobytes()
    header = np.array([0x1EB9F, 24, 0, len(types), len(types), 0], "<u4").tobytes()
    return header + types


@st.composite
def entries(draw: st.DrawFn) -> tuple[bytes, bytes, Parts]:
    """(old, new, parts): a few edits of random bytes, with type information or without."""
    old = draw(st.binary(max_size=300)) * draw(st.integers(1, 4))
    parameters = b""
    if draw(st.booleans()):
        section = type_section(draw(st.lists(st.integers(0, 80), min_size=1, max_size=12)))
        parameters = encode_varints(np.array([len(old), len(section)], np.uint64))
        old += section
    base = np.frombuffer(old, np.uint8).copy()
    if parameters:
        rewrite([base[len(old) - len(section) :]], SHARED.types)
    new = bytearray(base.tobytes())
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(new)))
        new[at : at + draw(st.integers(0, 9))] = draw(st.binary(max_size=9))
    entry = encode_plain(base, np.frombuffer(bytes(new), np.uint8))
    parts = {StreamKind(kind): bytes(part) for kind, part in entry.parts.items() if part}
    if parameters:
        parts[StreamKind.PARAMETERS] = parameters
    return old, bytes(new), parts


def views(parts: Parts) -> Mapping[StreamKind, memoryview]:
    return {kind: memoryview(part) for kind, part in parts.items() if part}


def alone(old: bytes, size: int, parts: Parts) -> bytes | None:
    output = bytearray(size)
    try:
        decode_entry(EntryKind.DELTA, views(parts), memoryview(old), memoryview(output), SHARED)
    except FormatError:
        return None
    return bytes(output)


def together(made: list[tuple[bytes, int, Parts]]) -> list[bytes] | None:
    olds = bytearray(b"".join(old for old, _, _ in made))
    output = bytearray(sum(size for _, size, _ in made))
    items, first, start = [], 0, 0
    for old, size, _ in made:
        items.append(Item(slice(first, first + len(old)), slice(start, start + size)))
        first, start = first + len(old), start + size

    def joined(kind: StreamKind) -> tuple[bytes, I64]:
        column = [parts.get(kind, b"") for _, _, parts in made]
        return b"".join(column), np.array([len(part) for part in column], np.int64)

    try:
        decode_together(items, joined, memoryview(olds), memoryview(output), SHARED)
    except FormatError:
        return None
    return [bytes(output[item.new]) for item in items]


@given(st.lists(entries(), max_size=6))
def test_entries_come_out_as_they_went_in(made: list[tuple[bytes, bytes, Parts]]) -> None:
    decoded = together([(old, len(new), parts) for old, new, parts in made])
    assert decoded == [new for _, new, _ in made]


@settings(max_examples=400)
@given(st.lists(entries(), min_size=1, max_size=4), st.data())
def test_a_damaged_entry_is_refused_as_it_is_alone(
    made: list[tuple[bytes, bytes, Parts]], data: st.DataObject
) -> None:
    damaged = [(old, len(new), dict(parts)) for old, new, parts in made]
    _, _, parts = damaged[data.draw(st.integers(0, len(damaged) - 1))]
    kind = data.draw(st.sampled_from(KINDS))
    part = bytearray(parts.get(kind, b""))
    at = data.draw(st.integers(0, len(part)))
    part[at : at + data.draw(st.integers(0, 2))] = data.draw(
        st.one_of(st.binary(max_size=3), st.just(b"\xff" * 9 + b"\x01"))
    )
    parts[kind] = bytes(part)
    singly = [alone(old, size, each) for old, size, each in damaged]
    decoded = together(damaged)
    if decoded is None:
        assert None in singly
    else:
        assert decoded == singly


def test_an_integer_does_not_reach_into_the_next_part() -> None:
    with pytest.raises(FormatError, match="next array"):
        split_varints(b"\x80\x01", np.array([1, 1], np.int64))


@given(st.lists(st.lists(st.integers(0, 80), max_size=12), max_size=6))
def test_sections_are_renumbered_together_as_one_by_one(sections: list[list[int]]) -> None:
    encoded = [type_section(records) for records in sections]
    singly = [np.frombuffer(section, np.uint8).copy() for section in encoded]
    for section in singly:
        rewrite([section], SHARED.types)
    every = [np.frombuffer(section, np.uint8).copy() for section in encoded]
    rewrite(every, SHARED.types)
    assert [s.tobytes() for s in every] == [s.tobytes() for s in singly]
    _, types, names, bounds = find_words(every)
    assert len(bounds) == len(sections) + 1
    if any(sections):
        assert len(types) + len(names) > 0


@given(st.integers(0, 2**32), st.data())
def test_numbers_move_by_the_last_start_that_is_not_beyond_them(
    top: int, data: st.DataObject
) -> None:
    """Whether a table tells so or a search, over the whole range of 32 bits."""
    starts = sorted(data.draw(st.sets(st.integers(0, top), min_size=1, max_size=20)))
    limit = 1 << 33
    shifts = [data.draw(st.integers(-limit, limit)) for _ in starts]
    near = [value for start in starts for value in (start - 1, start, start + 1)]
    numbers = [n for n in (*near, 0, 2**21 - 1, 2**21, 2**32 - 1) if 0 <= n < 2**32]
    moved = NumberMap(np.array(starts, np.int64), np.array(shifts, np.int64))(
        np.array(numbers, np.uint32)
    )
    for number, result in zip(numbers, moved.tolist(), strict=True):
        place = bisect.bisect_right(starts, number) - 1
        assert result == (number + (shifts[place] if place >= 0 else 0)) % 2**32
